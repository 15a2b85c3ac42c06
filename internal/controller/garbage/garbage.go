// Package garbage deletes what has lost its owners.
//
// It watches the metadata of all objects; it deletes objects, and takes owner references and the finalizers
// `foregroundDeletion` and `orphan` off them.
// Always: an object is deleted only when it names owners and each of them is gone (no object of that kind, name and
// UID in the very snapshot that shows the object) or waits for its dependents to go. An owner of a kind that is not
// served counts as there.
package garbage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"sampan.dev/internal/loop"
	"sampan.dev/internal/resource"
)

// Ref names any object.
type Ref struct {
	Kind            *resource.Kind
	Namespace, Name string
}

// Meta is what matters of an object here. It is never changed.
type Meta struct {
	UID             types.UID
	ResourceVersion string
	Owners          []metav1.OwnerReference
	Finalizers      []string
	Deleting        bool
}

func (m *Meta) waits(finalizer string) bool {
	return m.Deleting && slices.Contains(m.Finalizers, finalizer)
}

// View shows current objects.
type View interface {
	Meta(ref Ref) *Meta                               // nil if there is none
	Kind(gvk schema.GroupVersionKind) *resource.Kind  // nil if it is not served
	ByName(group schema.GroupResource) *resource.Kind // likewise
}

// API is what this controller writes. An object of another UID than given is left alone, as one that is gone.
type API interface {
	Delete(ctx context.Context, ref Ref, uid types.UID, policy metav1.DeletionPropagation) error
	// UpdateMeta changes owner references and finalizers.
	UpdateMeta(ctx context.Context, ref Ref, uid types.UID, change func(metav1.Object)) error
}

// Controller runs as its Loop does.
type Controller struct {
	*loop.Loop
	view View
	api  API

	mu         sync.Mutex // guards dependents
	dependents map[types.UID]map[Ref]struct{}
}

// New makes the controller.
func New(view View, api API, metrics *loop.Metrics, log *slog.Logger) *Controller {
	c := &Controller{view: view, api: api, dependents: map[types.UID]map[Ref]struct{}{}}
	c.Loop = loop.New("garbage-collector", c.reconcile, loop.Options{Workers: 4, Metrics: metrics, Log: log})
	return c
}

// Changed says how an object has changed: old is nil if it has come, new if it has gone. It keeps the index of
// dependents and marks what may have to be done. It never blocks. The same Meta twice says that nothing has changed in it.
func (c *Controller) Changed(ref Ref, old, new *Meta) {
	if old == new && !new.Deleting {
		return
	}
	c.index(ref, old, new)
	if new == nil {
		c.markDependents(old.UID)
		c.markOwners(ref, old) // one may wait for this
		return
	}
	if old != nil && old.UID != new.UID {
		c.markDependents(old.UID)
	}
	if new.waits(metav1.FinalizerOrphanDependents) || new.waits(metav1.FinalizerDeleteDependents) {
		c.mark(ref)
		if old == nil || !old.Deleting {
			c.markDependents(new.UID)
		}
	} else if len(new.Owners) > 0 && (old == nil || !slices.EqualFunc(old.Owners, new.Owners, sameOwner)) {
		c.mark(ref)
	}
	if old != nil {
		c.markOwners(ref, old)
	}
}

func sameOwner(a, b metav1.OwnerReference) bool {
	return a.UID == b.UID && (a.BlockOwnerDeletion != nil && *a.BlockOwnerDeletion) == (b.BlockOwnerDeletion != nil && *b.BlockOwnerDeletion)
}

func (c *Controller) index(ref Ref, old, new *Meta) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if old != nil {
		for _, o := range old.Owners {
			delete(c.dependents[o.UID], ref)
			if len(c.dependents[o.UID]) == 0 {
				delete(c.dependents, o.UID)
			}
		}
	}
	if new == nil {
		return
	}
	for _, o := range new.Owners {
		if c.dependents[o.UID] == nil {
			c.dependents[o.UID] = map[Ref]struct{}{}
		}
		c.dependents[o.UID][ref] = struct{}{}
	}
}

func (c *Controller) dependentsOf(uid types.UID) []Ref {
	c.mu.Lock()
	defer c.mu.Unlock()
	refs := make([]Ref, 0, len(c.dependents[uid]))
	for ref := range c.dependents[uid] {
		refs = append(refs, ref)
	}
	return refs
}

func (c *Controller) markDependents(uid types.UID) {
	for _, ref := range c.dependentsOf(uid) {
		c.mark(ref)
	}
}

// markOwners marks owners that wait for their dependents.
func (c *Controller) markOwners(ref Ref, m *Meta) {
	for _, o := range m.Owners {
		owner, served := c.owner(ref, o)
		if !served {
			continue
		}
		if is := c.view.Meta(owner); is != nil && is.UID == o.UID && is.Deleting {
			c.mark(owner)
		}
	}
}

