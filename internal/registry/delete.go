package registry

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/admission"
	"sampan.dev/internal/cache"
	"sampan.dev/internal/resource"
	"sampan.dev/internal/store"
)

// Delete ends an object, or begins to: gone is false while finalizers, or the time that a pod has to end by itself, keep it. The object is returned as it
// is then, or as it last was.
func (r *Registry) Delete(ctx context.Context, kind *resource.Kind, namespace, name string, o metav1.DeleteOptions) (obj resource.Object, gone bool, err error) {
	err = r.admit(ctx, &admission.Attributes{Operation: admission.Delete, Kind: kind, Namespace: namespace, Name: name, DryRun: dryRun(o.DryRun)})
	if err != nil {
		return nil, false, err
	}
	obj, err = r.modify(ctx, kind, namespace, name, dryRun(o.DryRun), func(old resource.Object) (resource.Object, error) {
		if err := preconditions(kind, old, o.Preconditions); err != nil {
			return nil, err
		}
		next := old.DeepCopyObject().(resource.Object)
		decideDelete(kind, next, &o, r.now())
		gone = done(kind, next)
		return next, nil
	})
	return obj, gone && err == nil, err
}

// decideDelete changes an object as a delete does: by its finalizers, and by how long it has to end.
func decideDelete(kind *resource.Kind, obj resource.Object, o *metav1.DeleteOptions, now time.Time) {
	obj.SetFinalizers(finalizers(obj.GetFinalizers(), o))
	seconds, graceful := int64(0), false
	if kind.GracePeriod != nil {
		seconds, graceful = kind.GracePeriod(obj, o)
	}
	if !graceful {
		seconds = 0
	}
	if begun := obj.GetDeletionTimestamp(); begun != nil {
		left := obj.GetDeletionGracePeriodSeconds()
		// A second delete may shorten the time, and never lengthens it; without a period of its own it changes nothing.
		if left == nil || *left == 0 || seconds >= *left || (graceful && o.GracePeriodSeconds == nil) {
			return
		}
		end := metav1.NewTime(begun.Add(time.Duration(seconds-*left) * time.Second))
		obj.SetDeletionTimestamp(&end)
		obj.SetDeletionGracePeriodSeconds(&seconds)
		return
	}
	end := metav1.NewTime(now.Add(time.Duration(seconds) * time.Second).Truncate(time.Second))
	obj.SetDeletionTimestamp(&end)
	obj.SetDeletionGracePeriodSeconds(&seconds)
	if obj.GetGeneration() > 0 {
		obj.SetGeneration(obj.GetGeneration() + 1)
	}
	if kind.PrepareDelete != nil {
		kind.PrepareDelete(obj)
	}
}

// finalizers adds or takes away those two by which the garbage collector is told what to do with dependents.
func finalizers(list []string, o *metav1.DeleteOptions) []string {
	var want string
	orphan := o.OrphanDependents //lint:ignore SA1019 clients still send it
	switch {
	case o.PropagationPolicy != nil:
		switch *o.PropagationPolicy {
		case metav1.DeletePropagationOrphan:
			want = metav1.FinalizerOrphanDependents
		case metav1.DeletePropagationForeground:
			want = metav1.FinalizerDeleteDependents
		}
	case orphan != nil:
		if *orphan {
			want = metav1.FinalizerOrphanDependents
		}
	default:
		return list
	}
	list = slices.DeleteFunc(slices.Clone(list), func(f string) bool {
		return f == metav1.FinalizerOrphanDependents || f == metav1.FinalizerDeleteDependents
	})
	if want != "" {
		list = append(list, want)
	}
	return list
}

// done says that nothing keeps a deleted object any longer.
func done(kind *resource.Kind, obj resource.Object) bool {
	grace := obj.GetDeletionGracePeriodSeconds()
	return obj.GetDeletionTimestamp() != nil && len(obj.GetFinalizers()) == 0 && (grace == nil || *grace == 0) && (kind.Held == nil || !kind.Held(obj))
}

// remove takes an object out of the store if it is at the revision expected.
func (r *Registry) remove(ctx context.Context, kind *resource.Kind, key string, obj resource.Object, expect int64) (resource.Object, error) {
	rec, err := r.store.Apply(ctx, store.Write{Key: key, Expect: expect})
	if err != nil {
		return nil, translate(kind, obj.GetName(), err)
	}
	obj.SetResourceVersion(strconv.FormatInt(rec.Revision, 10))
	return obj, nil
}

// DeleteCollection deletes every object that is selected, and returns them. It goes on until all were tried or ctx ends.
func (r *Registry) DeleteCollection(ctx context.Context, kind *resource.Kind, sel cache.Selection, o metav1.DeleteOptions) ([]resource.Object, error) {
	snap, err := r.fresh(ctx)
	if err != nil {
		return nil, err
	}
	var deleted []resource.Object
	var errs []error
	for obj := range snap.List(kind, sel) {
		if err := ctx.Err(); err != nil {
			return deleted, apierrors.NewTimeoutError(err.Error(), 1)
		}
		last, _, err := r.Delete(ctx, kind, obj.Namespace(), obj.Name(), o)
		switch {
		case err == nil:
			deleted = append(deleted, last)
		case !apierrors.IsNotFound(err): // one that somebody else deleted meanwhile is what is wanted
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		return deleted, errs[0]
	}
	return deleted, errors.Join(errs...)
}
