package core

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/resource"
)

const label = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"

const subdomain = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"

// wrongSpecs are specs, and all that is wrong with them.
var wrongSpecs = map[string]struct {
	spec string
	want []string
}{
	// containers
	"no containers":       {"containers: []", []string{"spec.containers: Required value"}},
	"no image":            {"containers: [{name: a}]", []string{"spec.containers[0].image: Required value"}},
	"no name":             {"containers: [{image: b}]", []string{"spec.containers[0].name: Required value"}},
	"a name in capitals":  {"containers: [{name: UPPER, image: b}]", []string{`spec.containers[0].name: Invalid value: "UPPER": ` + label}},
	"a name twice":        {"containers: [{name: a, image: b}, {name: a, image: b}]", []string{`spec.containers[1].name: Duplicate value: "a"`}},
	"an init name twice":  {"initContainers: [{name: a, image: b}]", []string{`spec.initContainers[0].name: Duplicate value: "a"`}},
	"a space before":      {"containers: [{name: a, image: \" b\"}]", []string{`spec.containers[0].image: Invalid value: " b": must not have leading or trailing whitespace`}},
	"a pull policy":       {"containers: [{name: a, image: b, imagePullPolicy: Foo}]", []string{`spec.containers[0].imagePullPolicy: Unsupported value: "Foo": supported values: "Always", "IfNotPresent", "Never"`}},
	"a message policy":    {"containers: [{name: a, image: b, terminationMessagePolicy: Foo}]", []string{`spec.containers[0].terminationMessagePolicy: Unsupported value: "Foo": supported values: "File", "FallbackToLogsOnError"`}},
	"ephemeral on create": {"ephemeralContainers: [{name: e, image: b}]", []string{"spec.ephemeralContainers: Forbidden: cannot be set on create"}},
	"ephemeral with ports, a name and a target": {
		"ephemeralContainers: [{name: a, image: b, ports: [{containerPort: 1}], targetContainerName: z}]",
		[]string{
			`spec.ephemeralContainers[0].name: Duplicate value: "a"`, `spec.ephemeralContainers[0].targetContainerName: Not found: "z"`,
			"spec.ephemeralContainers[0].ports: Forbidden: cannot be set for an Ephemeral Container", "spec.ephemeralContainers: Forbidden: cannot be set on create",
		},
	},
	"probes of an init container that is no sidecar": {
		"initContainers: [{name: i, image: b, livenessProbe: {exec: {command: [x]}}, lifecycle: {}}]",
		[]string{
			"spec.initContainers[0].lifecycle: Forbidden: may not be set for init containers without restartPolicy=Always",
			"spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
		},
	},
	"a sidecar's probe":  {"initContainers: [{name: i, image: b, restartPolicy: Always, startupProbe: {}}]", []string{"spec.initContainers[0].startupProbe: Required value: must specify a handler type"}},
	"a container policy": {"containers: [{name: a, image: b, restartPolicy: Sometimes}]", []string{`spec.containers[0].restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "Never", "OnFailure"`}},
	"rules alone":        {"containers: [{name: a, image: b, restartPolicyRules: [{action: Restart}]}]", []string{"spec.containers[0].restartPolicy: Required value: must specify restartPolicy when restart rules are used"}},
	"rules that do not exist": {
		"containers: [{name: a, image: b, restartPolicy: Never, restartPolicyRules: [{action: Skip, exitCodes: {operator: Equals, values: [3]}}]}]",
		[]string{
			`spec.containers[0].restartPolicyRules[0].action: Unsupported value: "Skip": supported values: "Restart", "RestartAllContainers"`,
			`spec.containers[0].restartPolicyRules[0].exitCodes.operator: Unsupported value: "Equals": supported values: "In", "NotIn"`,
		},
	},
	"resizing": {
		"restartPolicy: Never\ncontainers: [{name: a, image: b, resizePolicy: [{resourceName: disk, restartPolicy: RestartContainer}]}]",
		[]string{
			`spec.containers[0].resizePolicy: Unsupported value: "disk": supported values: "cpu", "memory"`,
			"spec.containers[0].resizePolicy: Invalid value: \"RestartContainer\": must be 'NotRequired' when `restartPolicy` is 'Never'",
		},
	},
	// ports
	"ports out of range": {
		"containers: [{name: a, image: b, ports: [{containerPort: 65536}, {}, {containerPort: 1, hostPort: -1}]}]",
		[]string{
			"spec.containers[0].ports[0].containerPort: Invalid value: 65536: must be between 1 and 65535, inclusive",
			"spec.containers[0].ports[1].containerPort: Required value",
			"spec.containers[0].ports[2].hostPort: Invalid value: -1: must be between 1 and 65535, inclusive",
		},
	},
	"a port's protocol": {"containers: [{name: a, image: b, ports: [{containerPort: 1, protocol: tcp}]}]", []string{`spec.containers[0].ports[0].protocol: Unsupported value: "tcp": supported values: "SCTP", "TCP", "UDP"`}},
	"port names": {
		"containers: [{name: a, image: b, ports: [{containerPort: 1, name: p}, {containerPort: 2, name: p}, {containerPort: 3, name: far-too-long-name}]}]",
		[]string{`spec.containers[0].ports[1].name: Duplicate value: "p"`, `spec.containers[0].ports[2].name: Invalid value: "far-too-long-name": must be no more than 15 characters`},
	},
	"a host port twice": {
		"containers: [{name: a, image: b, ports: [{containerPort: 1, hostPort: 8}]}, {name: c, image: b, ports: [{containerPort: 2, hostPort: 8}]}]",
		[]string{`spec.containers[1].ports[0].hostPort: Duplicate value: "TCP//8"`},
	},
	"another host port in the host's network": {
		"hostNetwork: true\ncontainers: [{name: a, image: b, ports: [{containerPort: 1, hostPort: 8}]}]",
		[]string{"spec.containers[0].ports[0].hostPort: Invalid value: 8: must match `containerPort` when `hostNetwork` is true"},
	},
	// env
	"a variable without a name": {"containers: [{name: a, image: b, env: [{value: x}]}]", []string{"spec.containers[0].env[0].name: Required value"}},
	"a variable's name":         {"containers: [{name: a, image: b, env: [{name: a=b}]}]", []string{`spec.containers[0].env[0].name: Invalid value: "a=b": a valid environment variable name must consist only of printable ASCII characters other than '='`}},
	"a value and a source":      {"containers: [{name: a, image: b, env: [{name: A, value: x, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]}]", []string{"spec.containers[0].env[0].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty"}},
	"two sources":               {"containers: [{name: a, image: b, env: [{name: A, valueFrom: {fieldRef: {fieldPath: metadata.name}, secretKeyRef: {name: s, key: k}}}]}]", []string{`spec.containers[0].env[0].valueFrom: Invalid value: "": may not have more than one field specified at a time`}},
	"no source":                 {"containers: [{name: a, image: b, env: [{name: A, valueFrom: {}}]}]", []string{"spec.containers[0].env[0].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"}},
	"a field that is none":      {"containers: [{name: a, image: b, env: [{name: A, valueFrom: {fieldRef: {fieldPath: spec.colour}}}]}]", []string{`spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Invalid value: "spec.colour": error converting fieldPath: field label not supported: spec.colour`}},
	"a field that is for volumes": {
		"containers: [{name: a, image: b, env: [{name: A, valueFrom: {fieldRef: {fieldPath: metadata.labels}}}]}]",
		[]string{`spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Unsupported value: "metadata.labels": supported values: "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"`},
	},
	"a resource that is none": {
		"containers: [{name: a, image: b, env: [{name: A, valueFrom: {resourceFieldRef: {resource: limits.disk}}}]}]",
		[]string{`spec.containers[0].env[0].valueFrom.resourceFieldRef.resource: Unsupported value: "limits.disk": supported values: "limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory"`},
	},
	"a divisor": {
		"containers: [{name: a, image: b, env: [{name: A, valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: \"2\"}}}, {name: B, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 2Mi}}}]}]",
		[]string{
			`spec.containers[0].env[0].valueFrom.resourceFieldRef.divisor: Invalid value: "limits.cpu": only divisor's values 1m and 1 are supported with the cpu resource`,
			`spec.containers[0].env[1].valueFrom.resourceFieldRef.divisor: Invalid value: "limits.memory": only divisor's values 1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the memory resource`,
		},
	},
	"a key": {
		"containers: [{name: a, image: b, env: [{name: A, valueFrom: {configMapKeyRef: {name: c}}}, {name: B, valueFrom: {secretKeyRef: {name: S, key: a/b}}}]}]",
		[]string{
			"spec.containers[0].env[0].valueFrom.configMapKeyRef.key: Required value",
			`spec.containers[0].env[1].valueFrom.secretKeyRef.name: Invalid value: "S": ` + subdomain,
			`spec.containers[0].env[1].valueFrom.secretKeyRef.key: Invalid value: "a/b": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')`,
		},
	},
	"envFrom nothing": {"containers: [{name: a, image: b, envFrom: [{}]}]", []string{"spec.containers[0].envFrom: Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`"}},
	"envFrom no name": {"containers: [{name: a, image: b, envFrom: [{secretRef: {}}]}]", []string{"spec.containers[0].envFrom[0].secretRef.name: Required value"}},
	// volumes
	"two types of volume":        {"volumes: [{name: v, emptyDir: {}, hostPath: {path: /}}]", []string{"spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type"}},
	"a volume without a name":    {"volumes: [{emptyDir: {}}]", []string{"spec.volumes[0].name: Required value"}},
	"a volume twice":             {"volumes: [{name: v}, {name: v}]", []string{`spec.volumes[1].name: Duplicate value: "v"`}},
	"a hostPath going up":        {"volumes: [{name: v, hostPath: {path: /a/../b}}]", []string{`spec.volumes[0].hostPath.path: Invalid value: "/a/../b": must not contain '..'`}},
	"a hostPath's type":          {"volumes: [{name: v, hostPath: {path: /a, type: Dir}}]", []string{`spec.volumes[0].hostPath.type: Unsupported value: "Dir": supported values: "", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"`}},
	"a negative size":            {"volumes: [{name: v, emptyDir: {sizeLimit: -1}}]", []string{"spec.volumes[0].emptyDir.sizeLimit: Forbidden: SizeLimit field must be a valid resource quantity"}},
	"a secret volume":            {"volumes: [{name: v, secret: {defaultMode: 512, items: [{key: k}]}}]", []string{"spec.volumes[0].secret.secretName: Required value", "spec.volumes[0].secret.defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive", "spec.volumes[0].secret.items[0].path: Required value"}},
	"a config map volume":        {"volumes: [{name: v, configMap: {items: [{path: /abs}]}}]", []string{"spec.volumes[0].configMap.name: Required value", "spec.volumes[0].configMap.items[0].key: Required value", `spec.volumes[0].configMap.items[0].path: Invalid value: "/abs": must be a relative path`}},
	"paths with two dots":        {"volumes: [{name: v, configMap: {name: c, items: [{key: k, path: ../x}, {key: k, path: ..x}]}}]", []string{`spec.volumes[0].configMap.items[0].path: Invalid value: "../x": must not contain '..'`, `spec.volumes[0].configMap.items[1].path: Invalid value: "..x": must not start with '..'`}},
	"a claim without a name":     {"volumes: [{name: v, persistentVolumeClaim: {}}]", []string{"spec.volumes[0].persistentVolumeClaim.claimName: Required value"}},
	"nfs":                        {"volumes: [{name: v, nfs: {path: p}}]", []string{"spec.volumes[0].nfs.server: Required value", `spec.volumes[0].nfs.path: Invalid value: "p": must be an absolute path`}},
	"csi":                        {"volumes: [{name: v, csi: {driver: a b, nodePublishSecretRef: {}}}]", []string{`spec.volumes[0].csi.driver: Invalid value: "a b": ` + subdomain, "spec.volumes[0].csi.nodePublishSecretRef.name: Required value"}},
	"an image volume":            {"volumes: [{name: v, image: {pullPolicy: x}}]", []string{"spec.volumes[0].image.reference: Required value", `spec.volumes[0].image.pullPolicy: Unsupported value: "x": supported values: "Always", "IfNotPresent", "Never"`}},
	"a downward file of nothing": {"volumes: [{name: v, downwardAPI: {items: [{path: p}]}}]", []string{"spec.volumes[0].downwardAPI: Required value: one of fieldRef and resourceFieldRef is required"}},
	"a downward resource":        {"volumes: [{name: v, downwardAPI: {items: [{path: p, resourceFieldRef: {resource: limits.cpu}}]}}]", []string{"spec.volumes[0].downwardAPI.resourceFieldRef.containerName: Required value"}},
	"projected twice":            {"volumes: [{name: v, projected: {sources: [{secret: {name: s, items: [{key: k, path: p}]}, configMap: {name: c, items: [{key: k, path: p}]}}]}}]", []string{`spec.volumes[0].projected: Invalid value: "c": conflicting duplicate paths`, "spec.volumes[0].projected.sources[0]: Forbidden: may not specify more than 1 volume type per source"}},
	"a short token": {
		"serviceAccountName: s\nvolumes: [{name: v, projected: {sources: [{serviceAccountToken: {path: t, expirationSeconds: 599}}]}}]",
		[]string{"spec.volumes[0].projected.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 599: may not specify a duration less than 10 minutes"},
	},
	"a token for nobody": {
		"volumes: [{name: v, projected: {sources: [{serviceAccountToken: {path: t}}]}}]",
		[]string{"spec.volumes[0].projected.sources[0].serviceAccountToken: Forbidden: must not be specified when serviceAccountName is not set"},
	},
	"an ephemeral claim": {
		"volumes: [{name: v, ephemeral: {volumeClaimTemplate: {metadata: {name: z}, spec: {}}}}, {name: w, persistentVolumeClaim: {claimName: x-v}}]",
		[]string{
			"spec.volumes[0].ephemeral.volumeClaimTemplate.metadata.name: Forbidden: cannot be set",
			"spec.volumes[0].ephemeral.volumeClaimTemplate.spec.accessModes: Required value: at least 1 access mode is required",
			"spec.volumes[0].ephemeral.volumeClaimTemplate.spec.resources[storage]: Required value",
			`spec.volumes[1].persistentVolumeClaim.claimName: Invalid value: "x-v": must not reference a PVC that gets created for an ephemeral volume`,
		},
	},
	"iscsi": {"volumes: [{name: v, iscsi: {iqn: abc, lun: 256}}]", []string{"spec.volumes[0].iscsi.targetPortal: Required value", `spec.volumes[0].iscsi.iqn: Invalid value: "abc": must be valid format starting with iqn, eui, or naa`, "spec.volumes[0].iscsi.lun: Invalid value: 256: must be between 0 and 255, inclusive"}},
	"fc":    {"volumes: [{name: v, fc: {targetWWNs: [a]}}]", []string{"spec.volumes[0].fc.lun: Required value: lun is required if targetWWNs is specified"}},
	"flex":  {"volumes: [{name: v, flexVolume: {options: {kubernetes.io/x: z}}}]", []string{"spec.volumes[0].flexVolume.driver: Required value", `spec.volumes[0].flexVolume.options[kubernetes.io/x]: Invalid value: "kubernetes.io/x": kubernetes.io and k8s.io namespaces are reserved`}},
	// mounts
	"a mount of no volume": {"containers: [{name: a, image: b, volumeMounts: [{name: v, mountPath: /v}]}]", []string{`spec.containers[0].volumeMounts[0].name: Not found: "v"`}},
	"a mount path twice":   {"volumes: [{name: v}]\ncontainers: [{name: a, image: b, volumeMounts: [{name: v, mountPath: /v}, {name: v, mountPath: /v}, {name: v}]}]", []string{`spec.containers[0].volumeMounts[1].mountPath: Invalid value: "/v": must be unique`, "spec.containers[0].volumeMounts[2].mountPath: Required value"}},
	"a sub-path going up":  {"volumes: [{name: v}]\ncontainers: [{name: a, image: b, volumeMounts: [{name: v, mountPath: /v, subPath: a/.., subPathExpr: /x}]}]", []string{`spec.containers[0].volumeMounts.subPath: Invalid value: "a/..": must not contain '..'`, `spec.containers[0].volumeMounts[0].subPathExpr: Invalid value: "/x": subPathExpr and subPath are mutually exclusive`, `spec.containers[0].volumeMounts.subPathExpr: Invalid value: "/x": must be a relative path`}},
	"propagation both ways unprivileged": {
		"volumes: [{name: v}]\ncontainers: [{name: a, image: b, volumeMounts: [{name: v, mountPath: /v, mountPropagation: Bidirectional}]}]",
		[]string{"spec.containers[0].volumeMounts.mountPropagation: Forbidden: Bidirectional mount propagation is available only to privileged containers"},
	},
	"recursively read-only, but not read-only": {
		"volumes: [{name: v}]\ncontainers: [{name: a, image: b, volumeMounts: [{name: v, mountPath: /v, recursiveReadOnly: Enabled}]}]",
		[]string{"spec.containers[0].volumeMounts.recursiveReadOnly: Forbidden: may only be specified when readOnly is true"},
	},
	"a device of a directory": {
		"volumes: [{name: v}]\ncontainers: [{name: a, image: b, volumeDevices: [{name: v, devicePath: /a/../b}]}]",
		[]string{
			`spec.containers[0].volumeDevices[0].name: Invalid value: "v": can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode`,
			`spec.containers[0].volumeDevices[0].devicePath: Invalid value: "/a/../b": can not contain backsteps ('..')`,
		},
	},
	// probes and hooks
	"two handlers":        {"containers: [{name: a, image: b, livenessProbe: {exec: {command: [x]}, tcpSocket: {port: 1}}}]", []string{"spec.containers[0].livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type"}},
	"a probe's numbers":   {"containers: [{name: a, image: b, livenessProbe: {tcpSocket: {port: 0}, initialDelaySeconds: -1, successThreshold: 2, terminationGracePeriodSeconds: 0}}]", []string{"spec.containers[0].livenessProbe.tcpSocket.port: Invalid value: 0: must be between 1 and 65535, inclusive", "spec.containers[0].livenessProbe.initialDelaySeconds: Invalid value: -1: must be greater than or equal to 0", "spec.containers[0].livenessProbe.terminationGracePeriodSeconds: Invalid value: 0: must be greater than 0", "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1"}},
	"a readiness probe":   {"containers: [{name: a, image: b, readinessProbe: {exec: {}, terminationGracePeriodSeconds: 1}}]", []string{"spec.containers[0].readinessProbe.exec.command: Required value", "spec.containers[0].readinessProbe.terminationGracePeriodSeconds: Invalid value: 1: must not be set for readinessProbes"}},
	"an HTTP request":     {"containers: [{name: a, image: b, livenessProbe: {httpGet: {port: web_1, scheme: ftp, httpHeaders: [{name: a b}]}}}]", []string{`spec.containers[0].livenessProbe.httpGet.port: Invalid value: "web_1": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)`, `spec.containers[0].livenessProbe.httpGet.scheme: Unsupported value: "ftp": supported values: "HTTP", "HTTPS"`, `spec.containers[0].livenessProbe.httpGet.httpHeaders: Invalid value: "a b": a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')`}},
	"an overlong sleep":   {"containers: [{name: a, image: b, lifecycle: {preStop: {sleep: {seconds: 31}}}}]", []string{"spec.containers[0].lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than terminationGracePeriodSeconds (30)"}},
	"an empty hook":       {"containers: [{name: a, image: b, lifecycle: {postStart: {}}}]", []string{"spec.containers[0].lifecycle.postStart: Required value: must specify a handler type"}},
	"a signal, but no OS": {"containers: [{name: a, image: b, lifecycle: {stopSignal: SIGUSR1}}]", []string{"spec.containers[0].lifecycle.stopSignal: Forbidden: may not be set for containers with empty `spec.os.name`"}},
	// resources
	"more requested than limited": {"containers: [{name: a, image: b, resources: {limits: {cpu: 1}, requests: {cpu: 2}}}]", []string{`spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1`}},
	"a negative request":          {"containers: [{name: a, image: b, resources: {requests: {cpu: -1}}}]", []string{`spec.containers[0].resources.requests[cpu]: Invalid value: "-1": must be greater than or equal to 0`}},
	"a resource nobody knows": {
		"containers: [{name: a, image: b, resources: {limits: {disk: 1, pods: 1, \"a b\": 1}}}]",
		[]string{
			`spec.containers[0].resources.limits[a b]: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')`,
			`spec.containers[0].resources.limits[a b]: Invalid value: "a b": must be a standard resource for containers`,
			`spec.containers[0].resources.limits[disk]: Invalid value: "disk": must be a standard resource type or fully qualified`,
			`spec.containers[0].resources.limits[disk]: Invalid value: "disk": must be a standard resource for containers`,
			`spec.containers[0].resources.limits[pods]: Invalid value: "pods": must be a standard resource for containers`,
			`spec.containers[0].resources.requests[a b]: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')`,
			`spec.containers[0].resources.requests[a b]: Invalid value: "a b": must be a standard resource for containers`,
			`spec.containers[0].resources.requests[disk]: Invalid value: "disk": must be a standard resource type or fully qualified`,
			`spec.containers[0].resources.requests[disk]: Invalid value: "disk": must be a standard resource for containers`,
			`spec.containers[0].resources.requests[pods]: Invalid value: "pods": must be a standard resource for containers`,
		},
	},
	"half a device, and requested without a limit": {
		"containers: [{name: a, image: b, resources: {requests: {example.com/gpu: 500m}}}]",
		[]string{
			`spec.containers[0].resources.requests[example.com/gpu]: Invalid value: "500m": must be an integer`,
			"spec.containers[0].resources.limits: Required value: Limit must be set for non overcommitable resources",
		},
	},
	"huge pages alone, and not a whole one": {
		"containers: [{name: a, image: b, resources: {limits: {hugepages-2Mi: 3Mi}}}]",
		[]string{
			`spec.containers[0].resources.limits[hugepages-2Mi]: Invalid value: "3Mi": 3Mi is not positive integer multiple of hugepages-2Mi`,
			`spec.containers[0].resources.requests[hugepages-2Mi]: Invalid value: "3Mi": 3Mi is not positive integer multiple of hugepages-2Mi`,
			"spec.containers[0].resources: Forbidden: HugePages require cpu or memory",
		},
	},
	"a claim nobody made": {"containers: [{name: a, image: b, resources: {claims: [{name: c}]}}]", []string{`spec.containers[0].resources.claims[0]: Not found: "c": must be one of the names in pod.spec.resourceClaims which is empty`}},
	"less for the pod than for its containers": {
		"resources: {requests: {cpu: 1}}\ncontainers: [{name: a, image: b, resources: {requests: {cpu: 2}}}]",
		[]string{`spec.resources.requests[cpu]: Invalid value: "1": must be greater than or equal to aggregate container requests of 2`},
	},
	// security
	"users and groups": {
		"securityContext: {runAsUser: -1, fsGroup: 2147483648, supplementalGroups: [-2]}\ncontainers: [{name: a, image: b, securityContext: {runAsGroup: -1}}]",
		[]string{
			"spec.containers[0].securityContext.runAsGroup: Invalid value: -1: must be between 0 and 2147483647, inclusive",
			"spec.securityContext.fsGroup: Invalid value: 2147483648: must be between 0 and 2147483647, inclusive",
			"spec.securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
			"spec.securityContext.supplementalGroups[0]: Invalid value: -2: must be between 0 and 2147483647, inclusive",
		},
	},
	"seccomp": {
		"securityContext: {seccompProfile: {type: Localhost}}\ncontainers: [{name: a, image: b, securityContext: {seccompProfile: {type: Own}}}]",
		[]string{
			`spec.containers[0].securityContext.seccompProfile.type: Unsupported value: "Own": supported values: "Localhost", "RuntimeDefault", "Unconfined"`,
			"spec.securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost",
		},
	},
	"apparmor": {"securityContext: {appArmorProfile: {}}", []string{"spec.securityContext.appArmorProfile.type: Required value: type is required when appArmorProfile is set"}},
	"sysctls": {
		"hostNetwork: true\nsecurityContext: {sysctls: [{name: A}, {name: net.ipv4.ip_forward, value: \"1\"}]}",
		[]string{
			`spec.securityContext.sysctls[0].name: Invalid value: "A": must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$`,
			`spec.securityContext.sysctls[1].name: Invalid value: "net.ipv4.ip_forward": may not be specified when 'hostNetwork' is true`,
		},
	},
	"users of its own in the host's namespaces": {"hostUsers: false\nhostNetwork: true\nhostPID: true", []string{"spec.hostNetwork: Forbidden: when `pod.Spec.HostUsers` is false", "spec.HostPID: Forbidden: when `pod.Spec.HostUsers` is false"}},
	"shared processes":                          {"shareProcessNamespace: true\nhostPID: true", []string{"spec.securityContext.shareProcessNamespace: Invalid value: true: ShareProcessNamespace and HostPID cannot both be enabled"}},
	"unmasked proc":                             {"containers: [{name: a, image: b, securityContext: {procMount: Unmasked}}]", []string{"spec.containers[0].securityContext.procMount: Invalid value: \"Unmasked\": `hostUsers` must be false to use `Unmasked`"}},
	"an unknown system":                         {"os: {name: plan9}", []string{`spec.os: Unsupported value: "plan9": supported values: "linux", "windows"`}},
	"windows in linux":                          {"os: {name: linux}\nsecurityContext: {windowsOptions: {}}", []string{"spec.securityContext.windowsOptions: Forbidden: windows options cannot be set for a linux pod"}},
	"linux in windows":                          {"os: {name: windows}\nsecurityContext: {runAsUser: 1}\ncontainers: [{name: a, image: b, securityContext: {privileged: false}}]", []string{"spec.securityContext.runAsUser: Forbidden: cannot be set for a windows pod", "spec.containers[0].securityContext.privileged: Forbidden: cannot be set for a windows pod"}},
	"a windows user":                            {`securityContext: {windowsOptions: {runAsUserName: 'a\b\c'}}`, []string{`spec.securityContext.windowsOptions.runAsUserName: Invalid value: "a\\b\\c": runAsUserName cannot contain more than one backslash`}},
	"half a host process": {
		"hostNetwork: true\ncontainers: [{name: a, image: b, securityContext: {windowsOptions: {hostProcess: true}}}, {name: c, image: b}]",
		[]string{`spec: Invalid value: "": If pod contains any hostProcess containers then all containers must be HostProcess containers`},
	},
	// scheduling
	"a node's name":      {"nodeName: N_1", []string{`spec.nodeName: Invalid value: "N_1": ` + subdomain}},
	"a selector's value": {"nodeSelector: {a: \"b c\"}", []string{`spec.nodeSelector: Invalid value: "b c": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')`}},
	"tolerations": {
		"tolerations: [{operator: Exists, key: k, value: v}, {value: v}, {key: k, operator: Is}, {key: k, operator: Exists, effect: NoRun}, {key: k, operator: Exists, tolerationSeconds: 1}]",
		[]string{
			`spec.tolerations[0].operator: Invalid value: "v": value must be empty when ` + "`operator`" + ` is 'Exists'`,
			`spec.tolerations[1].operator: Invalid value: "": operator must be Exists when ` + "`key`" + ` is empty, which means "match all values and all keys"`,
			`spec.tolerations[2].operator: Unsupported value: "Is": supported values: "Equal", "Exists"`,
			`spec.tolerations[3].effect: Unsupported value: "NoRun": supported values: "NoSchedule", "PreferNoSchedule", "NoExecute"`,
			`spec.tolerations[4].effect: Invalid value: "": effect must be 'NoExecute' when ` + "`tolerationSeconds`" + ` is set`,
		},
	},
	"spreading": {
		"topologySpreadConstraints: [{maxSkew: 0, topologyKey: z, whenUnsatisfiable: DoNotSchedule}, {maxSkew: 1, topologyKey: z, whenUnsatisfiable: DoNotSchedule}, {maxSkew: 1, whenUnsatisfiable: Never, minDomains: 1, matchLabelKeys: [a]}]",
		[]string{
			"spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero",
			`spec.topologySpreadConstraints[0].{topologyKey, whenUnsatisfiable}: Duplicate value: "{z, DoNotSchedule}"`,
			"spec.topologySpreadConstraints[2].topologyKey: Required value: can not be empty",
			`spec.topologySpreadConstraints[2].whenUnsatisfiable: Unsupported value: "Never": supported values: "DoNotSchedule", "ScheduleAnyway"`,
			"spec.topologySpreadConstraints[2].minDomains: Invalid value: 1: can only use minDomains if whenUnsatisfiable=DoNotSchedule, not Never",
			"spec.topologySpreadConstraints[2].matchLabelKeys: Forbidden: must not be specified when labelSelector is not set",
		},
	},
	"node affinity": {
		"affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: In}, {key: a, operator: Exists, values: [b]}, {key: a, operator: Near}], matchFields: [{key: spec.x, operator: In, values: [a]}]}]}, preferredDuringSchedulingIgnoredDuringExecution: [{weight: 0, preference: {}}]}}",
		[]string{
			"spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
			"spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[1].values: Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
			`spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[2].operator: Invalid value: "Near": not a valid selector operator`,
			`spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchFields[0].key: Invalid value: "spec.x": not a valid field selector key`,
			"spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: 0: must be in the range 1-100",
		},
	},
	"no terms": {"affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: []}}}", []string{"spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: Required value: must have at least one node selector term"}},
	"pod affinity": {
		"affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{matchLabelKeys: [a]}]}}",
		[]string{
			"spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].matchLabelKeys: Forbidden: must not be specified when labelSelector is not set",
			"spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Required value: can not be empty",
			`spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Invalid value: "": name part must be non-empty`,
			`spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Invalid value: "": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')`,
		},
	},
	"gates":                 {"schedulingGates: [{name: g}, {name: g}]", []string{`spec.schedulingGates[1]: Duplicate value: "g"`}},
	"a node despite a gate": {"nodeName: node\nschedulingGates: [{name: g}]", []string{"spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared"}},
	// the rest
	"a restart policy":    {"restartPolicy: Foo", []string{`spec.restartPolicy: Unsupported value: "Foo": supported values: "Always", "OnFailure", "Never"`}},
	"a DNS policy":        {"dnsPolicy: Foo", []string{`spec.dnsPolicy: Unsupported value: "Foo": supported values: "ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"`}},
	"no DNS":              {"dnsPolicy: None", []string{"spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"}},
	"no name server":      {"dnsPolicy: None\ndnsConfig: {}", []string{"spec.dnsConfig.nameservers: Required value: must provide at least one DNS nameserver when `dnsPolicy` is None"}},
	"DNS":                 {"dnsConfig: {nameservers: [x, 1.1.1.1, 1.1.1.1, 1.1.1.1], searches: [-a, _b.c.], options: [{}]}", []string{`spec.dnsConfig.nameservers: Invalid value: ["x","1.1.1.1","1.1.1.1","1.1.1.1"]: must not have more than 3 nameservers`, `spec.dnsConfig.nameservers[0]: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)`, `spec.dnsConfig.searches[0]: Invalid value: "-a": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*')`, "spec.dnsConfig.options[0]: Required value: must not be empty"}},
	"host aliases":        {"hostAliases: [{ip: x, hostnames: [a_b]}]", []string{`spec.hostAliases[0].ip: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)`, `spec.hostAliases[0].hostnames[0]: Invalid value: "a_b": ` + subdomain}},
	"host names":          {"hostname: A\nsubdomain: B", []string{`spec.hostname: Invalid value: "A": ` + label, `spec.subdomain: Invalid value: "B": ` + label}},
	"a deadline":          {"activeDeadlineSeconds: 0", []string{"spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive"}},
	"a preemption policy": {"preemptionPolicy: Maybe", []string{`spec.preemptionPolicy: Unsupported value: "Maybe": supported values: "PreemptLowerPriority", "Never"`}},
	"a service account":   {"serviceAccountName: S", []string{`spec.serviceAccountName: Invalid value: "S": ` + subdomain}},
	"a readiness gate":    {"readinessGates: [{conditionType: a b}]", []string{`spec.readinessGates[0].conditionType: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')`}},
}

