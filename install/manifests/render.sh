#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# render.sh HELM DIR: writes the plain manifests, rendered from the charts with their default values, to DIR.
set -eu
helm=$1 out=$2
charts=$(dirname "$0")/../helm
for chart in ambient-cni ztunnel; do
	{
		echo "# Rendered from install/helm/$chart with its default values by \`make manifests\`: change it there."
		"$helm" template "$chart" "$charts/$chart" --namespace istio-system --kube-version 1.34.0 |
			sed -e '/^# Source: /d' -e '/app.kubernetes.io\/managed-by: /d' -e '/app.kubernetes.io\/instance: /d' \
				-e 's/[[:space:]]*$//'
	} >"$out/$chart.yaml.new"
	mv "$out/$chart.yaml.new" "$out/$chart.yaml"
done
