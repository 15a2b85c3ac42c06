package core

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

func parseController(t *testing.T, text string) *corev1.ReplicationController {
	t.Helper()
	rc := &corev1.ReplicationController{}
	if err := yaml.UnmarshalStrict([]byte(text), rc); err != nil {
		t.Fatal(err)
	}
	return rc
}

func TestAControllerTakesSelectorAndLabelsFromItsTemplate(t *testing.T) {
	rc := parseController(t, "{metadata: {name: web}, spec: {template: {metadata: {labels: {app: web}}, spec: {containers: [{name: a, image: b}]}}}}")
	k := ReplicationController()
	k.Default(rc)
	if rc.Spec.Selector["app"] != "web" || rc.Labels["app"] != "web" || *rc.Spec.Replicas != 1 || rc.Spec.Template.Spec.RestartPolicy != "Always" {
		t.Errorf("%+v", rc)
	}
	rc.Spec.Selector["app"] = "other"
	if rc.Spec.Template.Labels["app"] != "web" || rc.Labels["app"] != "web" {
		t.Error("selector, labels and template share a map")
	}
	rc.Spec.Selector["app"] = "web"
	same(t, told(k.Validate(rc)))
	if r := k.Scale.Read(rc); r.Selector != "app=web" || r.Wanted != 1 {
		t.Errorf("%+v", r)
	}
	if got := fmt.Sprint(k.Row(rc, noon)); got != "[web 1 0 0 <unknown> a b app=web]" {
		t.Error(got)
	}
}

func TestControllersThatAreWrong(t *testing.T) {
	const pod = "spec: {containers: [{name: a, image: b}]}"
	for name, c := range map[string]struct {
		spec string
		want []string
	}{
		"nothing at all": {"{}", []string{"spec.selector: Required value", "spec.template: Required value"}},
		"another's pods": {"{selector: {a: b}, template: {metadata: {labels: {a: c}}, " + pod + "}}", []string{
			"spec.template.metadata.labels: Invalid value: {\"a\":\"c\"}: `selector` does not match template `labels`",
		}},
		"negative numbers": {"{replicas: -1, minReadySeconds: -2, template: {metadata: {labels: {a: c}}, " + pod + "}}", []string{
			"spec.replicas: Invalid value: -1: must be greater than or equal to 0", "spec.minReadySeconds: Invalid value: -2: must be greater than or equal to 0",
		}},
		"pods that end": {"{template: {metadata: {labels: {a: c}}, spec: {restartPolicy: Never, activeDeadlineSeconds: 3, containers: [{name: a, image: b}]}}}", []string{
			`spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always"`,
			"spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in ReplicationController is not Supported",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			rc := parseController(t, "{metadata: {name: web}, spec: "+c.spec+"}")
			ReplicationController().Default(rc)
			same(t, told(ReplicationController().Validate(rc)), c.want...)
		})
	}
	bad := parseController(t, "status: {replicas: 1, readyReplicas: 2, availableReplicas: 3}")
	same(t, told(ReplicationController().Status.ValidateUpdate(bad, bad)),
		"status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas", "status.availableReplicas: Invalid value: 3: cannot be greater than status.replicas",
		"status.availableReplicas: Invalid value: 3: cannot be greater than readyReplicas")
}

func TestTemplatesAreCheckedAsPodsAre(t *testing.T) {
	p := &corev1.PodTemplate{}
	if err := yaml.UnmarshalStrict([]byte("{metadata: {name: t}, template: {metadata: {labels: {a: b, c: d}}, spec: {containers: [{name: A, image: i}]}}}"), p); err != nil {
		t.Fatal(err)
	}
	k := PodTemplate()
	k.Default(p)
	same(t, told(k.Validate(p)), `template.spec.containers[0].name: Invalid value: "A": `+label)
	if got := fmt.Sprint(k.Row(p, noon)); got != "[t A i a=b,c=d]" {
		t.Error(got)
	}
	k.PrepareCreate(p)
	next := p.DeepCopy()
	next.Template.Labels = nil
	if k.PrepareUpdate(next, p); p.Generation != 1 || next.Generation != 2 {
		t.Errorf("generations %d, %d", p.Generation, next.Generation)
	}
}
