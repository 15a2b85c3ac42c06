package core

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"

	"sampan.dev/internal/resource"
)

const nginx = `
apiVersion: v1
kind: Pod
metadata:
  name: my-nginx-pod
spec:
  containers:
  - name: my-nginx-container
    image: nginx:latest
    ports:
    - containerPort: 80
      protocol: TCP
`

// podFrom reads, names and defaults a pod.
func podFrom(t *testing.T, manifest string) *corev1.Pod {
	t.Helper()
	var p corev1.Pod
	if err := yaml.UnmarshalStrict([]byte(manifest), &p); err != nil {
		t.Fatal(err)
	}
	if p.Name == "" {
		p.Name = "x"
	}
	p.Namespace = "default"
	DefaultPod(&p)
	return &p
}

// podWith is a valid pod with more lines in its spec.
func podWith(t *testing.T, spec string) *corev1.Pod {
	t.Helper()
	spec = strings.Trim(spec, "\n")
	if !strings.Contains("\n"+spec, "\ncontainers:") {
		spec = "containers:\n- name: a\n  image: busybox:1\n" + spec
	}
	return podFrom(t, "spec:\n  "+strings.ReplaceAll(spec, "\n", "\n  "))
}

func told(errs field.ErrorList) []string {
	var all []string
	for _, e := range errs {
		all = append(all, e.Error())
	}
	return all
}

func same(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("told\n  %s\nnot\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

func quantityOf(s string) apiresource.Quantity { return apiresource.MustParse(s) }

func pointer[T any](v T) *T { return &v }

func TestTheManifestOfNginxIsDefaultedAndValid(t *testing.T) {
	p := podFrom(t, nginx)
	if errs := resource.ValidateMeta(Pod(), p); len(errs) > 0 {
		t.Error(errs)
	}
	if errs := validatePod(p); len(errs) > 0 {
		t.Error(errs)
	}
	preparePod(p)
	want := corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Name: "my-nginx-pod", Namespace: "default", Generation: 1},
		Spec: corev1.PodSpec{
			RestartPolicy: "Always", DNSPolicy: "ClusterFirst", SchedulerName: "default-scheduler",
			TerminationGracePeriodSeconds: pointer(int64(30)), EnableServiceLinks: pointer(true),
			SecurityContext: &corev1.PodSecurityContext{},
			Containers: []corev1.Container{{
				Name: "my-nginx-container", Image: "nginx:latest", ImagePullPolicy: "Always",
				TerminationMessagePath: "/dev/termination-log", TerminationMessagePolicy: "File",
				Ports: []corev1.ContainerPort{{ContainerPort: 80, Protocol: "TCP"}},
			}},
		},
		Status: corev1.PodStatus{Phase: "Pending", QOSClass: "BestEffort"},
	}
	if !reflect.DeepEqual(*p, want) {
		got, _ := yaml.Marshal(p)
		t.Errorf("is\n%s", got)
	}
}

