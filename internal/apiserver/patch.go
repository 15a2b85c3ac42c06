package apiserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/mergepatch"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kjson "sigs.k8s.io/json"

	"sampan.dev/internal/resource"
)

// maxOperations is the most operations that a JSON patch may have.
const maxOperations = 10000

// patchTypes are the kinds of patch that are understood, in upstream's order.
var patchTypes = []string{string(types.JSONPatchType), string(types.MergePatchType), string(types.StrategicMergePatchType)}

// patch changes an object, or a part of it, as the client describes.
func (s *Server) patch(w http.ResponseWriter, r *http.Request, c *call) error {
	kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	if kind = strings.TrimSpace(kind); !slices.Contains(patchTypes, kind) {
		return unsupportedMedia(strings.Join(patchTypes, ", "))
	}
	m, err := negotiate(r, allowObjects)
	if err != nil {
		return err
	}
	data, err := readBody(r)
	if err != nil {
		return err
	}
	var o metav1.PatchOptions
	if err := optionsOf(query(r), &o, metav1.Convert_url_Values_To_v1_PatchOptions); err != nil {
		return err
	}
	if err := invalidOptions("PatchOptions", validation.ValidatePatchOptions(&o, types.PatchType(kind))); err != nil {
		return err
	}
	p := &patcher{c: c, kind: types.PatchType(kind), data: data, directive: directive(o.FieldValidation), warn: warningsOf(r.Context())}
	change := func(current resource.Object) (resource.Object, error) {
		next, err := p.safely(current)
		if err != nil {
			return nil, asBad(err)
		}
		if next, err = c.place(next, current); err != nil {
			return nil, err
		}
		c.warn(r.Context(), next)
		if next.GetResourceVersion() == current.GetResourceVersion() {
			next.SetResourceVersion("") // the patch sets no condition, and is applied again if the object has changed meanwhile
		}
		return next, nil
	}
	updated, _, err := s.registry.Update(r.Context(), c.kind, c.sub, c.namespace, c.name, change, metav1.UpdateOptions{
		DryRun: o.DryRun, FieldManager: manager(o.FieldManager, r), FieldValidation: o.FieldValidation,
	})
	if err != nil {
		return err
	}
	s.writeObject(w, r, c, m, http.StatusOK, updated)
	return nil
}

// asBad makes an error that a patch provoked one that the client is told it is to blame for.
func asBad(err error) error {
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		return err
	}
	return bad(err.Error())
}

// patcher applies one patch, maybe several times.
type patcher struct {
	c         *call
	kind      types.PatchType
	data      []byte
	directive string
	warn      *warnings
}

// safely applies the patch. The libraries panic on some patches that make no sense: those cannot be applied, either.
func (p *patcher) safely(current resource.Object) (next resource.Object, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			next, err = nil, bad(fmt.Sprintf("the patch cannot be applied: %v", cause))
		}
	}()
	return p.apply(current)
}

// apply gives the patched object in the stored version. It does not change current.
func (p *patcher) apply(current resource.Object) (resource.Object, error) {
	c := p.c
	old := typed(c.as.FromStored(current), c.as.GroupVersionKind)
	next := c.as.New()
	var err error
	if p.kind == types.StrategicMergePatchType {
		err = p.strategic(old, next)
	} else {
		err = p.plain(old, next)
	}
	if err != nil {
		return nil, err
	}
	if got := next.GetObjectKind().GroupVersionKind(); got.Kind != "" && got != c.as.GroupVersionKind {
		return nil, bad(fmt.Sprintf("the API version in the data (%s) does not match the expected API version (%s)", got.GroupVersion(), c.as.GroupVersion()))
	}
	next.GetObjectKind().SetGroupVersionKind(c.as.GroupVersionKind)
	if err := checkName(c, next); err != nil {
		return nil, err
	}
	stored := c.as.ToStored(next)
	stored.GetObjectKind().SetGroupVersionKind(c.kind.GroupVersionKind)
	return stored, nil
}

