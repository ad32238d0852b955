{{/*
Refuses an upgrade that would take CRDs away, and with them every object of their kinds: those of another chart that this
one does not have, or of this one when it stops rendering them. In an upgrade Helm looks at the live object before it deletes, so the
annotation is enough (in an uninstall it goes by the manifest). Argument: the root context.
*/}}
{{- define "kruise.upgrade" -}}
{{- if .Release.IsUpgrade -}}
  {{- $kept := list -}}
  {{- if and .Values.crds.managed (eq .Values.crds.mode "template") -}}
    {{- range $path, $_ := .Files.Glob "files/crds/*.yaml" -}}
      {{- $kept = append $kept ($.Files.Get $path | fromYaml).metadata.name -}}
    {{- end -}}
  {{- end -}}
  {{- $lost := list -}}
  {{- range (lookup "apiextensions.k8s.io/v1" "CustomResourceDefinition" "" "").items -}}
    {{- $annotations := .metadata.annotations | default dict -}}
    {{- $ours := and (eq (get $annotations "meta.helm.sh/release-name") $.Release.Name) (eq (get $annotations "meta.helm.sh/release-namespace") $.Release.Namespace) -}}
    {{- if and $ours (not (has .metadata.name $kept)) (ne (get $annotations "helm.sh/resource-policy") "keep") -}}
      {{- $lost = append $lost .metadata.name -}}
    {{- end -}}
  {{- end -}}
  {{- if $lost -}}
    {{- printf "this upgrade would delete CRDs, and with them every object of their kinds; to keep them first run: kubectl annotate crd %s helm.sh/resource-policy=keep" (join " " (sortAlpha $lost)) | fail -}}
  {{- end -}}
{{- end -}}
{{- end -}}
