/* SPDX-License-Identifier: Apache-2.0
 * journal.c: see journal.h.
 */
#include "node-agent/enrol/journal.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/err.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/os/fd.h"
#include "node-agent/enrol/attachment.h"

#define JOURNAL_FILE_MAX  16384
#define JOURNAL_FILE_MODE 0600

int journal_write(const char *dir, const struct attachment *a, struct err *err)
{
	_cleanup_free_ char *path = xasprintf("%s/%s.json", dir, a->container_id);
	_cleanup_strbuf_ struct strbuf text = {0};

	attachment_print(a, &text);
	return file_write_atomic(path, text.p, text.n, JOURNAL_FILE_MODE, err);
}

void journal_remove(const char *dir, const char *container_id)
{
	_cleanup_free_ char *path = xasprintf("%s/%s.json", dir, container_id);

	if (unlink(path) < 0 && errno != ENOENT)
		log_warn("journal", "cannot remove %s: error %d", path, errno);
}

static void load_one(const char *dir, const char *name,
		     void (*fn)(void *, const struct attachment *), void *ctx)
{
	_cleanup_free_ char *path = xasprintf("%s/%s", dir, name), *text = NULL;
	struct attachment a = {0};
	struct err err = {0};
	size_t len;

	if (file_read(path, JOURNAL_FILE_MAX, &text, &len, &err) < 0 ||
	    attachment_parse((struct str){text, len}, &a, &err) < 0) {
		log_warn("journal", "entry ignored file=%s: %s", path, err.msg);
		return;
	}
	fn(ctx, &a);
	attachment_fini(&a);
}

int journal_load(const char *dir, void (*fn)(void *, const struct attachment *), void *ctx,
		 struct err *err)
{
	DIR *d = opendir(dir);

	if (d == NULL)
		return err_errno(err, errno, "open the journal %s", dir);
	for (struct dirent *e; (e = readdir(d)) != NULL;) {
		struct str name = str_of(e->d_name);

		if (str_has_suffix(name, STR(".json")))
			load_one(dir, e->d_name, fn, ctx);
		else if (strstr(e->d_name, ".json.tmp.") != NULL) /* killed while writing */
			(void)unlinkat(dirfd(d), e->d_name, 0);
	}
	(void)closedir(d);
	return 0;
}
