package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"unicode"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/resource"
)

func (s *Server) create(w http.ResponseWriter, r *http.Request, c *call) error {
	m, err := negotiate(r, allowObjects)
	if err != nil {
		return err
	}
	f, err := bodyFormat(r)
	if err != nil {
		return err
	}
	data, err := readBody(r)
	if err != nil {
		return err
	}
	o, err := createOptions(query(r))
	if err != nil {
		return err
	}
	obj, err := s.decodeObject(c, f, data, directive(o.FieldValidation), warningsOf(r.Context()))
	if err != nil {
		return err
	}
	wipe(obj)
	if err := checkNamespace(c, obj); err != nil {
		return err
	}
	if err := s.mayCreate(r.Context(), c, obj.GetName()); err != nil {
		return err
	}
	stored := c.as.ToStored(obj)
	stored.GetObjectKind().SetGroupVersionKind(c.kind.GroupVersionKind)
	if c.as.Validate != nil {
		if err := c.invalid(obj.GetName(), c.as.Validate(stored)); err != nil {
			return err
		}
	}
	o.FieldManager = manager(o.FieldManager, r)
	c.warn(r.Context(), stored)
	created, err := s.registry.Create(r.Context(), c.kind, stored, o)
	if err != nil {
		return err
	}
	s.writeObject(w, r, c, m, http.StatusCreated, created)
	return nil
}

// update replaces an object, or a part of it, by what the client sends.
func (s *Server) update(w http.ResponseWriter, r *http.Request, c *call) error {
	m, err := negotiate(r, allowObjects)
	if err != nil {
		return err
	}
	data, err := readBody(r)
	if err != nil {
		return err
	}
	o, err := updateOptions(query(r))
	if err != nil {
		return err
	}
	f, err := bodyFormat(r)
	if err != nil {
		return err
	}
	obj, err := s.decodeObject(c, f, data, directive(o.FieldValidation), warningsOf(r.Context()))
	if err != nil {
		return err
	}
	if err := checkName(c, obj); err != nil {
		return err
	}
	o.FieldManager = manager(o.FieldManager, r)
	stored := c.as.ToStored(obj)
	stored.GetObjectKind().SetGroupVersionKind(c.kind.GroupVersionKind)
	c.warn(r.Context(), stored)
	change := func(current resource.Object) (resource.Object, error) {
		// The registry may ask again, so what is handed out must not be what an earlier try has changed.
		return c.place(stored.DeepCopyObject().(resource.Object), current)
	}
	updated, created, err := s.registry.Update(r.Context(), c.kind, c.sub, c.namespace, c.name, change, o)
	if err != nil {
		return err
	}
	code := http.StatusOK
	if created {
		code = http.StatusCreated
	}
	s.writeObject(w, r, c, m, code, updated)
	return nil
}

// place makes what the client has sent the object that shall be.
func (c *call) place(next, current resource.Object) (resource.Object, error) {
	if c.scales() {
		return c.setScale(next, current)
	}
	return next, c.checkVersion(next, current)
}

// checkVersion checks what only the version that the client speaks demands.
func (c *call) checkVersion(next, current resource.Object) error {
	if c.as.Validate != nil {
		if err := c.invalid(c.name, c.as.Validate(next)); err != nil {
			return err
		}
	}
	if c.as.ValidateUpdate != nil {
		return c.invalid(c.name, c.as.ValidateUpdate(next, current))
	}
	return nil
}

func (s *Server) delete(w http.ResponseWriter, r *http.Request, c *call) error {
	m, err := negotiate(r, allowObjects)
	if err != nil {
		return err
	}
	o, err := s.decodeDeleteOptions(r)
	if err != nil {
		return err
	}
	c.warnOrphans(r.Context(), &o)
	obj, gone, err := s.registry.Delete(r.Context(), c.kind, c.namespace, c.name, o)
	if err != nil {
		return err
	}
	code := http.StatusOK
	//lint:ignore SA1019 clients still send it
	if !gone && o.OrphanDependents != nil && !*o.OrphanDependents {
		code = http.StatusAccepted
	}
	if obj != nil && (!gone || slices.Contains(answersWithObject, c.kind.Plural)) {
		s.writeObject(w, r, c, m, code, obj)
		return nil
	}
	status := &metav1.Status{
		Status:  metav1.StatusSuccess,
		Details: &metav1.StatusDetails{Name: c.name, Group: c.group, Kind: c.resource},
	}
	if obj != nil {
		status.Details.UID = obj.GetUID()
	}
	s.succeed(w, r, code, status)
	return nil
}

