{{/* Ours and extraEnv, which wins, since a name may be there only once. */}}
{{- define "distill.env" -}}
{{- $taken := list -}}
{{- range .Values.extraEnv }}{{ $taken = append $taken .name }}{{ end -}}
{{- $all := list -}}
{{- range include "distill.ownEnv" . | fromYamlArray }}{{ if not (has .name $taken) }}{{ $all = append $all . }}{{ end }}{{ end -}}
{{- concat $all .Values.extraEnv | toYaml -}}
{{- end }}

{{- define "distill.ownEnv" -}}
{{- if gt (int .Values.nodes) 1 }}
- name: JOB_COMPLETION_INDEX # named here too, so that the command may use it
  valueFrom: {fieldRef: {fieldPath: "metadata.annotations['batch.kubernetes.io/job-completion-index']"}}
{{- end }}
- {name: OMP_NUM_THREADS, value: "4"}
{{- with .Values.tokenSecret }}
- name: HF_TOKEN
  valueFrom: {secretKeyRef: {name: {{ . }}, key: token}}
{{- end }}
{{- end }}
