#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# run.sh: the scenarios of tests/conformance in a kind cluster, for machines that have Docker, kind and kubectl.
# NOT RUN by the authors, whose machine has no Docker; the same scenarios run in tests/cluster (docs/cluster.md).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
tree=$(cd "$here/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for tool in docker kind kubectl openssl; do
	command -v "$tool" >/dev/null || { echo "run.sh: $tool is missing" >&2; exit 1; }
done
cd "$tree"
make image
/usr/bin/python3 tests/cluster/build.py tester
cp .cache/kube/bin/tester "$work/"
docker build -q -t ambient.test/tester:1 -f "$here/Dockerfile" "$work"
kind get clusters | grep -qx ambient || kind create cluster --config "$here/kind.yaml"
kind get kubeconfig --name ambient >"$work/kubeconfig"
kind load docker-image ambient.test/tester:1 --name ambient
for image in ambient-agent ztunnel; do
	kind load image-archive "build/image/$image.tar" --name ambient
done
export KUBECTL=$(command -v kubectl) KUBECONFIG=$work/kubeconfig
/usr/bin/python3 - "$work" <<'PYTHON'
import sys
sys.path.insert(0, "tests")
from cluster import install, kubectl, layout
cluster = layout.Cluster(sys.argv[1])
install.product(cluster, kubectl.Kubectl(sys.argv[1] + "/kubeconfig"))
PYTHON
/usr/bin/python3 tests/conformance/conformance.py --kubeconfig "$work/kubeconfig" "$@"