func TestPodsThatAreWrong(t *testing.T) {
	for name, c := range wrongSpecs {
		t.Run(name, func(t *testing.T) { same(t, told(validatePod(podWith(t, c.spec))), c.want...) })
	}
}

// What is wrong in a pod is as wrong in a template, but for what only pods are held to.
func TestTemplatesThatAreWrong(t *testing.T) {
	onlyPods := []string{
		"ephemeralContainers: Forbidden", "leading or trailing whitespace", "serviceAccountToken: Forbidden", "image.reference",
		"schedulingGates have been", "x-v", "requests[", "resources.limits: Required",
	}
	for name, c := range wrongSpecs {
		t.Run(name, func(t *testing.T) {
			p := podWith(t, c.spec)
			got := strings.Join(told(ValidatePodTemplateSpec(&corev1.PodTemplateSpec{Spec: p.Spec}, field.NewPath("template"))), "\n")
			for _, want := range c.want {
				skip := false
				for _, only := range onlyPods {
					skip = skip || strings.Contains(want, only)
				}
				if !skip && !strings.Contains(got, "template."+want) {
					t.Errorf("told\n%s\nnot %s", got, want)
				}
			}
		})
	}
	tpl := corev1.PodTemplateSpec{Spec: podWith(t, "ephemeralContainers: [{name: e, image: b}]").Spec}
	same(t, told(ValidatePodTemplateSpec(&tpl, field.NewPath("template"))),
		"template.spec.ephemeralContainers: Forbidden: ephemeral containers not allowed in pod template")
}

