{{/* Each refuses, by the field's name, what templates/validate.yaml is about. */}}

{{- define "boomerang.check.budget" -}}
{{- $v := .Values -}}
{{- $from := $v.memoryBudget.from -}}
{{- if and $v.memoryBudget.fixed (ne $from "fixed") -}}
  {{- fail (printf "memoryBudget.fixed: is not used where memoryBudget.from is %s; set from: fixed" $from) -}}
{{- end -}}
{{- if and $v.memoryBudget.device (not (has $from (list "device" "fixed"))) -}}
  {{- fail (printf "memoryBudget.device: is not used where memoryBudget.from is %s; set from: device" $from) -}}
{{- end -}}
{{- if $v.accelerator.resource -}}
  {{- include "boomerang.check.gpuBudget" . -}}
{{- else -}}
  {{- include "boomerang.check.cpuBudget" . -}}
{{- end -}}
{{- /* unstated, the least that the server takes: LEAST_KV_BYTES of boomerang_core/memory_plan.py */ -}}
{{- $kv := $v.settings.kv_cache_bytes | default "256MiB" -}}
{{- with include "boomerang.budget" . -}}
  {{- if le (int64 .) (include "boomerang.bytes" $kv | int64) -}}
    {{- fail (printf "settings.kv_cache_bytes: %v leaves nothing for weights of the memory budget, %dMiB (memoryBudget.from: %s)" $kv (div . 1048576) $from) -}}
  {{- end -}}
{{- end -}}
{{- end }}

{{- define "boomerang.check.gpuBudget" -}}
{{- $budget := .Values.memoryBudget -}}
{{- if eq $budget.from "limit" -}}
  {{- fail "memoryBudget.from: limit is the pod's memory, not the GPU's; use none or device" -}}
{{- end -}}
{{- if $budget.device -}}
  {{- $device := include "boomerang.bytes" $budget.device | int64 -}}
  {{- if and (eq $budget.from "device") (ge (include "boomerang.bytes" $budget.reserve | int64) $device) -}}
    {{- fail (printf "memoryBudget.reserve: %s leaves nothing of memoryBudget.device, %s" $budget.reserve $budget.device) -}}
  {{- end -}}
  {{- if and (eq $budget.from "fixed") (gt (include "boomerang.budget" . | int64) (mul $device .Values.accelerator.count)) -}}
    {{- fail (printf "memoryBudget.fixed: %v is above memoryBudget.device, %s, of accelerator.count GPUs" $budget.fixed $budget.device) -}}
  {{- end -}}
{{- end -}}
{{- end }}

{{- define "boomerang.check.cpuBudget" -}}
{{- $budget := .Values.memoryBudget -}}
{{- $memory := .Values.resources.limits.memory -}}
{{- $limit := include "boomerang.bytes" $memory | int64 -}}
{{- $reserve := include "boomerang.bytes" $budget.reserve | int64 -}}
{{- if eq $budget.from "device" -}}
  {{- fail "memoryBudget.from: device is a GPU's memory, and the pod has none; use limit" -}}
{{- end -}}
{{- if eq $budget.from "none" -}}
  {{- if le (include "boomerang.budget" . | int64) 0 -}}
    {{- fail (printf "resources.limits.memory: %s is not above the 2560Mi reserved for the process" $memory) -}}
  {{- end -}}
{{- else if lt $reserve (include "boomerang.bytes" "2Gi" | int64) -}}
  {{- fail (printf "memoryBudget.reserve: %s is less than the process alone takes on a CPU, 2Gi" $budget.reserve) -}}
{{- else if ge $reserve $limit -}}
  {{- fail (printf "memoryBudget.reserve: %s leaves nothing of resources.limits.memory, %s" $budget.reserve $memory) -}}
{{- else if gt (include "boomerang.budget" . | int64) (sub $limit $reserve) -}}
  {{- fail (printf "memoryBudget.fixed: %v is above resources.limits.memory, %s, less memoryBudget.reserve, %s" $budget.fixed $memory $budget.reserve) -}}
{{- end -}}
{{- end }}

{{- define "boomerang.check.resources" -}}
{{- $limits := .Values.resources.limits -}}
{{- $asked := include "boomerang.requests" . | fromYaml -}}
{{- include "boomerang.check.requests" (dict "field" "resources" "requests" $asked "limits" $limits) -}}
{{- $init := .Values.initResources -}}
{{- include "boomerang.check.requests" (merge (dict "field" "initResources") $init) -}}
{{- if ge (include "boomerang.bytes" .Values.sharedMemory | int64) (include "boomerang.bytes" $limits.memory | int64) -}}
  {{- fail (printf "sharedMemory: %s counts as the pod's memory, and is not below resources.limits.memory, %s" .Values.sharedMemory $limits.memory) -}}
{{- end -}}
{{- end }}

