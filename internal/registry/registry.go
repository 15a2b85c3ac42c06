// Package registry is the verbs of the API on objects, without HTTP: default, admit, validate, commit.
//
// It reads the cache and writes the store, for the API server and for every loop in the process alike. Always: what is stored has passed the
// defaults, the admission and the validation of its kind; a change is based on the state it was decided on, or is not made; every error is an
// *apierrors.StatusError in Kubernetes' words.
package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/admission"
	"sampan.dev/internal/auth"
	"sampan.dev/internal/cache"
	"sampan.dev/internal/resource"
	"sampan.dev/internal/store"
)

// Config is what a registry works with.
type Config struct {
	Table     *resource.Table
	Store     store.Store
	Cache     *cache.Cache
	Admission []admission.Step             // in this order
	Allocate  map[*resource.Kind]Allocator // of kinds whose objects have what no two may have
	Now       func() time.Time             // nil: time.Now
	Log       *slog.Logger
}

// Allocator gives objects of a kind what no two of them may have.
type Allocator interface {
	// Lock keeps other changes out that would be in the way of this one, from before Allocate until it is written. New or old may be nil.
	Lock(new, old resource.Object) (unlock func())
	// Allocate fills in what a new object (old is nil) or a changed one is to have. It comes after PrepareCreate or PrepareUpdate and before validation.
	Allocate(ctx context.Context, new, old resource.Object) error
	// Writes says what is to be written together with the object: new is nil when it goes. An error that is store.ErrConflict, like a conflict of one of
	// these writes, says that somebody was faster: all of it is done again.
	Writes(ctx context.Context, new, old resource.Object) ([]store.Write, error)
}

// Registry is the verbs. It holds no state of its own.
type Registry struct {
	table *resource.Table
	store store.Store
	cache *cache.Cache
	steps []admission.Step
	alloc map[*resource.Kind]Allocator
	now   func() time.Time
	log   *slog.Logger
}

// New makes a registry. It starts nothing.
func New(c Config) *Registry {
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Registry{table: c.Table, store: c.Store, cache: c.Cache, steps: c.Admission, alloc: c.Allocate, now: c.Now, log: c.Log}
}

// errModified is why an update that names an older resourceVersion is refused.
var errModified = errors.New("the object has been modified; please apply your changes to the latest version and try again")

// maxTries bounds how often a change without condition is made again on a newer object; each try means that somebody else's succeeded.
const maxTries = 50

// fresh waits until the cache shows everything that was written before the call.
func (r *Registry) fresh(ctx context.Context) (*cache.Snapshot, error) {
	revision, err := r.store.Current(ctx)
	if err == nil {
		err = r.cache.Wait(ctx, revision)
	}
	if err != nil {
		return nil, apierrors.NewTimeoutError(err.Error(), 1)
	}
	return r.cache.Snapshot(), nil
}

func dryRun(values []string) bool { return len(values) > 0 }

// Create stores a new object and returns it with its resourceVersion. The object belongs to the registry from the call on. Its namespace is
// the one in its metadata; without a name, one is made from generateName.
func (r *Registry) Create(ctx context.Context, kind *resource.Kind, obj resource.Object, o metav1.CreateOptions) (resource.Object, error) {
	if obj.GetResourceVersion() != "" {
		return nil, apierrors.NewBadRequest("resourceVersion should not be set on objects to be created")
	}
	if _, err := r.fresh(ctx); err != nil {
		return nil, err
	}
	generated := obj.GetName() == "" && obj.GetGenerateName() != ""
	for try := 1; ; try++ {
		candidate := obj
		if generated {
			candidate = obj.DeepCopyObject().(resource.Object)
			candidate.SetName(generateName(obj.GetGenerateName()))
		}
		created, err := r.create(ctx, kind, candidate, o)
		if !generated || !apierrors.IsAlreadyExists(err) {
			return created, err
		}
		if try == maxNames {
			return nil, apierrors.NewGenerateNameConflict(kind.GroupResource(), candidate.GetName(), 1)
		}
	}
}

