{{/*
Feature gates, read as the binary reads `--feature-gates`: the profile first, then the string, then the overrides.

Answers YAML: `argument`, what both processes are given; `named`, what was asked for; `on`, every gate's value after the
rules by which gates depend on each other.
*/}}
{{- define "kruise.gates" -}}
{{- $known := include "kruise.manager" . | fromYaml -}}
{{- $words := dict -}}
{{- range list "1" "t" "T" "TRUE" "true" "True" }}{{ $_ := set $words . true }}{{ end -}}
{{- range list "0" "f" "F" "FALSE" "false" "False" }}{{ $_ := set $words . false }}{{ end -}}

{{- $items := list -}}
{{- if eq .Values.global.featureProfile "reference-all" -}}
{{- $items = list (list "AllAlpha" true) (list "AllBeta" true) (list "EnableExternalCerts" false) (list "TemplateNoDefaults" false) -}}
{{- end -}}
{{- range splitList "," .Values.featureGates -}}
  {{- if trim . -}}
    {{- if not (contains "=" .) -}}{{ printf "featureGates: missing bool value for %s" (trim .) | fail }}{{- end -}}
    {{- $parts := splitn "=" 2 . -}}
    {{- $name := trim $parts._0 -}}
    {{- $given := trim $parts._1 -}}
    {{- if not (hasKey $words $given) -}}
      {{- printf "featureGates: invalid value of %s=%s, err: strconv.ParseBool: parsing %q: invalid syntax" $name $given $given | fail -}}
    {{- end -}}
    {{- $items = append $items (list $name (get $words $given)) -}}
  {{- end -}}
{{- end -}}
{{- range $name, $value := .Values.featureGateOverrides -}}
  {{- $items = append $items (list $name $value) -}}
{{- end -}}

{{- $named := dict -}}
{{- range $items -}}
  {{- $name := get $known.aliases (index . 0) | default (index . 0) -}}
  {{- if not (or (has $name (list "AllAlpha" "AllBeta")) (hasKey $known.gates $name)) -}}
    {{- printf "featureGates: unrecognized feature gate: %s" (index . 0) | fail -}}
  {{- end -}}
  {{- $_ := set $named $name (index . 1) -}}
{{- end -}}

{{- $on := dict -}}
{{- range $name, $gate := $known.gates -}}
  {{- $stage := printf "All%s" $gate.stage -}}
  {{- if hasKey $named $name -}}{{ $_ := set $on $name (get $named $name) }}
  {{- else if hasKey $named $stage -}}{{ $_ := set $on $name (get $named $stage) }}
  {{- else -}}{{ $_ := set $on $name $gate.default }}
  {{- end -}}
{{- end -}}
{{- range $known.dependencies -}}
  {{- $rule := . -}}
  {{- $holds := false -}}
  {{- range .when }}{{ if eq (get $on .) $rule.is }}{{ $holds = true }}{{ end }}{{ end -}}
  {{- if $holds }}{{ range .then }}{{ $_ := set $on . $rule.becomes }}{{ end }}{{ end -}}
{{- end -}}

{{- if and $on.EnableExternalCerts (not (hasKey $named "EnableExternalCerts")) (not .Values.externalCerts.annotations) -}}
  {{- fail "featureGates: AllAlpha turns EnableExternalCerts on, and nobody is named that brings certificates: add EnableExternalCerts=false to featureGates, or set externalCerts.annotations" -}}
{{- end -}}
{{- /* With that gate the manager writes no authority anywhere: whoever brings it has to be named on every object. */ -}}
{{- if and $on.EnableExternalCerts .Values.crds.managed (eq .Values.crds.mode "hook") -}}
  {{- fail "featureGates: EnableExternalCerts is on and crds.mode is hook, which applies CRDs without externalCerts.annotations, so the manager would never be ready: set crds.mode to template" -}}
{{- end -}}
{{- if and $on.EnableExternalCerts (eq .Values.webhookConfiguration.managedBy "manager") -}}
  {{- fail "featureGates: EnableExternalCerts is on and webhookConfiguration.managedBy is manager, which makes no configurations with that gate, so nobody would: set webhookConfiguration.managedBy to chart" -}}
{{- end -}}

{{- $argument := .Values.featureGates -}}
{{- if or .Values.global.featureProfile .Values.featureGateOverrides -}}
  {{- $settings := list -}}
  {{- range $name, $value := $named }}{{ $settings = append $settings (printf "%s=%t" $name $value) }}{{ end -}}
  {{- $argument = join "," (sortAlpha $settings) -}}
{{- end -}}
{{- dict "argument" $argument "named" $named "on" $on | toYaml -}}
{{- end -}}

{{/* "true" if a gate is on, nothing if not. Argument: list of the root context and the gate's name. */}}
{{- define "kruise.gate" -}}
{{- $gates := include "kruise.gates" (index . 0) | fromYaml -}}
{{- if get $gates.on (index . 1) }}true{{ end -}}
{{- end -}}

{{/* "true" if agents run on the nodes, nothing if not. */}}
{{- define "kruise.daemon" -}}
{{- if kindIs "invalid" .Values.daemon.enabled -}}{{ include "kruise.gate" (list . "KruiseDaemon") }}
{{- else if .Values.daemon.enabled -}}true
{{- end -}}
{{- end -}}
