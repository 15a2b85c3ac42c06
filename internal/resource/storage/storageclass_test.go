package storage

import (
	"fmt"
	"strings"
	"testing"
	"time"

	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

func classOf(t *testing.T, text string) *storagev1.StorageClass {
	t.Helper()
	c := &storagev1.StorageClass{}
	if err := yaml.UnmarshalStrict([]byte(text), c); err != nil {
		t.Fatal(err)
	}
	StorageClass().Default(c)
	return c
}

func TestClassesThatAreWrong(t *testing.T) {
	for name, c := range map[string]struct{ class, want string }{
		"the least":                  {"{provisioner: Example.org/p}", ""},
		"nobody makes volumes":       {"{}", "provisioner: Required value"},
		"somebody who cannot be":     {"{provisioner: /p}", `provisioner: Invalid value: "/p": prefix part must be non-empty`},
		"reclaimed by recycling":     {"{provisioner: p, reclaimPolicy: Recycle}", `reclaimPolicy: Unsupported value: "Recycle": supported values: "Delete", "Retain"`},
		"bound some day":             {"{provisioner: p, volumeBindingMode: Someday}", `volumeBindingMode: Unsupported value: "Someday": supported values: "Immediate", "WaitForFirstConsumer"`},
		"a parameter without a name": {"{provisioner: p, parameters: {'': x}}", `parameters: Invalid value: "": field can not be empty.`},
		"parameters that fill disks": {"{provisioner: p, parameters: {x: " + strings.Repeat("x", 256<<10) + "}}", "parameters: Too long: may not be more than 262144 bytes"},
		"topologies":                 {"{provisioner: p, allowedTopologies: [{matchLabelExpressions: [{key: zone, values: [a, b]}]}]}", ""},
		"nowhere":                    {"{provisioner: p, allowedTopologies: [{matchLabelExpressions: [{key: zone, values: []}]}]}", "allowedTopologies[0].matchLabelExpressions[0].values: Required value"},
		"a place twice":              {"{provisioner: p, allowedTopologies: [{matchLabelExpressions: [{key: zone, values: [a, a]}]}]}", `allowedTopologies[0].matchLabelExpressions[0].values[1]: Duplicate value: "a"`},
		"a key twice":                {"{provisioner: p, allowedTopologies: [{matchLabelExpressions: [{key: zone, values: [a]}, {key: zone, values: [b]}]}]}", `allowedTopologies[0].matchLabelExpressions[1].key: Duplicate value: "zone"`},
		"a term twice":               {"{provisioner: p, allowedTopologies: [{matchLabelExpressions: [{key: zone, values: [a, b]}]}, {matchLabelExpressions: [{key: zone, values: [b, a]}]}]}", `allowedTopologies[1].matchLabelExpressions: Duplicate value: ""`},
	} {
		t.Run(name, func(t *testing.T) {
			got := ""
			if errs := class(classOf(t, c.class)); len(errs) > 0 {
				got = errs.ToAggregate().Error()
			}
			if got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestWhatCannotBeChanged(t *testing.T) {
	old := classOf(t, "{provisioner: p, parameters: {a: b}}")
	for text, want := range map[string]string{
		"{provisioner: p, parameters: {a: b}, allowVolumeExpansion: true, mountOptions: [ro]}": "",
		"{provisioner: q, parameters: {a: b}}":                                                 "provisioner: Forbidden: updates to provisioner are forbidden.",
		"{provisioner: p, parameters: {a: c}}":                                                 "parameters: Forbidden: updates to parameters are forbidden.",
		"{provisioner: p, parameters: {a: b}, reclaimPolicy: Retain}":                          "reclaimPolicy: Forbidden: updates to reclaimPolicy are forbidden.",
		"{provisioner: p, parameters: {a: b}, volumeBindingMode: WaitForFirstConsumer}":        `volumeBindingMode: Invalid value: "WaitForFirstConsumer": field is immutable`,
	} {
		got := ""
		if errs := classUpdate(classOf(t, text), old); len(errs) > 0 {
			got = errs.ToAggregate().Error()
		}
		if got != want {
			t.Errorf("%s\ngot  %s\nwant %s", text, got, want)
		}
	}
}

func TestTheRow(t *testing.T) {
	c := classOf(t, "{provisioner: p, metadata: {name: local, annotations: {storageclass.beta.kubernetes.io/is-default-class: 'true'}}}")
	c.CreationTimestamp = metav1.Unix(0, 0)
	if got := fmt.Sprint(StorageClass().Row(c, time.Unix(60, 0))); got != "[local (default) p Delete Immediate false 60s]" {
		t.Errorf("it is %s", got)
	}
}
