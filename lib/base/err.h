/* SPDX-License-Identifier: Apache-2.0
 * err.h: the error object of the control path: a number and a sentence.
 *
 * The caller owns it, usually on its stack; nothing is allocated, so there is nothing to free and
 * it works when memory is short. Every fallible function takes a `struct err *` last and returns 0
 * or a negative errno; `err` may be NULL. Hot paths do not use it.
 */
#pragma once
#include "lib/base/attr.h"

#define ERR_MSG_MAX 512

struct err {
	int code; /* positive errno, 0 when no error was set */
	char msg[ERR_MSG_MAX];
};

/* Stores @code (a positive errno) and the sentence; longer sentences are cut.
 * Returns -@code, so that `return err_set(err, EINVAL, "...")` reads well. Any thread.
 */
int err_set(struct err *err, int code, const char *fmt, ...) _printf_(3, 4);

/* Adds context in front: "<context>: <old sentence>". Returns -err->code (-EIO when none is set).
 */
int err_wrap(struct err *err, const char *fmt, ...) _printf_(2, 3);

/* Like err_set with ": <strerror(code)>" appended. */
int err_errno(struct err *err, int code, const char *fmt, ...) _printf_(3, 4);
