package loops

import (
	"cmp"
	"maps"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/cache"
	"sampan.dev/internal/claim"
	"sampan.dev/internal/loop"
	"sampan.dev/internal/resource"
	"sampan.dev/internal/resource/core"
)

// storageIndex finds volumes by claim and class, and pods by claim, without looking at all of them. It is brought up to date before any loop hears of a change.
type storageIndex struct {
	mu     sync.Mutex                // guards all below
	kept   index[loop.Key, string]   // volumes by the claim that they are kept for
	nobody index[string, string]     // volumes that are kept for none, by class
	open   index[string, loop.Key]   // claims that have not been bound, by class
	ask    index[string, loop.Key]   // claims by the volume that they name
	used   index[loop.Key, loop.Key] // pods by claim
}

// index is sets of things by something that they have in common.
type index[K, V comparable] map[K]map[V]struct{}

func (i index[K, V]) add(key K, value V) {
	if i[key] == nil {
		i[key] = map[V]struct{}{}
	}
	i[key][value] = struct{}{}
}

func (i index[K, V]) remove(key K, value V) {
	if delete(i[key], value); len(i[key]) == 0 {
		delete(i, key)
	}
}

func newStorageIndex() *storageIndex {
	return &storageIndex{
		kept: index[loop.Key, string]{}, nobody: index[string, string]{}, open: index[string, loop.Key]{},
		ask: index[string, loop.Key]{}, used: index[loop.Key, loop.Key]{},
	}
}

// changed takes a change over. The cache tells of them one after another.
func (s storing) changed(kind *resource.Kind, ch change) {
	switch {
	case kind != s.pods && kind != s.claims && kind != s.volumes:
		return
	case kind == s.pods && ch.old != nil && ch.new != nil && ch.was.UID == ch.is.UID:
		return // a pod's volumes never change: most changes are of a status, and cost nothing here
	}
	x := s.index
	x.mu.Lock()
	defer x.mu.Unlock()
	if ch.old != nil {
		s.enter(ch.old, ch.key, false)
	}
	if ch.new != nil {
		s.enter(ch.new, ch.key, true)
	}
}

func (s storing) enter(o *cache.Object, key loop.Key, in bool) {
	x := s.index
	switch o.Kind() {
	case s.volumes:
		v := cache.Typed[*corev1.PersistentVolume](o)
		if r := v.Spec.ClaimRef; r != nil {
			put(x.kept, in, loop.Key{Namespace: r.Namespace, Name: r.Name}, v.Name)
		} else {
			put(x.nobody, in, core.VolumeClass(v), v.Name)
		}
	case s.claims:
		c := cache.Typed[*corev1.PersistentVolumeClaim](o)
		if !metav1.HasAnnotation(c.ObjectMeta, claim.Completed) {
			put(x.open, in, core.ClaimClass(c), key)
		}
		if c.Spec.VolumeName != "" {
			put(x.ask, in, c.Spec.VolumeName, key)
		}
	case s.pods:
		for name := range claim.Names(cache.Typed[*corev1.Pod](o)) {
			put(x.used, in, loop.Key{Namespace: key.Namespace, Name: name}, key)
		}
	}
}

func put[K, V comparable](i index[K, V], in bool, key K, value V) {
	if in {
		i.add(key, value)
	} else {
		i.remove(key, value)
	}
}

func byKey(a, b loop.Key) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

func (x *storageIndex) keptFor(c loop.Key) []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Sorted(maps.Keys(x.kept[c]))
}

func (x *storageIndex) free(class string) []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Sorted(maps.Keys(x.nobody[class]))
}

func (x *storageIndex) pending(class string) []loop.Key {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.SortedFunc(maps.Keys(x.open[class]), byKey)
}

func (x *storageIndex) isPending(c loop.Key) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, keys := range x.open { // there are few classes
		if _, is := keys[c]; is {
			return true
		}
	}
	return false
}

func (x *storageIndex) naming(volume string) []loop.Key {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.SortedFunc(maps.Keys(x.ask[volume]), byKey)
}

func (x *storageIndex) users(c loop.Key) []loop.Key {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.SortedFunc(maps.Keys(x.used[c]), byKey)
}
