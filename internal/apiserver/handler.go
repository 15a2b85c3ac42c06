package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"sampan.dev/internal/auth"
)

// Time that a request may take: upstream's figures. What runs long has none.
const (
	readTimeout  = 60 * time.Second
	writeTimeout = 34 * time.Second
)

func errorf(format string, args ...any) error { return fmt.Errorf(format, args...) }

// Handler is the whole API.
func (s *Server) Handler() http.Handler { return http.HandlerFunc(s.serve) }

// serve takes one request from arrival to answer.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	s.active.Add(1)
	defer s.active.Add(-1)
	t := parsePath(r)
	rec := &recorder{ResponseWriter: w}
	done := s.metrics.begin(&t, rec)
	defer done()
	defer s.recovered(rec, r)

	ctx := withWarnings(r.Context(), &warnings{})
	if !t.longRunning() {
		limit := writeTimeout
		if r.Method == http.MethodGet || r.Method == http.MethodHead || t.verb == "deletecollection" {
			limit = readTimeout
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
		if r.ContentLength != 0 {
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(limit)) // a body that trickles in holds nobody up
		}
	}
	r = r.WithContext(ctx)
	user, err := s.identify(r)
	if err == nil {
		r = r.WithContext(auth.WithUser(ctx, user))
		err = s.allowed(r, &t, user)
	}
	if err != nil {
		rec.Header().Set("X-Content-Type-Options", "nosniff")
		s.fail(rec, r, err)
		return
	}
	if t.isResource {
		err = s.resource(rec, r, &t)
	} else {
		err = s.plain(rec, r)
	}
	if err != nil {
		s.fail(rec, r, err)
	}
}

// recovered answers a request whose handling panicked: the program is wrong then, and says so in its log.
func (s *Server) recovered(w *recorder, r *http.Request) {
	cause := recover()
	if cause == nil {
		return
	}
	if err, ok := cause.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(cause) // net/http's own way to end a connection
	}
	s.log.Error("panic while answering", "method", r.Method, "path", r.URL.Path, "cause", fmt.Sprint(cause), "stack", string(debug.Stack()))
	if w.code != 0 {
		panic(http.ErrAbortHandler) // half an answer must not look like a whole one
	}
	s.fail(w, r, apierrors.NewInternalError(errors.New("the server could not handle this request: see its log")))
}

// plain answers requests whose path is no resource.
func (s *Server) plain(w http.ResponseWriter, r *http.Request) error {
	path := r.URL.Path
	switch first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/"); first {
	case "healthz", "livez", "readyz":
		return s.health(w, r)
	case "metrics":
		return s.metrics.serve(w, r)
	case "debug":
		return s.debug(w, r)
	case "openapi":
		return s.openapi.serve(s, w, r)
	case "sampan":
		switch path {
		case SchedulingPath:
			return s.scheduling(w, r)
		case StorePath:
			return s.storeState(w, r)
		}
		return s.snapshot(w, r)
	case "version":
		return s.version(w, r)
	case ".well-known", "openid":
		return s.openID(w, r)
	case "api", "apis", "":
		return s.discovery.serve(s, w, r)
	}
	http.NotFound(w, r)
	return nil
}

// resource answers requests for a resource.
func (s *Server) resource(w http.ResponseWriter, r *http.Request, t *target) error {
	c := &call{target: *t}
	c.kind, c.as = s.table.ByResource(t.gvr())
	if c.kind == nil && c.group == metricsGroup.Group {
		return s.measured(w, r, c)
	}
	if c.kind == nil {
		return s.review(w, r, c)
	}
	if !c.exists() {
		http.NotFound(w, r)
		return nil
	}
	switch {
	case c.scales():
		c.as = c.kind.ScaleVersion()
	case c.sub != "" && c.kind.Sub(c.sub) == nil:
		return s.connect(w, r, c)
	}
	if !c.serves() {
		w.Header().Set("Allow", c.allows())
		return apierrors.NewMethodNotSupported(c.gr(), c.verb)
	}
	switch c.verb {
	case "get":
		return s.get(w, r, c)
	case "list":
		return s.list(w, r, c)
	case "watch":
		return s.watch(w, r, c)
	case "create":
		return s.create(w, r, c)
	case "update":
		return s.update(w, r, c)
	case "patch":
		return s.patch(w, r, c)
	case "delete":
		return s.delete(w, r, c)
	case "deletecollection":
		return s.deleteCollection(w, r, c)
	}
	return apierrors.NewMethodNotSupported(c.gr(), strings.ToLower(r.Method))
}

// exists says whether the path is one that the kind has.
func (c *call) exists() bool {
	if c.kind.Namespaced {
		if c.named && c.namespace == "" {
			return false
		}
	} else {
		if c.resource != "namespaces" && c.namespace != "" {
			return false
		}
		c.namespace = ""
	}
	if c.sub == "" {
		return true
	}
	return c.kind.Sub(c.sub) != nil && c.rest == "" || c.scales() || isConnect(c)
}

// serves says whether what the path names can be done that to.
func (c *call) serves() bool {
	switch {
	case c.sub == "finalize":
		return c.verb == "update"
	case c.sub != "":
		return c.verb == "get" || c.verb == "update" || c.verb == "patch"
	case c.named && (c.verb == "create" || c.verb == "list" || c.verb == "deletecollection"):
		return false
	case !c.named && (c.verb == "update" || c.verb == "patch"):
		return false
	case c.kind.Namespaced && c.namespace == "" && (c.verb == "create" || c.verb == "deletecollection"):
		return false
	}
	return c.kind.Serves(c.verb)
}

// allows names the methods that the path answers to.
func (c *call) allows() string {
	var methods []string
	for _, m := range []struct{ method, named, unnamed string }{
		{http.MethodGet, "get", "list"},
		{http.MethodPost, "", "create"},
		{http.MethodPut, "update", ""},
		{http.MethodPatch, "patch", ""},
		{http.MethodDelete, "delete", "deletecollection"},
	} {
		try := *c
		if try.verb = m.unnamed; c.named {
			try.verb = m.named
		}
		if try.verb != "" && try.serves() {
			methods = append(methods, m.method)
		}
	}
	return strings.Join(methods, ", ")
}
