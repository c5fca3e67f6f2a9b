/* SPDX-License-Identifier: Apache-2.0
 * crl_file.c: see crl_file.h.
 *
 * The path is looked at every LOOK_MS, through whatever symlinks lead there (a Secret's volume is
 * replaced by swapping one); a change is read once the file has kept still for one look and nobody
 * writes to it. Stock settles for two seconds after an event of the directory, so nothing is lost
 * by not watching it.
 */
#include "ztunnel/control/crl_file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "lib/base/err.h"
#include "lib/base/limits.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/event/loop.h"
#include "lib/os/fd.h"
#include "lib/wire/tls_crl.h"
#include "ztunnel/observe/metrics.h"

#define LOOK_MS 1000

struct crl_file {
	struct loop *loop;
	char *path, *error;
	void (*fn)(void *, struct tls_crl *);
	void *ctx;
	struct timer look;
	struct stat seen, taken; /* at the last look; of what was read */
	bool loaded;
};

static void refuse(struct crl_file *f, const char *why)
{
	if (f->error == NULL || strcmp(f->error, why) != 0)
		log_error("crl", "revocation lists: %s: %s; %s", f->path, why,
			  f->loaded ? "those read before stay in use" : "nothing is revoked yet");
	free(f->error);
	f->error = xstrdup(why);
	metric_add(M_CRL_ERRORS, 1);
}

static void load(struct crl_file *f)
{
	_cleanup_free_ char *text = NULL;
	struct err err = {0};
	struct tls_crl *crl;
	size_t n;

	if (file_read(f->path, LIMIT_CRL_BYTES, &text, &n, &err) != 0) {
		refuse(f, err.msg);
		return;
	}
	crl = tls_crl_new((struct str){text, n}, &err);
	if (crl == NULL) {
		refuse(f, err.msg);
		return;
	}
	f->loaded = true;
	free(take_ptr(f->error));
	log_info("crl", "revocation lists taken over from %s lists=%zu revoked=%zu", f->path,
		 tls_crl_lists(crl), tls_crl_revoked(crl));
	f->fn(f->ctx, crl);
	tls_crl_unref(crl);
}

static void look(struct crl_file *f, bool first)
{
	struct stat now = {0};
	bool still;

	if (stat(f->path, &now) != 0) {
		if (f->error == NULL || f->taken.st_ino != 0)
			refuse(f, strerror(errno));
		f->seen = f->taken = (struct stat){0};
		return;
	}
	still = first || file_unchanged(&now, &f->seen);
	f->seen = now;
	if (!still || file_unchanged(&now, &f->taken) || file_is_being_written(f->path))
		return;
	f->taken = now;
	load(f);
}

static void on_look(struct timer *t)
{
	struct crl_file *f = container_of(t, struct crl_file, look);

	look(f, false);
	loop_timer_set(f->loop, t, LOOK_MS, on_look);
}

struct crl_file *crl_file_new(struct loop *l, const char *path,
			      void (*fn)(void *ctx, struct tls_crl *crl), void *ctx)
{
	struct crl_file *f = xcalloc(1, sizeof(*f));

	f->loop = l;
	f->path = xstrdup(path);
	f->fn = fn;
	f->ctx = ctx;
	look(f, true);
	loop_timer_set(l, &f->look, LOOK_MS, on_look);
	return f;
}

struct crl_file *crl_file_free(struct crl_file *f)
{
	if (f == NULL)
		return NULL;
	loop_timer_cancel(&f->look);
	free(f->path);
	free(f->error);
	free(f);
	return NULL;
}
