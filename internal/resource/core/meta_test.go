package core

import (
	"math/rand/v2"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/resource"
)

func TestWhatAnUpdateMayDoToMetadata(t *testing.T) {
	old := podWith(t, "")
	old.ResourceVersion, old.UID, old.Generation = "7", "u", 2
	deleted := metav1.NewTime(time.Unix(1, 0))
	for name, c := range map[string]struct {
		old, new func(o *metav1.ObjectMeta)
		want     []string
	}{
		"a label": {nil, func(o *metav1.ObjectMeta) { o.Labels = map[string]string{"a": "b"} }, nil},
		"no version": {nil, func(o *metav1.ObjectMeta) { o.ResourceVersion = "" }, []string{
			`metadata.resourceVersion: Invalid value: "": must be specified for an update`,
		}},
		"another name": {nil, func(o *metav1.ObjectMeta) { o.Name = "z" }, []string{
			`metadata.name: Invalid value: "z": field is immutable`,
		}},
		"another uid": {nil, func(o *metav1.ObjectMeta) { o.UID = "v" }, []string{
			`metadata.uid: Invalid value: "v": field is immutable`,
		}},
		"an older generation": {nil, func(o *metav1.ObjectMeta) { o.Generation = 1 }, []string{
			"metadata.generation: Invalid value: 1: must not be decremented",
		}},
		"a finalizer while it is deleted": {
			func(o *metav1.ObjectMeta) { o.DeletionTimestamp = &deleted },
			func(o *metav1.ObjectMeta) { o.DeletionTimestamp, o.Finalizers = &deleted, []string{"a/b"} },
			[]string{`metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{"a/b"}`},
		},
		"a finalizer of no domain": {nil, func(o *metav1.ObjectMeta) { o.Finalizers = []string{"mine"} }, []string{
			`metadata.finalizers[0]: Invalid value: "mine": name is neither a standard finalizer name nor is it fully qualified`,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			was, now := old.DeepCopy(), old.DeepCopy()
			if c.old != nil {
				c.old(&was.ObjectMeta)
			}
			c.new(&now.ObjectMeta)
			same(t, told(resource.ValidateMetaUpdate(Pod(), now, was)), c.want...)
		})
	}
}

// Metadata that did not change is not looked at again: what is then not said would not have been said.
func TestMetadataThatStaysIsValidAsItWas(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	texts := []string{"", "a", "b", "-", "a/b", "A B"}
	text := func() string { return texts[random.IntN(len(texts))] }
	change := func(o *metav1.ObjectMeta) {
		switch random.IntN(9) {
		case 0:
			o.Name = text()
		case 1:
			o.Labels = map[string]string{text(): text()}
		case 2:
			o.Annotations = map[string]string{text(): text()}
		case 3:
			o.Finalizers = []string{text()}
		case 4:
			o.OwnerReferences = []metav1.OwnerReference{{APIVersion: text(), Kind: text(), Name: text(), UID: types.UID(text()), Controller: new(random.IntN(2) == 0)}}
		case 5:
			o.Generation = int64(random.IntN(4) - 1)
		case 6:
			o.ResourceVersion = text()
		case 7:
			o.DeletionTimestamp = new(metav1.Unix(int64(random.IntN(2)), 0))
		case 8:
			o.DeletionGracePeriodSeconds = new(int64(random.IntN(3) - 1))
		}
	}
	stays := 0
	for range 20_000 {
		old := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "x", Namespace: "default", UID: "u", ResourceVersion: "1", Generation: 1}}
		change(&old.ObjectMeta)
		change(&old.ObjectMeta)
		at := field.NewPath("metadata")
		if len(apivalidation.ValidateObjectMetaAccessorUpdate(old, old, at)) > 0 {
			continue // what is stored was valid when it was
		}
		now := old.DeepCopy()
		if random.IntN(3) > 0 {
			change(&now.ObjectMeta)
		} else {
			stays++
		}
		got, want := resource.ValidateMetaUpdate(Pod(), now, old), apivalidation.ValidateObjectMetaAccessorUpdate(now, old, at)
		if len(got) < len(want) {
			t.Fatalf("from %+v\nto %+v\nnothing is said, but wanted: %v", old.ObjectMeta, now.ObjectMeta, want)
		}
	}
	if stays == 0 {
		t.Error("nothing stayed as it was: this has tested nothing")
	}
}
