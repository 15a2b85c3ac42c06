package core

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

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
