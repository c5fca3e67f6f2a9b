/* SPDX-License-Identifier: Apache-2.0
 * replay.c: runs a fuzz target over its seeds, for builds without libFuzzer.
 * Each file named (or found in a named directory) is one TAP test. A small seed also gives all its
 * prefixes and one damaged copy per byte: parsers break where input ends early. Every input lies in
 * its own allocation of exactly its size, so that a sanitizer sees the first byte read beyond it.
 */
#include <dirent.h>
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define SEED_BYTES_MAX	 (16u << 20)
#define PREFIX_BYTES_MAX 1024 /* quadratic in the seed's size */
#define DAMAGE_BYTES_MAX 1024

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
__attribute__((weak)) int LLVMFuzzerInitialize(int *argc, char ***argv);

struct tally {
	unsigned files, failed;
};

static void run_copy(const uint8_t *data, size_t size, size_t damaged, uint8_t mask)
{
	uint8_t *copy = malloc(size != 0 ? size : 1);

	if (copy == NULL)
		abort();
	if (size != 0)
		memcpy(copy, data, size);
	if (damaged < size)
		copy[damaged] ^= mask;
	(void)LLVMFuzzerTestOneInput(copy, size);
	free(copy);
}

/* Returns how many inputs were run. */
static unsigned run_seed(const uint8_t *data, size_t size)
{
	unsigned n = 1;

	run_copy(data, size, SIZE_MAX, 0);
	if (size <= PREFIX_BYTES_MAX) {
		for (size_t i = 0; i < size; i++, n++)
			run_copy(data, i, SIZE_MAX, 0);
	}
	if (size <= DAMAGE_BYTES_MAX) {
		for (size_t i = 0; i < size; i++, n++)
			run_copy(data, size, i, (uint8_t)(1u << (i % 8)));
	}
	return n;
}

static uint8_t *read_file(const char *path, size_t *ret_n)
{
	FILE *f = fopen(path, "rbe");
	uint8_t *buf = malloc(SEED_BYTES_MAX);

	if (f == NULL || buf == NULL) {
		if (f != NULL)
			(void)fclose(f);
		free(buf);
		return NULL;
	}
	*ret_n = fread(buf, 1, SEED_BYTES_MAX, f);
	if (ferror(f) != 0 || fgetc(f) != EOF) {
		free(buf);
		buf = NULL;
	}
	(void)fclose(f);
	return buf;
}

static void run_file(const char *path, struct tally *t)
{
	size_t n = 0;
	uint8_t *data = read_file(path, &n);

	t->files++;
	if (data == NULL) {
		t->failed++;
		printf("not ok %u - %s\n# cannot be read, or is larger than %u bytes\n", t->files,
		       path, SEED_BYTES_MAX);
		return;
	}
	/* A crash must name its seed. */
	printf("# %s\n", path);
	(void)fflush(stdout);
	printf("ok %u - %s: %u inputs\n", t->files, path, run_seed(data, n));
	(void)fflush(stdout);
	free(data);
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static int visible(const struct dirent *d)
{
	return d->d_name[0] != '.';
}

static void run_dir(const char *path, struct tally *t)
{
	struct dirent **names = NULL;
	int n = scandir(path, &names, visible, by_name);

	for (int i = 0; i < n; i++) {
		char file[4096];

		if (snprintf(file, sizeof(file), "%s/%s", path, names[i]->d_name) <
		    (int)sizeof(file))
			run_file(file, t);
		free(names[i]);
	}
	free(names);
}

int main(int argc, char **argv)
{
	struct tally t = {0};

	if (LLVMFuzzerInitialize != NULL)
		(void)LLVMFuzzerInitialize(&argc, &argv);
	for (int i = 1; i < argc; i++) {
		struct stat st;

		if (stat(argv[i], &st) == 0 && S_ISDIR(st.st_mode))
			run_dir(argv[i], &t);
		else
			run_file(argv[i], &t);
	}
	printf("1..%u\n", t.files);
	if (t.files == 0)
		fprintf(stderr, "no seed given: name files or directories\n");
	return t.files != 0 && t.failed == 0 ? 0 : 1;
}
