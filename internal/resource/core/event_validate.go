package core

import (
	"reflect"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/resource"
	"sampan.dev/internal/resource/validate"
)

const (
	maxEventName = 128  // reportingInstance, action and reason, in bytes
	maxEventNote = 1024 // message
)

// event checks what every event must have, in whichever version it comes. One with an eventTime is of the new form.
func event(e *corev1.Event) field.ErrorList {
	var l validate.List
	about := root("involvedObject", "namespace")
	elsewhere := false
	if e.EventTime.IsZero() {
		elsewhere = e.Namespace != e.InvolvedObject.Namespace
		if e.InvolvedObject.Namespace == "" { // an object without namespace: its events are in the default one
			elsewhere = e.Namespace != "" && e.Namespace != metav1.NamespaceDefault
		}
	} else if e.InvolvedObject.Namespace == "" {
		elsewhere = e.Namespace != metav1.NamespaceDefault && e.Namespace != metav1.NamespaceSystem
	}
	if elsewhere {
		l.Invalid(about, e.InvolvedObject.Namespace, "does not match event.namespace")
	}
	if !e.EventTime.IsZero() {
		if e.ReportingController == "" {
			l.Required(root("reportingController"), "")
		}
		l.QualifiedName(root("reportingController"), e.ReportingController)
		for _, must := range []struct{ name, value string }{
			{"reportingInstance", e.ReportingInstance}, {"action", e.Action}, {"reason", e.Reason},
		} {
			if must.value == "" {
				l.Required(root(must.name), "")
			}
			l.Length(root(must.name), must.value, maxEventName)
		}
		l.Length(root("message"), e.Message, maxEventNote)
	}
	l.Subdomain(root("namespace"), e.Namespace)
	return l.Errs
}

// strictEvent is what events.k8s.io/v1 demands of a new event beside that.
func strictEvent(e *corev1.Event) field.ErrorList {
	if !resource.IsNew(e) {
		return nil
	}
	var l validate.List
	if e.Name != "" { // else it is generated later
		l.Messages(root("metadata", "name"), e.Name, apivalidation.NameIsDNSSubdomain(e.Name, false))
	} else if e.GenerateName != "" {
		l.Messages(root("metadata", "generateName"), e.GenerateName, apivalidation.NameIsDNSSubdomain(e.GenerateName, true))
	}
	l.Add(eventSeries(e)...)
	if e.EventTime.IsZero() {
		l.Required(root("eventTime"), "")
	}
	if e.Type != corev1.EventTypeNormal && e.Type != corev1.EventTypeWarning {
		l.Invalid(root("type"), "", "has invalid value: "+e.Type)
	}
	for _, old := range []struct {
		name string
		set  bool
	}{
		{"firstTimestamp", !e.FirstTimestamp.IsZero()},
		{"lastTimestamp", !e.LastTimestamp.IsZero()},
		{"count", e.Count != 0},
		{"source", e.Source != corev1.EventSource{}},
	} {
		if old.set {
			l.Invalid(root(old.name), "", "needs to be unset")
		}
	}
	return l.Errs
}

// strictEventUpdate lets only the series and the metadata change.
func strictEventUpdate(newObj, oldObj resource.Object) field.ErrorList {
	n, o := newObj.(*corev1.Event), oldObj.(*corev1.Event)
	var l validate.List
	if !reflect.DeepEqual(n.Series, o.Series) {
		l.Add(eventSeries(n)...)
	}
	l.Same(root("involvedObject"), n.InvolvedObject, o.InvolvedObject)
	l.Same(root("reason"), n.Reason, o.Reason)
	l.Same(root("message"), n.Message, o.Message)
	l.Same(root("source"), n.Source, o.Source)
	l.Same(root("firstTimestamp"), n.FirstTimestamp, o.FirstTimestamp)
	l.Same(root("lastTimestamp"), n.LastTimestamp, o.LastTimestamp)
	l.Same(root("count"), n.Count, o.Count)
	l.Same(root("type"), n.Type, o.Type)
	l.Same(root("eventTime"), n.EventTime, o.EventTime)
	l.Same(root("action"), n.Action, o.Action)
	l.Same(root("related"), n.Related, o.Related)
	l.Same(root("reportingController"), n.ReportingController, o.ReportingController)
	l.Same(root("reportingInstance"), n.ReportingInstance, o.ReportingInstance)
	return l.Errs
}

func eventSeries(e *corev1.Event) field.ErrorList {
	var l validate.List
	if e.Series == nil {
		return nil
	}
	if e.Series.Count < 2 {
		l.Invalid(root("series.count"), "", "should be at least 2")
	}
	if e.Series.LastObservedTime.IsZero() {
		l.Required(root("series.lastObservedTime"), "")
	}
	return l.Errs
}
