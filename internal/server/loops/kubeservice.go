package loops

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	networking "k8s.io/api/networking/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"sampan.dev/internal/controller/kubeservice"
	"sampan.dev/internal/resource"
)

// ownServices is the controller of the Services that the cluster itself has; none where nothing is said of them.
func ownServices(w *world) []part {
	if len(w.Own.Ranges) == 0 {
		return nil
	}
	kinds := map[string]*resource.Kind{}
	for _, gvk := range []schema.GroupVersionKind{
		corev1.SchemeGroupVersion.WithKind("Service"), corev1.SchemeGroupVersion.WithKind("Endpoints"),
		corev1.SchemeGroupVersion.WithKind("Namespace"), corev1.SchemeGroupVersion.WithKind("ConfigMap"), discovery.SchemeGroupVersion.WithKind("EndpointSlice"), networking.SchemeGroupVersion.WithKind("ServiceCIDR"),
		schedulingv1.SchemeGroupVersion.WithKind("PriorityClass"),
	} {
		kinds[gvk.Kind] = w.kindOf(gvk)
	}
	s := own{w, kinds}
	c := kubeservice.New(w.Own, s, s, w.Queues, w.Log)
	on := map[*resource.Kind]func(change){}
	for name, kind := range kinds {
		on[kind] = func(ch change) { c.Changed(name, ch.key.Namespace, ch.key.Name) }
	}
	return []part{{account: "kubernetes-service-controller", run: c.Run, on: on}, followServers(w, c.SetServers)}
}

// own shows the cluster's own Services to their controller.
type own struct {
	*world
	kinds map[string]*resource.Kind
}

func (s own) Get(kind, namespace, name string) resource.Object {
	return get[resource.Object](s.world, s.kinds[kind], namespace, name)
}

func (s own) Create(ctx context.Context, kind string, o resource.Object) error {
	return s.create(ctx, s.kinds[kind], o)
}

func (s own) Update(ctx context.Context, kind, sub, namespace, name string, change func(resource.Object)) error {
	return s.update(ctx, s.kinds[kind], sub, namespace, name, "", change)
}
