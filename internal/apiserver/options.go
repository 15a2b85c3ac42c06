package apiserver

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/cache"
)

func bad(message string) error { return apierrors.NewBadRequest(message) }

// optionsOf decodes options from a query with the conversion that the API's own types have.
func optionsOf[T any](q url.Values, into *T, convert func(*url.Values, *T, conversion.Scope) error) error {
	if len(q) == 0 {
		return nil
	}
	if err := convert(&q, into, nil); err != nil {
		return bad(err.Error())
	}
	return nil
}

func invalidOptions(kind string, errs field.ErrorList) error {
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: kind}, "", errs)
}

func createOptions(q url.Values) (o metav1.CreateOptions, err error) {
	if err := optionsOf(q, &o, metav1.Convert_url_Values_To_v1_CreateOptions); err != nil {
		return o, err
	}
	return o, invalidOptions("CreateOptions", validation.ValidateCreateOptions(&o))
}

func updateOptions(q url.Values) (o metav1.UpdateOptions, err error) {
	if err := optionsOf(q, &o, metav1.Convert_url_Values_To_v1_UpdateOptions); err != nil {
		return o, err
	}
	return o, invalidOptions("UpdateOptions", validation.ValidateUpdateOptions(&o))
}

// listQuery is a list, watch or deletecollection as it was asked for.
type listQuery struct {
	metav1.ListOptions
	selection cache.Selection
	revision  int64 // of ResourceVersion; 0 if it is "0" or not given
	all       bool  // no selector: everything of the namespace
}

// listOptions decodes and checks the query of a list, watch or deletecollection.
func (c *call) listOptions(r *http.Request) (listQuery, error) {
	var l listQuery
	q := query(r)
	if err := optionsOf(q, &l.ListOptions, metav1.Convert_url_Values_To_v1_ListOptions); err != nil {
		return l, err
	}
	l.Watch = c.verb == "watch" // for the old form of a watch, too
	l.selection.Namespace = c.namespace
	if l.LabelSelector != "" {
		s, err := labels.Parse(l.LabelSelector)
		if err != nil {
			return l, bad(err.Error())
		}
		l.selection.Labels = s
	}
	var byField fields.Selector
	if l.FieldSelector != "" {
		s, err := fields.ParseSelector(l.FieldSelector)
		if err != nil {
			return l, bad(err.Error())
		}
		byField = s
	}
	if l.Watch && l.SendInitialEvents == nil && l.ResourceVersionMatch == "" && (l.ResourceVersion == "" || l.ResourceVersion == "0") {
		yes := true
		l.SendInitialEvents, l.ResourceVersionMatch = &yes, metav1.ResourceVersionMatchNotOlderThan
	}
	if err := invalidOptions("ListOptions", l.check()); err != nil {
		return l, err
	}
	if byField != nil && !byField.Empty() {
		s, err := byField.Transform(c.storedField)
		if err != nil {
			return l, bad(err.Error())
		}
		l.selection.Fields = s
	}
	if c.named { // the old form of a watch on one object, or a watch on a named one
		if name, ok := exactName(byField); byField != nil && !byField.Empty() && (!ok || name != c.name) {
			return l, bad("fieldSelector metadata.name doesn't match requested name")
		}
		if l.selection.Fields == nil {
			l.selection.Fields = fields.OneTermEqualSelector("metadata.name", c.name)
		}
	}
	l.all = (l.selection.Labels == nil || l.selection.Labels.Empty()) && l.selection.Fields == nil
	if l.ResourceVersion != "" {
		rv, err := strconv.ParseUint(l.ResourceVersion, 10, 63)
		if err != nil {
			return l, apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: "ListOptions"}, "", field.ErrorList{
				field.Invalid(field.NewPath("resourceVersion"), l.ResourceVersion, strings.Replace(err.Error(), "strconv.ParseUint: ", "", 1)),
			})
		}
		l.revision = int64(rv)
	}
	return l, nil
}

func exactName(s fields.Selector) (string, bool) {
	if s == nil {
		return "", false
	}
	return s.RequiresExactMatch("metadata.name")
}

// storedField turns the name of a field in the version that the client speaks into the stored version's.
func (c *call) storedField(name, value string) (string, string, error) {
	if !slices.Contains(c.as.FieldNames, name) {
		return "", "", bad(unknownField(c.as.FieldNames, name))
	}
	if c.as.StoredField != nil {
		name = c.as.StoredField(name)
	}
	return name, value, nil
}

// unknownField says that objects cannot be selected by that field. Kinds that have no fields of their own say which there are.
func unknownField(known []string, name string) string {
	for _, f := range known {
		if f != "metadata.name" && f != "metadata.namespace" {
			return "field label not supported: " + name
		}
	}
	return strconv.Quote(name) + ` is not a known field selector: only "metadata.name", "metadata.namespace"`
}

// check finds options that exclude each other.
func (l *listQuery) check() (errs field.ErrorList) {
	match := l.ResourceVersionMatch
	at := field.NewPath("resourceVersionMatch")
	forbid := func(p *field.Path, why string) { errs = append(errs, field.Forbidden(p, why)) }
	supported := []string{string(metav1.ResourceVersionMatchExact), string(metav1.ResourceVersionMatchNotOlderThan), ""}
	if l.Watch {
		supported = []string{string(metav1.ResourceVersionMatchNotOlderThan)}
		if l.SendInitialEvents != nil && match != metav1.ResourceVersionMatchNotOlderThan {
			forbid(at, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan")
		}
		if match != "" && l.SendInitialEvents == nil {
			forbid(at, "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided")
		}
	} else {
		if match != "" && l.ResourceVersion == "" {
			forbid(at, "resourceVersionMatch is forbidden unless resourceVersion is provided")
		}
		if l.SendInitialEvents != nil {
			forbid(field.NewPath("sendInitialEvents"), "sendInitialEvents is forbidden for list")
		}
		if match == metav1.ResourceVersionMatchExact && l.ResourceVersion == "0" {
			forbid(at, `resourceVersionMatch "exact" is forbidden for resourceVersion "0"`)
		}
	}
	if match != "" && l.Continue != "" {
		forbid(at, "resourceVersionMatch is forbidden when continue is provided")
	}
	if match != "" && !slices.Contains(supported, string(match)) {
		errs = append(errs, field.NotSupported(at, match, supported))
	}
	return errs
}
