// Package openapi describes the API in OpenAPI 2 and 3, out of the Go types of the kinds that are served.
//
// It watches and writes nothing. Names, types and which fields are required are read off the types' tags, sentences from their
// SwaggerDoc. Always: the same table makes the same documents, byte for byte; nothing of them is kept here.
package openapi

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"sampan.dev/internal/resource"
)

// object is a JSON object. Encoding sorts its keys.
type object = map[string]any

// Generator makes documents.
type Generator struct {
	table   *resource.Table
	version string // told in the documents
}

// New returns a generator for the kinds in table.
func New(table *resource.Table, version string) *Generator { return &Generator{table, version} }

// GroupVersions are those that there is a document of in version 3, in the order of the table.
func (g *Generator) GroupVersions() []schema.GroupVersion {
	var all []schema.GroupVersion
	for _, s := range g.served() {
		if gv := s.version.GroupVersion(); !slices.Contains(all, gv) {
			all = append(all, gv)
		}
	}
	return all
}

// served is one kind in one version.
type served struct {
	kind    *resource.Kind
	version *resource.Version
}

func (g *Generator) served() []served {
	var all []served
	for _, k := range g.table.All() {
		kind, stored := g.table.ByKind(k.GroupVersionKind)
		all = append(all, served{kind, stored})
		for i := range k.Also {
			all = append(all, served{k, &k.Also[i]})
		}
	}
	return all
}

// V2 is the whole API in OpenAPI 2, in JSON.
func (g *Generator) V2() ([]byte, error) {
	b := newBuilder("#/definitions/", false)
	paths := object{}
	for _, s := range g.served() {
		b.kind(s)
		b.paths(s, paths)
	}
	return b.document(object{
		"swagger": "2.0", "info": g.info(), "paths": paths, "definitions": b.schemas,
	})
}

// V3 is one group and version in OpenAPI 3, in JSON.
func (g *Generator) V3(gv schema.GroupVersion) ([]byte, error) {
	b := newBuilder("#/components/schemas/", true)
	paths := object{}
	for _, s := range g.served() {
		if s.version.GroupVersion() == gv {
			b.kind(s)
			b.paths(s, paths)
		}
	}
	return b.document(object{
		"openapi": "3.0.0", "info": g.info(), "paths": paths, "components": object{"schemas": b.schemas},
	})
}

func (g *Generator) info() object { return object{"title": "Kubernetes", "version": g.version} }

func (b *builder) document(doc object) ([]byte, error) {
	data, err := json.Marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("describe the API: %w", err)
	}
	return data, nil
}

// kind describes a kind, its list, and what every kind is used with.
func (b *builder) kind(s served) {
	gvk := s.version.GroupVersionKind
	b.mark(b.define(typeOf(s.version.New())), gvk)
	b.mark(b.define(typeOf(s.version.NewList())), gvk.GroupVersion().WithKind(gvk.Kind+"List"))
	if s.kind.Scale != nil {
		b.mark(b.define(typeOf(s.kind.ScaleVersion().New())), resource.ScaleKind)
	}
	b.mark(b.define(reflect.TypeFor[metav1.DeleteOptions]()), gvk.GroupVersion().WithKind("DeleteOptions"))
	b.mark(b.define(reflect.TypeFor[metav1.WatchEvent]()), gvk.GroupVersion().WithKind("WatchEvent"))
	b.mark(b.define(reflect.TypeFor[metav1.Status]()), schema.GroupVersionKind{Version: "v1", Kind: "Status"})
	b.define(reflect.TypeFor[metav1.Patch]())
}

func typeOf(v any) reflect.Type { return reflect.TypeOf(v).Elem() }

// mark says which kind a schema is of; the same schema may be of several.
func (b *builder) mark(name string, gvk schema.GroupVersionKind) {
	s := b.schemas[name].(object)
	const key = "x-kubernetes-group-version-kind"
	list, _ := s[key].([]any)
	for _, have := range list {
		if reflect.DeepEqual(have, gvkObject(gvk)) {
			return
		}
	}
	s[key] = append(list, gvkObject(gvk))
}

func gvkObject(gvk schema.GroupVersionKind) object {
	return object{"group": gvk.Group, "version": gvk.Version, "kind": gvk.Kind}
}

// modelName is what a type is called: "io.k8s.api.core.v1.Pod".
func modelName(t reflect.Type) string {
	if named, ok := reflect.Zero(t).Interface().(interface{ OpenAPIModelName() string }); ok {
		return named.OpenAPIModelName()
	}
	host, rest, _ := strings.Cut(t.PkgPath(), "/")
	labels := strings.Split(host, ".")
	slices.Reverse(labels)
	return strings.Join(labels, ".") + "." + strings.ReplaceAll(rest, "/", ".") + "." + t.Name()
}
