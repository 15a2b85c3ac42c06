package revision

import (
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func template(image string) *corev1.PodTemplateSpec {
	return &corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: image}}, RestartPolicy: "Always"},
	}
}

func content(t *testing.T, of *corev1.PodTemplateSpec) []byte {
	t.Helper()
	data, err := Content(of)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestTheContentIsThePatchThatKubectlKnows(t *testing.T) {
	const want = `{"spec":{"template":{"$patch":"replace","metadata":{"labels":{"app":"web"}},` +
		`"spec":{"containers":[{"image":"nginx","name":"main","resources":{}}],"restartPolicy":"Always"}}}}`
	got := content(t, template("nginx"))
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	back, err := Template(&appsv1.ControllerRevision{Data: runtime.RawExtension{Raw: got}})
	if err != nil || !equality.Semantic.DeepEqual(back, template("nginx")) {
		t.Errorf("%+v, %v", back, err)
	}
	for _, bad := range []string{"", "{", "{}", `{"spec":{}}`, `{"spec":{"template":3}}`} {
		if _, err := Template(&appsv1.ControllerRevision{Data: runtime.RawExtension{Raw: []byte(bad)}}); err == nil {
			t.Errorf("%q holds a template", bad)
		}
	}
}

func TestWhatDefaultsFillInIsNoDifference(t *testing.T) {
	now := template("nginx")
	now.Spec.DNSPolicy, now.Spec.TerminationGracePeriodSeconds = "ClusterFirst", new(int64(30))
	for name, c := range map[string]struct {
		old  *corev1.PodTemplateSpec
		same bool
	}{
		"the same":                     {now, true},
		"one from before some default": {template("nginx"), true},
		"another image":                {template("nginx:2"), false},
	} {
		t.Run(name, func(t *testing.T) {
			r := &appsv1.ControllerRevision{Data: runtime.RawExtension{Raw: content(t, c.old)}}
			if Holds(r, now, content(t, now)) != c.same {
				t.Errorf("%s", r.Data.Raw)
			}
		})
	}
	if Holds(&appsv1.ControllerRevision{Data: runtime.RawExtension{Raw: []byte("{}")}}, now, content(t, now)) {
		t.Error("what holds no template holds this one")
	}
}

func numbered(numbers ...int64) (all []*appsv1.ControllerRevision) {
	for _, n := range numbers {
		all = append(all, &appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{Name: string(rune('a' + n))}, Revision: n})
	}
	return all
}

func names(all []*appsv1.ControllerRevision) string {
	var b strings.Builder
	for _, r := range all {
		b.WriteString(r.Name)
	}
	return b.String()
}

func TestNumbersGrowAndTheOldestGo(t *testing.T) {
	all := numbered(5, 1, 3, 2)
	Sort(all)
	if names(all) != "bcdf" || Next(all) != 6 || Next(nil) != 1 {
		t.Errorf("%s, then %d", names(all), Next(all))
	}
	used := func(r *appsv1.ControllerRevision) bool { return r.Revision == 1 || r.Revision == 5 }
	for limit, want := range map[int]string{0: "cd", 1: "c", 2: "", 9: "", -1: ""} {
		if got := names(Surplus(all, limit, used)); got != want {
			t.Errorf("with limit %d %q go, not %q", limit, got, want)
		}
	}
	if names(all) != "bcdf" {
		t.Error("Surplus changes what it is given")
	}
}

func TestNamesAndHashes(t *testing.T) {
	c := content(t, template("nginx"))
	if h := Hash(c, 0); h == Hash(c, 1) || h != Hash(content(t, template("nginx")), 0) || h == Hash(content(t, template("nginx:2")), 0) {
		t.Error("hashes do not tell apart what they should")
	}
	if got := Name(strings.Repeat("x", 300), "abc"); got != strings.Repeat("x", 223)+"-abc" {
		t.Error(got)
	}
	owner := &metav1.ObjectMeta{Name: "web", Namespace: "ns", UID: "u", Annotations: map[string]string{"kubernetes.io/change-cause": "why"}}
	r := New(owner, schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "StatefulSet"}, template("nginx"), c, 4)
	r.Labels["more"], r.Annotations["more"] = "x", "x"
	if r.Namespace != "ns" || r.Labels["app"] != "web" || r.Annotations["kubernetes.io/change-cause"] != "why" || r.Revision != 4 ||
		!metav1.IsControlledBy(r, owner) || len(owner.Annotations) != 1 {
		t.Errorf("%+v", r)
	}
}
