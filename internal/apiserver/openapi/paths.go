package openapi

import (
	"slices"
	"strings"
)

// Media types that bodies are in.
var (
	sent     = []string{"application/json", "application/yaml", "application/vnd.kubernetes.protobuf"}
	streamed = append(slices.Clone(sent), "application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch")
	patches  = []string{"application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json"}
)

const (
	metaModel   = "io.k8s.apimachinery.pkg.apis.meta.v1."
	prettyDoc   = "If 'true', then the output is pretty printed. Defaults to 'false' unless the user-agent indicates a browser or command-line HTTP tool (curl and wget)."
	dryRunDoc   = "When present, indicates that modifications should not be persisted. An invalid or unrecognized dryRun directive will result in an error response and no further processing of the request. Valid values are: - All: all dry run stages will be processed"
	managerDoc  = "fieldManager is a name associated with the actor or entity that is making these changes. The value must be less than or 128 characters long, and only contain printable characters, as defined by https://golang.org/pkg/unicode/#IsPrint."
	validateDoc = "fieldValidation instructs the server on how to handle objects in the request (POST/PUT/PATCH) containing unknown or duplicate fields. Valid values are: Ignore, Warn (the default) and Strict."
)

// parameter of a query; kind is its type.
type parameter struct{ name, kind, doc string }

var (
	pretty       = parameter{"pretty", "string", prettyDoc}
	changeParams = []parameter{
		{"dryRun", "string", dryRunDoc}, {"fieldManager", "string", managerDoc}, {"fieldValidation", "string", validateDoc},
	}
	listParams = []parameter{
		{"allowWatchBookmarks", "boolean", "allowWatchBookmarks requests watch events with type \"BOOKMARK\"."},
		{"continue", "string", "The continue option should be set when retrieving more results from the server."},
		{"fieldSelector", "string", "A selector to restrict the list of returned objects by their fields. Defaults to everything."},
		{"labelSelector", "string", "A selector to restrict the list of returned objects by their labels. Defaults to everything."},
		{"limit", "integer", "limit is a maximum number of responses to return for a list call."},
		{"resourceVersion", "string", "resourceVersion sets a constraint on what resource versions a request may be served from."},
		{"resourceVersionMatch", "string", "resourceVersionMatch determines how resourceVersion is applied to list calls."},
		{"sendInitialEvents", "boolean", "`sendInitialEvents=true` may be set together with `watch=true`."},
		{"timeoutSeconds", "integer", "Timeout for the list/watch call."},
		{"watch", "boolean", "Watch for changes to the described resources and return them as a stream of add, update, and remove notifications."},
	}
	deleteParams = []parameter{
		{"dryRun", "string", dryRunDoc},
		{"gracePeriodSeconds", "integer", "The duration in seconds before the object should be deleted."},
		{"orphanDependents", "boolean", "Deprecated: please use the PropagationPolicy."},
		{"propagationPolicy", "string", "Whether and how garbage collection will be performed."},
	}
)

// paths describes the ways to a kind.
func (b *builder) paths(s served, paths object) {
	v := s.version
	root := "/api/" + v.Version
	if v.Group != "" {
		root = "/apis/" + v.Group + "/" + v.Version
	}
	path, scope := root, []object{}
	if s.kind.Namespaced {
		paths[root+"/"+v.Plural] = b.item(s, nil, verb{"list", "ForAllNamespaces"})
		path += "/namespaces/{namespace}"
		scope = append(scope, b.pathParam("namespace", "object name and auth scope, such as for teams and projects"))
	}
	path += "/" + v.Plural
	paths[path] = b.item(s, scope, verb{"list", ""}, verb{"create", ""}, verb{"deletecollection", ""})
	scope = append(scope, b.pathParam("name", "name of the "+v.Kind))
	path += "/{name}"
	one := []verb{{"get", ""}, {"update", ""}, {"patch", ""}, {"delete", ""}}
	paths[path] = b.item(s, scope, one...)
	if s.kind.Status != nil && v.GroupVersionKind == s.kind.GroupVersionKind {
		paths[path+"/status"] = b.item(s, scope, verb{"get", "Status"}, verb{"update", "Status"}, verb{"patch", "Status"})
	}
	if s.kind.Scale != nil && v.GroupVersionKind == s.kind.GroupVersionKind {
		paths[path+"/scale"] = b.item(s, scope, verb{"get", "Scale"}, verb{"update", "Scale"}, verb{"patch", "Scale"})
	}
}

// verb is something that can be done at a path; what names it apart from others of the same kind.
type verb struct{ name, what string }

