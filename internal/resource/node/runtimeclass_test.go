package node

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestClassesThatAreWrong(t *testing.T) {
	for name, c := range map[string]struct {
		class nodev1.RuntimeClass
		want  string
	}{
		"a plain one":        {nodev1.RuntimeClass{Handler: "runsc"}, ""},
		"no handler":         {nodev1.RuntimeClass{}, `handler: Invalid value: "": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')`},
		"an odd overhead":    {nodev1.RuntimeClass{Handler: "a", Overhead: &nodev1.Overhead{PodFixed: corev1.ResourceList{"seats": resource.MustParse("1")}}}, `[overhead.limits[seats]: Invalid value: "seats": must be a standard resource type or fully qualified, overhead.limits[seats]: Invalid value: "seats": must be a standard resource for containers]`},
		"a wrong selector":   {nodev1.RuntimeClass{Handler: "a", Scheduling: &nodev1.Scheduling{NodeSelector: map[string]string{"a": "b c"}}}, `scheduling.nodeSelector: Invalid value: "b c": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')`},
		"a wrong toleration": {nodev1.RuntimeClass{Handler: "a", Scheduling: &nodev1.Scheduling{Tolerations: []corev1.Toleration{{Key: "a", Operator: "Exists", Value: "b"}}}}, `scheduling.tolerations[0].operator: Invalid value: "b": value must be empty when ` + "`operator` is 'Exists'"},
	} {
		t.Run(name, func(t *testing.T) {
			got := ""
			if errs := RuntimeClass().Validate(&c.class); len(errs) > 0 {
				got = errs.ToAggregate().Error()
			}
			if got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestAHandlerStays(t *testing.T) {
	errs := RuntimeClass().ValidateUpdate(&nodev1.RuntimeClass{Handler: "b"}, &nodev1.RuntimeClass{Handler: "a"})
	if len(errs) != 1 || errs[0].Error() != `handler: Invalid value: "b": field is immutable` {
		t.Error(errs)
	}
}

func TestTheRow(t *testing.T) {
	c := &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: "gvisor", CreationTimestamp: metav1.Unix(0, 0)}, Handler: "runsc"}
	if got := fmt.Sprint(RuntimeClass().Row(c, time.Unix(60, 0))); got != "[gvisor runsc 60s]" {
		t.Errorf("it is %s", got)
	}
}
