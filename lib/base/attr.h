/* SPDX-License-Identifier: Apache-2.0
 * attr.h: the compiler attributes of this code base, by one name each.
 */
#pragma once
#define _must_check_	__attribute__((warn_unused_result))
#define _nonnull_(...)	__attribute__((nonnull(__VA_ARGS__)))
#define _printf_(f, a)	__attribute__((format(printf, f, a)))
#define _cleanup_(fn)	__attribute__((cleanup(fn)))
#define _cleanup_free_	_cleanup_(freep)
#define _cleanup_close_ _cleanup_(closep)
#define _unused_	__attribute__((unused))
#define ARRAY_LEN(a)	(sizeof(a) / sizeof((a)[0]))
