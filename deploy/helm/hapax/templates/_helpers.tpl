{{- define "hapax.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end }}

{{- define "hapax.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 46 | trimSuffix "-" -}}
{{- else if contains (include "hapax.name" .) .Release.Name -}}
{{- .Release.Name | trunc 46 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "hapax.name" .) | trunc 46 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- define "hapax.selector" -}}
app.kubernetes.io/name: {{ include "hapax.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "hapax.labels" -}}
{{ include "hapax.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "hapax.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "hapax.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end }}

{{- define "hapax.image" -}}
{{- $tag := default .Chart.AppVersion .Values.image.tag -}}
{{- if .Values.image.digest -}}
{{- printf "%s:%s@%s" .Values.image.repository $tag .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository $tag -}}
{{- end -}}
{{- end }}

{{- /* Seconds of a duration as hapax writes them (250ms, 30s, 10m, 1h30m, 3d), rounded up. */ -}}
{{- define "hapax.seconds" -}}
{{- $milliseconds := 0 -}}
{{- $units := dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000 "d" 86400000 -}}
{{- if not (regexMatch "^([0-9]+(ms|s|m|h|d))+$" .) -}}
{{- fail (printf "%q is no duration (hint: 30s, 10m, 1h30m)" .) -}}
{{- end -}}
{{- range regexFindAll "[0-9]+(ms|s|m|h|d)" . -1 -}}
{{- $unit := regexFind "[a-z]+" . -}}
{{- $milliseconds = add $milliseconds (mul (int64 (trimSuffix $unit .)) (get $units $unit)) -}}
{{- end -}}
{{- div (add $milliseconds 999) 1000 -}}
{{- end }}

{{- /* Seconds that a shutdown waits for open replies: relay.shutdown_grace, else final_reply_timeout and a minute. */ -}}
{{- define "hapax.shutdownSeconds" -}}
{{- $relay := default dict .Values.config.relay -}}
{{- $reply := include "hapax.seconds" (default "10m" $relay.final_reply_timeout) | int64 -}}
{{- if $relay.shutdown_grace -}}
{{- $grace := include "hapax.seconds" $relay.shutdown_grace | int64 -}}
{{- if lt $grace $reply -}}
{{- fail (printf "config.relay.shutdown_grace (%s) is shorter than final_reply_timeout: a shutdown would leave mail in doubt" $relay.shutdown_grace) -}}
{{- end -}}
{{- $grace -}}
{{- else -}}
{{- add $reply 60 -}}
{{- end -}}
{{- end }}

{{- /* As hapax check says it: that, what the last outcomes may take, winding up, and nine statements; and the margin. */ -}}
{{- define "hapax.terminationGracePeriodSeconds" -}}
{{- $shutdown := include "hapax.shutdownSeconds" . | int64 -}}
{{- $database := default dict .Values.config.database -}}
{{- $statement := include "hapax.seconds" (default "10s" $database.statement_timeout) | int64 -}}
{{- add $shutdown (min $shutdown 60) 10 (mul 9 $statement) .Values.terminationMarginSeconds -}}
{{- end }}

{{- /* The configuration as hapax gets it: the values, and what the chart knows better. */ -}}
{{- define "hapax.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- $environment := list -}}
{{- range .Values.extraEnv }}{{ $environment = append $environment .name }}{{ end -}}
{{- if not (or $config.database.url (has "HAPAX__DATABASE__URL" $environment)) -}}
{{- fail "config.database.url is missing (hint: postgres://hapax@db.internal/shop?sslmode=verify-full)" -}}
{{- end -}}
{{- if not $config.routes -}}
{{- fail "config.routes is empty (hint: config.routes.default.url and .from)" -}}
{{- end -}}
{{- $_ := set $config "http" (dict "listen" (printf "%s:%d" .Values.http.address (int64 .Values.http.port))) -}}
{{- $relay := default dict $config.relay -}}
{{- if not $relay.shutdown_grace -}}
{{- $_ := set $relay "shutdown_grace" (printf "%ss" (include "hapax.shutdownSeconds" .)) -}}
{{- end -}}
{{- $_ := set $config "relay" $relay -}}
{{- if .Values.templatesVolume -}}
{{- $_ := set $config "templates" (merge (dict "directory" "/etc/hapax/templates") (default dict $config.templates)) -}}
{{- end -}}
{{- include "hapax.toml" (dict "table" $config "path" "") -}}
{{- end }}

{{- /* One TOML table and those below it. Helm's own toToml writes whole numbers as floats. */ -}}
{{- define "hapax.toml" -}}
{{- $path := .path -}}
{{- $table := .table -}}
{{- $plain := false -}}
{{- range $key, $value := $table }}{{ if not (kindIs "map" $value) }}{{ $plain = true }}{{ end }}{{ end -}}
{{- if and $path (or $plain (not $table)) }}
[{{ $path }}]
{{ end -}}
{{- range $key, $value := $table -}}
{{- if not (or (kindIs "map" $value) (kindIs "invalid" $value)) -}}
{{ include "hapax.tomlKey" $key }} = {{ include "hapax.tomlValue" $value }}
{{ end -}}
{{- end -}}
{{- range $key, $value := $table -}}
{{- if kindIs "map" $value -}}
{{- $name := include "hapax.tomlKey" $key -}}
{{- include "hapax.toml" (dict "table" $value "path" (ternary $name (printf "%s.%s" $path $name) (eq $path ""))) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "hapax.tomlKey" -}}
{{- if regexMatch "^[A-Za-z0-9_-]+$" . }}{{ . }}{{ else }}{{ toRawJson . }}{{ end -}}
{{- end }}

{{- /* A JSON text is a TOML text but for a slash that nobody escapes. YAML's numbers are floats here. */ -}}
{{- define "hapax.tomlValue" -}}
{{- if kindIs "float64" . -}}
{{- if eq (floor .) . }}{{ int64 . }}{{ else }}{{ toJson . }}{{ end -}}
{{- else if kindIs "slice" . -}}
[{{ range $index, $item := . }}{{ if $index }}, {{ end }}{{ include "hapax.tomlValue" $item }}{{ end }}]
{{- else -}}
{{- toRawJson . -}}
{{- end -}}
{{- end }}

{{- /* Restricted Pod Security. */ -}}
{{- define "hapax.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "hapax.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}
