{{/*
What the hooks around a release have in common: an account, its roles and a Job. All go when they have succeeded; of one
that has failed, what is left is for reading its log, and the next run clears it away.
*/}}

{{/* Annotations of an object of a hook. Argument: list of the root context, the events, and the weight. */}}
{{- define "kruise.hook" -}}
{{- $hook := dict "helm.sh/hook" (index . 1) "helm.sh/hook-weight" (toString (index . 2)) "helm.sh/hook-delete-policy" "before-hook-creation,hook-succeeded" -}}
{{- include "kruise.annotations" (list (index . 0) $hook 2) -}}
{{- end -}}

{{/*
The spec of a hook's Job. Argument: a dict of `root`, `account`, `commands` (what the manager's binary is told, one after the
other), and `label`.
*/}}
{{- define "kruise.hookJob" -}}
{{- $root := .root -}}
{{- $values := $root.Values.manager -}}
{{- /* OpenKruise's own image has another program in it. A tag says nothing without its repository. */ -}}
{{- $image := $root.Values.helmHooks.image -}}
{{- if or (not $image.repository) (hasSuffix "kruise-helm-hook" $image.repository) }}{{ $image = dict }}{{ end -}}
{{- $resources := dict "requests" (dict "cpu" "10m" "memory" "32Mi") -}}
{{- with $values.resources.limits }}{{ $_ := set $resources "limits" . }}{{ end -}}
{{- $containers := list -}}
{{- range $number, $command := .commands -}}
  {{- $container := dict "name" (printf "step-%d" (add1 $number)) -}}
  {{- $_ := set $container "image" (include "kruise.image" (list $root $image)) -}}
  {{- $_ := set $container "imagePullPolicy" $values.image.pullPolicy -}}
  {{- $_ := set $container "command" (concat (list "/manager") $command) -}}
  {{- $_ := set $container "terminationMessagePolicy" "FallbackToLogsOnError" -}}
  {{- $_ := set $container "env" (list (dict "name" "POD_NAMESPACE" "value" (include "kruise.namespace" $root)) (dict "name" "KRUISE_DAEMON_CONFIG_NS" "value" $root.Values.daemonConfigNamespace)) -}}
  {{- $_ := set $container "securityContext" $values.securityContext -}}
  {{- $_ := set $container "resources" $resources -}}
  {{- $containers = append $containers $container -}}
{{- end -}}
backoffLimit: 2
activeDeadlineSeconds: 180
template:
  metadata:
    labels: {{- merge (dict) (dict "kruise" .label) $root.Values.global.commonLabels | toYaml | nindent 6 }}
  spec:
    serviceAccountName: {{ .account }}
    restartPolicy: Never
    {{- with $root.Values.imagePullSecrets }}
    imagePullSecrets: {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with $values.podSecurityContext }}
    securityContext: {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with $values.nodeSelector }}
    nodeSelector: {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with $values.tolerations }}
    tolerations: {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with initial $containers }}
    initContainers: {{- toYaml . | nindent 6 }}
    {{- end }}
    containers: {{- list (last $containers) | toYaml | nindent 6 }}
{{- end -}}
