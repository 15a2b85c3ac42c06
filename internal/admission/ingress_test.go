package admission

import (
	"testing"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestTheNewestDefaultIngressClassIsTheOne(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	class := func(name string, after time.Duration) *networkingv1.IngressClass {
		return &networkingv1.IngressClass{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(at.Add(after))}}
	}
	for name, c := range map[string]struct {
		of   []*networkingv1.IngressClass
		want string
	}{
		"one":                      {[]*networkingv1.IngressClass{class("a", 0)}, "a"},
		"the newest":               {[]*networkingv1.IngressClass{class("a", 0), class("c", time.Hour), class("b", time.Minute)}, "c"},
		"of one time, by name":     {[]*networkingv1.IngressClass{class("b", 0), class("a", 0)}, "a"},
		"the newest, then by name": {[]*networkingv1.IngressClass{class("a", 0), class("c", time.Hour), class("b", time.Hour)}, "b"},
	} {
		if got := newest(c.of).Name; got != c.want {
			t.Errorf("%s: %s, wanted %s", name, got, c.want)
		}
	}
}
