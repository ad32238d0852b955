{{/*
Which controllers are off, after refusing what cannot work, as the binary would: it would only say so once it starts.

Answers YAML: `off`, names as --controllers takes them; `definitions`, the CRDs of those; `closed`, names of those that a gate
keeps from running, whose webhooks stay; `arguments`, what the manager is given beyond what it is given anyway.
*/}}
{{- define "kruise.controllers" -}}
{{- $known := include "kruise.manager" . | fromYaml -}}
{{- $values := .Values.controllers -}}
{{- $gates := include "kruise.gates" . | fromYaml -}}
{{- $names := list -}}
{{- range $known.controllers }}{{ $names = append $names .value }}{{ end -}}
{{- range $name, $_ := $values -}}
  {{- if not (has $name (append $names "workers")) -}}
    {{- printf "controllers.%s: there is no such controller; there are: %s" $name (join ", " (sortAlpha $names)) | fail -}}
  {{- end -}}
{{- end -}}

{{- $off := list -}}
{{- $closed := list -}}
{{- $definitions := list -}}
{{- $workers := list -}}
{{- range $known.controllers -}}
  {{- $own := get $values .value | default dict -}}
  {{- if eq (get $own "enabled" | toString) "false" -}}
    {{- $off = append $off .flag -}}
    {{- $definitions = append $definitions .definition -}}
  {{- end -}}
  {{- $open := true -}}
  {{- range .gates }}{{ if not (get $gates.on .) }}{{ $open = false }}{{ end }}{{ end -}}
  {{- if not $open }}{{ $closed = append $closed .flag }}{{ end -}}
  {{- $number := index $own "workers" -}}
  {{- if and (not (kindIs "invalid" $number)) (not .workers) -}}
    {{- printf "controllers.%s.workers: this controller has no such setting" .value | fail -}}
  {{- end -}}
  {{- if kindIs "invalid" $number }}{{ $number = $values.workers }}{{ end -}}
  {{- if and .workers (not (kindIs "invalid" $number)) -}}
    {{- $workers = append $workers (printf "--%s=%d" .workers (int $number)) -}}
  {{- end -}}
{{- end -}}

{{- range $known.needs -}}
  {{- if and (get $gates.on .gate) (has .needs $off) (not (has .controller $off)) -}}
    {{- printf "controllers.%s.enabled is true and controllers.%s.enabled is false: the first does nothing without the second" .controller .needs | fail -}}
  {{- end -}}
{{- end -}}
{{- range $gate := list "PreDownloadImageForInPlaceUpdate" "PreDownloadImageForDaemonSetUpdate" -}}
  {{- range $controller := list "imagepulljob" "nodeimage" -}}
    {{- if and (get $gates.on $gate) (has $controller $off) -}}
      {{- printf "featureGates: %s is on and controllers.%s.enabled is false: the first does nothing without the second" $gate $controller | fail -}}
    {{- end -}}
  {{- end -}}
{{- end -}}

{{- $arguments := sortAlpha $workers -}}
{{- if $off -}}
  {{- $arguments = prepend $arguments (printf "--controllers=*,-%s" (join ",-" (sortAlpha $off))) -}}
{{- end -}}
{{- dict "off" $off "closed" $closed "definitions" $definitions "arguments" $arguments | toYaml -}}
{{- end -}}

{{/*
"true" if a right is needed by a controller that runs, nothing if by none. Without rbac.perController every right is.
Argument: list of the root context and the names of the controllers, as --controllers takes them.
*/}}
{{- define "kruise.needed" -}}
{{- $root := first . -}}
{{- if not $root.Values.rbac.perController -}}true
{{- else -}}
  {{- $controllers := include "kruise.controllers" $root | fromYaml -}}
  {{- $runs := false -}}
  {{- range rest . }}{{ if not (or (has . $controllers.off) (has . $controllers.closed)) }}{{ $runs = true }}{{ end }}{{ end -}}
  {{- if $runs }}true{{ end -}}
{{- end -}}
{{- end -}}
