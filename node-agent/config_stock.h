/* SPDX-License-Identifier: Apache-2.0
 * config_stock.h: Istio's install-cni: its environment variables (cni-spec 3.1, 7.1) that are not
 * settings of ours under the same name, and its flags.
 *
 * Whoever puts our image into the stock chart brings them along. None is passed over without
 * thought: each is honoured, accepted because it changes nothing here, accepted with a warning, or
 * refused because pods would not be treated as it asks. docs/agent-settings.md has the same table,
 * docs/stock-charts.md the one of the charts' values.
 *
 * Started under the name install-cni the agent also takes that program's flags and looks for its
 * mounts (config.c). Only then.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include "lib/base/attr.h"
#include "lib/base/str.h"

struct config;
struct err;

enum stock_how {
	STOCK_HONOURED,
	STOCK_ACCEPTED, /* it has no meaning here */
	STOCK_WARNED,	/* it asks for something that is not done; nothing depends on it */
	STOCK_REFUSED,	/* the agent does not start */
	STOCK_HOW_N
};
extern const char *const config_stock_how[STOCK_HOW_N];

struct stock_env {
	const char *name;
	const char *when; /* "true", "false" (as Go reads them), or NULL: whatever it is */
	enum stock_how how;
	const char *why;
	const char *value; /* of Istio's chart that sets it, or NULL */
};
/* Rows of one name follow one another; what no row covers is accepted. */
extern const struct stock_env config_stock_env[];
extern const size_t config_stock_env_n;

/* Is this the name that Istio's chart calls? */
bool config_stock_is_install_cni(int argc, char *const *argv);
/* Takes install-cni's flags out of @argv: those with a variable of the same name are put into the
 * environment (a flag wins over its variable, as in stock), those of its logging are obeyed, those
 * of its introspection are passed over. What is left is ours. 0, or -EINVAL naming the flag. */
int config_stock_args(struct config *c, int *argc, char **argv, struct err *err) _must_check_;
/* Pure: "default:info,cni-plugin:debug" as a filter of ours (lib/base/log.h); the agent's own scope
 * is the default. *ret_plugin_debug: what the plugin says is wanted. 0 or -EINVAL. */
int config_stock_log_filter(struct str levels, struct strbuf *out, bool *ret_plugin_debug)
	_must_check_;

/* Looks at the environment. @c: after its own settings were read. 0 or -EINVAL naming the variable;
 * warnings are logged. */
int config_stock_read(struct config *c, struct err *err) _must_check_;