func TestPodsThatAreRight(t *testing.T) {
	for name, spec := range map[string]string{
		"a sidecar with a probe":          "initContainers: [{name: i, image: b, restartPolicy: Always, readinessProbe: {tcpSocket: {port: web}}}]",
		"every kind of source":            "serviceAccountName: s\nvolumes: [{name: v, projected: {sources: [{configMap: {name: c}}, {secret: {name: s}}, {downwardAPI: {items: [{path: l, fieldRef: {fieldPath: metadata.labels}}]}}, {serviceAccountToken: {path: t}}]}}]",
		"a label as a variable":           "containers: [{name: a, image: b, env: [{name: A, valueFrom: {fieldRef: {fieldPath: \"metadata.labels['app']\"}}}]}]",
		"a variable from a file":          "volumes: [{name: v}]\ncontainers: [{name: a, image: b, env: [{name: A, valueFrom: {fileKeyRef: {volumeName: v, path: f, key: K}}}]}]",
		"a device with request and limit": "containers: [{name: a, image: b, resources: {limits: {example.com/gpu: 1}}}]",
		"huge pages beside memory":        "containers: [{name: a, image: b, resources: {limits: {hugepages-2Mi: 4Mi, memory: 1Gi}}}]",
		"a claim that was made":           "resourceClaims: [{name: c, resourceClaimName: x}]\ncontainers: [{name: a, image: b, resources: {claims: [{name: c}]}}]",
		"privileged and both ways":        "volumes: [{name: v}]\ncontainers: [{name: a, image: b, securityContext: {privileged: true}, volumeMounts: [{name: v, mountPath: /v, mountPropagation: Bidirectional}]}]",
		"DNS of its own":                  "dnsPolicy: None\ndnsConfig: {nameservers: [1.1.1.1], searches: [., a.b]}",
		"the old name of a node's field":  "containers: [{name: a, image: b, env: [{name: A, valueFrom: {fieldRef: {fieldPath: spec.host}}}]}]",
		"a stop signal of linux":          "os: {name: linux}\ncontainers: [{name: a, image: b, lifecycle: {stopSignal: SIGRTMIN+1}}]",
		"one host port by two addresses":  "containers: [{name: a, image: b, ports: [{containerPort: 1, hostPort: 8, hostIP: 127.0.0.1}, {containerPort: 2, hostPort: 8, hostIP: 127.0.0.2}]}]",
		"restarted by its own rules":      "restartPolicy: Never\ncontainers: [{name: a, image: b, restartPolicy: Never, restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [42]}}]}]",
		"the limits of a whole pod":       "resources: {limits: {cpu: 2, memory: 2Gi}}\ncontainers: [{name: a, image: b, resources: {limits: {cpu: 1}}}]",
	} {
		t.Run(name, func(t *testing.T) { same(t, told(validatePod(podWith(t, spec)))) })
	}
}

