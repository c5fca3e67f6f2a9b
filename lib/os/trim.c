/* SPDX-License-Identifier: Apache-2.0
 * trim.c: see trim.h.
 */
#include "lib/os/trim.h"

#include <link.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

static int trim_object(struct dl_phdr_info *info, size_t size, void *arg)
{
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
	size_t *total = arg;

	(void)size;
	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *ph = &info->dlpi_phdr[i];
		uintptr_t start = info->dlpi_addr + ph->p_vaddr, end = start + ph->p_memsz;

		/* never a writable segment: its private pages hold data and relocations */
		if (ph->p_type != PT_LOAD || (ph->p_flags & PF_W) != 0)
			continue;
		start &= ~(page - 1);
		end &= ~(page - 1);
		if (end > start && madvise((void *)start, end - start, MADV_DONTNEED) == 0)
			*total += end - start;
	}
	return 0;
}

size_t trim_text(void)
{
	size_t total = 0;

	(void)dl_iterate_phdr(trim_object, &total);
	return total;
}

bool trim_due(struct trim_pace *p, uint64_t events, uint64_t now_ms)
{
	bool quiet = p->at_ms != 0 && events == p->looked;

	if (p->at_ms == 0)
		p->at_ms = now_ms;
	p->looked = events;
	if (p->once && events == p->trimmed)
		return false; /* nothing was used since */
	if (!quiet && now_ms - p->at_ms < TRIM_BUSY_MS)
		return false;
	p->once = true;
	p->trimmed = events;
	p->at_ms = now_ms;
	return true;
}
