{{/* Bytes of a quantity: 512Mi, 3Gi, 2G, 1536MiB, 1000. */}}
{{- define "boomerang.bytes" -}}
{{- $text := trimSuffix "B" (. | toString) -}}
{{- $scale := dict "" 1 "K" 1000 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- $unit := regexFind "[A-Za-z]+$" $text -}}
{{- mulf (trimSuffix $unit $text | float64) (get $scale $unit) | int64 -}}
{{- end }}

{{/* Thousandths of a core: 500m, 2, 1.5. */}}
{{- define "boomerang.millicores" -}}
{{- $text := toString . -}}
{{- if hasSuffix "m" $text -}}{{ trimSuffix "m" $text }}{{- else -}}{{ mulf $text 1000 | int64 }}{{- end -}}
{{- end }}

{{/* The memory budget in bytes, over all GPUs of a pod; empty where the server reads their memory. */}}
{{- define "boomerang.budget" -}}
{{- $budget := .Values.memoryBudget -}}
{{- $limit := include "boomerang.bytes" .Values.resources.limits.memory | int64 -}}
{{- $reserve := include "boomerang.bytes" $budget.reserve | int64 -}}
{{- if eq $budget.from "fixed" -}}{{ include "boomerang.bytes" $budget.fixed }}
{{- else if eq $budget.from "device" -}}{{ sub (include "boomerang.bytes" $budget.device | int64) $reserve | mul .Values.accelerator.count }}
{{- else if eq $budget.from "limit" -}}{{ sub $limit $reserve }}
{{- /* what is reserved for the process on a CPU: PROCESS_BYTES of server/memory/cgroup.py */ -}}
{{- else if not .Values.accelerator.resource -}}{{ sub $limit (include "boomerang.bytes" "2560Mi" | int64) }}{{- end -}}
{{- end }}

{{/* Requests that a pod should have, running and waiting.  Those that run count too: a queue alone is
     empty while every pod is busy, and pods would go that are needed.  Less than max_num_seqs, since
     a new pod takes minutes to load.  A null is the server's 32. */}}
{{- define "boomerang.requestsPerPod" -}}
{{- div (.Values.settings.max_num_seqs | default 32 | int | mul 3 | add 3) 4 -}}
{{- end }}

{{/* How fast replicas go: slowly, since a new pod takes minutes to load. */}}
{{- define "boomerang.scaling" -}}
scaleDown:
  stabilizationWindowSeconds: 600
  policies: [{type: Pods, value: 1, periodSeconds: 120}]
{{- end }}

{{/* Size of /families and /cache.  The shipped family only unpacks its teacher, 260 MiB; without a
     claim a small node must have room for it. */}}
{{- define "boomerang.storageSize" -}}
{{- $bundled := and (eq .Values.family.source "shipped") (not (include "boomerang.claim" .)) -}}
{{- .Values.storage.size | default (ternary "2Gi" "20Gi" $bundled) -}}
{{- end }}

{{/* What the server asks for.  Volumes on the node's disk are part of it: a pod that outgrows its
     request is the first to be evicted when the disk is full. */}}
{{- define "boomerang.requests" -}}
{{- $disk := include "boomerang.bytes" .Values.temporary | int64 -}}
{{- if not (include "boomerang.claim" .) -}}
  {{- $disk = include "boomerang.storageSize" . | include "boomerang.bytes" | int64 | add $disk -}}
{{- end -}}
{{- merge (dict) .Values.resources.requests (dict "ephemeral-storage" (printf "%dMi" (div $disk 1048576))) | toYaml -}}
{{- end }}
