// Package why explains what stands in an object's way: from the object down to the fact itself.
//
// It watches and writes nothing; it reads through a World, each collection once. Always: an answer says what it could not read instead of
// guessing; what a program, a probe or a registry has said is passed on in its own words; the last thing said is what to do.
package why

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"sampan.dev/internal/scheduler"
	"sampan.dev/internal/scheduler/profile"
)

// Object is anything that is served.
type Object interface {
	metav1.Object
	runtime.Object
}

// World is the cluster, as far as it is asked about.
type World interface {
	// List gives all objects of a resource ("pods") in a namespace; empty: in all.
	List(plural, namespace string) ([]Object, error)
	// Events are those about one object, in any order.
	Events(about Object) ([]*corev1.Event, error)
	// Log is the end of what a container wrote, or its run before that.
	Log(namespace, pod, container string, previous bool, lines int) ([]string, error)
	// Left is what there is in a namespace, of every kind.
	Left(namespace string) ([]Leftover, error)
	// Scheduling are the scheduler's profiles.
	Scheduling() profile.Config
	Now() time.Time
}

// Leftover is an object that a namespace still has.
type Leftover struct {
	Resource   string // its kind's plural
	Name       string
	Finalizers []string
	Deleted    bool // it is told to go
}

// Cause is one link of the chain. Its text is a sentence without an end; what stands below explains it.
type Cause struct {
	Text   string   `json:"text"`
	Said   []string `json:"said,omitempty"` // by a program, word for word
	Table  []Row    `json:"table,omitempty"`
	More   []string `json:"more,omitempty"` // nodes that the table leaves out, by what they say
	Causes []*Cause `json:"causes,omitempty"`
	Advice []string `json:"advice,omitempty"`
}

// Row is what one node has against a pod, by one filter.
type Row struct {
	Node   string `json:"node"`
	Filter string `json:"filter"`
	Why    string `json:"why"`
}

// Answer is the whole chain for one object.
type Answer struct {
	Object    string `json:"object"` // "pod/web-1"
	Namespace string `json:"namespace,omitempty"`
	Well      bool   `json:"well"` // nothing stands in its way
	Cause
	Unread []string `json:"unread,omitempty"` // what could not be read, and why
}

// ErrNotExplained says that there are no explanations for things of this kind.
var ErrNotExplained = errors.New("no explanation for this kind")

// Explain says what stands in the object's way.
func Explain(w World, of Object) (*Answer, error) {
	l := &look{w: w, now: w.Now(), lists: map[string]any{}, events: map[string][]*corev1.Event{}}
	a := &Answer{Namespace: of.GetNamespace()}
	var s state
	switch o := of.(type) {
	case *corev1.Pod:
		a.Object, s = "pod/"+o.Name, l.pod(o)
	case *appsv1.Deployment:
		a.Object, s = "deployment/"+o.Name, l.deployment(o)
	case *appsv1.ReplicaSet:
		a.Object, s = "replicaset/"+o.Name, l.replicaSet(o)
	case *appsv1.StatefulSet:
		a.Object, s = "statefulset/"+o.Name, l.statefulSet(o)
	case *appsv1.DaemonSet:
		a.Object, s = "daemonset/"+o.Name, l.daemonSet(o)
	case *batchv1.Job:
		a.Object, s = "job/"+o.Name, l.job(o)
	case *corev1.Service:
		a.Object, s = "service/"+o.Name, l.service(o)
	case *corev1.Namespace:
		a.Object, s = "namespace/"+o.Name, l.namespace(o)
	case *corev1.Node:
		a.Object, s = "node/"+o.Name, l.node(o)
	case *corev1.PersistentVolumeClaim:
		a.Object, s = "persistentvolumeclaim/"+o.Name, l.claim(o)
	case *policyv1.PodDisruptionBudget:
		a.Object, s = "poddisruptionbudget/"+o.Name, l.budget(o)
	default:
		return nil, fmt.Errorf("explain %T %s: %w", of, of.GetName(), ErrNotExplained)
	}
	a.Well, a.Cause = s.well, s.Cause
	a.Text = a.Object + " " + s.Text
	a.Unread = l.unread
	return a, nil
}

// state is what is to be said of one object; its text goes on after the object's name ("is running and ready").
type state struct {
	Cause
	well bool
}

