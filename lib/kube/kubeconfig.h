/* SPDX-License-Identifier: Apache-2.0
 * kubeconfig.h: where the Kubernetes API is and how to prove who we are, from a kubeconfig file or
 * from what a pod is given. Pure: files named here are read by kube_conn.c.
 *
 * Of a kubeconfig only the chosen context counts. What would start a program (exec, auth-provider)
 * or go another way (proxy-url) is refused with a sentence, not ignored: with less than it asks for
 * the file would mean something else.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/base/str.h"

struct err;

/* Where a pod finds its token and ca.crt. */
#define KUBE_ACCOUNT_DIR "/var/run/secrets/kubernetes.io/serviceaccount"

struct kubeconfig {
	char *host, *prefix; /* of server's URL; prefix "" or "/..." without a slash at the end */
	uint16_t port;
	char *server_name;	    /* tls-server-name; NULL: host */
	char *ca_file, *ca_pem;	    /* at most one */
	char *cert_file, *cert_pem; /* at most one */
	char *key_file, *key_pem;   /* at most one; secret */
	char *token, *token_file;   /* at most one; secret */
	bool insecure;
};

/* Picks @context, or current-context when NULL. @dir: relative file names start there. 0 or
 * -EINVAL naming the field and its line. The caller ends with kubeconfig_fini(). */
int kubeconfig_parse(struct str text, const char *context, const char *dir, struct kubeconfig *ret,
		     struct err *err) _must_check_;
/* A pod's way: @host and @port are KUBERNETES_SERVICE_HOST and _PORT, @dir holds token and ca.crt.
 */
int kubeconfig_in_cluster(const char *host, const char *port, const char *dir,
			  struct kubeconfig *ret, struct err *err) _must_check_;
void kubeconfig_fini(struct kubeconfig *k); /* wipes secrets */
int kubeconfig_fuzz(const uint8_t *p, size_t n);
