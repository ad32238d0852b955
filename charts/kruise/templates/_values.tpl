{{/*
Puts back what `null` took out of the values: Helm removes such a key, and templates would fail on it with an error about Go
types. A list, or a map that is Kubernetes' business, is empty then; everything else is as by default, as with `{}`.

Values are filled in place. Templates are rendered in no order, so every one of them begins with this. Argument: the root context.
*/}}
{{- define "kruise.fill" -}}
{{- include "kruise.fillMap" (list .Values (.Files.Get "files/values.yaml" | fromYaml)) -}}
{{- end -}}

{{/* Argument: list of a map and its defaults. */}}
{{- define "kruise.fillMap" -}}
{{- $values := first . -}}
{{- /* Maps with defaults that are taken or left as a whole. */ -}}
{{- $whole := list "affinity" "labels" "livenessProbe" "podSecurityContext" "readinessProbe" "resources" "securityContext" "updateStrategy" -}}
{{- range $key, $default := last . -}}
  {{- if kindIs "invalid" (index $values $key) -}}
    {{- if kindIs "slice" $default -}}{{ $default = list }}
    {{- else if has $key $whole -}}{{ $default = dict }}
    {{- end -}}
    {{- $_ := set $values $key $default -}}
  {{- else if and (kindIs "map" $default) (not (has $key $whole)) -}}
    {{- include "kruise.fillMap" (list (get $values $key) $default) -}}
  {{- end -}}
{{- end -}}
{{- end -}}
