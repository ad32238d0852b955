{{/*
Refuses to install beside another Kruise that runs: both would write the same two webhook configurations and convert for the
same CRDs. Those of the cluster say whom they ask. Argument: the root context.
*/}}
{{- define "kruise.second" -}}
{{- if not .Values.installation.allowSecond -}}
  {{- $asked := dict -}}
  {{- $live := lookup "admissionregistration.k8s.io/v1" "MutatingWebhookConfiguration" "" "kruise-mutating-webhook-configuration" -}}
  {{- range $live.webhooks -}}
    {{- with .clientConfig.service }}{{ $_ := set $asked .namespace true }}{{ end -}}
  {{- end -}}
  {{- range $namespace := without (keys $asked) (include "kruise.namespace" .) -}}
    {{- $status := (lookup "apps/v1" "Deployment" $namespace "kruise-controller-manager").status | default dict -}}
    {{- if gt (int (get $status "readyReplicas")) 0 -}}
      {{- printf "Kruise runs in namespace %s already, and both would write the same webhook configurations; uninstall it first, or set installation.allowSecond" $namespace | fail -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- end -}}
