package loops

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/loop"
	kind "sampan.dev/internal/resource"
)

// counted is the index as it would be if it were made anew of all that is there.
func (p *plane) counted() *storageIndex {
	s := p.storage
	s.index = newStorageIndex()
	for _, k := range []*kind.Kind{s.volumes, s.claims, s.pods} {
		for o := range p.Cache.Snapshot().List(k, all) {
			s.enter(o, keyOf(o), true)
		}
	}
	return s.index
}

func (x *storageIndex) same(y *storageIndex) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return reflect.DeepEqual(x.kept, y.kept) && reflect.DeepEqual(x.nobody, y.nobody) && reflect.DeepEqual(x.open, y.open) && reflect.DeepEqual(x.ask, y.ask) && reflect.DeepEqual(x.used, y.used)
}

// Whatever comes and goes, and when the loops begin anew, the index is what is there; and what has been bound stays so.
func TestTheIndexOfStorageIsWhatIsThere(t *testing.T) {
	dir := t.TempDir()
	p, stop := start(t, dir)
	r := rand.New(rand.NewPCG(4, 4))
	one := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	modes := []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	put := func(i int) {
		name := fmt.Sprint("x", i)
		p.make(p.storage.claims, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: modes, Resources: corev1.VolumeResourceRequirements{Requests: one},
		}})
		if i%3 > 0 {
			p.make(p.storage.volumes, &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeSpec{
				AccessModes: modes, Capacity: one, PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/data"}},
			}})
		}
		p.make(p.pods, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.PodSpec{
			Containers: []corev1.Container{{Name: "c", Image: "i"}},
			Volumes:    []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}}},
		}})
	}
	remove := func(i int) {
		name := fmt.Sprint("x", i)
		for _, k := range []*kind.Kind{p.pods, p.storage.claims, p.storage.volumes} {
			if r.IntN(2) == 0 {
				namespace := "default"
				if !k.Namespaced {
					namespace = ""
				}
				_, _, _ = p.Registry.Delete(p.ctx, k, namespace, name, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))})
			}
		}
	}
	bound := func() (names map[string]string) {
		names = map[string]string{}
		for o := range p.Cache.Snapshot().List(p.storage.claims, all) {
			if c := o.Decoded().(*corev1.PersistentVolumeClaim); c.Status.Phase == corev1.ClaimBound && c.DeletionTimestamp == nil {
				names[c.Name] = c.Spec.VolumeName
			}
		}
		return names
	}
	check := func(what string) {
		t.Helper()
		for i := range 1000 { // once another write is seen, all have been told of those before it
			p.make(p.configs, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint(what, i)}})
			if p.storage.index.same(p.counted()) {
				return
			}
		}
		t.Fatalf("%s: the index is not what is there", what)
	}
	for i := range 30 {
		put(i)
		if i%2 == 0 {
			remove(r.IntN(i + 1))
		}
	}
	check("early")
	p.until("no claim waits while there is a volume", func() bool {
		free, waiting := 0, 0
		for o := range p.Cache.Snapshot().List(p.storage.volumes, all) {
			if v := o.Decoded().(*corev1.PersistentVolume); v.Spec.ClaimRef == nil && v.DeletionTimestamp == nil {
				free++
			}
		}
		for o := range p.Cache.Snapshot().List(p.storage.claims, all) {
			if o.Decoded().(*corev1.PersistentVolumeClaim).Status.Phase != corev1.ClaimBound {
				waiting++
			}
		}
		return (free == 0 || waiting == 0) && len(bound()) > 3
	})
	check("late")
	before := bound()
	stop()
	p, _ = start(t, dir)
	check("anew")
	for name, volume := range before {
		c := p.storage.Claim(loop.Key{Namespace: "default", Name: name})
		if c == nil || c.Spec.VolumeName != volume || c.Status.Phase != corev1.ClaimBound {
			t.Errorf("%s had %s, and after a new beginning: %+v", name, volume, c)
		}
	}
}
