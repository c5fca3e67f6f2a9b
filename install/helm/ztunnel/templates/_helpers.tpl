{{- define "name" -}}
{{ .Values.resourceName | default "ztunnel" }}
{{- end }}

{{/* dict "root" $ "key" name: the chart's own value, else the one in global. */}}
{{- define "either" -}}
{{- with index .root.Values .key | default (index .root.Values.global .key) }}{{ . }}{{ end -}}
{{- end }}

{{/* Where istiod of this revision is. */}}
{{- define "istiod" -}}
{{- $revision := include "either" (dict "root" . "key" "revision") -}}
https://istiod{{ with $revision }}-{{ . }}{{ end }}.{{ include "either" (dict "root" . "key" "istioNamespace") | default "istio-system" }}.svc:15012
{{- end }}

{{/* dict "root" $ "image" name */}}
{{- define "image" -}}
{{- if contains "/" .image -}}
{{ .image }}
{{- else -}}
{{ include "either" (dict "root" .root "key" "hub") }}/{{ .image }}:{{ include "either" (dict "root" .root "key" "tag") | default .root.Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "labels" -}}
app: ztunnel
app.kubernetes.io/name: ztunnel
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: node-proxy
app.kubernetes.io/part-of: ambient
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.labels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "annotations" -}}
{{- $a := deepCopy .Values.annotations -}}
{{- with include "either" (dict "root" . "key" "revision") }}{{ $_ := set $a "istio.io/rev" . }}{{ end -}}
{{- with $a }}
annotations:{{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The settings of ztunnel as name: value; proxyMetadata, then .Values.env win. */}}
{{- define "env" -}}
{{- $env := dict
  "AMBIENT_HANDOVER" "true"
  "RUST_LOG" (.Values.logLevel | toString)
  "ISTIO_META_CLUSTER_ID" (.Values.multiCluster.clusterName | default (.Values.global.multiCluster).clusterName | default "Kubernetes")
  "TERMINATION_GRACE_PERIOD_SECONDS" (.Values.terminationGracePeriodSeconds | toString) -}}
{{- if eq .Values.meshState.source "istiod" }}
{{- $_ := set $env "XDS_ADDRESS" (include "either" (dict "root" . "key" "xdsAddress") | default (include "istiod" .)) -}}
{{- $_ := set $env "CA_ADDRESS" (include "either" (dict "root" . "key" "caAddress") | default (include "istiod" .)) -}}
{{- if (.Values.peerCaCrl).enabled }}{{ $_ := set $env "CRL_PATH" "/var/run/secrets/crl/ca-crl.pem" }}{{ end -}}
{{- else }}{{ $_ := set $env "LOCAL_XDS_PATH" "/var/lib/ambient/mesh/state.yaml" }}{{ end -}}
{{- with include "either" (dict "root" . "key" "network") }}{{ $_ := set $env "NETWORK" . }}{{ end -}}
{{- if include "either" (dict "root" . "key" "logAsJson") }}{{ $_ := set $env "LOG_FORMAT" "json" }}{{ end -}}
{{- range $k, $v := .Values.meshConfig.defaultConfig.proxyMetadata }}{{ $_ := set $env $k ($v | toString) }}{{ end -}}
{{- range $k, $v := .Values.env }}{{ $_ := set $env $k ($v | toString) }}{{ end -}}
{{- toJson $env -}}
{{- end }}
