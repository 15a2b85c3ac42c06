package endpoint

import (
	"iter"
	"maps"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/labels"
)

// Index finds the Services that select a pod, and the pods that a Service selects, without looking at all of either. Each Service is filed under one
// of the labels that it asks for, the one that fewest others are filed under; pods are filed under those of their labels that have a key which a
// Service is filed under. It may be used from anywhere.
type Index struct {
	// List yields the pods of a namespace, by name; it must show at least those that Pod has been told of.
	List func(namespace string) iter.Seq2[string, labels.Labels]

	mu         sync.RWMutex
	namespaces map[string]*namespaceIndex
}

type namespaceIndex struct {
	selectors map[string]map[string]string      // by the Service's name
	places    map[string][2]string              // key and value of the label that a Service is filed under
	sets      map[[2]string]map[string]struct{} // names of the Services filed there
	keys      map[string]*podsByValue           // the keys among the places
}

// podsByValue are names of pods, by the value of one label.
type podsByValue struct {
	services int // how many Services are filed under the key
	pods     map[string]map[string]struct{}
}

// Set notes a Service's selector. One without labels selects nothing.
func (x *Index) Set(namespace, service string, selector map[string]string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	ns := x.namespaces[namespace]
	if ns != nil && maps.Equal(ns.selectors[service], selector) {
		return
	}
	if ns != nil {
		defer ns.remove(service)() // afterwards, so that pods filed under the same key stay
	}
	if len(selector) == 0 {
		if ns != nil && len(ns.selectors) == 0 {
			delete(x.namespaces, namespace)
		}
		return
	}
	if ns == nil {
		if x.namespaces == nil {
			x.namespaces = map[string]*namespaceIndex{}
		}
		ns = &namespaceIndex{selectors: map[string]map[string]string{}, places: map[string][2]string{}, sets: map[[2]string]map[string]struct{}{}, keys: map[string]*podsByValue{}}
		x.namespaces[namespace] = ns
	}
	key := ns.add(service, selector)
	if by := ns.keys[key]; by.services == 1 && by.pods == nil {
		by.pods = map[string]map[string]struct{}{}
		if x.List != nil {
			for name, set := range x.List(namespace) {
				if value, has := set.Lookup(key); has {
					by.add(value, name)
				}
			}
		}
	}
}

// add files a Service, and names the key that it is filed under.
func (ns *namespaceIndex) add(service string, selector map[string]string) (key string) {
	var place [2]string
	least := -1
	for key, value := range selector {
		at := [2]string{key, value}
		if n := len(ns.sets[at]); least < 0 || n < least || n == least && slices.Compare(at[:], place[:]) < 0 {
			place, least = at, n
		}
	}
	if ns.sets[place] == nil {
		ns.sets[place] = map[string]struct{}{}
	}
	ns.sets[place][service] = struct{}{}
	if ns.keys[place[0]] == nil {
		ns.keys[place[0]] = &podsByValue{}
	}
	ns.keys[place[0]].services++
	ns.places[service], ns.selectors[service] = place, maps.Clone(selector)
	return place[0]
}

// remove takes a Service out. The pods filed under its key are dropped by what it returns, if no Service needs them.
func (ns *namespaceIndex) remove(service string) (drop func()) {
	place, there := ns.places[service]
	if !there {
		return func() {}
	}
	delete(ns.places, service)
	delete(ns.selectors, service)
	delete(ns.sets[place], service)
	if len(ns.sets[place]) == 0 {
		delete(ns.sets, place)
	}
	by := ns.keys[place[0]]
	by.services--
	return func() {
		if by.services == 0 {
			delete(ns.keys, place[0])
		}
	}
}

func (by *podsByValue) add(value, pod string) {
	if by.pods[value] == nil {
		by.pods[value] = map[string]struct{}{}
	}
	by.pods[value][pod] = struct{}{}
}

func (by *podsByValue) remove(value, pod string) {
	delete(by.pods[value], pod)
	if len(by.pods[value]) == 0 {
		delete(by.pods, value)
	}
}

// Pod notes how a pod's labels have changed: was is nil if it has come, is if it has gone.
func (x *Index) Pod(namespace, pod string, was, is labels.Labels) {
	x.mu.Lock()
	defer x.mu.Unlock()
	ns := x.namespaces[namespace]
	if ns == nil {
		return
	}
	for key, by := range ns.keys {
		before, had := lookup(was, key)
		after, has := lookup(is, key)
		if had && (!has || before != after) {
			by.remove(before, pod)
		}
		if has {
			by.add(after, pod)
		}
	}
}

func lookup(set labels.Labels, key string) (string, bool) {
	if set == nil {
		return "", false
	}
	return set.Lookup(key)
}

// Pods names, sorted, the pods among which are all that a Service selects; the caller compares their labels. It knows nothing if the Service is not in
// the index with that very selector: the caller may have seen a change of it earlier.
func (x *Index) Pods(namespace, service string, selector map[string]string) (pods []string, known bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	ns := x.namespaces[namespace]
	if ns == nil || len(selector) == 0 || !maps.Equal(ns.selectors[service], selector) {
		return nil, false
	}
	place := ns.places[service]
	return slices.Sorted(maps.Keys(ns.keys[place[0]].pods[place[1]])), true
}

// Selecting names the Services of a namespace that select a pod of those labels, sorted. The labels may be nil: of a pod that is not there.
func (x *Index) Selecting(namespace string, pod labels.Labels) (services []string) {
	if pod == nil {
		return nil
	}
	x.mu.RLock()
	defer x.mu.RUnlock()
	ns := x.namespaces[namespace]
	if ns == nil {
		return nil
	}
	for key := range ns.keys {
		value, has := pod.Lookup(key)
		if !has {
			continue
		}
		for service := range ns.sets[[2]string{key, value}] {
			if matches(ns.selectors[service], pod) {
				services = append(services, service)
			}
		}
	}
	slices.Sort(services)
	return services
}

func matches(selector map[string]string, pod labels.Labels) bool {
	for key, want := range selector {
		if value, has := pod.Lookup(key); !has || value != want {
			return false
		}
	}
	return true
}

// Concerned names the Services that a change of a pod concerns: those that select it only before or only after it, and, if changed says that it is
// another endpoint now, those that select it before and after. was is nil if the pod has come, is if it has gone.
func (x *Index) Concerned(namespace string, was, is labels.Labels, changed func() bool) (services []string) {
	before, after := x.Selecting(namespace, was), x.Selecting(namespace, is)
	both := false
	for _, s := range before {
		if _, found := slices.BinarySearch(after, s); found {
			both = true
		} else {
			services = append(services, s)
		}
	}
	all := both && changed()
	for _, s := range after {
		if _, found := slices.BinarySearch(before, s); !found || all {
			services = append(services, s)
		}
	}
	return services
}