func TestPodDefaults(t *testing.T) {
	for name, c := range map[string]struct {
		spec string
		want func(*corev1.PodSpec) bool
	}{
		"a volume of no type is an emptyDir": {
			"volumes: [{name: v}]",
			func(s *corev1.PodSpec) bool { return s.Volumes[0].EmptyDir != nil },
		},
		"files of a secret, config map, downward and projected volume have mode 0644": {
			"volumes: [{name: a, secret: {secretName: s}}, {name: b, configMap: {name: c}}, {name: c, downwardAPI: {}}, {name: d, projected: {sources: []}}]",
			func(s *corev1.PodSpec) bool {
				return *s.Volumes[0].Secret.DefaultMode == 0o644 && *s.Volumes[1].ConfigMap.DefaultMode == 0o644 &&
					*s.Volumes[2].DownwardAPI.DefaultMode == 0o644 && *s.Volumes[3].Projected.DefaultMode == 0o644
			},
		},
		"a hostPath is of the empty type": {
			"volumes: [{name: v, hostPath: {path: /a}}]",
			func(s *corev1.PodSpec) bool { return *s.Volumes[0].HostPath.Type == "" },
		},
		"a token lives for an hour and a field is one of v1": {
			"volumes: [{name: v, projected: {sources: [{serviceAccountToken: {path: t}}, {downwardAPI: {items: [{path: file, fieldRef: {fieldPath: metadata.name}}]}}]}}]",
			func(s *corev1.PodSpec) bool {
				from := s.Volumes[0].Projected.Sources
				return *from[0].ServiceAccountToken.ExpirationSeconds == 3600 && from[1].DownwardAPI.Items[0].FieldRef.APIVersion == "v1"
			},
		},
		"what is limited is requested": {
			"containers: [{name: a, image: b, resources: {limits: {cpu: 1, memory: 1Gi}, requests: {cpu: 100m}}}]",
			func(s *corev1.PodSpec) bool {
				r := s.Containers[0].Resources.Requests
				return r.Cpu().String() == "100m" && r.Memory().String() == "1Gi"
			},
		},
		"amounts are rounded up to thousandths": {
			"containers: [{name: a, image: b, resources: {requests: {cpu: 100100u}}}]",
			func(s *corev1.PodSpec) bool { return s.Containers[0].Resources.Requests.Cpu().String() == "101m" },
		},
		"a port in the host's network is the same on the host": {
			"hostNetwork: true\ncontainers: [{name: a, image: b, ports: [{containerPort: 80}]}]",
			func(s *corev1.PodSpec) bool { return s.Containers[0].Ports[0].HostPort == 80 },
		},
		"a probe asks every ten seconds for one, and gives up after three": {
			"containers: [{name: a, image: b, livenessProbe: {httpGet: {port: 80}}, readinessProbe: {grpc: {port: 1}}}]",
			func(s *corev1.PodSpec) bool {
				p, r := s.Containers[0].LivenessProbe, s.Containers[0].ReadinessProbe
				return p.TimeoutSeconds == 1 && p.PeriodSeconds == 10 && p.SuccessThreshold == 1 && p.FailureThreshold == 3 &&
					p.HTTPGet.Path == "/" && p.HTTPGet.Scheme == "HTTP" && *r.GRPC.Service == ""
			},
		},
		"a hook asks for / over HTTP": {
			"containers: [{name: a, image: b, lifecycle: {preStop: {httpGet: {port: 80}}}}]",
			func(s *corev1.PodSpec) bool { return s.Containers[0].Lifecycle.PreStop.HTTPGet.Path == "/" },
		},
		"a variable's field is one of v1": {
			"containers: [{name: a, image: b, env: [{name: N, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]}]",
			func(s *corev1.PodSpec) bool { return s.Containers[0].Env[0].ValueFrom.FieldRef.APIVersion == "v1" },
		},
		"the old name of the service account is as good as the new": {
			"serviceAccount: sam",
			func(s *corev1.PodSpec) bool {
				return s.ServiceAccountName == "sam" && s.DeprecatedServiceAccount == "sam"
			},
		},
		"init containers are defaulted as well": {
			"initContainers: [{name: i, image: b:1, resources: {limits: {cpu: 1}}}]",
			func(s *corev1.PodSpec) bool {
				i := s.InitContainers[0]
				return i.ImagePullPolicy == "IfNotPresent" && i.TerminationMessagePolicy == "File" && !i.Resources.Requests.Cpu().IsZero()
			},
		},
		"a pod with limits requests what its containers request": {
			"resources: {limits: {cpu: 2, memory: 1Gi}}\ncontainers: [{name: a, image: b, resources: {requests: {cpu: 1}}}]",
			func(s *corev1.PodSpec) bool {
				return s.Resources.Requests.Cpu().String() == "1" && s.Resources.Requests.Memory().String() == "1Gi"
			},
		},
		"a pod with requests is limited where all its containers are": {
			"resources: {requests: {cpu: 2, memory: 1Gi}}\ncontainers: [{name: a, image: b, resources: {limits: {cpu: 2}}}]",
			func(s *corev1.PodSpec) bool {
				_, memory := s.Resources.Limits[corev1.ResourceMemory]
				return s.Resources.Limits.Cpu().String() == "2" && !memory
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if p := podWith(t, c.spec); !c.want(&p.Spec) {
				got, _ := yaml.Marshal(p.Spec)
				t.Errorf("is\n%s", got)
			}
		})
	}
}

func TestATemplateGetsNothingThatOnlyPodsGet(t *testing.T) {
	s := corev1.PodSpec{HostNetwork: true, Containers: []corev1.Container{{
		Ports:     []corev1.ContainerPort{{ContainerPort: 80}},
		Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{"cpu": quantityOf("1")}},
	}}}
	DefaultPodSpec(&s)
	if s.EnableServiceLinks != nil || s.Containers[0].Resources.Requests != nil || s.Containers[0].Ports[0].HostPort != 0 {
		t.Errorf("is %+v", s)
	}
}