func well(format string, args ...any) state {
	return state{Cause: Cause{Text: fmt.Sprintf(format, args...)}, well: true}
}

func ill(format string, args ...any) state {
	return state{Cause: Cause{Text: fmt.Sprintf(format, args...)}}
}

// because adds a link below, and returns it.
func (c *Cause) because(format string, args ...any) *Cause {
	below := &Cause{Text: fmt.Sprintf(format, args...)}
	c.Causes = append(c.Causes, below)
	return below
}

// advise adds what to do.
func (c *Cause) advise(format string, args ...any) {
	c.Advice = append(c.Advice, fmt.Sprintf(format, args...))
}

// look is one search for causes. It remembers what it has read.
type look struct {
	w      World
	now    time.Time
	lists  map[string]any
	events map[string][]*corev1.Event
	unread []string
	plans  *scheduler.Plans // likewise
	nodes  *scheduler.Nodes // counted once, when the first pod asks
}

// all gives the objects of one resource and type. What cannot be read is noted, and empty.
func all[T Object](l *look, plural, namespace string) []T {
	key := plural + " " + namespace
	if got, ok := l.lists[key]; ok {
		return got.([]T)
	}
	var list []T
	objects, err := l.w.List(plural, namespace)
	if err != nil {
		l.failed(err)
	}
	for _, o := range objects {
		if t, ok := o.(T); ok {
			list = append(list, t)
		}
	}
	slices.SortFunc(list, func(a, b T) int {
		return cmp.Or(cmp.Compare(a.GetNamespace(), b.GetNamespace()), cmp.Compare(a.GetName(), b.GetName()))
	})
	l.lists[key] = list
	return list
}

// one is the object of that name; the zero value if there is none.
func one[T Object](l *look, plural, namespace, name string) (found T) {
	for _, o := range all[T](l, plural, namespace) {
		if o.GetName() == name {
			return o
		}
	}
	return found
}

func (l *look) failed(err error) {
	if text := err.Error(); !slices.Contains(l.unread, text) {
		l.unread = append(l.unread, text)
	}
}

// eventsOf are those about an object, the latest first.
func (l *look) eventsOf(o Object) []*corev1.Event {
	key := string(o.GetUID()) + o.GetNamespace() + "/" + o.GetName()
	if got, ok := l.events[key]; ok {
		return got
	}
	list, err := l.w.Events(o)
	if err != nil {
		l.failed(err)
	}
	slices.SortStableFunc(list, func(a, b *corev1.Event) int { return happened(b).Compare(happened(a)) })
	l.events[key] = list
	return list
}

func happened(e *corev1.Event) time.Time {
	switch {
	case e.Series != nil && !e.Series.LastObservedTime.IsZero():
		return e.Series.LastObservedTime.Time
	case !e.LastTimestamp.IsZero():
		return e.LastTimestamp.Time
	case !e.EventTime.IsZero():
		return e.EventTime.Time
	}
	return e.CreationTimestamp.Time
}

// lastEvent is the latest about an object that has one of the reasons, and of which keep holds; nil: none.
func (l *look) lastEvent(o Object, keep func(*corev1.Event) bool, reasons ...string) *corev1.Event {
	for _, e := range l.eventsOf(o) {
		if slices.Contains(reasons, e.Reason) && (keep == nil || keep(e)) {
			return e
		}
	}
	return nil
}

// kubectl is a command for a person to type.
func kubectl(namespace, words string) string {
	if namespace != "" && namespace != metav1.NamespaceDefault {
		words += " -n " + namespace
	}
	return "`kubectl " + words + "`"
}

func ownedBy(o metav1.Object, owner Object) bool {
	c := metav1.GetControllerOfNoCopy(o)
	return c != nil && c.UID == owner.GetUID()
}

// some names up to three of a list.
func some(names []string) string {
	switch n := len(names); {
	case n == 0:
		return "none"
	case n == 1:
		return names[0]
	case n <= 3:
		return strings.Join(names[:n-1], ", ") + " and " + names[n-1]
	default:
		return fmt.Sprintf("%s, %s and %d more", names[0], names[1], n-2)
	}
}

// count is a number with its noun: "1 pod", "2 pods".
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
