package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"sampan.dev/internal/cache"
	"sampan.dev/internal/resource"
	"sampan.dev/internal/usage"
)

// Usage knows what nodes and their pods use. usage.Collector is one.
type Usage interface {
	Node(ctx context.Context, name string) (usage.Node, []usage.Pod, error)
}

// metricsGroup is what is measured, served as metrics-server does elsewhere (k8s.io/metrics); nothing of it is stored.
var metricsGroup = schema.GroupVersion{Group: "metrics.k8s.io", Version: "v1beta1"}

var metricsResources = []metav1.APIResource{
	{Name: "nodes", Kind: "NodeMetrics", Verbs: []string{"get", "list"}},
	{Name: "pods", Namespaced: true, Kind: "PodMetrics", Verbs: []string{"get", "list"}},
}

// The forms of the group. Names and meanings are those of k8s.io/metrics/pkg/apis/metrics/v1beta1.
type (
	usageMeta struct {
		Name              string            `json:"name"`
		Namespace         string            `json:"namespace,omitempty"`
		CreationTimestamp metav1.Time       `json:"creationTimestamp"`
		Labels            map[string]string `json:"labels,omitempty"`
	}
	usageAmounts struct {
		CPU    string `json:"cpu"`
		Memory string `json:"memory"`
	}
	usageContainer struct {
		Name  string       `json:"name"`
		Usage usageAmounts `json:"usage"`
	}
	usageObject struct {
		metav1.TypeMeta `json:",inline"`
		Metadata        usageMeta        `json:"metadata"`
		Timestamp       metav1.Time      `json:"timestamp"`
		Window          metav1.Duration  `json:"window"`
		Usage           *usageAmounts    `json:"usage,omitempty"`
		Containers      []usageContainer `json:"containers,omitempty"`
	}
	usageList struct {
		metav1.TypeMeta `json:",inline"`
		Metadata        struct{}      `json:"metadata"`
		Items           []usageObject `json:"items"`
	}
)

func amountsOf(cpu, memory int64) usageAmounts {
	return usageAmounts{CPU: fmt.Sprintf("%dn", cpu), Memory: fmt.Sprintf("%dKi", memory/1024)}
}

// measured answers requests for what nodes and pods use.
func (s *Server) measured(w http.ResponseWriter, r *http.Request, c *call) error {
	i := slices.IndexFunc(metricsResources, func(m metav1.APIResource) bool { return m.Name == c.resource })
	if s.usage == nil || c.version != metricsGroup.Version || i < 0 || c.sub != "" || !metricsResources[i].Namespaced && c.namespace != "" || c.named && metricsResources[i].Namespaced && c.namespace == "" {
		http.NotFound(w, r)
		return nil
	}
	if c.verb != "get" && c.verb != "list" {
		w.Header().Set("Allow", http.MethodGet)
		return apierrors.NewMethodNotSupported(c.gr(), c.verb)
	}
	kind, _ := s.table.ByKind(corev1.SchemeGroupVersion.WithKind(map[string]string{"nodes": "Node", "pods": "Pod"}[c.resource]))
	selection := cache.Selection{Namespace: c.namespace}
	q := query(r)
	var err error
	if selection.Labels, err = labels.Parse(q.Get("labelSelector")); err != nil {
		return bad(err.Error())
	}
	if selection.Fields, err = fields.ParseSelector(q.Get("fieldSelector")); err != nil {
		return bad(err.Error())
	}
	snap, err := s.fresh(r.Context())
	if err != nil {
		return err
	}
	var objects []*cache.Object
	if c.named {
		if o := snap.Get(kind, c.namespace, c.name); o != nil {
			objects = append(objects, o)
		}
	} else {
		for o := range snap.List(kind, selection) {
			objects = append(objects, o)
		}
	}
	items := s.measure(r.Context(), kind, objects)
	if !c.named {
		s.writePlain(w, r, metricsGroup.WithKind(metricsResources[i].Kind+"List"), usageList{TypeMeta: metav1.TypeMeta{Kind: metricsResources[i].Kind + "List", APIVersion: metricsGroup.String()}, Items: items})
		return nil
	}
	if len(items) == 0 {
		return apierrors.NewNotFound(c.gr(), c.name)
	}
	s.writePlain(w, r, metricsGroup.WithKind(metricsResources[i].Kind), items[0])
	return nil
}

// measure asks the nodes of these objects, several at once. What a node does not say is left out, as metrics-server does.
func (s *Server) measure(ctx context.Context, kind *resource.Kind, objects []*cache.Object) []usageObject {
	byNode := map[string][]*cache.Object{}
	for _, o := range objects {
		node := o.Name()
		if kind.Kind == "Pod" {
			node = cache.Typed[*corev1.Pod](o).Spec.NodeName
		}
		if node != "" {
			byNode[node] = append(byNode[node], o)
		}
	}
	var mu sync.Mutex
	items := []usageObject{}
	var all sync.WaitGroup
	room := make(chan struct{}, 16)
	for name, of := range byNode {
		all.Go(func() {
			room <- struct{}{}
			defer func() { <-room }()
			node, pods, err := s.usage.Node(ctx, name)
			if err != nil {
				if !errors.Is(err, context.Canceled) {
					s.log.Debug("a node does not say what it uses", "error", err)
				}
				return
			}
			mu.Lock()
			defer mu.Unlock()
			for _, o := range of {
				if kind.Kind == "Node" {
					items = append(items, nodeUsage(o, node))
				} else if i := slices.IndexFunc(pods, func(p usage.Pod) bool { return p.Namespace == o.Namespace() && p.Name == o.Name() }); i >= 0 {
					items = append(items, podUsage(o, pods[i]))
				}
			}
		})
	}
	all.Wait()
	slices.SortFunc(items, func(a, b usageObject) int {
		return strings.Compare(a.Metadata.Namespace+"/"+a.Metadata.Name, b.Metadata.Namespace+"/"+b.Metadata.Name)
	})
	return items
}

func usageOf(o *cache.Object, kind string, at time.Time, window time.Duration) usageObject {
	return usageObject{
		TypeMeta:  metav1.TypeMeta{Kind: kind, APIVersion: metricsGroup.String()},
		Metadata:  usageMeta{Name: o.Name(), Namespace: o.Namespace(), CreationTimestamp: metav1.Now(), Labels: o.Labels()},
		Timestamp: metav1.NewTime(at), Window: metav1.Duration{Duration: window.Round(time.Millisecond)},
	}
}

func nodeUsage(o *cache.Object, n usage.Node) usageObject {
	u := usageOf(o, "NodeMetrics", n.At, n.Window)
	amounts := amountsOf(n.CPU, n.Memory)
	u.Usage = &amounts
	return u
}

func podUsage(o *cache.Object, p usage.Pod) usageObject {
	u := usageOf(o, "PodMetrics", p.At, p.Window)
	for _, c := range p.Containers {
		u.Containers = append(u.Containers, usageContainer{c.Name, amountsOf(c.CPU, c.Memory)})
	}
	return u
}