func (r *Registry) create(ctx context.Context, kind *resource.Kind, obj resource.Object, o metav1.CreateOptions) (resource.Object, error) {
	obj.GetObjectKind().SetGroupVersionKind(kind.GroupVersionKind)
	obj.SetUID(uuid.NewUUID())
	obj.SetCreationTimestamp(metav1.NewTime(r.now().Truncate(time.Second)))
	obj.SetDeletionTimestamp(nil)
	obj.SetDeletionGracePeriodSeconds(nil)
	obj.SetSelfLink("")
	obj.SetManagedFields(nil)
	if !kind.Namespaced {
		obj.SetNamespace("")
	}
	if kind.Default != nil {
		kind.Default(obj)
	}
	err := r.admit(ctx, &admission.Attributes{
		Operation: admission.Create, Kind: kind, Namespace: obj.GetNamespace(), Name: obj.GetName(), Object: obj, DryRun: dryRun(o.DryRun),
	})
	if err != nil {
		return nil, err
	}
	if kind.PrepareCreate != nil {
		kind.PrepareCreate(obj)
	}
	alloc := r.alloc[kind]
	if alloc == nil {
		return r.insert(ctx, kind, obj, o)
	}
	defer alloc.Lock(obj, nil)()
	for try := 0; ; try++ {
		candidate := obj.DeepCopyObject().(resource.Object)
		if err := alloc.Allocate(ctx, candidate, nil); err != nil {
			return nil, err
		}
		created, err := r.insert(ctx, kind, candidate, o)
		if !errors.Is(err, errRaced) {
			return created, err
		}
		if try == maxTries {
			return nil, apierrors.NewConflict(kind.GroupResource(), obj.GetName(), errRaced)
		}
		if _, err := r.fresh(ctx); err != nil {
			return nil, err
		}
	}
}

// errRaced says that somebody else has got what was allocated.
var errRaced = errors.New("somebody else was faster; please try again")

// insert validates and stores a new object.
func (r *Registry) insert(ctx context.Context, kind *resource.Kind, obj resource.Object, o metav1.CreateOptions) (resource.Object, error) {
	errs := resource.ValidateMeta(kind, obj)
	if kind.Validate != nil {
		errs = append(errs, kind.Validate(obj)...)
	}
	if err := invalid(kind, obj.GetName(), errs); err != nil {
		return nil, err
	}
	key := kind.Key(obj.GetNamespace(), obj.GetName())
	if dryRun(o.DryRun) {
		if there := r.cache.Snapshot().Get(kind, obj.GetNamespace(), obj.GetName()); there != nil {
			return nil, exists(kind, there.Decoded())
		}
		return obj, nil
	}
	value, err := r.encode(obj)
	if err != nil {
		return nil, err
	}
	created, err := r.commit(ctx, kind, key, obj, value, nil, 0)
	var conflict *conflictError
	if !errors.As(err, &conflict) {
		return created, err
	}
	there := obj
	if conflict.current.Value != nil {
		if there, err = r.table.Decode(conflict.current.Value); err != nil {
			return nil, apierrors.NewInternalError(err)
		}
	}
	return nil, exists(kind, there)
}

// exists says that a name is taken.
func exists(kind *resource.Kind, there resource.Object) error {
	err := apierrors.NewAlreadyExists(kind.GroupResource(), there.GetName())
	if there.GetDeletionTimestamp() != nil {
		err.ErrStatus.Message = "object is being deleted: " + err.ErrStatus.Message
	}
	return err
}

// Change makes the object that shall be from the one that is, which is a copy of its own. It may be called more than once.
type Change func(current resource.Object) (resource.Object, error)

