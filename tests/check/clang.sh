#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# clang.sh: everything also compiles with clang, warnings as errors.  usage: clang.sh BUILD_FOLDER
set -u
cd "$(dirname "$0")/../.." || exit 1
if ! command -v clang >/dev/null; then
	echo "ok 1 - everything compiles with clang # SKIP clang is not installed"
	echo 1..1
	exit 0
fi
# Not part of an outer make's job count.
unset MAKEFLAGS MFLAGS MAKELEVEL
if make -k -j2 CC=clang O="$1/clang" VARIANT=release all units >&2; then
	echo "ok 1 - everything compiles with clang"
	echo 1..1
else
	echo "not ok 1 - everything compiles with clang"
	echo 1..1
	exit 1
fi