// answersWithObject are the kinds whose deletion is answered with the object as it last was, and not with a Status.
var answersWithObject = []string{"pods", "serviceaccounts", "services"}

func (s *Server) succeed(w http.ResponseWriter, r *http.Request, code int, status *metav1.Status) {
	status.TypeMeta = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}
	m, err := negotiate(r, func(media) bool { return true })
	if err != nil {
		m = media{}
	}
	s.write(w, r, m, code, statusKind, status)
}

func (s *Server) deleteCollection(w http.ResponseWriter, r *http.Request, c *call) error {
	m, err := negotiate(r, allowObjects)
	if err != nil {
		return err
	}
	l, err := c.listOptions(r)
	if err != nil {
		return err
	}
	o, err := s.decodeDeleteOptions(r)
	if err != nil {
		return err
	}
	c.warnOrphans(r.Context(), &o)
	deleted, err := s.registry.DeleteCollection(r.Context(), c.kind, l.selection, o)
	if err != nil {
		return err
	}
	if m.as != "" {
		s.succeed(w, r, http.StatusOK, &metav1.Status{
			Status: metav1.StatusSuccess, Details: &metav1.StatusDetails{Group: c.group, Kind: c.resource},
		})
		return nil
	}
	return s.writeDeleted(w, r, c, m, deleted)
}

// writeDeleted answers with the list of what a deletecollection has deleted.
func (s *Server) writeDeleted(w http.ResponseWriter, r *http.Request, c *call, m media, deleted []resource.Object) error {
	list := c.as.NewList()
	list.GetObjectKind().SetGroupVersionKind(c.listKind())
	items := make([]runtime.Object, len(deleted))
	for i, obj := range deleted {
		items[i] = c.as.FromStored(obj)
	}
	if err := meta.SetList(list, items); err != nil {
		return fmt.Errorf("list what was deleted: %w", err)
	}
	s.write(w, r, m, http.StatusOK, c.listKind(), list)
	return nil
}

// wipe drops what only the server sets.
func wipe(obj resource.Object) {
	obj.SetCreationTimestamp(metav1.Time{})
	obj.SetUID("")
	obj.SetDeletionTimestamp(nil)
	obj.SetDeletionGracePeriodSeconds(nil)
	obj.SetSelfLink("")
}

// warn tells the person behind the request what the kind warns of, once what was left out has been filled in.
func (c *call) warn(ctx context.Context, obj resource.Object) {
	if c.kind.Warnings == nil || c.sub != "" {
		return
	}
	if c.kind.Default != nil {
		c.kind.Default(obj)
	}
	w := warningsOf(ctx)
	for _, text := range c.kind.Warnings(obj) {
		w.add(text)
	}
}

// warnOrphans tells who does not say what becomes of the dependents that they stay.
func (c *call) warnOrphans(ctx context.Context, o *metav1.DeleteOptions) {
	//lint:ignore SA1019 clients still send it
	if c.kind.OrphanWarning != "" && o.PropagationPolicy == nil && o.OrphanDependents == nil {
		warningsOf(ctx).add(c.kind.OrphanWarning)
	}
}

func (c *call) invalid(name string, errs field.ErrorList) error {
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(c.as.GroupKind(), name, errs)
}

// directive says how strictly a body is read; warning is the default.
func directive(validation string) string {
	if validation == "" {
		return metav1.FieldValidationWarn
	}
	return validation
}

// manager is who manages the fields that a request sets: who it says, or the program that sent it.
func manager(name string, r *http.Request) string {
	if name != "" {
		return name
	}
	name, _, _ = strings.Cut(r.UserAgent(), "/")
	const most = 128
	out := make([]rune, 0, min(len(name), most))
	for _, char := range name {
		if len(out) < most && unicode.IsPrint(char) {
			out = append(out, char)
		}
	}
	return string(out)
}
