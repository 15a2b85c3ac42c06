package image

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
)

// NotFoundError says that no image of that name is here, or in its registry.
type NotFoundError struct{ Ref, Reason string }

func (e *NotFoundError) Error() string {
	if e.Reason != "" {
		return e.Reason
	}
	return fmt.Sprintf("image %q not found", e.Ref)
}

// DigestError says that something is not what its digest promised; nothing of it is kept.
type DigestError struct{ What, Want, Got string }

func (e *DigestError) Error() string {
	return fmt.Sprintf("%s does not match its digest: want %s, got %s", e.What, e.Want, e.Got)
}

// UnreachableError says that a registry did not answer as one.
type UnreachableError struct {
	Registry string
	Err      error
}

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("registry %s could not be reached: %v", e.Registry, e.Err)
}
func (e *UnreachableError) Unwrap() error { return e.Err }

// HostileError says that an archive holds what no image may hold.
type HostileError struct{ Entry, Reason string }

func (e *HostileError) Error() string {
	return fmt.Sprintf("refused: archive entry %q %s", e.Entry, e.Reason)
}

// registryWords gives a registry's own words for what went wrong, without the address asked.
func registryWords(e *transport.Error) string {
	var words []string
	for _, d := range e.Errors {
		switch text := strings.TrimSpace(d.Message); {
		case text == "":
			words = append(words, string(d.Code))
		case d.Code == "":
			words = append(words, text)
		default:
			words = append(words, string(d.Code)+": "+text)
		}
	}
	if len(words) == 0 {
		return fmt.Sprintf("%d %s", e.StatusCode, http.StatusText(e.StatusCode))
	}
	return strings.Join(words, "; ")
}

// code sorts an error into gRPC's classes.
func code(err error) codes.Code {
	var (
		name        *InvalidNameError
		missing     *NotFoundError
		digest      *DigestError
		unreachable *UnreachableError
		hostile     *HostileError
		registry    *transport.Error
	)
	switch {
	case errors.As(err, &name):
		return codes.InvalidArgument
	case errors.As(err, &missing):
		return codes.NotFound
	case errors.As(err, &digest):
		return codes.DataLoss
	case errors.As(err, &hostile):
		return codes.FailedPrecondition
	case errors.Is(err, context.Canceled):
		return codes.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		return codes.DeadlineExceeded
	case errors.As(err, &registry):
		switch registry.StatusCode {
		case http.StatusNotFound:
			return codes.NotFound
		case http.StatusUnauthorized:
			return codes.Unauthenticated
		case http.StatusForbidden:
			return codes.PermissionDenied
		case http.StatusTooManyRequests:
			return codes.ResourceExhausted
		}
		if registry.StatusCode >= 500 {
			return codes.Unavailable
		}
	case errors.As(err, &unreachable):
		return codes.Unavailable
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return codes.ResourceExhausted
	}
	return codes.Unknown
}
