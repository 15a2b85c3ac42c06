package core

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/resource"
)

// Event tells what happened to an object. The same events are served in events.k8s.io/v1, with other names for the same fields.
func Event() *resource.Kind {
	docs := corev1.Event{}.SwaggerDoc()
	return &resource.Kind{
		GroupVersionKind: gvk("Event"), Plural: "events", Singular: "event", ShortNames: []string{"ev"},
		Namespaced: true, Prefix: "/registry/events/",
		New:     func() resource.Object { return &corev1.Event{} },
		NewList: func() runtime.Object { return &corev1.EventList{} },
		Also:    []resource.Version{eventsVersion()},

		Validate: func(o resource.Object) field.ErrorList { return event(o.(*corev1.Event)) },

		Fields: func(o resource.Object) map[string]string { return eventFields(o.(*corev1.Event)) },
		FieldNames: append([]string{
			"involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid",
			"involvedObject.apiVersion", "involvedObject.resourceVersion", "involvedObject.fieldPath",
			"reason", "reportingComponent", "source", "type",
		}, resource.MetaNames()...),
		Columns: []metav1.TableColumnDefinition{
			column("Last Seen", "string", docs["lastTimestamp"], 0),
			column("Type", "string", docs["type"], 0),
			column("Reason", "string", docs["reason"], 0),
			column("Object", "string", docs["involvedObject"], 0),
			column("Subobject", "string", corev1.ObjectReference{}.SwaggerDoc()["fieldPath"], 1),
			column("Source", "string", docs["source"], 1),
			column("Message", "string", docs["message"], 0),
			column("First Seen", "string", docs["firstTimestamp"], 1),
			column("Count", "string", docs["count"], 1),
			{Name: "Name", Type: "string", Format: "name", Description: metav1.ObjectMeta{}.SwaggerDoc()["name"], Priority: 1},
		},
		Row: func(o resource.Object, now time.Time) []any { return eventRow(o.(*corev1.Event), now) },
	}
}

func eventsVersion() resource.Version {
	return resource.Version{
		GroupVersionKind: eventsv1.SchemeGroupVersion.WithKind("Event"), Plural: "events",
		New:            func() resource.Object { return &eventsv1.Event{} },
		NewList:        func() runtime.Object { return &eventsv1.EventList{} },
		FromStored:     func(o resource.Object) resource.Object { return toEventsV1(o.(*corev1.Event)) },
		ToStored:       func(o resource.Object) resource.Object { return fromEventsV1(o.(*eventsv1.Event)) },
		Validate:       func(o resource.Object) field.ErrorList { return strictEvent(o.(*corev1.Event)) },
		ValidateUpdate: func(new, old resource.Object) field.ErrorList { return strictEventUpdate(new, old) },
		FieldNames: append([]string{
			"regarding.kind", "regarding.namespace", "regarding.name", "regarding.uid",
			"regarding.apiVersion", "regarding.resourceVersion", "regarding.fieldPath",
			"reason", "reportingController", "type",
		}, resource.MetaNames()...),
		StoredField: func(name string) string {
			if name == "reportingController" {
				return "reportingComponent"
			}
			if rest, ok := strings.CutPrefix(name, "regarding."); ok {
				return "involvedObject." + rest
			}
			return name
		},
	}
}

// toEventsV1 shares nothing that a caller may change with e but the metadata's maps, which nobody changes in place.
func toEventsV1(e *corev1.Event) *eventsv1.Event {
	e = e.DeepCopy()
	out := &eventsv1.Event{
		ObjectMeta:               e.ObjectMeta,
		EventTime:                e.EventTime,
		ReportingController:      e.ReportingController,
		ReportingInstance:        e.ReportingInstance,
		Action:                   e.Action,
		Reason:                   e.Reason,
		Regarding:                e.InvolvedObject,
		Related:                  e.Related,
		Note:                     e.Message,
		Type:                     e.Type,
		DeprecatedSource:         e.Source,
		DeprecatedFirstTimestamp: e.FirstTimestamp,
		DeprecatedLastTimestamp:  e.LastTimestamp,
		DeprecatedCount:          e.Count,
	}
	out.SetGroupVersionKind(eventsv1.SchemeGroupVersion.WithKind("Event"))
	if s := e.Series; s != nil {
		out.Series = &eventsv1.EventSeries{Count: s.Count, LastObservedTime: s.LastObservedTime}
	}
	return out
}

func fromEventsV1(e *eventsv1.Event) *corev1.Event {
	e = e.DeepCopy()
	out := &corev1.Event{
		ObjectMeta:          e.ObjectMeta,
		EventTime:           e.EventTime,
		ReportingController: e.ReportingController,
		ReportingInstance:   e.ReportingInstance,
		Action:              e.Action,
		Reason:              e.Reason,
		InvolvedObject:      e.Regarding,
		Related:             e.Related,
		Message:             e.Note,
		Type:                e.Type,
		Source:              e.DeprecatedSource,
		FirstTimestamp:      e.DeprecatedFirstTimestamp,
		LastTimestamp:       e.DeprecatedLastTimestamp,
		Count:               e.DeprecatedCount,
	}
	out.SetGroupVersionKind(gvk("Event"))
	if s := e.Series; s != nil {
		out.Series = &corev1.EventSeries{Count: s.Count, LastObservedTime: s.LastObservedTime}
	}
	return out
}

func eventFields(e *corev1.Event) map[string]string {
	source := e.Source.Component
	if source == "" {
		source = e.ReportingController
	}
	return metaFields(e, map[string]string{
		"involvedObject.kind":            e.InvolvedObject.Kind,
		"involvedObject.namespace":       e.InvolvedObject.Namespace,
		"involvedObject.name":            e.InvolvedObject.Name,
		"involvedObject.uid":             string(e.InvolvedObject.UID),
		"involvedObject.apiVersion":      e.InvolvedObject.APIVersion,
		"involvedObject.resourceVersion": e.InvolvedObject.ResourceVersion,
		"involvedObject.fieldPath":       e.InvolvedObject.FieldPath,
		"reason":                         e.Reason,
		"reportingComponent":             e.ReportingController,
		"source":                         source,
		"type":                           e.Type,
	})
}

func eventRow(e *corev1.Event, now time.Time) []any {
	first := resource.Since(e.FirstTimestamp, now)
	if e.FirstTimestamp.IsZero() {
		first = resource.Since(metav1.Time(e.EventTime), now)
	}
	last, count := resource.Since(e.LastTimestamp, now), e.Count
	if e.LastTimestamp.IsZero() {
		last = first
	}
	if e.Series != nil {
		last, count = resource.Since(metav1.Time(e.Series.LastObservedTime), now), e.Series.Count
	} else if count == 0 {
		count = 1 // events in the new form count in their series only
	}
	object := strings.ToLower(e.InvolvedObject.Kind)
	if e.InvolvedObject.Name != "" {
		object += "/" + e.InvolvedObject.Name
	}
	return []any{
		last, e.Type, e.Reason, object, e.InvolvedObject.FieldPath, eventSource(e),
		strings.TrimSpace(e.Message), first, int64(count), e.Name,
	}
}

func eventSource(e *corev1.Event) string {
	component, host := e.Source.Component, e.Source.Host
	if component == "" {
		component = e.ReportingController
	}
	if host == "" {
		host = e.ReportingInstance
	}
	if host == "" {
		return component
	}
	return fmt.Sprintf("%s, %s", component, host)
}