{{/* `requests` above `limits` of the values' field `field`. */}}
{{- define "boomerang.check.requests" -}}
{{- $all := . -}}
{{- range $name, $asked := .requests -}}
  {{- $measure := printf "boomerang.%s" (eq $name "cpu" | ternary "millicores" "bytes") -}}
  {{- with get $all.limits $name -}}
    {{- if gt (include $measure $asked | int64) (include $measure . | int64) -}}
      {{- fail (printf "%s.requests.%s: %v is above %s.limits.%s, %v" $all.field $name $asked $all.field $name .) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- end }}

{{- define "boomerang.check.accelerator" -}}
{{- $v := .Values -}}
{{- if and $v.accelerator.resource (ne $v.image.flavour "gpu") -}}
  {{- fail (printf "image.flavour: %s cannot use accelerator.resource %s" $v.image.flavour $v.accelerator.resource) -}}
{{- end -}}
{{- if and (eq $v.image.flavour "gpu") (not $v.accelerator.resource) -}}
  {{- fail "accelerator.resource: the gpu image needs one, such as nvidia.com/gpu" -}}
{{- end -}}
{{- if gt (int $v.accelerator.count) 1 -}}
  {{- if not $v.accelerator.resource -}}
    {{- fail (printf "accelerator.count: %d of what? accelerator.resource is empty" (int $v.accelerator.count)) -}}
  {{- end -}}
  {{- if contains "/mig-" $v.accelerator.resource -}}
    {{- fail "accelerator.count: MIG slices cannot be joined; use one per pod and more replicas" -}}
  {{- end -}}
  {{- if lt (include "boomerang.bytes" $v.sharedMemory | int64) (include "boomerang.bytes" "1Gi" | int64) -}}
    {{- fail (printf "sharedMemory: %s is too little for the GPUs of a pod to exchange what they compute; at least 1Gi" $v.sharedMemory) -}}
  {{- end -}}
{{- end -}}
{{- end }}

{{- define "boomerang.check.labels" -}}
{{- $own := include "boomerang.selector" . | fromYaml -}}
{{- range keys .Values.podLabels -}}
  {{- if hasKey $own . -}}{{- fail (printf "podLabels: %s is what the selectors go by" .) -}}{{- end -}}
{{- end -}}
{{- range keys .Values.podAnnotations -}}
  {{- if hasPrefix "checksum/" . -}}{{- fail (printf "podAnnotations: %s is the chart's own" .) -}}{{- end -}}
{{- end -}}
{{- end }}

{{- define "boomerang.check.rollout" -}}
{{- $v := .Values -}}
{{- $none := list "0" "0%" -}}
{{- if and (has (toString $v.strategy.maxSurge) $none) (has (toString $v.strategy.maxUnavailable) $none) -}}
  {{- fail "strategy: with maxSurge and maxUnavailable 0 no pod can ever be replaced" -}}
{{- end -}}
{{- if lt (addf $v.preStopSeconds (include "boomerang.lingerSeconds" .)) 2.0 -}}
  {{- fail "settings.linger_seconds: with preStopSeconds at least 2, which the readiness probe takes to notice, or requests are lost" -}}
{{- end -}}
{{- with $v.terminationGracePeriodSeconds -}}
  {{- if lt (int .) (include "boomerang.graceSeconds" $ | int) -}}
    {{- fail (printf "terminationGracePeriodSeconds: %d is less than preStop, linger, drain and 30 seconds to stop: %s" (int .) (include "boomerang.graceSeconds" $)) -}}
  {{- end -}}
{{- end -}}
{{- if gt (int $v.autoscaling.minReplicas) (int $v.autoscaling.maxReplicas) -}}
  {{- fail (printf "autoscaling.minReplicas: %d is above autoscaling.maxReplicas, %d" (int $v.autoscaling.minReplicas) (int $v.autoscaling.maxReplicas)) -}}
{{- end -}}
{{- end }}

{{- define "boomerang.check.image" -}}
{{- $version := .Capabilities.KubeVersion.Version -}}
{{- if and (eq .Values.family.source "image") (not (semverCompare ">=1.35.0-0" $version)) -}}
  {{- fail (printf "family.source: image needs image volumes, which Kubernetes has from 1.35 on, and this is %s" $version) -}}
{{- end -}}
{{- end }}

{{- define "boomerang.check.source" -}}
{{- $family := .Values.family -}}
{{- range $source, $field := dict "hub" "repository" "image" "reference" "rclone" "remote" -}}
  {{- if and (get (get $family $source) $field) (ne $family.source $source) -}}
    {{- fail (printf "family.%s.%s: is not used where family.source is %s; set source: %s" $source $field $family.source $source) -}}
  {{- end -}}
{{- end -}}
{{- end }}

