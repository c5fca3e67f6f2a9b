#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# debian13.sh: builds the tree in a Debian 13 root and runs checks, unit tests and some system tests there. Prints TAP.
# The root is made once, in .cache/trixie, from the mirror that this machine's apt uses; the build goes to
# build/trixie. Needs root. `make debian13` shows the same with all output.
set -u
cd "$(dirname "$0")/.." || exit 1
root=.cache/trixie
out=build/trixie
n=0
ok() {
	n=$((n + 1))
	echo "ok $n - debian13: $1"
}
fail() {
	n=$((n + 1))
	echo "not ok $n - debian13: $1"
	echo "1..$n"
	exit 1
}
skip() {
	echo "1..0 # SKIP debian13: $1"
	exit 0
}

[ "$(id -u)" = 0 ] || skip "needs root"
[ "$(. /etc/os-release && echo "${VERSION_CODENAME:-}")" != trixie ] || skip "this machine is Debian 13 already"
command -v debootstrap >/dev/null || skip "debootstrap is not installed"

# In the root, with the tree on /src: own mount and process namespaces, so that nothing stays mounted or running. The
# root is pivoted to, for ip(8) changes mount propagation of "/", which a chroot cannot.
inside() {
	unshare --mount --pid --fork --kill-child --propagation private sh -c '
		set -e
		mount --bind "$1" "$1"
		mount --bind . "$1/src"
		mount -t proc proc "$1/proc"
		mount -t sysfs sysfs "$1/sys"
		mount -t tmpfs tmpfs "$1/run"
		mount --rbind /dev "$1/dev"
		mkdir "$1/run/netns"
		cd "$1"
		pivot_root . mnt
		umount -l /mnt
		exec /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 \
			CI="$2" sh -c "cd /src && $3"' sh "$root" "${CI:-}" "$1" </dev/null >&2
}

if [ ! -e "$root/.ready" ]; then
	mirror=$(apt-get indextargets --format '$(LABEL)|$(SITE)' 'Created-By: Packages' |
		sed -n 's/^Debian|//p' | head -n 1)
	[ -n "$mirror" ] || skip "apt names no Debian mirror"
	if [ ! -e "$root/etc/debian_version" ]; then
		mkdir -p .cache
		# A mirror that does not answer gets three chances.
		for try in 1 2 3; do
			rm -rf "$root.new"
			debootstrap --variant=minbase --include=make,ca-certificates trixie "$root.new" "$mirror" >&2 </dev/null && break
			[ "$try" != 3 ] || fail "debootstrap makes the root"
			sleep $((try * 10))
		done
		mv "$root.new" "$root"
	fi
	mkdir -p "$root/src"
	cp /etc/resolv.conf "$root/etc/resolv.conf" 2>/dev/null || :
	inside 'make deps-lab && apt-get clean' || fail "make deps-lab installs the packages"
	touch "$root/.ready"
fi
inside 'make deps-lab' || fail "make deps-lab installs the packages"
ok "make deps-lab installs the packages"

inside "make -j2 O=$out VARIANT=release all units" || fail "everything builds without a warning"
ok "everything builds without a warning"

mkdir -p "$out"
if ! inside "make O=$out test-run ONLY='^(unit/|check/|system/(nft|cni|ztunnel)\\b)' >$out/test.log 2>&1"; then
	cat "$out/test.log" >&2
	fail "checks, unit and system tests pass: $(grep -E "^[0-9]+ passed" "$out/test.log")"
fi
ok "checks, unit and system tests pass: $(grep -E '^[0-9]+ passed' "$out/test.log")"
echo "1..$n"
