/* SPDX-License-Identifier: Apache-2.0
 * kube_conn.h: the one connection to the Kubernetes API, made again whenever it ends, and who we
 * are on it.
 *
 * Files named by the configuration are read when they are needed: certificates at every connect,
 * the token when it is older than a minute or was refused (it is rotated under us). A failed read
 * keeps the last good token. Loop thread only.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "lib/wire/https_client.h"

struct kubeconfig;
struct kube_conn;

struct kube_conn_ops {
	void (*up)(void *ctx); /* requests are possible */
	void (*down)(void *ctx, const struct err *why);
};

/* Reads the kubeconfig file @path; the caller ends with kubeconfig_fini(), also on failure. */
int kube_conn_config(const char *path, struct kubeconfig *ret, struct err *err) _must_check_;
/* @k is borrowed and must outlive it; so is @program, which the server is told ("name/version").
 * Connects from the loop. */
struct kube_conn *kube_conn_new(struct loop *l, const struct kubeconfig *k, const char *program,
				const struct kube_conn_ops *ops, void *ctx) _must_check_;
struct kube_conn *kube_conn_free(struct kube_conn *c); /* forgets requests; returns NULL */
bool kube_conn_usable(const struct kube_conn *c);

/* https_request() with authorization. @content_type: NULL without a body. */
int kube_conn_request(struct kube_conn *c, struct https_req *r, const char *method,
		      const char *path, const char *content_type, struct str body,
		      uint64_t deadline_ms, const struct https_req_ops *ops, struct err *err)
	_must_check_;
/* An answer was understood: the next pause is short again. */
void kube_conn_proved(struct kube_conn *c);
/* 401: what we showed is not valid (any more). */
void kube_conn_refused(struct kube_conn *c);
/* "https://host:port" */
const char *kube_conn_where(const struct kube_conn *c);
const char *kube_conn_prefix(const struct kube_conn *c);
