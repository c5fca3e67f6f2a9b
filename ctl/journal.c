/* SPDX-License-Identifier: Apache-2.0
 * journal.c: see journal.h. Source: sd_journal_open(3), sd_journal_add_match(3),
 * sd_journal_get_data(3), sd_journal_seek_tail(3), sd_journal_next(3).
 */
#include "ctl/journal.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/base/str.h"

#define LIBRARY	     "libsystemd.so.0"
#define LOCAL_SYSTEM (1 | 4) /* SD_JOURNAL_LOCAL_ONLY, SD_JOURNAL_SYSTEM */
#define LINES_MAX    20000
#define LINE_MAX     4096 /* of one message; a longer one is cut */

struct sd_journal;
struct journal {
	void *lib;
	struct sd_journal *j;
	int (*open)(struct sd_journal **, int);
	void (*close)(struct sd_journal *);
	int (*add_match)(struct sd_journal *, const void *, size_t);
	int (*add_disjunction)(struct sd_journal *);
	int (*seek_tail)(struct sd_journal *);
	int (*previous)(struct sd_journal *);
	int (*previous_skip)(struct sd_journal *, uint64_t);
	int (*next)(struct sd_journal *);
	int (*get_data)(struct sd_journal *, const char *, const void **, size_t *);
	int (*get_realtime_usec)(struct sd_journal *, uint64_t *);
};

/* POSIX makes a function of what dlsym() returns; C alone knows no such cast. */
static bool find(void *lib, const char *name, void *ret)
{
	void *at = dlsym(lib, name);

	memcpy(ret, &at, sizeof(at));
	return at != NULL;
}

static int load(struct journal *k, struct err *err)
{
	k->lib = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
	if (k->lib == NULL)
		return err_set(err, ENOENT, "no journal here: there is no " LIBRARY);
	if (!find(k->lib, "sd_journal_open", &k->open) ||
	    !find(k->lib, "sd_journal_close", &k->close) ||
	    !find(k->lib, "sd_journal_add_match", &k->add_match) ||
	    !find(k->lib, "sd_journal_add_disjunction", &k->add_disjunction) ||
	    !find(k->lib, "sd_journal_seek_tail", &k->seek_tail) ||
	    !find(k->lib, "sd_journal_previous", &k->previous) ||
	    !find(k->lib, "sd_journal_previous_skip", &k->previous_skip) ||
	    !find(k->lib, "sd_journal_next", &k->next) ||
	    !find(k->lib, "sd_journal_get_data", &k->get_data) ||
	    !find(k->lib, "sd_journal_get_realtime_usec", &k->get_realtime_usec))
		return err_set(err, ENOSYS, LIBRARY " has no functions for the journal");
	return 0;
}

static void fini(struct journal *k)
{
	if (k->j != NULL)
		k->close(k->j);
	if (k->lib != NULL)
		(void)dlclose(k->lib);
}

/* Its own lines, and those of the service manager about it. */
static int choose(struct journal *k, const char *unit, struct err *err)
{
	_cleanup_free_ char *own = xasprintf("_SYSTEMD_UNIT=%s", unit);
	_cleanup_free_ char *about = xasprintf("UNIT=%s", unit);
	int r = k->open(&k->j, LOCAL_SYSTEM);

	if (r < 0)
		return err_errno(err, -r, "open the journal");
	if ((r = k->add_match(k->j, own, 0)) < 0 || (r = k->add_disjunction(k->j)) < 0 ||
	    (r = k->add_match(k->j, about, 0)) < 0 || (r = k->add_match(k->j, "_PID=1", 0)) < 0 ||
	    (r = k->seek_tail(k->j)) < 0)
		return err_errno(err, -r, "look for %s in the journal", unit);
	return 0;
}

/* The value of @field of the line at hand; empty when it has none. */
static struct str value(struct journal *k, const char *field)
{
	size_t n = 0, name = strlen(field) + 1;
	const void *p = NULL;

	if (k->get_data(k->j, field, &p, &n) < 0 || n < name)
		return STR("");
	return (struct str){(const char *)p + name, n - name};
}

static void print_line(struct journal *k, struct strbuf *out)
{
	struct str text;
	char when[24];
	uint64_t us = 0;
	struct tm t;
	time_t s;

	(void)k->get_realtime_usec(k->j, &us);
	s = (time_t)(us / 1000000);
	(void)gmtime_r(&s, &t);
	(void)strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%S", &t);
	strbuf_printf(out, "%s.%06uZ ", when, (unsigned int)(us % 1000000));
	/* the library's text lives until the next question */
	text = value(k, "SYSLOG_IDENTIFIER");
	strbuf_add(out, text.p, text.n);
	text = value(k, "_PID");
	strbuf_printf(out, "[%.*s]: ", STR_FMT(text));
	text = value(k, "MESSAGE");
	strbuf_add(out, text.p, text.n < LINE_MAX ? text.n : LINE_MAX);
	strbuf_putc(out, '\n');
}

/* How many lines from the end fit; *ret_cut: there are more. */
static int count_back(struct journal *k, size_t max_bytes, bool *ret_cut)
{
	size_t bytes = 0;
	int n = 0;

	while (k->previous(k->j) > 0) {
		_cleanup_strbuf_ struct strbuf line = {0};

		print_line(k, &line);
		bytes += line.n;
		*ret_cut = bytes > max_bytes || n == LINES_MAX;
		if (*ret_cut)
			break;
		n++;
	}
	return n;
}

int ctl_journal_tail(const char *unit, size_t max_bytes, struct strbuf *out, bool *ret_cut,
		     struct err *err)
{
	struct journal k = {0};
	int r = load(&k, err), n = 0;

	*ret_cut = false;

	if (r == 0)
		r = choose(&k, unit, err);
	if (r == 0) {
		n = count_back(&k, max_bytes, ret_cut);
		if (n == 0)
			r = err_set(err, ENOENT, "the journal has no lines of %s", unit);
	}
	if (r == 0 && ((r = k.seek_tail(k.j)) < 0 || (r = k.previous_skip(k.j, (uint64_t)n)) < 0))
		r = err_errno(err, -r, "read the journal");
	if (r > 0) {
		do
			print_line(&k, out);
		while (--n > 0 && k.next(k.j) > 0);
	}
	fini(&k);
	return r < 0 ? r : 0;
}
