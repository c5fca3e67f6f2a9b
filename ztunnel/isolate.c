/* SPDX-License-Identifier: Apache-2.0
 * isolate.c: see isolate.h.
 */
#include "ztunnel/isolate.h"

#include <cap-ng.h>
#include <errno.h>
#include <sched.h>
#include <seccomp.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "lib/base/err.h"
#include "lib/base/log.h"
#include "lib/os/fd.h"
#include "lib/os/netns.h"
#include "lib/os/sock.h"

void isolate_raise_nofile(void)
{
	struct rlimit rl;

	if (getrlimit(RLIMIT_NOFILE, &rl) == 0) {
		rl.rlim_cur = rl.rlim_max;
		if (setrlimit(RLIMIT_NOFILE, &rl) == 0)
			return;
	}
	log_warn("ztunnel", "cannot raise the limit of open files: %s", strerror(errno));
}

static int drop_capabilities(struct err *err)
{
	static const unsigned int keep[] = {CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_NET_RAW};
	bool bounding = capng_have_capability(CAPNG_EFFECTIVE, CAP_SETPCAP) != 0;

	capng_clear(CAPNG_SELECT_BOTH);
	for (size_t i = 0; i < ARRAY_LEN(keep); i++)
		if (capng_update(CAPNG_ADD, CAPNG_EFFECTIVE | CAPNG_PERMITTED, keep[i]) != 0)
			return err_set(err, EPERM, "cannot prepare the capability set");
	if (capng_apply(bounding ? CAPNG_SELECT_BOTH : CAPNG_SELECT_CAPS) != 0)
		return err_set(
			err, EPERM,
			"cannot reduce the capabilities to NET_ADMIN, SYS_ADMIN and NET_RAW: "
			"run as root, or grant these three");
	return 0;
}

#if !defined(SANITIZED)
static const int forbidden[] = {
	SCMP_SYS(execve),
	SCMP_SYS(execveat),
	SCMP_SYS(fork),
	SCMP_SYS(vfork),
	SCMP_SYS(ptrace),
	SCMP_SYS(process_vm_readv),
	SCMP_SYS(process_vm_writev),
	SCMP_SYS(kexec_load),
	SCMP_SYS(kexec_file_load),
	SCMP_SYS(init_module),
	SCMP_SYS(finit_module),
	SCMP_SYS(delete_module),
	SCMP_SYS(mount),
	SCMP_SYS(umount2),
	SCMP_SYS(move_mount),
	SCMP_SYS(open_tree),
	SCMP_SYS(fsopen),
	SCMP_SYS(fsconfig),
	SCMP_SYS(fsmount),
	SCMP_SYS(fspick),
	SCMP_SYS(pivot_root),
	SCMP_SYS(chroot),
	SCMP_SYS(swapon),
	SCMP_SYS(swapoff),
	SCMP_SYS(reboot),
	SCMP_SYS(bpf),
	SCMP_SYS(perf_event_open),
	SCMP_SYS(userfaultfd),
	SCMP_SYS(keyctl),
	SCMP_SYS(add_key),
	SCMP_SYS(request_key),
	SCMP_SYS(unshare),
	SCMP_SYS(open_by_handle_at),
	SCMP_SYS(acct),
	SCMP_SYS(quotactl),
	SCMP_SYS(settimeofday),
	SCMP_SYS(clock_settime),
	SCMP_SYS(io_uring_setup),
	SCMP_SYS(personality),
	SCMP_SYS(syslog),
	SCMP_SYS(sethostname),
	SCMP_SYS(setdomainname),
};

static int add_rules(scmp_filter_ctx ctx)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < ARRAY_LEN(forbidden); i++)
		r = seccomp_rule_add(ctx, SCMP_ACT_KILL_PROCESS, forbidden[i], 0);
	/* clone() makes threads only; clone3() hides its flags in memory, so libc is told that it
	 * does not exist and falls back to clone() */
	if (r == 0)
		r = seccomp_rule_add(ctx, SCMP_ACT_KILL_PROCESS, SCMP_SYS(clone), 1,
				     SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, 0));
	if (r == 0)
		r = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
	return r;
}

static int load_filter(struct err *err)
{
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ALLOW);
	int r = ctx != NULL ? add_rules(ctx) : -ENOMEM;

	if (r == 0) /* threads that a library may have started already */
		r = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_TSYNC, 1);
	if (r == 0)
		r = seccomp_load(ctx);
	seccomp_release(ctx);
	return r == 0 ? 0 : err_errno(err, -r, "load the seccomp filter");
}
#endif

int isolate_process(struct err *err)
{
	int r = drop_capabilities(err);

	if (r != 0)
		return r;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
		return err_errno(err, errno, "PR_SET_NO_NEW_PRIVS");
#if !defined(SANITIZED)
	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0)
		return err_errno(err, errno, "PR_SET_DUMPABLE");
	return load_filter(err);
#else
	return 0;
#endif
}

static int mark_socket(void *ctx, struct err *err)
{
	_cleanup_close_ int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	uint32_t mark = MESH_MARK;

	(void)ctx;
	if (s < 0 || setsockopt(s, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)) < 0)
		return err_errno(err, errno, "mark a socket (needs CAP_NET_ADMIN)");
	return 0;
}

int isolate_self_test(struct err *err)
{
	_cleanup_close_ int ns = netns_open("/proc/self/ns/net", err);

	if (ns < 0)
		return ns;
	if (netns_call(ns, mark_socket, NULL, err) != 0)
		return err_wrap(err, "serving pods is not possible");
	return 0;
}
