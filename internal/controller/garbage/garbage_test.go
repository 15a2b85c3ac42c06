package garbage

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"sampan.dev/internal/resource"
)

var thing = &resource.Kind{GroupVersionKind: schema.GroupVersionKind{Version: "v1", Kind: "Thing"}, Plural: "things", Namespaced: true}

// heap is an API of things, which deletes as Kubernetes does and tells the controller of each change.
type heap struct {
	c       *Controller
	things  map[Ref]*Meta
	deleted []string
}

func newHeap() *heap {
	h := &heap{things: map[Ref]*Meta{}}
	h.c = New(h, h, nil, nil)
	return h
}

func at(name string) Ref { return Ref{Kind: thing, Namespace: "shop", Name: name} }

func (h *heap) Meta(ref Ref) *Meta { return h.things[ref] }

func (h *heap) Kind(gvk schema.GroupVersionKind) *resource.Kind {
	if gvk.Kind == "Thing" {
		return thing
	}
	return nil
}

func (h *heap) ByName(schema.GroupResource) *resource.Kind { return thing }

func (h *heap) set(ref Ref, m *Meta) {
	old := h.things[ref]
	if m == nil || m.Deleting && len(m.Finalizers) == 0 {
		delete(h.things, ref)
		h.deleted = append(h.deleted, ref.Name)
		h.c.Changed(ref, old, nil)
		return
	}
	h.things[ref] = m
	h.c.Changed(ref, old, m)
}

func (h *heap) Delete(_ context.Context, ref Ref, uid types.UID, policy metav1.DeletionPropagation) error {
	old := h.things[ref]
	if old == nil || old.UID != uid {
		return apierrors.NewNotFound(corev1.Resource("things"), ref.Name)
	}
	m := *old
	m.Deleting = true
	m.Finalizers = slices.DeleteFunc(slices.Clone(m.Finalizers), func(f string) bool {
		return f == metav1.FinalizerOrphanDependents || f == metav1.FinalizerDeleteDependents
	})
	switch policy {
	case metav1.DeletePropagationForeground:
		m.Finalizers = append(m.Finalizers, metav1.FinalizerDeleteDependents)
	case metav1.DeletePropagationOrphan:
		m.Finalizers = append(m.Finalizers, metav1.FinalizerOrphanDependents)
	}
	h.set(ref, &m)
	return nil
}

func (h *heap) UpdateMeta(_ context.Context, ref Ref, uid types.UID, change func(metav1.Object)) error {
	old := h.things[ref]
	if old == nil || old.UID != uid {
		return apierrors.NewNotFound(corev1.Resource("things"), ref.Name)
	}
	o := &metav1.ObjectMeta{OwnerReferences: slices.Clone(old.Owners), Finalizers: slices.Clone(old.Finalizers)}
	change(o)
	m := *old
	m.Owners, m.Finalizers = o.OwnerReferences, o.Finalizers
	h.set(ref, &m)
	return nil
}

// owned makes a thing; an owner beginning with "!" is blocked by it.
func (h *heap) owned(name string, owners ...string) {
	m := &Meta{UID: types.UID("uid-" + name)}
	for _, o := range owners {
		block := o[0] == '!'
		if block {
			o = o[1:]
		}
		m.Owners = append(m.Owners, metav1.OwnerReference{APIVersion: "v1", Kind: "Thing", Name: o, UID: types.UID("uid-" + o), BlockOwnerDeletion: &block})
	}
	h.set(at(name), m)
}

// settle reconciles everything until nothing changes any more.
func (h *heap) settle(t *testing.T) {
	t.Helper()
	for range 100 {
		before := fmt.Sprintf("%v", h.snapshot())
		for _, ref := range h.refs() {
			if err := h.c.Reconcile(t.Context(), ref); err != nil {
				t.Fatal(err)
			}
		}
		if fmt.Sprintf("%v", h.snapshot()) == before {
			return
		}
	}
	t.Fatal("it never settles")
}

