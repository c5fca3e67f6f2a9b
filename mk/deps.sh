#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# deps.sh: installs the Debian packages named as arguments that are not installed yet.
# Does nothing, and needs neither root nor a network, when all are there.
set -eu

missing=
for p in "$@"; do
	case $(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null || :) in
	installed*) ;;
	*) missing="$missing $p" ;;
	esac
done
if [ -z "$missing" ]; then
	echo "deps: all $# packages are installed"
	exit 0
fi
if [ "$(id -u)" != 0 ]; then
	echo "deps: these packages are missing; as root run: apt-get install$missing" >&2
	exit 1
fi
echo "deps: installing$missing"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
export DEBIAN_FRONTEND=noninteractive
# A mirror that does not answer gets three chances.
for try in 1 2 3; do
	# shellcheck disable=SC2086
	if { apt-get update -q && apt-get install -q -y --no-install-recommends $missing; } >"$log" 2>&1 </dev/null; then
		break
	fi
	if [ "$try" = 3 ]; then
		cat "$log" >&2
		echo "deps: apt-get failed; its output is above" >&2
		exit 1
	fi
	sleep $((try * 10))
done
# Tests start a Prometheus of their own; the package has started one for the whole machine.
case $missing in
*" prometheus"*) [ ! -d /run/systemd/system ] || systemctl disable -q --now prometheus.service ;;
esac
