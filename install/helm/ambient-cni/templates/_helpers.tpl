{{/* The directories of the platforms (cni-spec 7.3). */}}
{{- define "dirs" -}}
{{- $platform := .Values.global.platform | default "" -}}
{{- if and (eq $platform "") (contains "-gke" .Capabilities.KubeVersion.GitVersion) }}{{ $platform = "gke" }}{{ end -}}
{{- $bin := dict "gke" "/home/kubernetes/bin" "k3s" "/var/lib/rancher/k3s/data/cni" "k3d" "/bin"
      "microk8s" "/var/snap/microk8s/current/opt/cni/bin" -}}
{{- $conf := dict "k3s" "/var/lib/rancher/k3s/agent/etc/cni/net.d" "k3d" "/var/lib/rancher/k3s/agent/etc/cni/net.d"
      "microk8s" "/var/snap/microk8s/current/args/cni-network" -}}
{{- $netns := dict "minikube" "/var/run/docker/netns" -}}
{{- dict "bin" (.Values.cniBinDir | default (get $bin $platform) | default "/opt/cni/bin")
      "conf" (.Values.cniConfDir | default (get $conf $platform) | default "/etc/cni/net.d")
      "netns" (.Values.cniNetnsDir | default (get $netns $platform) | default "/var/run/netns") | toJson -}}
{{- end }}

{{- define "image" -}}
{{- if contains "/" .Values.image -}}
{{ .Values.image }}
{{- else -}}
{{ .Values.hub | default .Values.global.hub }}/{{ .Values.image }}:{{ .Values.tag | default .Values.global.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "labels" -}}
app.kubernetes.io/name: istio-cni
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: node-agent
app.kubernetes.io/part-of: ambient
app.kubernetes.io/managed-by: {{ .Release.Service }}
istio.io/rev: {{ .Values.revision | default "default" }}
{{- with .Values.ownerName }}
install.operator.istio.io/owning-resource: {{ . }}
{{- end }}
{{- end }}

{{/* "all:info,cni:debug", as Istio writes it, and "info,cni=debug", as ours reads it. */}}
{{- define "log" -}}
{{- $level := .Values.logging.level | default .Values.global.logging.level | default "info" | toString -}}
{{- regexReplaceAll "(^|,)(all|default)[:=]" $level "${1}" | replace ":" "=" -}}
{{- end }}

{{/* The settings of the agent as name: value; .Values.env wins. */}}
{{- define "env" -}}
{{- $env := dict
  "AMBIENT_SOURCE" "kubernetes"
  "AMBIENT_CNI_PLUGIN" "/opt/cni/bin/ambient-cni"
  "AMBIENT_CNI_BIN_DIR" "/host/opt/cni/bin"
  "MOUNTED_CNI_NET_DIR" "/host/etc/cni/net.d"
  "AMBIENT_INSTALL_CNI" (ternary "owned" "chained" .Values.istioOwnedCNIConfig)
  "AMBIENT_LOG" (include "log" .)
  "AMBIENT_DNS_CAPTURE" (.Values.ambient.dnsCapture | toString)
  "AMBIENT_HOST_PROBES" (.Values.ambient.hostProbes | toString)
  "SYSTEM_NAMESPACE" .Release.Namespace -}}
{{- with .Values.cniConfFileName }}{{ $_ := set $env "CNI_CONF_NAME" . }}{{ end -}}
{{- with .Values.istioOwnedCNIConfigFileName }}{{ $_ := set $env "ISTIO_OWNED_CNI_CONFIG_FILENAME" . }}{{ end -}}
{{- with .Values.excludeNamespaces }}{{ $_ := set $env "EXCLUDE_NAMESPACES" (join "," .) }}{{ end -}}
{{- with .Values.ambient.ztunnelGrace }}{{ $_ := set $env "AMBIENT_ZTUNNEL_GRACE" . }}{{ end -}}
{{- with .Values.ambient.releaseLimit }}{{ $_ := set $env "AMBIENT_RELEASE_LIMIT" . }}{{ end -}}
{{- if .Values.replaceIstioCni }}{{ $_ := set $env "AMBIENT_REPLACE_ISTIO_CNI" "true" }}{{ end -}}
{{- if .Values.global.logAsJson }}{{ $_ := set $env "LOG_FORMAT" "json" }}{{ end -}}
{{- range $k, $v := .Values.env }}{{ $_ := set $env $k ($v | toString) }}{{ end -}}
{{- toJson $env -}}
{{- end }}
