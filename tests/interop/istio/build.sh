#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# build.sh DIRECTORY: builds istiod, istioctl and the stock CNI agent and plugin from their Go module (go.mod beside this
# file pins the version) into DIRECTORY; beside it come the Gateway API's kinds, gateway-api.yaml, and the bootstrap of Istio's
# Envoys, envoy_bootstrap.json. Some four minutes on two cores the first time; nothing is done when they are there.
set -eu
out=$1
have() {
	for f in install-cni istio-cni pilot-discovery istioctl pilot-agent ../gateway-api.yaml ../envoy_bootstrap.json; do
		[ -s "$out/$f" ] || return 1
	done
}
if have; then
	exit 0
fi
command -v go >/dev/null || { echo "build.sh: Go is not installed; tests beside stock programs will be skipped" >&2; exit 0; }
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$(dirname "$0")"
tags="osusergo netgo vtprotobuf disable_pgv"
# What is compiled below is downloaded first, for the network gets three chances.
for try in 1 2 3; do
	go mod download sigs.k8s.io/gateway-api istio.io/istio &&
		CGO_ENABLED=0 go list -deps -tags "$tags" tool >/dev/null && break
	[ "$try" != 3 ] || exit 1
	sleep $((try * 10))
done
dir() { go list -m -f '{{.Dir}}' "$1"; }
for f in "$(dir sigs.k8s.io/gateway-api)"/config/crd/standard/gateway.networking.k8s.io_*.yaml; do
	echo ---
	cat "$f"
done >"$out/../gateway-api.yaml"
cat "$(dir istio.io/istio)/tools/packaging/common/envoy_bootstrap.json" >"$out/../envoy_bootstrap.json"
version=istio.io/istio/pkg/version
CGO_ENABLED=0 nice go build -trimpath -tags "$tags" -o "$out/" -ldflags \
	"-s -w -X $version.buildVersion=1.31-dev -X $version.buildTag=1.31-dev -X $version.buildGitRevision=local -X $version.buildStatus=Clean" \
	tool
