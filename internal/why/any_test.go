package why

import (
	"io"
	"testing"
	"time"

	"sigs.k8s.io/randfill"

	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"sampan.dev/internal/resource/kinds"
)

// Whatever objects look like, with anything of them missing, each gets an answer with words in it.
func TestNothingIsTooStrangeToExplain(t *testing.T) {
	table := kinds.Table()
	names := []string{"a", "b", "c"}
	answered := map[string]int{}
	for seed := range int64(100) {
		f := randfill.NewWithSeed(seed).NilChance(0.3).NumElements(0, 2).MaxDepth(12).Funcs(
			func(q *apiresource.Quantity, c randfill.Continue) {
				*q = *apiresource.NewMilliQuantity(c.Int63n(1e7), apiresource.DecimalSI)
			},
			func(v *metav1.Time, c randfill.Continue) {
				*v = metav1.NewTime(atNoon.Add(time.Duration(c.Intn(2000)-1000) * time.Second))
			},
			func(v *metav1.MicroTime, c randfill.Continue) {
				*v = metav1.NewMicroTime(atNoon.Add(time.Duration(c.Intn(2000)-1000) * time.Second))
			},
			func(v *string, c randfill.Continue) { *v = names[c.Intn(3)] },
			func(v *metav1.FieldsV1, _ randfill.Continue) {},
			func(v *runtime.RawExtension, _ randfill.Continue) {},
		)
		h := &hand{table: table, logs: map[string]string{"a a": "line"}}
		for _, k := range table.All() {
			switch k.Plural {
			case "pods", "nodes", "namespaces", "deployments", "replicasets", "statefulsets", "daemonsets", "jobs", "services", "poddisruptionbudgets", "endpointslices", "events", "leases", "configmaps":
				for range 3 {
					o := k.New()
					f.Fill(o)
					h.objects = append(h.objects, o)
				}
			}
		}
		for _, o := range h.objects {
			answer, err := Explain(h, o)
			if err != nil {
				continue // of its kind nothing is said
			}
			if answer.Text == "" || answer.Object == "" {
				t.Fatalf("seed %d: %T: %+v", seed, o, answer)
			}
			answer.Print(io.Discard)
			answered[h.plural(o)]++
		}
	}
	if len(answered) != 10 {
		t.Errorf("answers were given of %v", answered)
	}
}
