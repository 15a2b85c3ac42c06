package apiserver

import (
	"fmt"
	"net/http"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"sampan.dev/internal/resource"
)

// targetKind is the kind that the client wants objects turned into.
func (m media) targetKind() schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: m.group, Version: m.ver, Kind: m.as}
}

func tableOptions(r *http.Request) (o metav1.TableOptions, err error) {
	if err := optionsOf(query(r), &o, metav1.Convert_url_Values_To_v1_TableOptions); err != nil {
		return o, err
	}
	switch errs := validation.ValidateTableOptions(&o); len(errs) {
	case 0:
		return o, nil
	case 1:
		return o, bad(fmt.Sprintf("Unable to convert to Table as requested: %v", errs[0]))
	default:
		return o, bad(fmt.Sprintf("Unable to convert to Table as requested: %v", errs))
	}
}

// table begins a table of the kind's columns.
func (c *call) table(m media, list metav1.ListMeta) *metav1.Table {
	t := &metav1.Table{ListMeta: list, ColumnDefinitions: c.kind.Columns, Rows: []metav1.TableRow{}}
	if t.ColumnDefinitions == nil {
		t.ColumnDefinitions = defaultColumns()
	}
	t.SetGroupVersionKind(m.targetKind())
	return t
}

// defaultColumns are those of kinds that name none.
func defaultColumns() []metav1.TableColumnDefinition {
	doc := metav1.ObjectMeta{}.SwaggerDoc()
	return []metav1.TableColumnDefinition{
		{Name: "Name", Type: "string", Format: "name", Description: doc["name"]},
		{Name: "Created At", Type: "date", Description: doc["creationTimestamp"]},
	}
}

// row is the object as a row of a table.
func (c *call) row(m media, o metav1.TableOptions, obj resource.Object, now time.Time) metav1.TableRow {
	var row metav1.TableRow
	if c.kind.Row != nil {
		row.Cells = c.kind.Row(obj, now)
	} else {
		row.Cells = []any{obj.GetName(), obj.GetCreationTimestamp().UTC().Format(time.RFC3339)}
	}
	switch o.IncludeObject {
	case metav1.IncludeNone:
	case metav1.IncludeObject:
		row.Object = runtime.RawExtension{Object: typed(c.as.FromStored(obj), c.as.GroupVersionKind)}
	default:
		row.Object = runtime.RawExtension{Object: partial(m, obj)}
	}
	return row
}

// partial is the object's metadata alone.
func partial(m media, obj resource.Object) *metav1.PartialObjectMetadata {
	p := meta.AsPartialObjectMetadata(obj)
	p.SetGroupVersionKind(schema.GroupVersionKind{Group: m.group, Version: m.ver, Kind: "PartialObjectMetadata"})
	return p
}

// writeConverted answers with one object turned into what the client wants.
func (s *Server) writeConverted(w http.ResponseWriter, r *http.Request, c *call, m media, code int, obj resource.Object) {
	out, err := c.convert(r, m, obj)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.write(w, r, m, code, m.targetKind(), out)
}

func (c *call) convert(r *http.Request, m media, obj resource.Object) (runtime.Object, error) {
	switch m.as {
	case "Table":
		o, err := tableOptions(r)
		if err != nil {
			return nil, err
		}
		t := c.table(m, metav1.ListMeta{ResourceVersion: obj.GetResourceVersion()})
		t.Rows = append(t.Rows, c.row(m, o, obj, time.Now()))
		return t, nil
	case "PartialObjectMetadataList":
		return nil, notAcceptable(fmt.Sprintf("you requested PartialObjectMetadataList, but the requested object is not a list (%T)", obj))
	}
	return partial(m, obj), nil
}

// writeConvertedList answers with a list turned into what the client wants.
func (s *Server) writeConvertedList(w http.ResponseWriter, r *http.Request, c *call, m media, p *page) error {
	if m.as == "PartialObjectMetadata" {
		return notAcceptable(fmt.Sprintf("you requested PartialObjectMetadata, but the requested object is a list (%T)", c.as.NewList()))
	}
	if m.as == "PartialObjectMetadataList" {
		list := &metav1.PartialObjectMetadataList{ListMeta: p.meta, Items: make([]metav1.PartialObjectMetadata, 0, len(p.items))}
		list.SetGroupVersionKind(m.targetKind())
		for _, obj := range p.items {
			one := partial(m, obj.Decoded())
			one.TypeMeta = metav1.TypeMeta{}
			list.Items = append(list.Items, *one)
		}
		s.write(w, r, m, http.StatusOK, m.targetKind(), list)
		return nil
	}
	o, err := tableOptions(r)
	if err != nil {
		return err
	}
	t := c.table(m, p.meta)
	now := time.Now()
	for _, obj := range p.items {
		t.Rows = append(t.Rows, c.row(m, o, obj.Decoded(), now))
	}
	s.write(w, r, m, http.StatusOK, m.targetKind(), t)
	return nil
}
