{{/* What the binary knows: gates, controllers, webhooks. Generated, so that the chart cannot know otherwise. */}}
{{- define "kruise.manager" -}}
{{- .Files.Get "files/manager.yaml" -}}
{{- end -}}

{{/* Labels of an object. Argument: list of the root context and a dict of its own. */}}
{{- define "kruise.labels" -}}
{{- $root := index . 0 -}}
{{- $own := dict "app.kubernetes.io/name" "kruise" "app.kubernetes.io/instance" $root.Release.Name -}}
{{- merge (dict) (index . 1) $own $root.Values.global.commonLabels | toYaml -}}
{{- end -}}

{{/* `annotations:` of an object on a line of its own, or nothing. Argument: list of the root context, a dict of its own, indent. */}}
{{- define "kruise.annotations" -}}
{{- $root := index . 0 -}}
{{- with merge (dict) (index . 1) $root.Values.global.commonAnnotations -}}
{{- printf "annotations:%s" (toYaml . | nindent 2) | nindent (int (last $)) -}}
{{- end -}}
{{- end -}}

{{- define "kruise.namespace" -}}
{{- .Values.installation.namespace -}}
{{- end -}}

{{/* A reference to an image. Argument: list of the root context and the image's values; empty ones are the manager's. */}}
{{- define "kruise.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- $default := $root.Values.manager.image -}}
{{- $repository := $image.repository | default $default.repository -}}
{{- $own := and $image.repository (ne $image.repository $default.repository) -}}
{{- $tag := $image.tag | default (ternary "" $default.tag (not (not $own))) | default (printf "v%s" $root.Chart.AppVersion) -}}
{{- $digest := $image.digest | default (ternary "" $default.digest (or $own (not (not $image.tag)))) -}}
{{- with $root.Values.global.imageRegistry }}{{ trimSuffix "/" . }}/{{ end -}}
{{- $repository }}:{{ $tag }}{{ with $digest }}@{{ . }}{{ end -}}
{{- end -}}

{{/* Whether an object of monitoring.coreos.com is wanted: true, false or auto. Argument: list of the root and `enabled`. */}}
{{- define "kruise.monitoring" -}}
{{- $root := index . 0 -}}
{{- $enabled := index . 1 | toString -}}
{{- if and $root.Values.metrics.enabled (or (eq $enabled "true") (and (eq $enabled "auto") ($root.Capabilities.APIVersions.Has "monitoring.coreos.com/v1"))) -}}
true
{{- end -}}
{{- end -}}

{{/* The annotations by which Prometheus finds a pod without an operator. Argument: list of the root and the port. */}}
{{- define "kruise.scrape" -}}
{{- $root := index . 0 -}}
{{- if and $root.Values.metrics.enabled $root.Values.metrics.podAnnotations }}
prometheus.io/scrape: "true"
prometheus.io/port: {{ index . 1 | toString | quote }}
prometheus.io/path: /metrics
{{- else -}}
{}
{{- end -}}
{{- end -}}
