package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"sampan.dev/internal/auth"
)

var statusKind = schema.GroupVersionKind{Version: "v1", Kind: "Status"}

func failure(code int, reason metav1.StatusReason, message string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: int32(code), Reason: reason, Message: message,
	}}
}

// statusOf is an error as the API tells it. What is no API error is a fault of this program, but for a request that ran out of time.
func statusOf(err error) *metav1.Status {
	var own apierrors.APIStatus
	if errors.As(err, &own) {
		s := own.Status()
		if s.Status == "" {
			s.Status = metav1.StatusFailure
		}
		if s.Code == 0 {
			s.Code = http.StatusInternalServerError
		}
		s.TypeMeta = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}
		return &s
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return statusOf(apierrors.NewTimeoutError(fmt.Sprintf("request did not complete within requested timeout - %s", err), 0))
	}
	return &metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status:   metav1.StatusFailure, Code: http.StatusInternalServerError, Reason: metav1.StatusReasonUnknown, Message: err.Error(),
	}
}

// fail answers with an error, in the form that the client asked for where that is possible.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	status := statusOf(err)
	if status.Code >= http.StatusInternalServerError && status.Reason != metav1.StatusReasonTimeout && r.Context().Err() == nil {
		s.log.Error("request failed", "method", r.Method, "path", r.URL.Path, "error", err)
	}
	if status.Details != nil && status.Details.RetryAfterSeconds > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(status.Details.RetryAfterSeconds)))
	}
	m, merr := negotiate(r, func(media) bool { return true })
	if merr != nil {
		m = media{}
	}
	s.write(w, r, m, int(status.Code), statusKind, status)
}

// htmlSafe keeps what a person typed from looking like HTML in an error.
var htmlSafe = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")

// forbidden is the answer to somebody who may not.
func forbidden(q *auth.Request, reason string) error {
	var message string
	switch what := q.Resource; {
	case what == "":
		message = fmt.Sprintf("User %q cannot %s path %q", q.User.Name, q.Verb, q.Path)
	default:
		if q.Subresource != "" {
			what += "/" + q.Subresource
		}
		where := "at the cluster scope"
		if q.Namespace != "" {
			where = fmt.Sprintf("in the namespace %q", q.Namespace)
		}
		message = fmt.Sprintf("User %q cannot %s resource %q in API group %q %s", q.User.Name, q.Verb, what, q.Group, where)
	}
	message = htmlSafe.Replace(message)
	if reason != "" {
		message += ": " + reason
	}
	return apierrors.NewForbidden(schema.GroupResource{Group: q.Group, Resource: q.Resource}, q.Name, errors.New(message))
}
