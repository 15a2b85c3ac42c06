package endpoint

import (
	"maps"
	"slices"
	"sync"

	discovery "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Slices knows the names of the EndpointSlices of each Service, whoever wrote them. It may be used from anywhere; the zero value is ready.
type Slices struct {
	mu       sync.RWMutex
	services map[types.NamespacedName]map[string]struct{}
}

// Note files a slice under its Service. Who writes a slice notes it at once, so as to find it whatever the watch has told by then.
func (x *Slices) Note(namespace, service, slice string) { x.Move(namespace, slice, "", service) }

// Move files a slice under the Service that it is of now, instead of the one that it was of; empty: none. One that stays is there at every moment.
func (x *Slices) Move(namespace, slice, was, is string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if was != "" && was != is {
		key := types.NamespacedName{Namespace: namespace, Name: was}
		delete(x.services[key], slice)
		if len(x.services[key]) == 0 {
			delete(x.services, key)
		}
	}
	if is == "" {
		return
	}
	key := types.NamespacedName{Namespace: namespace, Name: is}
	if x.services == nil {
		x.services = map[types.NamespacedName]map[string]struct{}{}
	}
	if x.services[key] == nil {
		x.services[key] = map[string]struct{}{}
	}
	x.services[key][slice] = struct{}{}
}

// Of names the slices of a Service, sorted.
func (x *Slices) Of(namespace, service string) []string {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return slices.Sorted(maps.Keys(x.services[types.NamespacedName{Namespace: namespace, Name: service}]))
}

// Owned says that a slice has the object among its owners, as its controllers write that.
func Owned(s *discovery.EndpointSlice, kind string, uid types.UID) bool {
	for i := range s.OwnerReferences {
		if o := &s.OwnerReferences[i]; o.UID == uid && o.Kind == kind && o.APIVersion == "v1" {
			return true
		}
	}
	return false
}
