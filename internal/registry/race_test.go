package registry_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"sampan.dev/internal/cache"
	"sampan.dev/internal/resource"
)

// Many writers count, each on the version it read: no count is lost, and none is made by a writer who was told that it was not.
func TestNoWriteOnAVersionIsLost(t *testing.T) {
	w := newWorld(t)
	k := w.kind("ConfigMap")
	c := configMap("counter")
	c.Data = map[string]string{"n": "0"}
	w.shown(w.create(c))
	var counted atomic.Int64
	var all sync.WaitGroup
	for i := range 8 {
		r := rand.New(rand.NewPCG(uint64(i), 1))
		all.Go(func() {
			for range 50 {
				read := w.cache.Snapshot().Get(k, "default", "counter").Decoded().DeepCopyObject().(*corev1.ConfigMap)
				n, err := strconv.Atoi(read.Data["n"])
				if err != nil {
					t.Error(err)
					return
				}
				read.Data["n"] = strconv.Itoa(n + 1)
				if r.IntN(4) == 0 {
					read.Labels = map[string]string{"who": fmt.Sprint(i)}
				}
				_, _, err = w.Update(context.Background(), k, "", "default", "counter", func(resource.Object) (resource.Object, error) {
					return read.DeepCopy(), nil
				}, metav1.UpdateOptions{})
				switch {
				case err == nil:
					counted.Add(1)
				case !apierrors.IsConflict(err):
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	last := w.shown(w.create(configMap("last")))
	if last == nil {
		t.Fatal("the last is not there")
	}
	got := cache.Typed[*corev1.ConfigMap](w.cache.Snapshot().Get(k, "default", "counter")).Data["n"]
	if want := strconv.FormatInt(counted.Load(), 10); got != want || want == "0" {
		t.Errorf("counted to %s, and %s were told that they had", got, want)
	}
}

// Writers create, change, delete and finalize the same few objects. Whoever watches sees each life whole: it begins once, ends once, and in
// between goes up in versions; and each answer's version is one that was seen.
func TestLivesAreWhole(t *testing.T) {
	w := newWorld(t)
	k := w.kind("ConfigMap")
	watcher, err := w.cache.Watch(k, cache.Selection{}, w.cache.Snapshot().Revision())
	if err != nil {
		t.Fatal(err)
	}
	defer watcher.Stop()
	var mu sync.Mutex
	answered := map[string]bool{}
	answer := func(obj resource.Object, err error) {
		switch {
		case err == nil:
			mu.Lock()
			answered[obj.GetResourceVersion()] = true
			mu.Unlock()
		case !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) && !apierrors.IsNotFound(err):
			t.Error(err)
		}
	}
	var all sync.WaitGroup
	for i := range 6 {
		r := rand.New(rand.NewPCG(uint64(i), 2))
		all.Go(func() {
			for j := range 80 {
				name := fmt.Sprintf("c%d", r.IntN(3))
				switch r.IntN(4) {
				case 0:
					c := configMap(name)
					if r.IntN(2) == 0 {
						c.Finalizers = []string{"a/b"}
					}
					answer(w.Create(context.Background(), k, c, metav1.CreateOptions{}))
				case 1:
					obj, _, err := w.Delete(context.Background(), k, "default", name, metav1.DeleteOptions{})
					answer(obj, err)
				default:
					obj, _, err := w.Update(context.Background(), k, "", "default", name, func(o resource.Object) (resource.Object, error) {
						o.SetResourceVersion("")
						o.SetLabels(map[string]string{"by": fmt.Sprint(i, "-", j)[:1]})
						if r.IntN(2) == 0 {
							o.SetFinalizers(nil)
						}
						return o, nil
					}, metav1.UpdateOptions{})
					answer(obj, err)
				}
			}
		})
	}
	all.Wait()
	last := w.create(configMap("last"))
	alive, uids, seen := map[string]string{}, map[string]bool{}, map[string]bool{}
	for ev := range watcher.Events() {
		obj := ev.Object.Decoded()
		name, uid := obj.GetName(), string(obj.GetUID())
		seen[obj.GetResourceVersion()] = true
		switch ev.Type {
		case watch.Added:
			if alive[name] != "" || uids[uid] {
				t.Fatalf("%s begins while it is there, or again", name)
			}
			alive[name], uids[uid] = uid, true
		case watch.Modified:
			if alive[name] != uid {
				t.Fatalf("%s of %s changes, there is %s", name, uid, alive[name])
			}
		case watch.Deleted:
			if alive[name] != uid {
				t.Fatalf("%s of %s ends, there is %s", name, uid, alive[name])
			}
			if len(obj.GetFinalizers()) > 0 && obj.GetDeletionTimestamp() == nil {
				t.Fatalf("%s ended with finalizers and without warning", name)
			}
			delete(alive, name)
		}
		if obj.GetResourceVersion() == last.GetResourceVersion() {
			break
		}
	}
	for version := range answered {
		if !seen[version] {
			t.Errorf("an answer said version %s, no watcher saw it", version)
		}
	}
	for name, uid := range alive {
		if o := w.cache.Snapshot().Get(k, "default", name); o == nil || string(o.Decoded().GetUID()) != uid {
			t.Errorf("%s of %s is not what is there: %v", name, uid, o)
		}
	}
	if n := w.cache.Snapshot().Count(k); n != len(alive) {
		t.Errorf("%d are there, the watch says %d", n, len(alive))
	}
}
