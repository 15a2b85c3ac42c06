package apiserver_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/apiserver"
	"sampan.dev/internal/auth"
	"sampan.dev/internal/pki"
)

func TestWhoIsNobodySeesVersionAndHealthAlone(t *testing.T) {
	c := start(t)
	nobody := c.HTTPClient("")
	for _, q := range []struct {
		method, path string
		code         int
		want         string
	}{
		{"GET", "/version", 200, `"gitVersion": "v1.37.2+sampan"`},
		{"GET", "/healthz", 200, `ok`},
		{"GET", "/livez?verbose", 200, "[+]ping ok\n[+]etcd ok\nlivez check passed\n"},
		{"GET", "/readyz?verbose&exclude=etcd&exclude=foo", 200, "[+]ping ok\n[+]etcd excluded: ok\n[+]informer-sync ok\n[+]shutdown ok\nwarn: some health checks cannot be excluded: no matches for \"foo\"\nreadyz check passed\n"},
		{"GET", "/readyz/informer-sync", 200, `ok`},
		{"GET", "/livez/nothing", 404, ``},
		{"GET", "/api/v1/namespaces/default/pods", 403, `pods is forbidden: User \"system:anonymous\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\"`},
		{"GET", "/api/v1/namespaces/default/pods/x/log", 403, `pods \"x\" is forbidden: User \"system:anonymous\" cannot get resource \"pods/log\" in API group \"\" in the namespace \"default\"`},
		{"POST", "/api/v1/nodes", 403, `nodes is forbidden: User \"system:anonymous\" cannot create resource \"nodes\" in API group \"\" at the cluster scope`},
		{"GET", "/api/v1/nosuchthings", 403, `nosuchthings is forbidden`},
		{"GET", "/metrics", 403, `forbidden: User \"system:anonymous\" cannot get path \"/metrics\"`},
		{"GET", "/debug/pprof/heap", 403, `forbidden: User \"system:anonymous\" cannot get path \"/debug/pprof/heap\"`},
		{"GET", "/api", 403, `forbidden: User \"system:anonymous\" cannot get path \"/api\"`},
		{"GET", "/openapi/v2", 403, `cannot get path`},
		{"DELETE", "/healthz", 403, `cannot delete path`},
		{"GET", "/<script>", 403, `cannot get path \"/\u0026lt;script\u0026gt;\"`},
		{"GET", "/../../api/v1/pods", 403, `forbidden`},
	} {
		response, body := c.AskAs(nobody, q.method, q.path, "")
		if response.StatusCode != q.code || !strings.Contains(body, q.want) {
			t.Errorf("%s %s: %d %s", q.method, q.path, response.StatusCode, body)
		}
	}
	response, body := c.AskAs(nobody, "GET", "/version", "", "Authorization", "Bearer x")
	if response.StatusCode != 401 || !strings.Contains(body, `"message":"Unauthorized","reason":"Unauthorized","code":401`) {
		t.Errorf("a token: %d %s", response.StatusCode, body)
	}
}

func TestCertificatesOfOthersAreRefused(t *testing.T) {
	c := start(t)
	other, err := pki.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	config := other.ClientTLS("admin", []string{auth.Masters})
	config.RootCAs = c.PKI.Pool()
	response, body := c.AskAs(&http.Client{Transport: &http.Transport{TLSClientConfig: config}}, "GET", "/version", "")
	if response.StatusCode != 401 || !strings.Contains(body, `"reason":"Unauthorized"`) {
		t.Errorf("%d %s", response.StatusCode, body)
	}
}

