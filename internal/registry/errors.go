package registry

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/resource"
	"sampan.dev/internal/store"
)

// conflictError is a write that lost against another one. It never leaves the package as such: to callers it is a Conflict or AlreadyExists.
type conflictError struct {
	*apierrors.StatusError
	current store.Record
}

// Unwrap lets errors.As find the status.
func (e *conflictError) Unwrap() error { return e.StatusError }

// translate makes the store's errors Kubernetes' own.
func translate(kind *resource.Kind, name string, err error) error {
	var conflict *store.ConflictError
	switch {
	case errors.As(err, &conflict):
		status := apierrors.NewConflict(kind.GroupResource(), name, errModified)
		if conflict.Expect == 0 {
			status = apierrors.NewAlreadyExists(kind.GroupResource(), name)
		}
		return &conflictError{status, conflict.Current}
	case errors.Is(err, store.ErrNotFound):
		return apierrors.NewNotFound(kind.GroupResource(), name)
	case errors.Is(err, store.ErrTooLarge):
		return apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("limit is %d", store.MaxValue))
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return apierrors.NewTimeoutError(fmt.Sprintf("%s %q: %v", kind.GroupResource(), name, err), 1)
	case errors.Is(err, store.ErrNoSpace), errors.Is(err, store.ErrBroken), errors.Is(err, store.ErrClosed):
		return apierrors.NewServiceUnavailable(err.Error())
	}
	return apierrors.NewInternalError(err)
}

// generateExists is the answer when no free name was found, in upstream's words.
func generateExists(kind *resource.Kind, name string) error {
	err := apierrors.NewAlreadyExists(kind.GroupResource(), name)
	err.ErrStatus.Message += ", the server was not able to generate a unique name for the object"
	err.ErrStatus.Details.RetryAfterSeconds = 0
	return err
}

func preconditions(kind *resource.Kind, obj resource.Object, p *metav1.Preconditions) error {
	if p == nil {
		return nil
	}
	if p.UID != nil && *p.UID != obj.GetUID() {
		return failedUID(kind, obj.GetName(), *p.UID, obj.GetUID())
	}
	if p.ResourceVersion != nil && *p.ResourceVersion != obj.GetResourceVersion() {
		//lint:ignore ST1005 Kubernetes' words
		return apierrors.NewConflict(kind.GroupResource(), obj.GetName(), fmt.Errorf("Precondition failed: ResourceVersion in precondition: %v, ResourceVersion in object meta: %v", *p.ResourceVersion, obj.GetResourceVersion()))
	}
	return nil
}
