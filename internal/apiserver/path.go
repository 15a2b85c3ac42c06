package apiserver

import (
	"net/http"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"sampan.dev/internal/resource"
)

// target is what a request's path names.
type target struct {
	group, version      string
	resource, sub, rest string // rest is what follows a subresource
	namespace, name     string
	verb                string
	isResource          bool // else only the path counts
	named               bool // by the path
}

// parsePath reads a request's method and path as Kubernetes does. It never fails: what it does not understand is no resource.
func parsePath(r *http.Request) target {
	t := target{verb: strings.ToLower(r.Method)}
	path := strings.Trim(r.URL.Path, "/")
	prefix, path, _ := strings.Cut(path, "/")
	switch prefix {
	case "api":
	case "apis":
		t.group, path, _ = strings.Cut(path, "/")
		if t.group == "" {
			return t
		}
	default:
		return t
	}
	if t.version, path, _ = strings.Cut(path, "/"); t.version == "" || path == "" {
		return t
	}
	t.isResource = true
	t.verb = verbs[r.Method]
	parts := strings.Split(path, "/")
	watch := false
	if parts[0] == "watch" && len(parts) > 1 { // the old form of a watch
		watch, parts = true, parts[1:]
	}
	if parts[0] == "namespaces" && len(parts) > 1 {
		t.namespace = parts[1]
		if len(parts) > 2 && parts[2] != "status" && parts[2] != "finalize" {
			parts = parts[2:]
		}
	}
	t.resource = parts[0]
	if len(parts) > 1 {
		t.name, t.named = parts[1], true
	}
	if len(parts) > 2 {
		t.sub = parts[2]
		t.rest = strings.Join(parts[3:], "/")
	}
	if t.name == "" && t.verb == "get" {
		t.verb = "list"
		if watch || asksWatch(r) {
			t.verb = "watch"
		}
	}
	if watch && t.verb == "get" {
		t.verb = "watch"
	}
	if t.name == "" && t.verb == "delete" {
		t.verb = "deletecollection"
	}
	return t
}

var verbs = map[string]string{
	http.MethodGet: "get", http.MethodHead: "get", http.MethodPost: "create", http.MethodPut: "update",
	http.MethodPatch: "patch", http.MethodDelete: "delete",
}

// asksWatch says whether the query asks for a watch. It is only a first look: the options are decoded later.
func asksWatch(r *http.Request) bool {
	if !strings.Contains(r.URL.RawQuery, "watch") {
		return false
	}
	for _, v := range r.URL.Query()["watch"] {
		return v != "false" && v != "0"
	}
	return false
}

// fieldName takes the name that a list's field selector demands, which then counts as the request's own.
func (t *target) fieldName(r *http.Request) fields.Selector {
	if t.verb != "list" && t.verb != "watch" && t.verb != "deletecollection" || !strings.Contains(r.URL.RawQuery, "fieldSelector") {
		return nil
	}
	s, err := fields.ParseSelector(r.URL.Query().Get("fieldSelector"))
	if err != nil {
		return nil // the handler says so
	}
	if name, ok := s.RequiresExactMatch("metadata.name"); ok && t.name == "" && !strings.Contains(name, "/") {
		t.name = name
	}
	return s
}

// call is one request for a resource on its way through the server.
type call struct {
	target
	kind *resource.Kind
	as   *resource.Version // that the client speaks
}

func (t *target) gvr() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: t.group, Version: t.version, Resource: t.resource}
}

// gr is what errors call the kind.
func (c *call) gr() schema.GroupResource {
	return schema.GroupResource{Group: c.group, Resource: c.resource}
}

// longRunning are the requests that may take as long as they like.
func (t *target) longRunning() bool {
	return t.isResource && (t.verb == "watch" || slices.Contains([]string{"log", "exec", "attach", "portforward", "proxy"}, t.sub))
}
