package registry

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"sampan.dev/internal/resource"
	"sampan.dev/internal/store"
)

// conflictError is a write that lost against another one. It never leaves the package: what it means to the caller is Conflict or AlreadyExists.
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
	case errors.Is(err, errRaced):
		return err // only those who made the write know what to do
	case errors.As(err, &conflict):
		return &conflictError{apierrors.NewConflict(kind.GroupResource(), name, errModified), conflict.Current}
	case errors.Is(err, store.ErrNotFound):
		return apierrors.NewNotFound(kind.GroupResource(), name)
	case errors.Is(err, store.ErrTooLarge):
		return apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("limit is %d", store.MaxValue))
	case errors.Is(err, store.ErrUnknown): // before what says why: the client must not take it for a refusal
		return apierrors.NewTimeoutError(fmt.Sprintf("%s %q: %v", kind.GroupResource(), name, err), 1)
	case errors.Is(err, store.ErrUnanswered):
		return apierrors.NewServiceUnavailable(err.Error())
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return apierrors.NewTimeoutError(fmt.Sprintf("%s %q: %v", kind.GroupResource(), name, err), 1)
	case errors.Is(err, store.ErrNoSpace), errors.Is(err, store.ErrBroken), errors.Is(err, store.ErrClosed):
		return apierrors.NewServiceUnavailable(err.Error())
	}
	return apierrors.NewInternalError(err)
}
