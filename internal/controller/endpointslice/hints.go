package endpointslice

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
)

// hints says what hints the endpoints of a Service carry.
type hints struct{ zones, nodes bool }

// hintsOf follows spec.trafficDistribution. The annotation of topology aware routing, set to Auto, takes its place.
func hintsOf(service *corev1.Service) (h hints) {
	if service.Spec.TrafficDistribution == nil || topologyAware(service.Annotations) {
		return h
	}
	switch *service.Spec.TrafficDistribution {
	case corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone:
		h.zones = true
	case corev1.ServiceTrafficDistributionPreferSameNode:
		h.zones, h.nodes = true, true
	}
	return h
}

func topologyAware(annotations map[string]string) bool {
	mode, set := annotations[corev1.DeprecatedAnnotationTopologyAwareHints]
	if !set {
		mode = annotations[corev1.AnnotationTopologyMode]
	}
	return mode == "Auto" || mode == "auto"
}

// hint gives the slices of a plan their hints, and plans to change those whose hints alone are wrong.
func hint(p *Plan, h hints, existing []*discovery.EndpointSlice) {
	for _, s := range existing {
		named := func(t *discovery.EndpointSlice) bool { return t.Name == s.Name }
		if !h.wrong(s) || slices.ContainsFunc(p.Update, named) || slices.ContainsFunc(p.Delete, named) {
			continue
		}
		next := s.DeepCopy()
		p.Update = append(p.Update, next)
	}
	for _, list := range [][]*discovery.EndpointSlice{p.Create, p.Update} {
		for _, s := range list {
			h.set(s.Endpoints)
		}
	}
}

// wrong says that a slice must change for its hints. Those of endpoints that are not ready count only if there shall be none at all.
func (h hints) wrong(s *discovery.EndpointSlice) bool {
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		switch {
		case !h.zones:
			if e.Hints != nil {
				return true
			}
		case ready(e) && !h.right(e):
			return true
		}
	}
	return false
}

func (h hints) right(e *discovery.Endpoint) bool {
	var has discovery.EndpointHints
	if e.Hints != nil {
		has = *e.Hints
	}
	want := h.of(e)
	return slices.Equal(has.ForZones, want.ForZones) && slices.Equal(has.ForNodes, want.ForNodes)
}

func (h hints) of(e *discovery.Endpoint) (want discovery.EndpointHints) {
	if h.zones && e.Zone != nil {
		want.ForZones = []discovery.ForZone{{Name: *e.Zone}}
	}
	if h.nodes && e.NodeName != nil {
		want.ForNodes = []discovery.ForNode{{Name: *e.NodeName}}
	}
	return want
}

// set sets the hints of endpoints that are the caller's own.
func (h hints) set(endpoints []discovery.Endpoint) {
	for i := range endpoints {
		e := &endpoints[i]
		switch {
		case !h.zones:
			e.Hints = nil
		case !ready(e): // they get theirs once they are ready
		default:
			e.Hints = nil
			if want := h.of(e); want.ForZones != nil || want.ForNodes != nil {
				e.Hints = &want
			}
		}
	}
}

func ready(e *discovery.Endpoint) bool { return e.Conditions.Ready != nil && *e.Conditions.Ready }
