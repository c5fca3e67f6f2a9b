/* SPDX-License-Identifier: Apache-2.0
 * check.h: `ambientctl check`: rows of "what was looked at, what was seen, what to do". The facts
 * are gathered in check.c, kernel.c and check_policy.c; everything declared "Pure" here turns facts
 * into rows and is tested by tables.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "lib/base/str.h"

struct arena;
struct ctl_report;
struct doc;
struct err;

#define CTL_ROWS_MAX 64
#define CTL_CNI_DIR  "/etc/cni/net.d"

enum ctl_result { CTL_OK, CTL_WARNING, CTL_FAILED, CTL_NOT_CHECKED, CTL_RESULT_N };

struct ctl_row {
	const char *what;
	enum ctl_result result;
	const char *observed; /* one sentence with the value */
	const char *fix;      /* NULL when there is nothing to do */
};
struct ctl_rows {
	struct arena *a; /* holds the texts */
	size_t n;
	struct ctl_row row[CTL_ROWS_MAX];
};

/* Where to look; NULL: the usual place. */
struct ctl_check_where {
	const char *agent_socket; /* never NULL */
	const char *cni_dir, *plugin, *kubeconfig;
};
/* Adds the rows of all checks. Takes up to the time limits of what it asks. */
void ctl_check_gather(const struct ctl_check_where *w, const struct ctl_report *r,
		      struct ctl_rows *rows);
/* Pure: as a table for people. */
void ctl_check_print(const struct ctl_rows *rows, bool colour, struct strbuf *out);

void ctl_row_add(struct ctl_rows *rows, const char *what, enum ctl_result result, const char *fix,
		 const char *fmt, ...) _printf_(5, 6);

/* Pure: agent and ztunnel there, of the same version as each other and as the plugin's file.
 * @plugin_version NULL: could not be read, @plugin_why says why. */
void ctl_check_programs(struct ctl_rows *rows, const struct ctl_report *r,
			const char *plugin_version, const char *plugin_why);
/* Pure: the version in the bytes of the plugin's file, in @a; NULL when there is none. */
const char *ctl_plugin_version(struct str file, struct arena *a);

/* One file of the directory of CNI configurations. */
struct ctl_cni_file {
	const char *name;
	struct str text;
};
/* Pure: which file a runtime takes, and what stands in it in which order. @files are all of the
 * directory, in any order; sorted here. */
void ctl_check_cni(struct ctl_rows *rows, const char *dir, struct ctl_cni_file *files, size_t n);

/* Pure: expiry and roots of the certificates. */
void ctl_check_certs(struct ctl_rows *rows, const struct ctl_report *r);

struct ctl_clock {
	bool known, synchronised;
	uint64_t max_error_us;
};
/* Pure: NTP, and the clock against the certificates. */
void ctl_check_clock(struct ctl_rows *rows, const struct ctl_clock *c, const struct ctl_report *r);
/* Pure: the OpenSSL that ztunnel runs with, "3.0.17"; empty when it does not say. */
void ctl_check_openssl(struct ctl_rows *rows, const struct ctl_report *r);
/* Pure: descriptors of one program. @limit 0: not known, @why. */
void ctl_check_descriptors(struct ctl_rows *rows, const char *what, uint64_t open, uint64_t limit,
			   const char *why);
/* Pure: the exemption of the kubelet's probes. @node: the document of GET /v1/node, NULL: @why. */
void ctl_check_probes(struct ctl_rows *rows, const struct doc *node, const char *why);
/* Pure: rp_filter as the kernel combines it: the larger of "all" and the interface's own. @strict:
 * how many interfaces have 1. */
void ctl_check_rp_filter(struct ctl_rows *rows, size_t strict, size_t interfaces,
			 const char *example);
/* Pure. @uplink "": there is no default route. @pods: the largest MTU of the pods' interfaces. */
void ctl_check_mtu(struct ctl_rows *rows, const char *uplink, uint32_t uplink_mtu, size_t pods,
		   uint32_t pods_mtu);

/* Tries the features in a new network namespace that is gone afterwards. Needs root; says so in
 * rows of CTL_NOT_CHECKED. */
void ctl_check_kernel(struct ctl_rows *rows);
/* NetworkPolicies that do not let the mesh's port through, read with the kubeconfig @file (NULL:
 * KUBECONFIG); waits up to 10 s for the API. */
void ctl_check_policies(struct ctl_rows *rows, const char *file, const struct ctl_report *r);
