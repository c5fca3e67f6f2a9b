/* SPDX-License-Identifier: Apache-2.0
 * redact.h: takes secrets out of text before it leaves the node. Pure.
 *
 * Known by their form: private keys (PEM, also inside JSON and in base64), JSON web tokens, HTTP
 * authorization; and by their name: the value of a field or setting whose name says token,
 * password, secret, private key or credential, in JSON, YAML and NAME=value. Too much is taken
 * rather than too little: a certificate in base64 goes too.
 */
#pragma once
#include "lib/base/str.h"

/* Appends @in without its secrets; returns how many were taken out. */
size_t ctl_redact(struct str in, struct strbuf *out);