// methods and actions are upstream's names for verbs.
var methods = map[string]struct{ method, action, id string }{
	"get": {"get", "get", "read"}, "list": {"get", "list", "list"}, "create": {"post", "post", "create"},
	"update": {"put", "put", "replace"}, "patch": {"patch", "patch", "patch"},
	"delete": {"delete", "delete", "delete"}, "deletecollection": {"delete", "deletecollection", "deleteCollection"},
}

// item is what can be done at one path.
func (b *builder) item(s served, scope []object, verbs ...verb) object {
	item := object{}
	params := []any{b.queryParam(pretty)}
	for _, p := range scope {
		params = append(params, p)
	}
	item["parameters"] = params
	for _, v := range verbs {
		if s.kind.Serves(v.name) {
			item[methods[v.name].method] = b.operation(s, v)
		}
	}
	return item
}

func (b *builder) operation(s served, v verb) object {
	version := s.version
	m := methods[v.name]
	group, _, _ := strings.Cut(version.Group, ".")
	if group == "" {
		group = "core"
	}
	scope := ""
	if s.kind.Namespaced && v.what != "ForAllNamespaces" {
		scope = "Namespaced"
	}
	of := version
	if v.what == "Scale" {
		of = s.kind.ScaleVersion()
	}
	op := object{
		"operationId":                     m.id + title(group) + title(version.Version) + scope + version.Kind + v.what,
		"tags":                            []any{group + "_" + version.Version},
		"x-kubernetes-action":             m.action,
		"x-kubernetes-group-version-kind": gvkObject(of.GroupVersionKind),
	}
	one := modelName(typeOf(of.New()))
	answer, code, produces := one, "200", sent
	var params []parameter
	body, consumes := "", []string{"*/*"}
	switch v.name {
	case "list":
		answer, params, produces = modelName(typeOf(version.NewList())), listParams, streamed
	case "create":
		body, code, params = one, "201", changeParams
	case "update":
		body, params = one, changeParams
	case "patch":
		body, params, consumes = metaModel+"Patch", append(slices.Clone(changeParams), parameter{"force", "boolean", "Force is going to \"force\" Apply requests."}), patches
	case "delete":
		answer, body, params = metaModel+"Status", metaModel+"DeleteOptions", deleteParams
	case "deletecollection":
		answer, body, params = metaModel+"Status", metaModel+"DeleteOptions", append(slices.Clone(listParams), deleteParams...)
	}
	op["description"] = describeOperation(v, version.Kind)
	list := []any{}
	for _, p := range params {
		list = append(list, b.queryParam(p))
	}
	if b.v3 {
		b.bodies3(op, body, consumes, answer, code, produces)
	} else {
		if body != "" {
			list = append(list, object{"name": "body", "in": "body", "required": v.name != "delete" && v.name != "deletecollection", "schema": b.ref(body)})
		}
		op["consumes"], op["produces"], op["schemes"] = consumes, produces, []any{"https"}
		op["responses"] = object{code: object{"description": "OK", "schema": b.ref(answer)}, "401": object{"description": "Unauthorized"}}
	}
	if len(list) > 0 {
		op["parameters"] = list
	}
	return op
}

func (b *builder) bodies3(op object, body string, consumes []string, answer, code string, produces []string) {
	content := func(types []string, model string) object {
		c := object{}
		for _, t := range types {
			c[t] = object{"schema": b.ref(model)}
		}
		return c
	}
	if body != "" {
		op["requestBody"] = object{"content": content(consumes, body)}
	}
	op["responses"] = object{
		code: object{"description": "OK", "content": content(produces, answer)}, "401": object{"description": "Unauthorized"},
	}
}

func describeOperation(v verb, kind string) string {
	of := " the specified " + kind
	if v.what != "" && v.name != "list" {
		of = " " + strings.ToLower(v.what) + " of the specified " + kind
	}
	switch v.name {
	case "get":
		return "read" + of
	case "list":
		return "list or watch objects of kind " + kind
	case "create":
		return "create a " + kind
	case "update":
		return "replace" + of
	case "patch":
		return "partially update" + of
	case "deletecollection":
		return "delete collection of " + kind
	}
	return "delete a " + kind
}

func (b *builder) ref(model string) object { return object{"$ref": b.prefix + model} }

func (b *builder) queryParam(p parameter) object {
	o := object{"name": p.name, "in": "query", "description": p.doc, "uniqueItems": true}
	if b.v3 {
		delete(o, "uniqueItems")
		o["schema"] = object{"type": p.kind, "uniqueItems": true}
	} else {
		o["type"] = p.kind
	}
	return o
}

func (b *builder) pathParam(name, doc string) object {
	o := b.queryParam(parameter{name, "string", doc})
	o["in"], o["required"] = "path", true
	return o
}

func title(s string) string { return strings.ToUpper(s[:1]) + s[1:] }
