/* SPDX-License-Identifier: Apache-2.0
 * isolate.c: see isolate.h.
 *
 * Sanitizer builds keep what the leak checker needs at exit: it stops threads with clone and
 * ptrace.
 */
#include "node-agent/isolate.h"

#include <cap-ng.h>
#include <errno.h>
#include <sched.h>
#include <seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>

#include "lib/base/err.h"

static const struct {
	unsigned int cap;
	const char *name, *why; /* why it is needed; NULL: useful only */
} kept[] = {
	{CAP_NET_ADMIN, "CAP_NET_ADMIN", "rules, routes and marked sockets"},
	{CAP_SYS_ADMIN, "CAP_SYS_ADMIN", "entering network namespaces"},
	{CAP_NET_RAW, "CAP_NET_RAW", NULL},
	{CAP_SYS_PTRACE, "CAP_SYS_PTRACE", NULL},
	{CAP_DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH", NULL},
	{CAP_DAC_OVERRIDE, "CAP_DAC_OVERRIDE", NULL},
};

int isolate_privileges(bool writes_for_others, struct err *err)
{
	bool have[ARRAY_LEN(kept)], bounding;

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return err_errno(err, errno, "set no_new_privs");
#ifndef SANITIZED
	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		return err_errno(err, errno, "make the process not dumpable");
#endif
	if (capng_get_caps_process() < 0)
		return err_set(err, EPERM, "cannot read the process' capabilities");
	for (size_t i = 0; i < ARRAY_LEN(kept); i++) {
		have[i] = capng_have_capability(CAPNG_PERMITTED, kept[i].cap) != 0;
		if (kept[i].cap == CAP_DAC_OVERRIDE && !writes_for_others)
			have[i] = false;
		if (!have[i] && kept[i].why != NULL)
			return err_set(err, EPERM, "%s is missing (for %s): run as root",
				       kept[i].name, kept[i].why);
	}
	bounding = capng_have_capability(CAPNG_EFFECTIVE, CAP_SETPCAP) != 0;
	capng_clear(CAPNG_SELECT_BOTH);
	for (size_t i = 0; i < ARRAY_LEN(kept); i++)
		if (have[i])
			(void)capng_update(CAPNG_ADD,
					   CAPNG_EFFECTIVE | CAPNG_PERMITTED | CAPNG_BOUNDING_SET,
					   kept[i].cap);
	/* a service that was not given CAP_SETPCAP has its bounding set from the manager */
	if (capng_apply(bounding ? CAPNG_SELECT_BOTH : CAPNG_SELECT_CAPS) < 0)
		return err_set(err, EPERM, "cannot drop capabilities");
	return 0;
}

#ifdef SANITIZED
int isolate_syscalls(struct err *err)
{
	(void)err;
	return 0;
}
#else
static const int denied[] = {
	SCMP_SYS(execve),
	SCMP_SYS(execveat),
	SCMP_SYS(fork),
	SCMP_SYS(vfork),
	SCMP_SYS(ptrace),
	SCMP_SYS(process_vm_readv),
	SCMP_SYS(process_vm_writev),
	SCMP_SYS(mount),
	SCMP_SYS(umount2),
	SCMP_SYS(pivot_root),
	SCMP_SYS(chroot),
	SCMP_SYS(move_mount),
	SCMP_SYS(open_tree),
	SCMP_SYS(fsopen),
	SCMP_SYS(fsmount),
	SCMP_SYS(fsconfig),
	SCMP_SYS(fspick),
	SCMP_SYS(init_module),
	SCMP_SYS(finit_module),
	SCMP_SYS(delete_module),
	SCMP_SYS(kexec_load),
	SCMP_SYS(kexec_file_load),
	SCMP_SYS(reboot),
	SCMP_SYS(swapon),
	SCMP_SYS(swapoff),
	SCMP_SYS(bpf),
	SCMP_SYS(perf_event_open),
	SCMP_SYS(userfaultfd),
	SCMP_SYS(io_uring_setup),
	SCMP_SYS(keyctl),
	SCMP_SYS(add_key),
	SCMP_SYS(request_key),
	SCMP_SYS(settimeofday),
	SCMP_SYS(clock_settime),
	SCMP_SYS(sethostname),
	SCMP_SYS(setdomainname),
	SCMP_SYS(unshare),
	SCMP_SYS(acct),
	SCMP_SYS(quotactl),
	SCMP_SYS(open_by_handle_at),
	SCMP_SYS(mknod),
	SCMP_SYS(mknodat),
	SCMP_SYS(setuid),
	SCMP_SYS(setgid),
	SCMP_SYS(setresuid),
	SCMP_SYS(setresgid),
	SCMP_SYS(process_madvise),
};

int isolate_syscalls(struct err *err)
{
	scmp_filter_ctx f = seccomp_init(SCMP_ACT_ALLOW);
	int r = 0;

	if (f == NULL)
		return err_set(err, ENOMEM, "system call filter");
	for (size_t i = 0; r == 0 && i < ARRAY_LEN(denied); i++)
		if (denied[i] >= 0) /* negative: this architecture has no such call */
			r = seccomp_rule_add(f, SCMP_ACT_ERRNO(EPERM), denied[i], 0);
	/* threads are fine (the C library may want one), children are not */
	if (r == 0)
		r = seccomp_rule_add(f, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(clone), 1,
				     SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, 0));
	if (r == 0) /* its flags are in memory, where a filter cannot look */
		r = seccomp_rule_add(f, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
	if (r == 0)
		r = seccomp_load(f);
	seccomp_release(f);
	return r < 0 ? err_errno(err, -r, "system call filter") : 0;
}
#endif