// plain applies a JSON patch or a JSON merge patch.
func (p *patcher) plain(old, next resource.Object) error {
	before, err := json.Marshal(old)
	if err != nil {
		return err
	}
	var after []byte
	var strict []error
	if p.kind == types.JSONPatchType {
		after, strict, err = p.jsonPatch(before)
	} else {
		after, strict, err = p.mergePatch(before)
	}
	if err != nil {
		return err
	}
	if p.directive == metav1.FieldValidationIgnore {
		if err := kjson.UnmarshalCaseSensitivePreserveInts(after, next); err != nil {
			return unfit(string(after), err)
		}
		return nil
	}
	unknown, err := kjson.UnmarshalStrict(after, next)
	if err != nil {
		return unfit(string(after), err)
	}
	return p.report(string(after), append(strict, unknown...))
}

func (p *patcher) jsonPatch(before []byte) (after []byte, strict []error, err error) {
	if p.directive != metav1.FieldValidationIgnore {
		var operations []struct {
			Op    string `json:"op"`
			Path  string `json:"path"`
			From  string `json:"from"`
			Value any    `json:"value"`
		}
		if strict, err = kjson.UnmarshalStrict(p.data, &operations); err != nil {
			return nil, nil, bad(fmt.Sprintf("error decoding patch: %v", err))
		}
		for i, e := range strict {
			strict[i] = fmt.Errorf("json patch %w", e)
		}
	}
	operations, err := jsonpatch.DecodePatch(p.data)
	if err != nil {
		return nil, nil, bad(err.Error())
	}
	if len(operations) > maxOperations {
		return nil, nil, apierrors.NewRequestEntityTooLargeError(
			fmt.Sprintf("The allowed maximum operations in a JSON patch is %d, got %d", maxOperations, len(operations)))
	}
	if after, err = operations.Apply(before); err != nil {
		return nil, nil, apierrors.NewGenericServerResponse(http.StatusUnprocessableEntity, "", schema.GroupResource{}, "", err.Error(), 0, false)
	}
	return after, strict, nil
}

func (p *patcher) mergePatch(before []byte) (after []byte, strict []error, err error) {
	if p.directive != metav1.FieldValidationIgnore {
		fields := map[string]any{}
		if strict, err = kjson.UnmarshalStrict(p.data, &fields); err != nil {
			return nil, nil, bad(fmt.Sprintf("error decoding patch: %v", err))
		}
	}
	after, err = jsonpatch.MergePatch(before, p.data)
	return after, strict, err
}

// strategic applies a patch that knows which lists have keys.
func (p *patcher) strategic(old, next resource.Object) error {
	before, err := runtime.DefaultUnstructuredConverter.ToUnstructured(old)
	if err != nil {
		return err
	}
	fields := map[string]any{}
	var strict []error
	if p.directive == metav1.FieldValidationIgnore {
		err = kjson.UnmarshalCaseSensitivePreserveInts(p.data, &fields)
	} else {
		strict, err = kjson.UnmarshalStrict(p.data, &fields)
	}
	if err != nil {
		return bad(err.Error())
	}
	after, err := strategicpatch.StrategicMergeMapPatch(before, fields, p.c.as.New())
	if errors.Is(err, mergepatch.ErrNoListOfLists) || errors.Is(err, mergepatch.ErrPatchContentNotMatchRetainKeys) {
		return apierrors.NewGenericServerResponse(http.StatusUnprocessableEntity, "", schema.GroupResource{}, "", err.Error(), 0, false)
	}
	if err != nil {
		return err
	}
	err = runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(after, next, p.directive != metav1.FieldValidationIgnore)
	if err != nil {
		unknown, ok := runtime.AsStrictDecodingError(err)
		if !ok {
			return unfit(fmt.Sprintf("%+v", fields), err)
		}
		strict = append(strict, unknown.Errors()...)
	}
	return p.report(fmt.Sprintf("%+v", fields), strict)
}

// report turns what the API does not know, or met twice, into warnings or an error.
func (p *patcher) report(what string, strict []error) error {
	if len(strict) == 0 || p.directive == metav1.FieldValidationIgnore {
		return nil
	}
	if p.directive == metav1.FieldValidationWarn {
		p.warn.strict(strict)
		return nil
	}
	return unfit(what, runtime.NewStrictDecodingError(strict))
}

// unfit says that what a patch makes of an object is none.
func unfit(what string, cause error) error {
	return apierrors.NewInvalid(schema.GroupKind{}, "", field.ErrorList{field.Invalid(field.NewPath("patch"), what, cause.Error())})
}