// owner is the object that the reference of ref's names; not served if its kind is unknown here, or cannot own it.
func (c *Controller) owner(ref Ref, o metav1.OwnerReference) (Ref, bool) {
	gv, err := schema.ParseGroupVersion(o.APIVersion)
	if err != nil {
		return Ref{}, false
	}
	kind := c.view.Kind(gv.WithKind(o.Kind))
	if kind == nil || kind.Namespaced && ref.Namespace == "" {
		return Ref{}, false
	}
	owner := Ref{Kind: kind, Name: o.Name}
	if kind.Namespaced {
		owner.Namespace = ref.Namespace
	}
	return owner, true
}

// Keys of the loop carry the kind before the name: "pods./web".
func (c *Controller) mark(ref Ref) {
	c.Mark(loop.Key{Namespace: ref.Namespace, Name: ref.Kind.Plural + "." + ref.Kind.Group + "/" + ref.Name})
}

func (c *Controller) reconcile(ctx context.Context, key loop.Key) error {
	of, name, _ := strings.Cut(key.Name, "/")
	plural, group, _ := strings.Cut(of, ".")
	kind := c.view.ByName(schema.GroupResource{Group: group, Resource: plural})
	if kind == nil {
		return nil // no longer served
	}
	return c.Reconcile(ctx, Ref{Kind: kind, Namespace: key.Namespace, Name: name})
}

// Reconcile brings one object a step closer to what its owners and dependents ask for.
func (c *Controller) Reconcile(ctx context.Context, ref Ref) error {
	m := c.view.Meta(ref)
	if m == nil {
		return nil
	}
	switch {
	case m.waits(metav1.FinalizerOrphanDependents):
		return c.orphan(ctx, ref, m)
	case m.waits(metav1.FinalizerDeleteDependents):
		return c.foreground(ctx, ref, m)
	case m.Deleting || len(m.Owners) == 0:
		return nil
	}
	return c.apply(ctx, ref, m, Decide(m, c.stateOf(ref, m), c.hasDependents(m.UID)))
}

func (c *Controller) hasDependents(uid types.UID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.dependents[uid]) > 0
}

// stateOf looks up each owner.
func (c *Controller) stateOf(ref Ref, m *Meta) []state {
	states := make([]state, len(m.Owners))
	for i, o := range m.Owners {
		owner, served := c.owner(ref, o)
		if !served {
			continue
		}
		is := c.view.Meta(owner)
		switch {
		case is == nil || is.UID != o.UID:
			states[i] = gone
		case is.waits(metav1.FinalizerDeleteDependents):
			states[i] = waiting
		}
	}
	return states
}

func (c *Controller) apply(ctx context.Context, ref Ref, m *Meta, p Plan) error {
	if p.Delete {
		return ignoreGone(c.api.Delete(ctx, ref, m.UID, p.Policy), "delete", ref)
	}
	return c.unlink(ctx, ref, m.UID, p.Unlink)
}

// unlink takes references to these owners off the object.
func (c *Controller) unlink(ctx context.Context, ref Ref, uid types.UID, owners []types.UID) error {
	if len(owners) == 0 {
		return nil
	}
	err := c.api.UpdateMeta(ctx, ref, uid, func(o metav1.Object) {
		o.SetOwnerReferences(slices.DeleteFunc(o.GetOwnerReferences(), func(r metav1.OwnerReference) bool {
			return slices.Contains(owners, r.UID)
		}))
	})
	return ignoreGone(err, "take owners off", ref)
}

// orphan frees the dependents, and then lets the owner go.
func (c *Controller) orphan(ctx context.Context, ref Ref, m *Meta) error {
	var errs []error
	for _, d := range c.dependentsOf(m.UID) {
		if is := c.view.Meta(d); is != nil {
			errs = append(errs, c.unlink(ctx, d, is.UID, []types.UID{m.UID}))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return c.release(ctx, ref, m, metav1.FinalizerOrphanDependents)
}

// foreground has the dependents deleted, and lets the owner go when none is left that blocks it.
func (c *Controller) foreground(ctx context.Context, ref Ref, m *Meta) error {
	blocked := false
	for _, d := range c.dependentsOf(m.UID) {
		is := c.view.Meta(d)
		if is == nil {
			continue
		}
		i := slices.IndexFunc(is.Owners, func(o metav1.OwnerReference) bool { return o.UID == m.UID })
		if i >= 0 && is.Owners[i].BlockOwnerDeletion != nil && *is.Owners[i].BlockOwnerDeletion {
			blocked = true
		}
		c.mark(d)
	}
	if blocked {
		return nil // the last one's going marks this
	}
	return c.release(ctx, ref, m, metav1.FinalizerDeleteDependents)
}

// release takes a finalizer off.
func (c *Controller) release(ctx context.Context, ref Ref, m *Meta, finalizer string) error {
	err := c.api.UpdateMeta(ctx, ref, m.UID, func(o metav1.Object) {
		o.SetFinalizers(slices.DeleteFunc(o.GetFinalizers(), func(f string) bool { return f == finalizer }))
	})
	return ignoreGone(err, "release", ref)
}

func ignoreGone(err error, operation string, ref Ref) error {
	if err == nil || apierrors.IsNotFound(err) {
		return nil
	}
	return fmt.Errorf("%s %s %s: %w", operation, ref.Kind.GroupResource(), loop.Key{Namespace: ref.Namespace, Name: ref.Name}, err)
}