func TestImageTags(t *testing.T) {
	const digest = "@sha256:0123456789012345678901234567890123456789012345678901234567890123"
	for image, want := range map[string]string{
		"nginx": "latest", "nginx:latest": "latest", "nginx:1.27": "1.27", "localhost:5000/a": "latest", "localhost:5000/a/b:2": "2",
		"nginx" + digest: "", "nginx:1" + digest: "1", "nginx:latest" + digest: "latest", "sampan.dev/hello:1": "1",
		"a.b/c__d/e-f--g.h:x_y": "x_y", "Nginx": "", "ngi nx": "", "": "", "a//b": "", "a:": "", "nginx@sha256:12": "",
		"-a": "", "a_": "", "a___b": "", "a..b/c:1": "1", "x/a..b": "", "127.0.0.1:5000/a": "latest", "[::1]:5000/a:1": "1",
		"0123456789012345678901234567890123456789012345678901234567890123": "",
	} {
		if got := imageTag(image); got != want {
			t.Errorf("%q has tag %q, not %q", image, got, want)
		}
	}
}

func TestServiceClasses(t *testing.T) {
	for name, c := range map[string]struct {
		spec string
		want corev1.PodQOSClass
	}{
		"nobody asks for anything: best effort":                         {"", "BestEffort"},
		"cpu and memory limited and requested as limited: guaranteed":   {"containers: [{name: a, image: b, resources: {limits: {cpu: 1, memory: 1Gi}}}]", "Guaranteed"},
		"less requested than limited: burstable":                        {"containers: [{name: a, image: b, resources: {limits: {cpu: 1, memory: 1Gi}, requests: {cpu: 1m}}}]", "Burstable"},
		"one of two containers without limits: burstable":               {"containers: [{name: a, image: b, resources: {limits: {cpu: 1, memory: 1Gi}}}, {name: c, image: b}]", "Burstable"},
		"an init container without limits: burstable":                   {"initContainers: [{name: c, image: b}]\ncontainers: [{name: a, image: b, resources: {limits: {cpu: 1, memory: 1Gi}}}]", "Burstable"},
		"only storage asked for: best effort":                           {"containers: [{name: a, image: b, resources: {limits: {ephemeral-storage: 1Gi}}}]", "BestEffort"},
		"the pod as a whole is guaranteed, whatever its containers say": {"resources: {limits: {cpu: 1, memory: 1Gi}}\ncontainers: [{name: a, image: b, resources: {requests: {cpu: 1, memory: 1Gi}}}]", "Guaranteed"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := QOS(podWith(t, c.spec)); got != c.want {
				t.Errorf("is %s", got)
			}
		})
	}
	if p := podWith(t, ""); QOS(&corev1.Pod{Spec: p.Spec, Status: corev1.PodStatus{QOSClass: "Burstable"}}) != "Burstable" {
		t.Error("the class given at creation did not stay")
	}
}

func TestGracePeriods(t *testing.T) {
	ten := &metav1.DeleteOptions{GracePeriodSeconds: pointer(int64(10))}
	running := corev1.Pod{Spec: corev1.PodSpec{NodeName: "n", TerminationGracePeriodSeconds: pointer(int64(30))}}
	waiting := running
	waiting.Spec.NodeName = ""
	done := running
	done.Status.Phase = corev1.PodSucceeded
	negative := running
	negative.Spec.TerminationGracePeriodSeconds = pointer(int64(-5))
	for name, c := range map[string]struct {
		pod  corev1.Pod
		opts *metav1.DeleteOptions
		want int64
	}{
		"a running pod has its own time":              {running, &metav1.DeleteOptions{}, 30},
		"the time that was asked for goes before":     {running, ten, 10},
		"a pod on no node goes at once":               {waiting, ten, 0},
		"a pod that has ended goes at once":           {done, ten, 0},
		"a negative time is taken for one second":     {negative, &metav1.DeleteOptions{}, 1},
		"zero asked for is zero":                      {running, &metav1.DeleteOptions{GracePeriodSeconds: pointer(int64(0))}, 0},
		"a pod without its own time goes immediately": {corev1.Pod{Spec: corev1.PodSpec{NodeName: "n"}}, &metav1.DeleteOptions{}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			if got, graceful := podGrace(&c.pod, c.opts); got != c.want || !graceful {
				t.Errorf("is %d, graceful %t", got, graceful)
			}
		})
	}
	if _, graceful := podGrace(&running, nil); graceful {
		t.Error("graceful without options")
	}
}

func TestAGatedPodSaysWhyItIsNotScheduled(t *testing.T) {
	p := podWith(t, "schedulingGates: [{name: example.com/wait}]")
	preparePod(p)
	if c := p.Status.Conditions; len(c) != 1 || c[0].Reason != "SchedulingGated" || c[0].Message != "Scheduling is blocked due to non-empty scheduling gates" {
		t.Errorf("conditions are %v", c)
	}
	if row := podRow(p, time.Now()); row[2] != "SchedulingGated" {
		t.Errorf("row is %v", row)
	}
}