// Update changes an object as a client does: sub is "" for the object itself, else the subresource ("status", "finalize", "scale"). A change whose result carries a
// resourceVersion is made on exactly that version; one without is made on whatever is current. Created is reserved for kinds that an update may create.
func (r *Registry) Update(ctx context.Context, kind *resource.Kind, sub, namespace, name string, change Change, o metav1.UpdateOptions) (obj resource.Object, created bool, err error) {
	obj, err = r.modify(ctx, kind, namespace, name, dryRun(o.DryRun), func(old resource.Object) (resource.Object, bool, error) {
		next, err := change(old.DeepCopyObject().(resource.Object))
		if err != nil {
			return nil, false, err
		}
		if uid := next.GetUID(); uid != "" && uid != old.GetUID() {
			return nil, false, failedUID(kind, old, uid)
		}
		if v := next.GetResourceVersion(); v != "" && v != old.GetResourceVersion() {
			return nil, false, apierrors.NewConflict(kind.GroupResource(), name, errModified)
		}
		carry(kind, next, old)
		if err := r.check(ctx, kind, sub, next, old, o); err != nil {
			return nil, false, err
		}
		return next, done(kind, next), nil
	})
	return obj, false, err
}

// carry brings over what a client may leave out and never change.
func carry(kind *resource.Kind, next, old resource.Object) {
	next.GetObjectKind().SetGroupVersionKind(kind.GroupVersionKind)
	next.SetUID(old.GetUID())
	next.SetCreationTimestamp(old.GetCreationTimestamp())
	if begun := old.GetDeletionTimestamp(); begun != nil { // and one that has not begun is begun by no update: validation refuses that
		next.SetDeletionTimestamp(begun)
	}
	if left := old.GetDeletionGracePeriodSeconds(); left != nil {
		next.SetDeletionGracePeriodSeconds(left)
	}
	next.SetGeneration(old.GetGeneration())
	next.SetSelfLink("")
	next.SetManagedFields(nil)
	next.SetResourceVersion(old.GetResourceVersion())
	if next.GetGenerateName() == "" {
		next.SetGenerateName(old.GetGenerateName())
	}
}

// check defaults, admits and validates an update.
func (r *Registry) check(ctx context.Context, kind *resource.Kind, sub string, next, old resource.Object, o metav1.UpdateOptions) error {
	if kind.Default != nil {
		kind.Default(next)
	}
	err := r.admit(ctx, &admission.Attributes{
		Operation: admission.Update, Kind: kind, Sub: sub, Namespace: old.GetNamespace(), Name: old.GetName(), Object: next, Old: old, DryRun: dryRun(o.DryRun),
	})
	if err != nil {
		return err
	}
	var errs field.ErrorList
	if sub == "" || sub == "scale" && kind.Scale != nil { // a scale is a way to change the object itself
		if kind.PrepareUpdate != nil {
			kind.PrepareUpdate(next, old)
		}
		if alloc := r.alloc[kind]; alloc != nil {
			if err := alloc.Allocate(ctx, next, old); err != nil {
				return err
			}
		}
		errs = resource.ValidateMetaUpdate(kind, next, old)
		if kind.Validate != nil {
			errs = append(errs, kind.Validate(next)...)
		}
		if kind.ValidateUpdate != nil {
			errs = append(errs, kind.ValidateUpdate(next, old)...)
		}
	} else {
		s := kind.Sub(sub)
		if s == nil {
			return apierrors.NewNotFound(kind.GroupResource(), old.GetName())
		}
		if s.PrepareUpdate != nil {
			s.PrepareUpdate(next, old)
		}
		errs = resource.ValidateMetaUpdate(kind, next, old)
		if s.ValidateUpdate != nil {
			errs = append(errs, s.ValidateUpdate(next, old)...)
		}
	}
	return invalid(kind, old.GetName(), errs)
}

func (r *Registry) admit(ctx context.Context, a *admission.Attributes) error {
	a.User = auth.User(ctx)
	for _, step := range r.steps {
		if err := step.Admit(ctx, a); err != nil {
			return err
		}
	}
	return nil
}

func invalid(kind *resource.Kind, name string, errs field.ErrorList) error {
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(kind.GroupVersionKind.GroupKind(), name, errs)
}

// failedUID refuses an update of another object than the one that was meant, as upstream's storage does.
func failedUID(kind *resource.Kind, old resource.Object, want types.UID) error {
	return apierrors.NewConflict(kind.GroupResource(), old.GetName(), fmt.Errorf(
		"StorageError: invalid object, Code: 4, Key: %s, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: %v, UID in object meta: %v",
		kind.Key(old.GetNamespace(), old.GetName()), want, old.GetUID()))
}
