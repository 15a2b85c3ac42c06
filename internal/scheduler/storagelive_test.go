package scheduler

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/claim"
	"sampan.dev/internal/loop"
)

// depot is storage that the scheduler writes, and a binder that finishes some time later what it has begun.
type depot struct {
	mu     sync.Mutex
	w      *world
	stock  *warehouse
	late   time.Duration             // of the binder; below zero: it does not come
	refuse func(volume string) error // asked before each write
	given  map[string][]loop.Key     // to whom each volume was ever given
	work   sync.WaitGroup
}

func (d *depot) Claim(key loop.Key) *corev1.PersistentVolumeClaim {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stock.claims[key]
}

func (d *depot) Volume(name string) *corev1.PersistentVolume {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stock.volumes[name]
}

func (d *depot) Class(name string) *storagev1.StorageClass { return d.stock.classes[name] }

func (d *depot) BindVolume(_ context.Context, v *corev1.PersistentVolume, c *corev1.PersistentVolumeClaim) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.refuse != nil {
		if err := d.refuse(v.Name); err != nil {
			return err
		}
	}
	now := d.stock.volumes[v.Name].DeepCopy()
	key := loop.Key{Namespace: c.Namespace, Name: c.Name}
	if now.Spec.ClaimRef != nil && !claim.Has(now, c) {
		return fmt.Errorf("volume %s is given twice", v.Name)
	}
	claim.Give(now, c)
	d.stock.volumes[v.Name] = now
	d.given[v.Name] = append(d.given[v.Name], key)
	d.w.s.VolumeChanged(v.Name)
	if d.late >= 0 {
		d.work.Go(func() { time.Sleep(d.late); d.finish(v.Name, key) })
	}
	return nil
}

// finish is the binder's part.
func (d *depot) finish(volume string, key loop.Key) {
	d.mu.Lock()
	v, c := d.stock.volumes[volume].DeepCopy(), d.stock.claims[key].DeepCopy()
	if claim.IsBound(c) && c.Spec.VolumeName != volume {
		d.w.note("%s is to have two volumes, %s and %s", key, c.Spec.VolumeName, volume)
	}
	v.Status.Phase = corev1.VolumeBound
	c.Spec.VolumeName, c.Status.Phase = volume, corev1.ClaimBound
	metav1.SetMetaDataAnnotation(&c.ObjectMeta, claim.Completed, "yes")
	d.stock.volumes[volume], d.stock.claims[key] = v, c
	d.mu.Unlock()
	d.w.s.VolumeChanged(volume)
	d.w.s.ClaimChanged(key)
}

func (d *depot) SelectNode(_ context.Context, c *corev1.PersistentVolumeClaim, node string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	next := c.DeepCopy()
	metav1.SetMetaDataAnnotation(&next.ObjectMeta, claim.SelectedNode, node)
	d.stock.claims[loop.Key{Namespace: c.Namespace, Name: c.Name}] = next
	return nil
}

// tell says that all of the storage has changed.
func (d *depot) tell() {
	for name := range d.stock.volumes {
		d.w.s.VolumeChanged(name)
	}
	for key := range d.stock.claims {
		d.w.s.ClaimChanged(key)
	}
	d.w.s.ClassChanged()
}

func withDepot(t *testing.T, act func(t *testing.T, w *world, d *depot)) {
	t.Helper()
	d := &depot{stock: newWarehouse(), given: map[string][]loop.Key{}}
	d.stock.class("local", true)
	liveWith(t, func(w *world) Config {
		d.w = w
		return Config{Source: w, API: w, Storage: d, Recorder: func(string) Recorder { return w }, Metrics: NewMetrics()}
	}, func(t *testing.T, w *world) {
		act(t, w, d)
		d.work.Wait()
	})
}

func TestAPodIsBoundOnceItsClaimsAre(t *testing.T) {
	withDepot(t, func(t *testing.T, w *world, d *depot) {
		d.late = 3 * time.Second
		d.stock.claim("data", "local", 1)
		d.stock.volume("v", "local", 1, "b")
		d.tell()
		w.put(aNode("a", "cpu=4"), aNode("b", "cpu=4"), aPod("p", "cpu=1", with("data")))
		if got := w.told(); len(got) > 0 {
			t.Errorf("before its claim is bound: %q", got)
		}
		// Meanwhile another pod does not get the volume, nor the room on the node.
		d.mu.Lock()
		d.stock.claim("more", "local", 1)
		d.mu.Unlock()
		d.w.s.ClaimChanged(loop.Key{Namespace: "shop", Name: "more"})
		w.put(aPod("q", "cpu=1", with("more")))
		if got := strings.Join(w.told(), "\n"); !strings.Contains(got, "2 node(s) didn't find available persistent volumes to bind") {
			t.Errorf("the other pod: %s", got)
		}
		time.Sleep(3 * time.Second)
		if got := strings.Join(w.told(), "\n"); !strings.Contains(got, "3s: p on b") {
			t.Errorf("once it is bound: %s", got)
		}
		// A volume that comes wakes the other.
		d.mu.Lock()
		d.stock.volume("u", "local", 2, "a")
		d.mu.Unlock()
		w.s.VolumeChanged("u")
		time.Sleep(3 * time.Second)
		if got := strings.Join(w.told(), "\n"); !strings.Contains(got, "q on a") {
			t.Errorf("once there is a volume: %s", got)
		}
	})
}

