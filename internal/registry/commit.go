package registry

import (
	"bytes"
	"context"
	"errors"
	"strconv"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"sampan.dev/internal/resource"
	"sampan.dev/internal/store"
)

// decision makes an object's next state from the one that is, which is shared and must not be changed, and says whether it ends with that.
type decision func(old resource.Object) (next resource.Object, end bool, err error)

// modify puts decide's result in an object's place. On a conflict it asks again with the newer object: decide refuses itself what is bound to a version.
func (r *Registry) modify(ctx context.Context, kind *resource.Kind, namespace, name string, dry bool, decide decision) (resource.Object, error) {
	snap, err := r.fresh(ctx)
	if err != nil {
		return nil, err
	}
	cached := snap.Get(kind, namespace, name)
	if cached == nil {
		return nil, apierrors.NewNotFound(kind.GroupResource(), name)
	}
	old, revision, as := cached.Decoded(), cached.Revision(), cached.Stores
	key := kind.Key(namespace, name)
	if alloc := r.alloc[kind]; alloc != nil && !dry {
		defer alloc.Lock(nil, old)()
	}
	for try := 0; ; try++ {
		next, end, err := decide(old)
		if err != nil {
			return nil, err
		}
		if dry {
			return next, nil
		}
		stored, err := r.put(ctx, kind, key, old, next, end, revision, as)
		if errors.Is(err, errRaced) && try < maxTries {
			if _, err := r.fresh(ctx); err != nil {
				return nil, err
			}
			continue
		}
		var conflict *conflictError
		if !errors.As(err, &conflict) {
			return stored, err
		}
		if try == maxTries {
			return nil, apierrors.NewConflict(kind.GroupResource(), name, errModified)
		}
		if old, revision, as, err = r.newer(ctx, kind, namespace, name, conflict.current); err != nil {
			return nil, err
		}
	}
}

// stored says whether an object is stored as that value already.
type stored func(value []byte) bool

// put deletes an object that ends, writes one that changes, and leaves one alone that does not: that is stored as it would be written.
func (r *Registry) put(ctx context.Context, kind *resource.Kind, key string, old, next resource.Object, end bool, revision int64, as stored) (resource.Object, error) {
	if end {
		return r.remove(ctx, kind, key, next, old, revision)
	}
	value, err := r.encode(next)
	if err != nil {
		return nil, err
	}
	if as(value) {
		next.SetResourceVersion(strconv.FormatInt(revision, 10))
		return next, nil
	}
	return r.commit(ctx, kind, key, next, value, old, revision)
}

// newer returns the object that a write lost against.
func (r *Registry) newer(ctx context.Context, kind *resource.Kind, namespace, name string, rec store.Record) (resource.Object, int64, stored, error) {
	if rec.Value == nil {
		snap, err := r.fresh(ctx)
		if err != nil {
			return nil, 0, nil, err
		}
		o := snap.Get(kind, namespace, name)
		if o == nil {
			return nil, 0, nil, apierrors.NewNotFound(kind.GroupResource(), name)
		}
		return o.Decoded(), o.Revision(), o.Stores, nil
	}
	obj, err := r.table.Decode(rec.Value)
	if err != nil {
		return nil, 0, nil, apierrors.NewInternalError(err)
	}
	obj.SetResourceVersion(strconv.FormatInt(rec.Revision, 10))
	return obj, rec.Revision, func(value []byte) bool { return bytes.Equal(value, rec.Value) }, nil
}

// encode gives an object as it is stored. It has no resourceVersion afterwards.
func (r *Registry) encode(obj resource.Object) ([]byte, error) {
	obj.SetResourceVersion("")
	value, err := r.table.Encode(obj)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	return value, nil
}

// commit writes an object, encoded, if its key is at the revision expected, and returns it as it is stored. Old is nil if it is new.
func (r *Registry) commit(ctx context.Context, kind *resource.Kind, key string, obj resource.Object, value []byte, old resource.Object, expect int64) (resource.Object, error) {
	revision, err := r.apply(ctx, kind, store.Write{Key: key, Value: value, Expect: expect, Patient: kind.Patient}, obj, old)
	if err != nil {
		return nil, translate(kind, obj.GetName(), err)
	}
	obj.SetResourceVersion(strconv.FormatInt(revision, 10))
	return obj, nil
}

// apply makes a write, together with those that take and give back what is allocated: these first, so that nothing is ever had that is not taken.
func (r *Registry) apply(ctx context.Context, kind *resource.Kind, w store.Write, next, old resource.Object) (revision int64, err error) {
	alloc := r.alloc[kind]
	if alloc == nil {
		rec, err := r.store.Apply(ctx, w)
		return rec.Revision, err
	}
	writes, err := alloc.Writes(ctx, next, old)
	if errors.Is(err, store.ErrConflict) {
		return 0, errRaced
	}
	if err != nil {
		return 0, err
	}
	if next == nil { // given back after it has gone
		writes = append([]store.Write{w}, writes...)
	} else {
		writes = append(writes, w)
	}
	records, err := r.store.ApplyAll(ctx, writes)
	var conflict *store.ConflictError
	if errors.As(err, &conflict) && conflict.Key != w.Key {
		return 0, errRaced
	}
	if err != nil {
		return 0, err
	}
	for _, rec := range records {
		if rec.Key == w.Key {
			revision = rec.Revision
		}
	}
	return revision, nil
}