{{- define "boomerang.check.storage" -}}
{{- $v := .Values -}}
{{- if and $v.storage.create $v.storage.existingClaim -}}
  {{- fail (printf "storage.create: the claim %s is there already (storage.existingClaim); give one of the two" $v.storage.existingClaim) -}}
{{- end -}}
{{- if and $v.storage.create (ne $v.storage.accessMode "ReadWriteMany") -}}
  {{- if or (gt (int $v.replicas) 1) (ne $v.autoscaling.kind "none") -}}
    {{- fail (printf "storage.accessMode: several replicas need ReadWriteMany, not %s" $v.storage.accessMode) -}}
  {{- end -}}
  {{- if not (has (toString $v.strategy.maxSurge) (list "0" "0%")) -}}
    {{- fail (printf "storage.accessMode: with %s a new pod cannot start beside the old one; use ReadWriteMany, or strategy {maxSurge: 0, maxUnavailable: 1}" $v.storage.accessMode) -}}
  {{- end -}}
{{- end -}}
{{- if and (eq $v.family.source "volume") (not (include "boomerang.claim" .)) -}}
  {{- fail "storage.existingClaim: family.source volume needs the claim that holds the family" -}}
{{- end -}}
{{- end }}

{{- define "boomerang.check.network" -}}
{{- $v := .Values -}}
{{- $policy := $v.networkPolicy -}}
{{- $scraped := or $v.monitoring.podMonitor (ne $v.autoscaling.kind "none") -}}
{{- if and $scraped $policy.enabled (not $policy.metricsFrom) -}}
  {{- fail "networkPolicy.metricsFrom: monitoring.podMonitor and autoscaling need Prometheus let in; name its namespace, or [{podSelector: {}}] where it is the release's own" -}}
{{- end -}}
{{- /* an image volume is pulled by the kubelet, which no policy holds back */ -}}
{{- if and $policy.enabled (not $policy.internet) (not $policy.egress) -}}
  {{- if has $v.family.source (list "hub" "rclone") -}}
    {{- fail (printf "networkPolicy.internet: family.source %s fetches, and the policy lets nothing out; set it, or name the way in networkPolicy.egress" $v.family.source) -}}
  {{- end -}}
  {{- if $v.family.teacherTokenSecret -}}
    {{- fail "networkPolicy.internet: family.teacherTokenSecret is for a hub, and the policy lets nothing out; set it, or name the way in networkPolicy.egress" -}}
  {{- end -}}
{{- end -}}
{{- end }}

{{- define "boomerang.check.gateway" -}}
{{- $gate := .Values.gateway -}}
{{- range $field := list "pool" "models" "hostnames" "backendTLSPolicy" -}}
  {{- if and (get $gate $field) (not $gate.parent) -}}
    {{- fail (printf "gateway.%s: needs gateway.parent, without which there is no route" $field) -}}
  {{- end -}}
{{- end -}}
{{- if $gate.parent -}}
  {{- $policy := .Values.networkPolicy -}}
  {{- $elsewhere := ne ($gate.parentNamespace | default .Release.Namespace) .Release.Namespace -}}
  {{- if and $elsewhere $policy.enabled (not $policy.from) -}}
    {{- fail (printf "networkPolicy.from: gateway.parent is in the namespace %s, and the policy lets in the release's own alone; name who the Gateway's pods are" $gate.parentNamespace) -}}
  {{- end -}}
  {{- if and .Values.tls.secret $gate.pool -}}
    {{- fail "tls.secret: a Gateway and an endpoint picker speak plain HTTP with the pods of a pool; end TLS at the Gateway, or set gateway.pool to false" -}}
  {{- end -}}
  {{- if and .Values.tls.secret (not $gate.backendTLSPolicy) -}}
    {{- fail "tls.secret: a Gateway speaks plain HTTP with the pods, unless a BackendTLSPolicy of yours says otherwise; set gateway.backendTLSPolicy where there is one, or end TLS at the Gateway" -}}
  {{- end -}}
{{- end -}}
{{- end }}

{{- define "boomerang.check.access" -}}
{{- $keys := .Values.keys -}}
{{- if and $keys.existingSecret (or $keys.api $keys.admin) -}}
  {{- fail "keys.existingSecret: give a Secret or the keys themselves, not both" -}}
{{- end -}}
{{- if and $keys.existingAdmin (not $keys.existingSecret) -}}
  {{- fail "keys.existingAdmin: it is about keys.existingSecret, which is empty" -}}
{{- end -}}
{{- if and $keys.admin (not $keys.api) -}}
  {{- fail "keys.admin: admin keys without keys.api would leave /v1 open" -}}
{{- end -}}
{{- end }}
