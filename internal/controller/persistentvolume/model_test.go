package persistentvolume

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"sampan.dev/internal/claim"
	"sampan.dev/internal/loop"
)

// shelf is volumes and claims in memory, which change only at the version that was seen.
type shelf struct {
	volumes map[string]*corev1.PersistentVolume
	claims  map[string]*corev1.PersistentVolumeClaim
	version int
	log     []string
	fail    func() bool // the next write fails
}

func (s *shelf) Volume(name string) *corev1.PersistentVolume           { return s.volumes[name] }
func (s *shelf) Claim(key loop.Key) *corev1.PersistentVolumeClaim      { return s.claims[key.Name] }
func (s *shelf) Record(_ runtime.Object, kind, reason, message string) { s.note(kind, reason, message) }

func (s *shelf) note(words ...any) { s.log = append(s.log, fmt.Sprintln(words...)) }

func (s *shelf) Scene(c *corev1.PersistentVolumeClaim) Scene {
	sc := Scene{Volume: s.volumes[c.Spec.VolumeName]}
	for _, name := range slices.Sorted(maps.Keys(s.volumes)) {
		if v := s.volumes[name]; v.Spec.ClaimRef == nil || claim.Has(v, c) {
			sc.Volumes = append(sc.Volumes, v)
		}
	}
	return sc
}

func write[T any, P interface {
	*T
	DeepCopy() P
	GetResourceVersion() string
	SetResourceVersion(string)
	GetName() string
}](s *shelf, all map[string]P, seen P, change func(P)) (P, error) {
	have := all[seen.GetName()]
	switch {
	case s.fail != nil && s.fail():
		return nil, fmt.Errorf("the power is gone")
	case have == nil:
		return nil, apierrors.NewNotFound(corev1.Resource("things"), seen.GetName())
	case have.GetResourceVersion() != seen.GetResourceVersion():
		return nil, apierrors.NewConflict(corev1.Resource("things"), seen.GetName(), nil)
	}
	next := seen.DeepCopy()
	change(next)
	s.version++
	next.SetResourceVersion(fmt.Sprint(s.version))
	all[seen.GetName()] = next
	return next, nil
}

func (s *shelf) UpdateVolume(_ context.Context, v *corev1.PersistentVolume, change func(*corev1.PersistentVolume)) (*corev1.PersistentVolume, error) {
	return write(s, s.volumes, v, change)
}

func (s *shelf) SetVolumeStatus(_ context.Context, v *corev1.PersistentVolume, change func(*corev1.PersistentVolumeStatus)) (*corev1.PersistentVolume, error) {
	return write(s, s.volumes, v, func(v *corev1.PersistentVolume) { change(&v.Status) })
}

func (s *shelf) UpdateClaim(_ context.Context, c *corev1.PersistentVolumeClaim, change func(*corev1.PersistentVolumeClaim)) (*corev1.PersistentVolumeClaim, error) {
	return write(s, s.claims, c, change)
}

func (s *shelf) SetClaimStatus(_ context.Context, c *corev1.PersistentVolumeClaim, change func(*corev1.PersistentVolumeClaimStatus)) (*corev1.PersistentVolumeClaim, error) {
	return write(s, s.claims, c, func(c *corev1.PersistentVolumeClaim) { change(&c.Status) })
}

func (s *shelf) keys() (keys []loop.Key) {
	for _, name := range slices.Sorted(maps.Keys(s.volumes)) {
		keys = append(keys, loop.Key{Name: name})
	}
	for _, name := range slices.Sorted(maps.Keys(s.claims)) {
		keys = append(keys, loop.Key{Namespace: "ns", Name: name})
	}
	return keys
}

