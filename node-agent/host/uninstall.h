/* SPDX-License-Identifier: Apache-2.0
 * uninstall.h: takes off the node what install.h put there, once, without a loop.
 */
#pragma once
#include "lib/base/attr.h"

struct config;
struct err;
struct pods;

/* Takes our entry out of every configuration, gives wrapped ones back their old form, removes the
 * file of our own and then the program. With release_pods also the rules in every pod of the
 * journal and those of the node; the pods that were in the mesh are put into @released. 0; or
 * -errno with the first sentence of what could not be done, and then nothing is removed that
 * something left behind still needs. -EBUSY: an agent is running.
 */
int uninstall_run(const struct config *cfg, struct pods *released, struct err *err) _must_check_;
