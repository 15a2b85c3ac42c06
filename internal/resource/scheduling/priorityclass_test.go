package scheduling

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func classOf(name string, value int32, change ...func(*schedulingv1.PriorityClass)) *schedulingv1.PriorityClass {
	c := &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Value: value}
	for _, f := range change {
		f(c)
	}
	return c
}

func TestClassesThatAreWrong(t *testing.T) {
	for name, c := range map[string]struct {
		class *schedulingv1.PriorityClass
		want  string
	}{
		"one of one's own":             {classOf("high", 1000), ""},
		"the highest":                  {classOf("high", Highest), ""},
		"a negative one":               {classOf("low", -5), ""},
		"one that is too high":         {classOf("high", Highest+1), "value: Forbidden: maximum allowed value of a user defined priority is 1000000000"},
		"the system's own":             {classOf("system-node-critical", 2000001000), ""},
		"the system's of another rank": {classOf("system-node-critical", 5), "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: value of system-node-critical PriorityClass must be 2000001000"},
		"a name that is the system's":  {classOf("system-mine", 5), "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: system-mine is not a known system priority class"},
		"another policy": {classOf("high", 5, func(c *schedulingv1.PriorityClass) {
			c.PreemptionPolicy = new(corev1.PreemptionPolicy("Rarely"))
		}), `preemptionPolicy: Unsupported value: "Rarely": supported values: "PreemptLowerPriority", "Never"`},
	} {
		t.Run(name, func(t *testing.T) {
			got := ""
			if errs := PriorityClass().Validate(c.class); len(errs) > 0 {
				got = errs.ToAggregate().Error()
			}
			if got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestWhatCannotBeChanged(t *testing.T) {
	k := PriorityClass()
	old, next := classOf("high", 5), classOf("high", 6, func(c *schedulingv1.PriorityClass) { c.PreemptionPolicy = new(corev1.PreemptNever) })
	k.Default(old)
	errs := k.ValidateUpdate(next, old)
	if len(errs) != 2 || errs[0].Error() != "value: Forbidden: may not be changed in an update." || !strings.Contains(errs[1].Error(), "preemptionPolicy: Invalid value") || !strings.Contains(errs[1].Error(), "field is immutable") {
		t.Errorf("told %v", errs)
	}
	if errs := k.ValidateUpdate(old, old); len(errs) > 0 {
		t.Error(errs)
	}
}

func TestTheRow(t *testing.T) {
	c := classOf("high", 5, func(c *schedulingv1.PriorityClass) { c.CreationTimestamp = metav1.Unix(0, 0) })
	PriorityClass().Default(c)
	if got := fmt.Sprint(PriorityClass().Row(c, time.Unix(60, 0))); got != "[high 5 false 60s PreemptLowerPriority]" {
		t.Errorf("it is %s", got)
	}
}