// random is any shelf, as people and an earlier life may have left it.
func random(r *rand.Rand) *shelf {
	s := &shelf{volumes: map[string]*corev1.PersistentVolume{}, claims: map[string]*corev1.PersistentVolumeClaim{}}
	for i := range 1 + r.IntN(6) {
		name := fmt.Sprint("v", i)
		words := [][]string{nil, nil, {"shared"}, {"for c1"}, {"bound c0"}, {"bound c7"}, {"delete"}, {"bound c1", "delete"}, {"going"}}[r.IntN(9)]
		s.volumes[name] = newVolume(name, 1+r.IntN(4), words...)
		if r.IntN(2) == 0 {
			s.volumes[name].Status.Phase = corev1.VolumePending
		}
	}
	for i := range 1 + r.IntN(5) {
		name := fmt.Sprint("c", i)
		words := [][]string{nil, nil, nil, {"named v1"}, {"named v2", "by-controller"}, {"bound v0"}}[r.IntN(6)]
		s.claims[name] = newClaim(name, 1+r.IntN(4), words...)
		if r.IntN(5) == 0 {
			s.claims[name].UID = types.UID(name + "-again")
		}
	}
	return s
}

// rest reconciles in any order, with writes failing now and then, until nothing is written any more.
func (s *shelf) rest(t *testing.T, r *rand.Rand, seed uint64) {
	c := New(s, s, s, nil, nil)
	for round := range 60 {
		before := s.version
		s.fail = nil
		if round < 20 {
			s.fail = func() bool { return r.IntN(4) == 0 }
		}
		keys := s.keys()
		r.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
		for _, key := range keys {
			_ = c.Reconcile(t.Context(), key) // what fails is tried again
		}
		if s.fail == nil && s.version == before {
			return
		}
	}
	t.Fatalf("seed %d: it never rests: %q", seed, s.log)
}

func TestFromAnyStartEachVolumeHasOneClaimAndEachClaimOneVolume(t *testing.T) {
	for seed := range uint64(3000) {
		r := rand.New(rand.NewPCG(seed, 7))
		s := random(r)
		lost := map[string]bool{}
		for name, c := range s.claims {
			lost[name] = c.Annotations[claim.Completed] != ""
		}
		s.rest(t, r, seed)
		owner := map[string]string{}
		for name, c := range s.claims {
			v := s.volumes[c.Spec.VolumeName]
			switch c.Status.Phase {
			case corev1.ClaimBound:
				if v == nil || v.Spec.ClaimRef == nil || v.Spec.ClaimRef.UID != c.UID || v.Status.Phase != corev1.VolumeBound || claim.Size(c.Status.Capacity) != claim.Size(v.Spec.Capacity) {
					t.Fatalf("seed %d: %s is bound to %+v", seed, name, v)
				}
				if owner[v.Name] != "" {
					t.Fatalf("seed %d: %s has the volume of %s", seed, name, owner[v.Name])
				}
				owner[v.Name] = name
				if !lost[name] && claim.Size(v.Spec.Capacity) < claim.Size(c.Spec.Resources.Requests) && !slices.Contains([]string{"v0", "v1", "v2"}, v.Name) {
					t.Fatalf("seed %d: %s got a volume that is too small", seed, name)
				}
			case corev1.ClaimPending:
				for _, v := range s.volumes {
					if c.Spec.VolumeName == "" && claim.Does(v, c) {
						t.Fatalf("seed %d: %s waits, while %s is there", seed, name, v.Name)
					}
				}
			case corev1.ClaimLost:
				if !lost[name] {
					t.Fatalf("seed %d: %s was never bound, and is lost", seed, name)
				}
			}
		}
		for name, v := range s.volumes {
			if v.Status.Phase != corev1.VolumeBound || owner[name] != "" {
				continue
			}
			// One that somebody has given to a claim which it does not do for stays between the two, as upstream has it.
			if c := s.claims[v.Spec.ClaimRef.Name]; c == nil || c.UID != v.Spec.ClaimRef.UID || c.Spec.VolumeName != "" || claim.Best(c, []*corev1.PersistentVolume{v}, false) != nil {
				t.Fatalf("seed %d: %s is bound to nobody: %v", seed, name, v.Spec.ClaimRef)
			}
		}
	}
}
