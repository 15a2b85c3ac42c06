package registry

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

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
	obj, err = r.modify(ctx, kind, namespace, name, dryRun(o.DryRun), func(old resource.Object) (next resource.Object, end bool, err error) {
		if err := preconditions(kind, old, o.Preconditions); err != nil {
			return nil, false, err
		}
		next = old.DeepCopyObject().(resource.Object)
		gone = decideDelete(kind, next, o, r.now())
		return next, gone, nil
	})
	return obj, gone && err == nil, err
}

// decideDelete changes an object as a delete does, and says whether it goes at once. If not, it stays for the time that it has to end by itself, or
// until its finalizers have done their work.
func decideDelete(kind *resource.Kind, obj resource.Object, o metav1.DeleteOptions, now time.Time) (gone bool) {
	if s := o.GracePeriodSeconds; s != nil && *s < 0 {
		o.GracePeriodSeconds = new(int64(1))
	}
	begun := obj.GetDeletionTimestamp() != nil
	graceful := false
	if kind.GracePeriod != nil {
		left := obj.GetDeletionGracePeriodSeconds()
		switch {
		case !begun:
			var seconds int64
			if seconds, graceful = kind.GracePeriod(obj, &o); graceful {
				beginDelete(kind, obj, now.Add(time.Duration(seconds)*time.Second), &seconds)
			}
		case left != nil && *left != 0:
			if s := o.GracePeriodSeconds; s == nil || *s >= *left {
				return false // it is ending already, and a later delete can only hurry it: nothing else changes, either
			}
			hurry(obj, *o.GracePeriodSeconds, now)
			graceful = true
		}
	}
	obj.SetFinalizers(finalizers(kind, obj.GetFinalizers(), o))
	held := len(obj.GetFinalizers()) > 0 || kind.Held != nil && kind.Held(obj)
	if graceful {
		return !held && *obj.GetDeletionGracePeriodSeconds() == 0
	}
	if !held {
		return true
	}
	var zero *int64
	if kind.Held == nil {
		zero = new(int64(0)) // a namespace has none
	}
	if !begun {
		beginDelete(kind, obj, now, zero)
	} else if obj.GetDeletionTimestamp().After(now) {
		setEnd(obj, now, zero)
	}
	return false
}

// beginDelete marks an object as one that is to go.
func beginDelete(kind *resource.Kind, obj resource.Object, end time.Time, seconds *int64) {
	setEnd(obj, end, seconds)
	if obj.GetGeneration() > 0 {
		obj.SetGeneration(obj.GetGeneration() + 1)
	}
	if kind.PrepareDelete != nil {
		kind.PrepareDelete(obj)
	}
}

// setEnd writes when an object is to be gone. Times in objects have no fractions of seconds.
func setEnd(obj resource.Object, end time.Time, seconds *int64) {
	obj.SetDeletionTimestamp(new(metav1.NewTime(end.Truncate(time.Second))))
	obj.SetDeletionGracePeriodSeconds(seconds)
}

// hurry shortens the time that an object has to end by itself. If the shorter time has passed already, it has one second more: whoever ends it
// shall see that.
func hurry(obj resource.Object, seconds int64, now time.Time) {
	left := *obj.GetDeletionGracePeriodSeconds()
	end := obj.GetDeletionTimestamp().Add(time.Duration(seconds-left) * time.Second)
	if end.Before(now) {
		end = now
		seconds = min(seconds, 1)
	}
	setEnd(obj, end, &seconds)
}

// finalizers adds or takes away those two by which the garbage collector is told what to do with dependents.
func finalizers(kind *resource.Kind, list []string, o metav1.DeleteOptions) []string {
	asks := func(f string) bool {
		return f == metav1.FinalizerOrphanDependents || f == metav1.FinalizerDeleteDependents
	}
	var want string
	orphan := o.OrphanDependents //lint:ignore SA1019 clients still send it
	switch {
	case orphan != nil:
		if *orphan {
			want = metav1.FinalizerOrphanDependents
		}
	case o.PropagationPolicy != nil:
		switch *o.PropagationPolicy {
		case metav1.DeletePropagationOrphan:
			want = metav1.FinalizerOrphanDependents
		case metav1.DeletePropagationForeground:
			want = metav1.FinalizerDeleteDependents
		}
	case kind.Orphans && !slices.ContainsFunc(list, asks):
		want = metav1.FinalizerOrphanDependents
	default:
		return list
	}
	list = slices.DeleteFunc(slices.Clone(list), asks)
	if want != "" {
		list = append(list, want)
	}
	return list
}

// done says that nothing keeps any longer an object whose deletion had begun before this update of it.
func done(kind *resource.Kind, obj resource.Object) bool {
	grace := obj.GetDeletionGracePeriodSeconds()
	return obj.GetDeletionTimestamp() != nil && len(obj.GetFinalizers()) == 0 && (grace == nil || *grace == 0) && (kind.Held == nil || !kind.Held(obj))
}

// preconditions refuses to delete another object than the one that was meant.
func preconditions(kind *resource.Kind, obj resource.Object, p *metav1.Preconditions) error {
	if p == nil {
		return nil
	}
	refuse := func(what string, want, is any, hint string) error {
		// Upstream gives the kind's name for the resource's here.
		return apierrors.NewConflict(schema.GroupResource{Group: kind.Group, Resource: kind.Kind}, obj.GetName(),
			fmt.Errorf("the %s in the precondition (%v) does not match the %s in record (%v). The object might have been %s", what, want, what, is, hint))
	}
	if p.UID != nil && *p.UID != obj.GetUID() {
		return refuse("UID", *p.UID, obj.GetUID(), "deleted and then recreated")
	}
	if p.ResourceVersion != nil && *p.ResourceVersion != obj.GetResourceVersion() {
		return refuse("ResourceVersion", *p.ResourceVersion, obj.GetResourceVersion(), "modified")
	}
	return nil
}

// remove takes an object out of the store if it is at the revision expected.
func (r *Registry) remove(ctx context.Context, kind *resource.Kind, key string, obj, old resource.Object, expect int64) (resource.Object, error) {
	revision, err := r.apply(ctx, kind, store.Write{Key: key, Expect: expect}, nil, old)
	if err != nil {
		return nil, translate(kind, obj.GetName(), err)
	}
	obj.SetResourceVersion(strconv.FormatInt(revision, 10))
	return obj, nil
}

// deleters is how many objects of a collection are deleted at a time, so that they share the store's syncs.
const deleters = 16

// DeleteCollection deletes every object that is selected, and returns them. It tries all, and returns the first error that there was.
func (r *Registry) DeleteCollection(ctx context.Context, kind *resource.Kind, sel cache.Selection, o metav1.DeleteOptions) ([]resource.Object, error) {
	snap, err := r.fresh(ctx)
	if err != nil {
		return nil, err
	}
	selected := slices.Collect(snap.List(kind, sel))
	last := make([]resource.Object, len(selected))
	var all errgroup.Group
	all.SetLimit(deleters)
	for i, obj := range selected {
		all.Go(func() (err error) {
			last[i], _, err = r.Delete(ctx, kind, obj.Namespace(), obj.Name(), o)
			if apierrors.IsNotFound(err) {
				return nil // somebody else deleted it meanwhile: that is what is wanted
			}
			return err
		})
	}
	err = all.Wait()
	return slices.DeleteFunc(last, func(obj resource.Object) bool { return obj == nil }), err
}