func TestLabelKeysBecomeThePodsOwnValues(t *testing.T) {
	p := podWith(t, `
topologySpreadConstraints:
- {maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule, labelSelector: {}, matchLabelKeys: [version, none]}
affinity:
  podAntiAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
    - {topologyKey: zone, labelSelector: {}, mismatchLabelKeys: [version]}
`)
	p.Labels = map[string]string{"version": "7"}
	preparePod(p)
	spread := p.Spec.TopologySpreadConstraints[0].LabelSelector
	apart := p.Spec.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution[0].LabelSelector
	if metav1.FormatLabelSelector(spread) != "version in (7)" || metav1.FormatLabelSelector(apart) != "version notin (7)" {
		t.Errorf("selectors are %q and %q", metav1.FormatLabelSelector(spread), metav1.FormatLabelSelector(apart))
	}
	same(t, told(validatePod(p)))
}

func TestPodsCanBeSelectedByTheseFields(t *testing.T) {
	p := podWith(t, "nodeName: node\nhostNetwork: true\nserviceAccountName: sa")
	p.Status = corev1.PodStatus{Phase: "Running", PodIP: "10.0.0.1", NominatedNodeName: "m"}
	want := map[string]string{
		"metadata.name": "x", "metadata.namespace": "default", "spec.nodeName": "node", "spec.restartPolicy": "Always",
		"spec.schedulerName": "default-scheduler", "spec.serviceAccountName": "sa", "spec.hostNetwork": "true",
		"status.phase": "Running", "status.podIP": "10.0.0.1", "status.nominatedNodeName": "m",
	}
	if got := Pod().Fields(p); !reflect.DeepEqual(got, want) {
		t.Errorf("fields are %v", got)
	}
	if len(Pod().FieldNames) != len(want) {
		t.Errorf("names are %v", Pod().FieldNames)
	}
}

func TestPodWarnings(t *testing.T) {
	p := podWith(t, `
imagePullSecrets: [{name: s}, {name: s}]
hostAliases: [{ip: 1.2.3.4}, {ip: 1.2.3.4}]
terminationGracePeriodSeconds: -1
volumes: [{name: g, gitRepo: {repository: r}}]
containers:
- name: a
  image: b
  env: [{name: A, value: "1"}, {name: A, value: "2"}, {name: A, value: "$(A)3"}]
  ports: [{containerPort: 80}]
  resources: {limits: {memory: 100m}}
- {name: c, image: b, ports: [{containerPort: 80}, {containerPort: 80, hostPort: 1}]}
`)
	p.Name = "a.b"
	same(t, podWarnings(p),
		"metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [must not contain dots]",
		"spec.volumes[0].gitRepo: deprecated in v1.11, and disabled by default in v1.33+",
		`spec.hostAliases[1].ip: duplicate ip "1.2.3.4"`,
		`spec.imagePullSecrets[1].name: duplicate name "s"`,
		`spec.containers[0].resources.limits[memory]: fractional byte value "100m" is invalid, must be an integer`,
		`spec.containers[0].resources.requests[memory]: fractional byte value "100m" is invalid, must be an integer`,
		`spec.containers[0].env[1]: hides previous definition of "A", which may be dropped when using apply`,
		"spec.containers[1].ports[0]: duplicate port definition with spec.containers[0].ports[0]",
		"spec.containers[1].ports[1]: overlapping port definition with spec.containers[0].ports[0]",
		"spec.containers[1].ports[1]: overlapping port definition with spec.containers[1].ports[0]",
		"spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1",
	)
	p.ResourceVersion = "1"
	same(t, podWarnings(p))
}

func TestFieldsOfFeaturesThatAreOffAreDropped(t *testing.T) {
	p := podWith(t, `
schedulingGroup: {podGroupName: g}
volumes: [{name: e, emptyDir: {mode: 448}}]
containers: [{name: a, image: b, volumeMounts: [{name: e, mountPath: /e, bindMountOptions: [noexec]}]}]
`)
	preparePod(p)
	if p.Spec.SchedulingGroup != nil || p.Spec.Volumes[0].EmptyDir.Mode != nil || p.Spec.Containers[0].VolumeMounts[0].BindMountOptions != nil {
		t.Errorf("is %+v", p.Spec)
	}
}

func podOwner(version, kind string) metav1.OwnerReference {
	return metav1.OwnerReference{APIVersion: version, Kind: kind, Name: "o", UID: "u"}
}
