package openapi

import (
	"reflect"
	"slices"
	"strings"
)

// builder collects the schemas that a document refers to.
type builder struct {
	prefix  string // of references
	v3      bool
	schemas object
}

func newBuilder(prefix string, v3 bool) *builder {
	return &builder{prefix: prefix, v3: v3, schemas: object{}}
}

// Types that say themselves what they look like: times, quantities, numbers or strings.
type (
	selfDescribed interface {
		OpenAPISchemaType() []string
		OpenAPISchemaFormat() string
	}
	alternatives interface{ OpenAPIV3OneOfTypes() []string }
	documented   interface{ SwaggerDoc() map[string]string }
)

// define describes a named type once, and returns its name.
func (b *builder) define(t reflect.Type) string {
	name := modelName(t)
	if _, there := b.schemas[name]; there {
		return name
	}
	s := object{}
	b.schemas[name] = s // before its fields, which may refer to it
	zero := reflect.Zero(t).Interface()
	if doc := docOf(t)[""]; doc != "" {
		s["description"] = doc
	}
	if own, ok := zero.(selfDescribed); ok {
		if several, ok := zero.(alternatives); ok && b.v3 {
			var list []any
			for _, kind := range several.OpenAPIV3OneOfTypes() {
				list = append(list, object{"type": kind})
			}
			s["oneOf"] = list
		} else {
			s["type"] = own.OpenAPISchemaType()[0]
		}
		if format := own.OpenAPISchemaFormat(); format != "" {
			s["format"] = format
		}
		return name
	}
	s["type"] = "object"
	switch t.Name() {
	case "RawExtension", "FieldsV1", "Patch":
		return name // anything
	}
	properties, required := object{}, []string{}
	b.fields(t, properties, &required)
	if len(properties) > 0 {
		s["properties"] = properties
	}
	if len(required) > 0 {
		slices.Sort(required)
		s["required"] = required
	}
	return name
}

func docOf(t reflect.Type) map[string]string {
	if d, ok := reflect.Zero(t).Interface().(documented); ok {
		return d.SwaggerDoc()
	}
	return nil
}

// fields describes the fields of a struct, those of embedded ones as its own.
func (b *builder) fields(t reflect.Type, properties object, required *[]string) {
	doc := docOf(t)
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "-" || !f.IsExported() {
			continue
		}
		if name == "" && f.Anonymous {
			embedded := f.Type
			if embedded.Kind() == reflect.Pointer {
				embedded = embedded.Elem()
			}
			b.fields(embedded, properties, required)
			continue
		}
		if name == "" {
			continue
		}
		s := b.describe(f.Type, doc[name])
		if v := f.Tag.Get("patchStrategy"); v != "" {
			s["x-kubernetes-patch-strategy"] = v
		}
		if v := f.Tag.Get("patchMergeKey"); v != "" {
			s["x-kubernetes-patch-merge-key"] = v
		}
		properties[name] = s
		if !strings.Contains(options, "omitempty") && !strings.Contains(options, "omitzero") && f.Type.Kind() != reflect.Pointer {
			*required = append(*required, name)
		}
	}
}

// describe is the schema of a value of that type; a struct is referred to by name.
func (b *builder) describe(t reflect.Type, doc string) object {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	s := object{}
	if doc != "" {
		s["description"] = doc
	}
	_, own := reflect.Zero(t).Interface().(selfDescribed)
	switch kind := t.Kind(); {
	case kind == reflect.Struct || own:
		ref := b.prefix + b.define(t)
		if b.v3 { // where nothing may stand beside a reference
			s["allOf"] = []any{object{"$ref": ref}}
		} else {
			s["$ref"] = ref
		}
	case kind == reflect.Slice && t.Elem().Kind() == reflect.Uint8:
		s["type"], s["format"] = "string", "byte"
	case kind == reflect.Slice:
		s["type"], s["items"] = "array", b.element(t.Elem())
	case kind == reflect.Map:
		s["type"], s["additionalProperties"] = "object", b.element(t.Elem())
	case kind == reflect.Interface:
		s["type"] = "object"
	default:
		kind, format := scalar(kind)
		s["type"] = kind
		if format != "" {
			s["format"] = format
		}
	}
	return s
}

// element is the schema of what a list or a map holds: upstream's have a default there in version 3, and no sentence.
func (b *builder) element(t reflect.Type) object {
	s := b.describe(t, "")
	if !b.v3 {
		return s
	}
	if _, ref := s["allOf"]; ref {
		s["default"] = object{}
	} else if s["type"] == "string" && s["format"] == nil {
		s["default"] = ""
	}
	return s
}

func scalar(kind reflect.Kind) (name, format string) {
	switch kind {
	case reflect.Bool:
		return "boolean", ""
	case reflect.Int32, reflect.Int16, reflect.Int8, reflect.Uint8, reflect.Uint16, reflect.Uint32:
		return "integer", "int32"
	case reflect.Int, reflect.Int64, reflect.Uint, reflect.Uint64:
		return "integer", "int64"
	case reflect.Float32, reflect.Float64:
		return "number", "double"
	}
	return "string", ""
}
