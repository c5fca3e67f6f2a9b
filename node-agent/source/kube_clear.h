/* SPDX-License-Identifier: Apache-2.0
 * kube_clear.h: takes the annotation ambient.istio.io/redirection off pods that were released by an
 * agent that ends (--uninstall --release-pods). While it stays, istiod tells the mesh that they
 * speak HBONE, and nobody reaches them.
 */
#pragma once
#include <stdint.h>
#include "lib/base/attr.h"

struct err;
struct kube_config;
struct pods;

/* Runs a loop of its own until the API server has answered for each pod of @pods, at most
 * @limit_ms. Of @cfg where the server is. -ETIMEDOUT says how many pods keep it and why. Main
 * thread, outside of any loop. */
int kube_clear(const struct kube_config *cfg, struct pods *pods, uint64_t limit_ms, struct err *err)
	_must_check_;
