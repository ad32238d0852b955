{{/*
The entries of a webhook configuration: what the binary would write, without the authority, which is the manager's to
fill in, and with what is tuned by values. Argument: list of the root context and `mutating` or `validating`.
*/}}
{{- define "kruise.webhooks" -}}
{{- $root := index . 0 -}}
{{- $known := include "kruise.manager" $root | fromYaml -}}
{{- $controllers := include "kruise.controllers" $root | fromYaml -}}
{{- $gates := include "kruise.gates" $root | fromYaml -}}
{{- $values := $root.Values.webhookConfiguration -}}
{{- $namespace := include "kruise.namespace" $root -}}
{{- $aks := list -}}
{{- if $values.aksIntegration -}}
  {{- $aks = list (dict "key" "control-plane" "operator" "NotIn" "values" (list "true")) (dict "key" "kubernetes.azure.com/managedby" "operator" "NotIn" "values" (list "aks")) -}}
{{- end -}}
{{- $outside := list (dict "key" "kubernetes.io/metadata.name" "operator" "NotIn" "values" (append $values.excludeNamespaces $namespace | uniq | sortAlpha)) -}}

{{- $entries := list -}}
{{- range get $known.webhooks (index . 1) -}}
  {{- $entry := . -}}
  {{- $rule := first .rules -}}
  {{- $resource := first $rule.resources -}}
  {{- $group := first $rule.apiGroups -}}
  {{- $own := hasSuffix ".kruise.io" $group -}}
  {{- $pod := and (eq $group "") (hasPrefix "pods" $resource) -}}
  {{- $served := not (has (printf "%s.%s" $resource $group) $controllers.definitions) -}}
  {{- if $pod }}{{ $served = and $served $gates.on.PodWebhook }}{{ end -}}
  {{- if has $resource (list "services" "ingresses") }}{{ $served = and $served $gates.on.ResourcesDeletionProtection }}{{ end -}}
  {{- if $served -}}
    {{- $_ := set $entry.clientConfig.service "namespace" $namespace -}}
    {{- $_ := set $entry "timeoutSeconds" $values.timeoutSeconds -}}
    {{- $selector := $aks -}}
    {{- if $own -}}
      {{- $_ := set $entry "failurePolicy" $values.failurePolicy -}}
    {{- else if $pod -}}
      {{- $selector = concat $outside (list (dict "key" "control-plane" "operator" "NotIn" "values" (list "openkruise"))) $aks -}}
      {{- $_ := set $entry "failurePolicy" $values.podWebhook.failurePolicy -}}
      {{- with $values.podWebhook.timeoutSeconds }}{{ $_ := set $entry "timeoutSeconds" . }}{{ end -}}
      {{- with $values.podWebhook.objectSelector }}{{ $_ := set $entry "objectSelector" . }}{{ end -}}
      {{- with $values.podWebhook.matchConditions }}{{ $_ := set $entry "matchConditions" . }}{{ end -}}
    {{- else -}}
      {{- $selector = concat $outside $aks -}}
      {{- $_ := set $entry "failurePolicy" $values.protection.failurePolicy -}}
    {{- end -}}
    {{- with $selector }}{{ $_ := set $entry "namespaceSelector" (dict "matchExpressions" .) }}{{ end -}}
    {{- $entries = append $entries $entry -}}
  {{- end -}}
{{- end -}}
{{- toYaml $entries -}}
{{- end -}}
