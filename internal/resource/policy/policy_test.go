package policy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"
)

func parse(t *testing.T, text string) *policyv1.PodDisruptionBudget {
	t.Helper()
	b := &policyv1.PodDisruptionBudget{}
	if err := yaml.UnmarshalStrict([]byte(text), b); err != nil {
		t.Fatal(err)
	}
	return b
}

func text(errs field.ErrorList) string {
	lines := make([]string, len(errs))
	for i, err := range errs {
		lines[i] = err.Error()
	}
	return strings.Join(lines, "\n")
}

const percentRule = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')"

func TestBudgetsThatAreWrong(t *testing.T) {
	for name, c := range map[string]struct{ spec, want string }{
		"nothing is said":     {"{}", ""},
		"a number":            {"{minAvailable: 3, selector: {matchLabels: {a: b}}}", ""},
		"all of them":         {`{maxUnavailable: "100%"}`, ""},
		"a negative number":   {"{minAvailable: -1}", "spec.minAvailable: Invalid value: -1: must be greater than or equal to 0"},
		"a text":              {"{maxUnavailable: many}", `spec.maxUnavailable: Invalid value: "many": ` + percentRule},
		"more than all":       {`{minAvailable: "101%"}`, `spec.minAvailable: Invalid value: "101%": must not be greater than 100%`},
		"an unknown policy":   {"{unhealthyPodEvictionPolicy: Never}", `spec.unhealthyPodEvictionPolicy: Unsupported value: "Never": supported values: "AlwaysAllow", "IfHealthyBudget"`},
		"an unknown operator": {"{selector: {matchExpressions: [{key: a, operator: Is}]}}", `spec.selector.matchExpressions[0].operator: Invalid value: "Is": not a valid selector operator`},
		"both limits": {
			`{minAvailable: 1, maxUnavailable: "10%"}`,
			`spec: Invalid value: {"MinAvailable":1,"Selector":null,"MaxUnavailable":"10%","UnhealthyPodEvictionPolicy":null}: minAvailable and maxUnavailable cannot be both set`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got := text(PodDisruptionBudget().Validate(parse(t, "spec: "+c.spec))); got != c.want {
				t.Errorf("%s\nwant %s", got, c.want)
			}
		})
	}
}

func TestASelectorThatNoLabelFitsMayStayButNotCome(t *testing.T) {
	k := PodDisruptionBudget()
	good, bad := parse(t, "spec: {selector: {matchLabels: {a: b}}}"), parse(t, "spec: {selector: {matchExpressions: [{key: a, operator: In, values: ['-']}]}}")
	const wrong = `spec.selector.matchExpressions[0].values[0]: Invalid value: "-": a valid label must be`
	if got := text(k.Validate(bad)); !strings.HasPrefix(got, wrong) {
		t.Errorf("new: %s", got)
	}
	bad.ResourceVersion = "7"
	if got := text(append(k.Validate(bad), k.ValidateUpdate(bad, bad)...)); got != "" {
		t.Errorf("stays: %s", got)
	}
	if got := text(append(k.Validate(bad), k.ValidateUpdate(bad, good)...)); !strings.HasPrefix(got, wrong) {
		t.Errorf("comes: %s", got)
	}
}

func TestWhatAnUpdateChanges(t *testing.T) {
	k := PodDisruptionBudget()
	made := parse(t, "{spec: {minAvailable: 1}, status: {disruptionsAllowed: 3}}")
	k.PrepareCreate(made)
	if made.Generation != 1 || made.Status.DisruptionsAllowed != 0 {
		t.Errorf("made: %+v", made)
	}
	made.Status.DisruptionsAllowed = 2
	changed := parse(t, "{metadata: {generation: 9}, spec: {minAvailable: 2}, status: {disruptionsAllowed: 7}}")
	k.PrepareUpdate(changed, made)
	if changed.Generation != 2 || changed.Status.DisruptionsAllowed != 2 || changed.Spec.MinAvailable.IntValue() != 2 {
		t.Errorf("changed: %+v", changed)
	}
	reported := parse(t, "{spec: {minAvailable: 9}, status: {disruptionsAllowed: -1, conditions: [{type: DisruptionAllowed, status: Maybe, reason: Why}]}}")
	k.Status.PrepareUpdate(reported, made)
	if reported.Spec.MinAvailable.IntValue() != 1 {
		t.Errorf("reported: %+v", reported.Spec)
	}
	want := `status.conditions[0].status: Unsupported value: "Maybe": supported values: "False", "True", "Unknown"
status.conditions[0].lastTransitionTime: Required value
status.disruptionsAllowed: Invalid value: -1: must be greater than or equal to 0`
	if got := text(k.Status.ValidateUpdate(reported, made)); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}

func TestRows(t *testing.T) {
	now := time.Unix(1e9, 0)
	b := parse(t, `{metadata: {name: b}, spec: {maxUnavailable: "30%"}, status: {disruptionsAllowed: 2}}`)
	b.CreationTimestamp = metav1.NewTime(now.Add(-5 * time.Minute))
	if got := fmt.Sprint(PodDisruptionBudget().Row(b, now)); got != "[b N/A 30% 2 5m]" {
		t.Error(got)
	}
}