func (h *heap) refs() []Ref {
	var refs []Ref
	for ref := range h.things {
		refs = append(refs, ref)
	}
	slices.SortFunc(refs, func(a, b Ref) int { return compare(a.Name, b.Name) })
	return refs
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func (h *heap) snapshot() []string {
	var lines []string
	for _, ref := range h.refs() {
		lines = append(lines, fmt.Sprintf("%s %+v", ref.Name, *h.things[ref]))
	}
	return lines
}

func (h *heap) left() []string {
	var names []string
	for _, ref := range h.refs() {
		names = append(names, ref.Name)
	}
	return names
}

func TestDeletion(t *testing.T) {
	background, foreground, orphan := metav1.DeletePropagationBackground, metav1.DeletePropagationForeground, metav1.DeletePropagationOrphan
	for _, c := range []struct {
		name   string
		make   func(h *heap)
		delete string
		policy metav1.DeletionPropagation
		left   []string
		order  []string
	}{
		{"what is owned follows its owner", func(h *heap) { h.owned("a"); h.owned("b", "a"); h.owned("c", "b"); h.owned("d") }, "a", background, []string{"d"}, []string{"a", "b", "c"}},
		{"a second owner keeps it", func(h *heap) { h.owned("a"); h.owned("a2"); h.owned("b", "a", "a2") }, "a", background, []string{"a2", "b"}, []string{"a"}},
		{"in the foreground it goes before its owner", func(h *heap) { h.owned("a"); h.owned("b", "!a"); h.owned("c", "!b") }, "a", foreground, nil, []string{"c", "b", "a"}},
		{"what does not block goes too, whenever", func(h *heap) { h.owned("a"); h.owned("b", "a") }, "a", foreground, nil, nil},
		{"what blocks but has another owner is let off", func(h *heap) { h.owned("a"); h.owned("a2"); h.owned("b", "!a", "a2") }, "a", foreground, []string{"a2", "b"}, []string{"a"}},
		{"orphans stay", func(h *heap) { h.owned("a"); h.owned("b", "!a"); h.owned("c", "b") }, "a", orphan, []string{"b", "c"}, []string{"a"}},
		{"the last in the foreground is nobody's owner", func(h *heap) { h.owned("a") }, "a", foreground, nil, []string{"a"}},
		{"the last to orphan has no dependents", func(h *heap) { h.owned("a") }, "a", orphan, nil, []string{"a"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHeap()
			c.make(h)
			h.settle(t)
			if len(h.deleted) > 0 {
				t.Fatalf("deleted before anything happened: %q", h.deleted)
			}
			if err := h.Delete(t.Context(), at(c.delete), types.UID("uid-"+c.delete), c.policy); err != nil {
				t.Fatal(err)
			}
			h.settle(t)
			if !slices.Equal(h.left(), c.left) || c.order != nil && !slices.Equal(h.deleted, c.order) {
				t.Errorf("left %q, want %q; deleted %q, want %q", h.left(), c.left, h.deleted, c.order)
			}
			if len(h.left()) == 0 && len(h.c.dependents) > 0 {
				t.Errorf("the index still holds %v", h.c.dependents)
			}
		})
	}
}

func TestAnOwnerThatCannotBeLookedUpKeepsWhatItOwns(t *testing.T) {
	h := newHeap()
	h.set(at("a"), &Meta{UID: "1", Owners: []metav1.OwnerReference{{APIVersion: "example.com/v1", Kind: "Custom", Name: "x", UID: "2"}}})
	h.settle(t)
	if len(h.left()) != 1 {
		t.Error("it was deleted")
	}
}

func TestANamesakeOfTheOwnerIsNotTheOwner(t *testing.T) {
	h := newHeap()
	h.owned("a")
	h.owned("b", "a")
	h.things[at("a")] = &Meta{UID: "another"}
	h.settle(t)
	if !slices.Equal(h.left(), []string{"a"}) {
		t.Errorf("left %q", h.left())
	}
}

// From any forest and any deletions: nothing without a living owner is left, nothing with one is gone, and nobody waits for ever.
func TestWhateverIsDeletedItSettles(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 7))
		h := newHeap()
		owners := map[string][]string{}
		for i := range 12 {
			name := fmt.Sprintf("t%02d", i)
			for j := range i {
				if r.IntN(4) == 0 {
					o := fmt.Sprintf("t%02d", j)
					owners[name] = append(owners[name], o)
				}
			}
			var named []string
			for _, o := range owners[name] {
				if r.IntN(2) == 0 {
					o = "!" + o
				}
				named = append(named, o)
			}
			h.owned(name, named...)
		}
		orphaned := false
		for range 4 {
			refs := h.refs()
			if len(refs) == 0 {
				break
			}
			ref := refs[r.IntN(len(refs))]
			policy := []metav1.DeletionPropagation{metav1.DeletePropagationBackground, metav1.DeletePropagationForeground, metav1.DeletePropagationOrphan}[r.IntN(3)]
			orphaned = orphaned || policy == metav1.DeletePropagationOrphan
			_ = h.Delete(t.Context(), ref, h.things[ref].UID, policy)
			if r.IntN(2) == 0 {
				h.settle(t)
			}
		}
		h.settle(t)
		for ref, m := range h.things {
			if m.Deleting {
				t.Fatalf("seed %d: %s waits for ever: %+v", seed, ref.Name, *m)
			}
			for _, o := range m.Owners {
				if h.things[at(o.Name)] == nil {
					t.Fatalf("seed %d: %s is left with an owner %s that is gone", seed, ref.Name, o.Name)
				}
			}
		}
		if orphaned {
			continue
		}
		for name, of := range owners {
			if h.things[at(name)] == nil {
				continue
			}
			if !slices.ContainsFunc(of, func(o string) bool { return h.things[at(o)] != nil }) {
				t.Fatalf("seed %d: %s has lost all owners %v and is there", seed, name, of)
			}
		}
	}
}
