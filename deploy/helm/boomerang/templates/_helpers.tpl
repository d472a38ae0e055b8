{{/* Short enough that a pod's name keeps the whole hash of its ReplicaSet: see podPattern. */}}
{{- define "boomerang.name" -}}
{{- if contains .Chart.Name .Release.Name -}}{{ .Release.Name | trunc 46 | trimSuffix "-" }}
{{- else -}}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 46 | trimSuffix "-" }}{{- end -}}
{{- end }}

{{- define "boomerang.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "boomerang.labels" -}}
{{ include "boomerang.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/* Matches the names of this release's pods (name, hash, suffix), and of no release called name-… */}}
{{- define "boomerang.podPattern" -}}
{{ include "boomerang.name" . }}-[a-z0-9]+-[a-z0-9]+
{{- end }}

{{- define "boomerang.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}{{ $image.repository }}@{{ $image.digest }}
{{- else -}}{{ $image.repository }}:{{ $image.tag | default (printf "%s-%s" .Chart.AppVersion $image.flavour) }}{{- end -}}
{{- end }}

{{- define "boomerang.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}{{ .Values.serviceAccount.name | default (include "boomerang.name" .) }}
{{- else -}}{{ .Values.serviceAccount.name | default "default" }}{{- end -}}
{{- end }}

{{- define "boomerang.keysSecret" -}}
{{- if .Values.keys.existingSecret -}}{{ .Values.keys.existingSecret }}
{{- else if or .Values.keys.api .Values.keys.admin -}}{{ include "boomerang.name" . }}-keys{{- end -}}
{{- end }}

{{- define "boomerang.claim" -}}
{{- if .Values.storage.existingClaim -}}{{ .Values.storage.existingClaim }}
{{- else if .Values.storage.create -}}{{ include "boomerang.name" . }}{{- end -}}
{{- end }}

{{/* What `serve` is given: a shipped name, or the folder that was verified. */}}
{{- define "boomerang.family" -}}
{{- if eq .Values.family.source "shipped" -}}{{ .Values.family.name }}
{{- else if eq .Values.family.source "image" -}}/artefact
{{- /* another revision is another folder: it is fetched, and a rollback finds the old one */ -}}
{{- else if eq .Values.family.source "hub" -}}/families/{{ .Values.family.name }}-{{ .Values.family.hub.revision | trunc 12 }}
{{- else -}}/families/{{ .Values.family.name }}{{- end -}}
{{- end }}

{{/* `default` would take 0 for nothing; a null is the server's 2. */}}
{{- define "boomerang.lingerSeconds" -}}
{{- $linger := .Values.settings.linger_seconds -}}
{{- kindIs "invalid" $linger | ternary 2 $linger -}}
{{- end }}

{{- define "boomerang.graceSeconds" -}}
{{- $parts := list .Values.preStopSeconds (include "boomerang.lingerSeconds" .) (default 30 .Values.settings.drain_seconds) 30 -}}
{{- $sum := 0 -}}
{{- range $parts }}{{ $sum = add $sum (ceil .) }}{{ end -}}
{{- $sum -}}
{{- end }}

{{/* From a pod's start to its readiness, with time to be scheduled and to pull the image. */}}
{{- define "boomerang.rolloutSeconds" -}}
{{- add .Values.startupSeconds 300 (eq .Values.family.source "shipped" | ternary 0 .Values.fetchSeconds) -}}
{{- end }}

{{/* An environment: `own`, as YAML, and `extra`, which wins, since a name may be there only once. */}}
{{- define "boomerang.env" -}}
{{- $taken := list -}}
{{- range .extra }}{{ $taken = append $taken .name }}{{ end -}}
{{- $all := list -}}
{{- range .own | fromYamlArray }}{{ if not (has .name $taken) }}{{ $all = append $all . }}{{ end }}{{ end -}}
{{- with concat $all .extra }}{{ toYaml . }}{{ end -}}
{{- end }}

{{- define "boomerang.serverEnv" -}}
{{- if eq .Values.memoryBudget.from "limit" }}
- name: MEMORY_LIMIT # in bytes
  valueFrom: {resourceFieldRef: {containerName: server, resource: limits.memory}}
- {name: MEMORY_RESERVE, value: {{ include "boomerang.bytes" .Values.memoryBudget.reserve | quote }}}
{{- end }}
{{- if eq .Values.image.flavour "cpu" }}
# vLLM would bind the threads of every pod to the same first cores of the node.
- {name: VLLM_CPU_OMP_THREADS_BIND, value: nobind}
- name: OMP_NUM_THREADS # whole cores, rounded up
  valueFrom: {resourceFieldRef: {containerName: server, resource: requests.cpu}}
{{- end }}
{{- with .Values.family.teacherTokenSecret }}
- name: HF_TOKEN
  valueFrom: {secretKeyRef: {name: {{ . | quote }}, key: token}}
{{- end }}
{{- end }}

{{/* Security of every container; the pod's part is in boomerang.podSecurity. */}}
{{- define "boomerang.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "boomerang.podSecurity" -}}
runAsNonRoot: true
{{- with .Values.user }}
runAsUser: {{ int64 . }}
runAsGroup: {{ int64 . }}
fsGroup: {{ int64 . }}
{{- end }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* Containers that bring the family and verify it, before the server starts. */}}
{{- define "boomerang.initContainers" -}}
{{- $family := .Values.family -}}
{{- if has $family.source (list "hub" "rclone") }}
- name: fetch
  {{- if eq $family.source "hub" }}
  image: {{ include "boomerang.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  {{- else }}
  image: {{ $family.rclone.image }}
  {{- end }}
  command: [/bin/sh, /scripts/fetch-{{ $family.source }}.sh]
  terminationMessagePolicy: FallbackToLogsOnError
  env: {{- include "boomerang.env" (dict "own" (include "boomerang.fetchEnv" .) "extra" .Values.extraEnv) | nindent 4 }}
  securityContext: {{- include "boomerang.containerSecurity" . | nindent 4 }}
  resources: {{- toYaml .Values.initResources | nindent 4 }}
  volumeMounts:
    - {name: scripts, mountPath: /scripts, readOnly: true}
    - {name: storage, mountPath: /families, subPath: families}
    - {name: storage, mountPath: /cache, subPath: cache}
    - {name: temporary, mountPath: /tmp}
    {{- if eq $family.source "rclone" }}
    - {name: rclone, mountPath: /rclone, readOnly: true}
    {{- end }}
    {{- with .Values.extraVolumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}
{{- if ne $family.source "shipped" }}
- name: verify
  image: {{ include "boomerang.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: [/bin/sh, /scripts/verify.sh]
  terminationMessagePolicy: FallbackToLogsOnError
  env: {{- include "boomerang.targetEnv" . | nindent 4 }}
  securityContext: {{- include "boomerang.containerSecurity" . | nindent 4 }}
  resources: {{- toYaml .Values.initResources | nindent 4 }}
  volumeMounts:
    - {name: scripts, mountPath: /scripts, readOnly: true}
    - {name: storage, mountPath: /families, subPath: families}
    - {name: temporary, mountPath: /tmp}
    {{- if eq $family.source "image" }}
    - {name: artefact, mountPath: /artefact, readOnly: true}
    {{- end }}
{{- end }}
{{- end }}

{{- define "boomerang.fetchEnv" -}}
{{- $family := .Values.family -}}
{{ include "boomerang.targetEnv" . }}
{{- if eq $family.source "hub" }}
- {name: REPOSITORY, value: {{ $family.hub.repository | quote }}}
- {name: REVISION, value: {{ $family.hub.revision | quote }}}
{{- with $family.hub.tokenSecret }}
- name: HF_TOKEN
  valueFrom: {secretKeyRef: {name: {{ . | quote }}, key: token}}
{{- end }}
{{- else }}
- {name: REMOTE, value: {{ $family.rclone.remote | quote }}}
{{- end }}
{{- end }}

{{- define "boomerang.targetEnv" -}}
- {name: TARGET, value: {{ include "boomerang.family" . }}}
{{- if has .Values.family.source (list "hub" "rclone") }}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- {name: INCOMING, value: /families/.incoming-$(POD_NAME)}
{{- end }}
{{- end }}

{{- define "boomerang.volumes" -}}
- name: storage
  {{- if include "boomerang.claim" . }}
  persistentVolumeClaim: {claimName: {{ include "boomerang.claim" . | quote }}}
  {{- else }}
  emptyDir: {sizeLimit: {{ include "boomerang.storageSize" . }}}
  {{- end }}
- name: temporary
  emptyDir: {sizeLimit: {{ .Values.temporary }}}
- name: shared-memory
  emptyDir: {medium: Memory, sizeLimit: {{ .Values.sharedMemory }}}
{{- if ne .Values.family.source "shipped" }}
- name: scripts
  configMap: {name: {{ include "boomerang.name" . }}-scripts}
{{- end }}
{{- if eq .Values.family.source "image" }}
- name: artefact
  image: {reference: {{ .Values.family.image.reference }}, pullPolicy: {{ .Values.image.pullPolicy }}}
{{- end }}
{{- if eq .Values.family.source "rclone" }}
- name: rclone
  secret: {secretName: {{ .Values.family.rclone.configSecret | quote }}}
{{- end }}
{{- with include "boomerang.keysSecret" . }}
- name: keys
  secret: {secretName: {{ . | quote }}, defaultMode: 0440}
{{- end }}
{{- with .Values.tls.secret }}
- name: tls
  secret: {secretName: {{ . | quote }}, defaultMode: 0440}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}
