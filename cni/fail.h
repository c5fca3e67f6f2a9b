/* SPDX-License-Identifier: Apache-2.0
 * fail.h: the CNI error object: what the runtime gets on standard output when a verb fails. Pure.
 *
 * The one border where errors of this program become CNI error numbers. `msg` says what is wrong,
 * `details` what to do about it; both are cut, never allocated.
 */
#pragma once
#include "lib/base/err.h"
#include "lib/base/str.h"

/* CNI specification 1.1, "Error"; 8 and 999 are the reference library's (cni-spec 1.1). */
enum cni_code {
	CNI_OK = 0,
	CNI_INCOMPATIBLE_VERSION = 1,
	CNI_BAD_ENV = 4,
	CNI_IO = 5,
	CNI_DECODE = 6,
	CNI_BAD_CONFIG = 7,
	CNI_BAD_NETNS = 8,
	CNI_TRY_AGAIN = 11,
	CNI_NOT_AVAILABLE = 50,
	CNI_INTERNAL = 999,
};

struct cni_fail {
	int code; /* CNI_OK until set */
	char msg[ERR_MSG_MAX];
	char details[1024];
};

/* Sets number and sentence, clears the details. Returns -1, for `return cni_fail_set(...)`. */
int cni_fail_set(struct cni_fail *f, int code, const char *fmt, ...) _printf_(3, 4);
/* Sets the details. Returns -1. */
int cni_fail_details(struct cni_fail *f, const char *fmt, ...) _printf_(2, 3);
/* Writes the error object and a newline; @version is the cniVersion of the request. */
void cni_fail_write(const struct cni_fail *f, const char *version, struct strbuf *out);