func TestAChoiceThatCannotBeWrittenIsGivenBack(t *testing.T) {
	withDepot(t, func(t *testing.T, w *world, d *depot) {
		refused := 0
		d.refuse = func(string) error {
			if refused++; refused == 1 {
				return errors.New("the disk is full")
			}
			return nil
		}
		d.stock.claim("data", "local", 1)
		d.stock.volume("v", "local", 1, "a")
		d.tell()
		w.put(aNode("a", "cpu=1"), aPod("p", "cpu=1", with("data")))
		if got := strings.Join(w.told(), "\n"); !strings.Contains(got, `FailedScheduling running PreBind plugin "VolumeBinding": the disk is full`) {
			t.Errorf("the failure is not told: %s", got)
		}
		time.Sleep(2 * time.Second)
		if got := strings.Join(w.told(), "\n"); !strings.Contains(got, "p on a") {
			t.Errorf("it is not tried again: %s", got)
		}
	})
}

func TestAPodWhoseClaimsAreNeverBoundIsTriedAgain(t *testing.T) {
	withDepot(t, func(t *testing.T, w *world, d *depot) {
		d.late = -1
		d.stock.claim("data", "local", 1)
		d.stock.volume("v", "local", 1, "a")
		d.tell()
		w.put(aNode("a", "cpu=1"), aPod("p", "cpu=1", with("data")))
		w.told()
		time.Sleep(bindPatience + time.Second)
		if got := strings.Join(w.told(), "\n"); !strings.Contains(got, `running PreBind plugin "VolumeBinding": binding volumes: context deadline exceeded`) {
			t.Errorf("after ten minutes: %s", got)
		}
		w.delete("p")
		synctest.Wait()
		if n := len(w.s.stowing) + len(w.s.awaited) + len(w.s.nodes.shelf.promised); n > 0 {
			t.Errorf("%d things are kept for a pod that is gone", n)
		}
	})
}

// From any storage, in any order: no volume is given to two claims, each pod is where its volumes are, and a pod waits only if there is nothing for it.
func TestNoVolumeIsGivenTwice(t *testing.T) {
	for seed := range uint64(200) {
		withDepot(t, func(t *testing.T, w *world, d *depot) {
			r := rand.New(rand.NewPCG(seed, 5))
			d.late = time.Duration(r.IntN(3)) * time.Second
			chance := rand.New(rand.NewPCG(seed, 6)) // under the depot's lock
			d.refuse = func(string) error {
				if chance.IntN(6) == 0 {
					return errors.New("it is refused")
				}
				return nil
			}
			nodes := []string{"a", "b", "c"}
			for i := range 12 {
				d.stock.volume(fmt.Sprint("v", i), "local", 1+r.IntN(3), nodes[r.IntN(3)])
			}
			for i := range 12 {
				d.stock.claim(fmt.Sprint("c", i), "local", 1+r.IntN(3))
			}
			d.tell()
			for _, n := range nodes {
				w.put(aNode(n, "cpu=3"))
			}
			for i := range 8 {
				w.put(aPod(fmt.Sprint("p", i), "cpu=1", with(fmt.Sprint("c", i), fmt.Sprint("c", (i+r.IntN(2)*4)%12))))
				time.Sleep(time.Duration(r.IntN(2)) * time.Second)
			}
			time.Sleep(5 * time.Minute)
			synctest.Wait()
			if told := strings.Join(w.told(), "\n"); strings.Contains(told, "two volumes") {
				t.Errorf("seed %d: %s", seed, told)
			}
			for volume, claims := range d.given {
				slices.SortFunc(claims, byKey)
				if len(slices.Compact(claims)) > 1 {
					t.Errorf("seed %d: %s is given to %v", seed, volume, claims)
				}
			}
			taken := map[string]int{}
			for _, pod := range w.pods {
				if pod.Spec.NodeName == "" {
					continue
				}
				taken[pod.Spec.NodeName]++
				for name := range claim.Names(pod) {
					v := d.stock.volumes[d.stock.claims[loop.Key{Namespace: "shop", Name: name}].Spec.VolumeName]
					if v == nil || !claim.Reaches(v, map[string]string{"kubernetes.io/hostname": pod.Spec.NodeName}) {
						t.Errorf("seed %d: %s is on %s, its volume is %v", seed, pod.Name, pod.Spec.NodeName, v)
					}
				}
			}
			if len(w.s.stowing)+len(w.s.awaited) > 0 {
				t.Errorf("seed %d: pods still wait for claims", seed)
			}
		})
	}
}