func TestAnnotationsOfPods(t *testing.T) {
	for name, c := range map[string]struct {
		key, value string
		want       []string
	}{
		"a mirror on no node":      {"kubernetes.io/config.mirror", "x", []string{`metadata.annotations[kubernetes.io/config.mirror]: Invalid value: "x": must set spec.nodeName if mirror pod annotation is set`}},
		"a cost that is no number": {"controller.kubernetes.io/pod-deletion-cost", "+1", []string{`metadata.annotations[controller.kubernetes.io/pod-deletion-cost]: Invalid value: "+1": must be a 32bit integer`}},
		"a negative cost":          {"controller.kubernetes.io/pod-deletion-cost", "-7", nil},
		"apparmor of nobody":       {"container.apparmor.security.beta.kubernetes.io/z", "x", []string{`metadata.annotations[container.apparmor.security.beta.kubernetes.io/z]: Invalid value: "z": container not found`, `metadata.annotations[container.apparmor.security.beta.kubernetes.io/z]: Invalid value: "x": invalid AppArmor profile name: "x"`}},
		"another seccomp profile":  {"seccomp.security.alpha.kubernetes.io/pod", "runtime/default", []string{"spec.securityContext.seccompProfile.type: Forbidden: seccomp type in annotation and field must match"}},
		"the same seccomp profile": {"seccomp.security.alpha.kubernetes.io/pod", "unconfined", nil},
		"another file":             {"container.apparmor.security.beta.kubernetes.io/a", "localhost/b", []string{"spec.containers[0].securityContext.appArmorProfile.localhostProfile: Forbidden: apparmor profile in annotation and field must match"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := podWith(t, "securityContext: {seccompProfile: {type: Unconfined}}\ncontainers: [{name: a, image: b, securityContext: {appArmorProfile: {type: Localhost, localhostProfile: f}}}]")
			p.Annotations = map[string]string{c.key: c.value}
			same(t, told(validatePod(p)), c.want...)
		})
	}
}

