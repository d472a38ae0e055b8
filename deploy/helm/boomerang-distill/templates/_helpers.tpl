{{/* Short enough that a pod's name, with its index and suffix, is a host's name too. */}}
{{- define "distill.name" -}}
{{ .Release.Name | trunc 52 | trimSuffix "-" }}
{{- end }}

{{- define "distill.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "distill.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}{{ $image.repository }}@{{ $image.digest }}
{{- else -}}{{ $image.repository }}:{{ $image.tag | default (printf "%s-%s" .Chart.AppVersion (empty .Values.accelerator.resource | ternary "cpu" "gpu")) }}{{- end -}}
{{- end }}

{{/* Of each pod. */}}
{{- define "distill.processes" -}}
{{- .Values.accelerator.resource | empty | ternary 1 (int .Values.accelerator.perNode) -}}
{{- end }}

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
- name: POD_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
{{- end }}
- name: OMP_NUM_THREADS # one process on CPUs takes all cores; those of GPUs share them
  {{- if .Values.accelerator.resource }}
  value: "4"
  {{- else }}
  valueFrom: {resourceFieldRef: {containerName: make, resource: requests.cpu}}
  {{- end }}
{{- if eq .Values.sharding "fsdp" }}
# what `accelerate launch` makes of boomerang_core/recipes/fsdp.yaml; torchrun starts the processes
- {name: ACCELERATE_USE_FSDP, value: "true"}
- {name: FSDP_VERSION, value: "2"}
- {name: FSDP_RESHARD_AFTER_FORWARD, value: "true"}
- {name: FSDP_ACTIVATION_CHECKPOINTING, value: "false"}
- {name: FSDP_OFFLOAD_PARAMS, value: "false"}
- {name: FSDP_CPU_RAM_EFFICIENT_LOADING, value: "false"}
{{- end }}
{{- with .Values.tokenSecret }}
- name: HF_TOKEN
  valueFrom: {secretKeyRef: {name: {{ . | quote }}, key: token}}
{{- end }}
{{- end }}

{{/* Bytes of a quantity: 512Mi, 3Gi, 2G, 1000. */}}
{{- define "distill.bytes" -}}
{{- $scale := dict "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- $unit := regexFind "[A-Za-z]+$" . -}}
{{- mulf (trimSuffix $unit . | float64) (get $scale $unit) | int64 -}}
{{- end }}

{{/* Thousandths of a core: 500m, 2, 1.5. */}}
{{- define "distill.millicores" -}}
{{- $text := toString . -}}
{{- if hasSuffix "m" $text -}}{{ trimSuffix "m" $text }}{{- else -}}{{ mulf $text 1000 | int64 }}{{- end -}}
{{- end }}

{{/* What the pod asks for.  Volumes on the node's disk are part of it: a pod that outgrows its
     request is the first to be evicted when the disk is full. */}}
{{- define "distill.requests" -}}
{{- $disk := add (include "distill.bytes" .Values.cache | int64) (include "distill.bytes" .Values.temporary | int64) -}}
{{- merge (dict) .Values.resources.requests (dict "ephemeral-storage" (printf "%dMi" (div $disk 1048576))) | toYaml -}}
{{- end }}