func TestANodeDoesWhatItNeeds(t *testing.T) {
	c := start(t)
	ctx := context.Background()
	admin, n1 := c.clients(), c.typed(c.config("system:node:n1", auth.Nodes))
	node := func(name string) *corev1.Node { return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}} }
	lease := func(name string) *coordinationv1.Lease {
		return &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name}}
	}
	if _, err := n1.CoreV1().Nodes().Create(ctx, node("n1"), metav1.CreateOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := n1.CoreV1().Nodes().Create(ctx, node("n2"), metav1.CreateOptions{}); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `node "n1" is not allowed to modify node "n2"`) {
		t.Errorf("made another node: %v", err)
	}
	leases := n1.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	if _, err := leases.Create(ctx, lease("n1"), metav1.CreateOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := leases.Create(ctx, lease("n2"), metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("made another node's lease: %v", err)
	}
	mine := pod("mine")
	mine.Spec.NodeName = "n1"
	mine.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "s"}}}}
	stores(mine, "data")
	other := pod("other")
	stores(other, "foreign")
	for _, claim := range []string{"data", "foreign"} { // each with a volume of its name
		one := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
		if _, err := admin.CoreV1().PersistentVolumeClaims("default").Create(ctx, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: claim}, Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, Resources: corev1.VolumeResourceRequirements{Requests: one}, VolumeName: claim,
		}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := admin.CoreV1().PersistentVolumes().Create(ctx, &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: claim}, Spec: corev1.PersistentVolumeSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, Capacity: one, ClaimRef: &corev1.ObjectReference{Namespace: "default", Name: claim},
			PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/data"}},
		}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range []*corev1.Pod{mine, other} {
		if _, err := admin.CoreV1().Pods("default").Create(ctx, p, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"s", "t"} {
		if _, err := admin.CoreV1().Secrets("default").Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	list, err := n1.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=n1"})
	if err != nil || len(list.Items) != 1 {
		t.Fatalf("its pods: %+v: %v", list, err)
	}
	p := &list.Items[0]
	p.Status.Phase = corev1.PodRunning
	if _, err := n1.CoreV1().Pods("default").UpdateStatus(ctx, p, metav1.UpdateOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := n1.CoreV1().Secrets("default").Get(ctx, "s", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := n1.CoreV1().PersistentVolumeClaims("default").Get(ctx, "data", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := n1.CoreV1().PersistentVolumes().Get(ctx, "data", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
	for what, err := range map[string]error{
		"another node's pod's claim":  second(n1.CoreV1().PersistentVolumeClaims("default").Get(ctx, "foreign", metav1.GetOptions{})),
		"another node's pod's volume": second(n1.CoreV1().PersistentVolumes().Get(ctx, "foreign", metav1.GetOptions{})),
		"all claims":                  second(n1.CoreV1().PersistentVolumeClaims("default").List(ctx, metav1.ListOptions{})),
		"all volumes":                 second(n1.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})),
		"other secrets":               second(n1.CoreV1().Secrets("default").Get(ctx, "t", metav1.GetOptions{})),
		"other pods":                  second(n1.CoreV1().Pods("default").Get(ctx, "other", metav1.GetOptions{})),
		"another node's pod's status": second(n1.CoreV1().Pods("default").UpdateStatus(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "other"}}, metav1.UpdateOptions{})),
		"another node's status":       second(n1.CoreV1().Nodes().UpdateStatus(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n2"}}, metav1.UpdateOptions{})),
		"another node":                second(n1.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n3"}}, metav1.CreateOptions{})),
		"another node's lease":        second(n1.CoordinationV1().Leases(corev1.NamespaceNodeLease).Update(ctx, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: "n2"}}, metav1.UpdateOptions{})),
		"the keys of nodes":           second(n1.CoreV1().ConfigMaps("kube-system").Get(ctx, "sampan-node-keys", metav1.GetOptions{})),
	} {
		if !apierrors.IsForbidden(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := second(n1.CoreV1().Secrets("default").Get(ctx, "t", metav1.GetOptions{})); !strings.HasSuffix(err.Error(),
		`User "system:node:n1" cannot get resource "secrets" in API group "" in the namespace "default": no relationship found between node 'n1' and this object`) {
		t.Error(err)
	}
}

// stores gives a pod a volume of that claim.
func stores(pod *corev1.Pod, claim string) {
	pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: claim, VolumeSource: corev1.VolumeSource{
		PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim},
	}})
}

func second[T any](_ T, err error) error { return err }

func TestReviews(t *testing.T) {
	c := start(t)
	jane := c.HTTPClient("jane", "dev")
	review := func(client *http.Client, verb string) string {
		_, body := c.AskAs(client, "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
			`{"kind":"SelfSubjectAccessReview","apiVersion":"authorization.k8s.io/v1","spec":{"resourceAttributes":{"verb":"`+verb+`","resource":"pods","namespace":"default"}}}`)
		return body
	}
	if body := review(jane, "list"); !strings.Contains(body, `"allowed":false`) {
		t.Error(body)
	}
	if body := review(c.HTTPClient("admin", auth.Masters), "list"); !strings.Contains(body, `"allowed":true`) {
		t.Error(body)
	}
	_, body := c.AskAs(jane, "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", `{}`)
	if !strings.Contains(body, `"username":"jane","groups":["dev","system:authenticated"]`) {
		t.Error(body)
	}
	_, body = c.AskAs(jane, "POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", `{"spec":{"namespace":"default"}}`)
	if !strings.Contains(body, `"resources":["selfsubjectaccessreviews"]`) || strings.Contains(body, `"*"`) {
		t.Error(body)
	}
}

func TestProfilesOfTheRunningProgram(t *testing.T) {
	c := start(t)
	for _, q := range []struct {
		path string
		code int
		want string
	}{
		{"/debug/pprof/", 200, "goroutine"},
		{"/debug/pprof/goroutine?debug=1", 200, "goroutine profile: total "},
		{"/debug/pprof/heap", 200, "\x1f\x8b"}, // gzip
		{"/debug/pprof/profile?seconds=0.05", 200, "\x1f\x8b"},
		{"/debug/pprof/profile?seconds=1e9", 400, "a number above 0 and up to 300 is wanted"},
		{"/debug/pprof/nothing", 404, ""},
		{"/debug/other", 404, ""},
	} {
		if response, body := c.ask("GET", q.path, ""); response.StatusCode != q.code || !strings.Contains(body, q.want) {
			t.Errorf("%s: %d %.200q", q.path, response.StatusCode, body)
		}
	}
}

func TestMetrics(t *testing.T) {
	c := start(t, func(cfg *apiserver.Config) { cfg.Version = "v1.37.2+test" })
	c.ask("GET", podsPath, "")
	c.ask("GET", "/api/v1/made-up", "")
	_, end := watchRaw(t, c, "/api/v1/nodes?watch=1")
	defer end()
	_, body := c.ask("GET", "/metrics", "")
	for _, want := range []string{
		`apiserver_request_total{code="200",component="apiserver",group="",resource="pods",scope="namespace",subresource="",verb="LIST",version="v1"} 1`,
		`apiserver_request_duration_seconds_bucket{component="apiserver",group="",resource="pods",scope="namespace",subresource="",verb="LIST",version="v1",le="60"} 1`,
		`apiserver_current_inflight_requests{request_kind="readOnly"} 1`,
		`apiserver_longrunning_requests{component="apiserver",group="",resource="nodes",scope="cluster",subresource="",verb="WATCH",version="v1"} 1`,
		`apiserver_storage_objects{resource="namespaces"} 3`,
		"go_goroutines ", "process_resident_memory_bytes ",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("%s is missing", want)
		}
	}
	if strings.Contains(body, "made-up") {
		t.Error("a client made up a label")
	}
}