func TestMetadataThatIsWrong(t *testing.T) {
	big := strings.Repeat("x", 256<<10)
	for name, c := range map[string]struct {
		change func(*corev1.Pod)
		want   []string
	}{
		"no name":                      {func(p *corev1.Pod) { p.Name = "" }, []string{"metadata.name: Required value: name or generateName is required"}},
		"a name in capitals":           {func(p *corev1.Pod) { p.Name = "UPPER" }, []string{`metadata.name: Invalid value: "UPPER": ` + subdomain}},
		"no namespace":                 {func(p *corev1.Pod) { p.Namespace = "" }, []string{"metadata.namespace: Required value"}},
		"a generated name's beginning": {func(p *corev1.Pod) { p.GenerateName = "Aa-" }, []string{`metadata.generateName: Invalid value: "Aa-": ` + subdomain}},
		"a label":                      {func(p *corev1.Pod) { p.Labels = map[string]string{"a b": "c"} }, []string{`metadata.labels: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')`}},
		"too many annotations":         {func(p *corev1.Pod) { p.Annotations = map[string]string{"a": big} }, []string{"metadata.annotations: Too long: may not be more than 262144 bytes"}},
		"an owner": {func(p *corev1.Pod) {
			p.OwnerReferences = append(p.OwnerReferences, podOwner("v1", "Event"))
		}, []string{`metadata.ownerReferences[0]: Invalid value: {"apiVersion":"v1","kind":"Event","name":"o","uid":"u"}: /v1, Kind=Event is disallowed from being an owner`}},
		"a finalizer": {func(p *corev1.Pod) { p.Finalizers = []string{"mine"} }, []string{`metadata.finalizers[0]: Invalid value: "mine": name is neither a standard finalizer name nor is it fully qualified`}},
		"all right":   {func(p *corev1.Pod) { p.Finalizers = []string{"orphan", "example.com/mine"} }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			p := podWith(t, "")
			c.change(p)
			same(t, told(resource.ValidateMeta(Pod(), p)), c.want...)
		})
	}
}
