package why

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"sampan.dev/internal/scheduler"
)

// whyText is what a node has against the pod, with the figures.
func whyText(node string, f *scheduler.Fault) string {
	var parts []string
	say := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	if f.Filter == "NodeUnschedulable" {
		say("it is cordoned")
	}
	for i := range f.Taints {
		t := &f.Taints[i]
		if of, is := unwell[t.Key]; is {
			say("taint %s, %s", taintText(t), of[0])
		} else {
			say("taint %s, which the pod does not tolerate", taintText(t))
		}
	}
	for _, g := range f.Gaps {
		what := "label " + g.Key
		if g.Field {
			what = g.Key
		}
		if g.Has {
			say("%s is %s, the pod asks for %s", what, orNothing(g.Value), asked(g))
		} else {
			say("%s is missing, the pod asks for %s", what, asked(g))
		}
	}
	for _, h := range f.Ports {
		say("host port %d/%s is held by %s", h.Number, h.Protocol, keyText(h.Holder))
	}
	for _, s := range f.Shortages {
		switch {
		case s.Resource == corev1.ResourcePods:
			say("it has %s and takes no more than %d", count(int(s.Taken+s.Promised), "pod"), s.All)
		case s.All <= 0:
			say("the pod asks for %s of %s, the node has none", amount(s.Resource, s.Asked, true), nounOf(s.Resource))
		case s.Asked > s.All:
			say("the pod asks for %s %s, the whole node has %s", amount(s.Resource, s.Asked, true), nounOf(s.Resource), amount(s.Resource, s.All, false))
		default:
			text := fmt.Sprintf("the pod asks for %s %s, %s", amount(s.Resource, s.Asked, true), nounOf(s.Resource), free(s))
			if s.Promised > 0 {
				text += fmt.Sprintf(" (%s is kept for pods that room is made for)", amount(s.Resource, s.Promised, false))
			}
			say("%s", text)
		}
	}
	for _, s := range f.Spreads {
		switch {
		case s.Unlabelled:
			say("label %s is missing, by which pods matching %s are spread", s.Key, s.Pods)
		case s.Domains < s.MinDomains:
			say("%s has %d pods matching %s, and with %d of %d domains the fewest count as 0: one more makes a skew of %d, above %d", placeText(s.Key, s.Value), s.Here, s.Pods, s.Domains, s.MinDomains, s.Would, s.Most)
		default:
			say("%s has %s matching %s, the fewest are %d in %s: one more makes a skew of %d, above %d", placeText(s.Key, s.Value), count(int(s.Here), "pod"), s.Pods, s.Least, some(s.LeastIn), s.Would, s.Most)
		}
	}
	for _, n := range f.Neighbours {
		place := placeText(n.Key, n.Value)
		switch {
		case n.Relation == scheduler.Misses && n.Unlabelled:
			say("label %s is missing, by which the pod looks for pods matching %s", n.Key, n.Pods)
		case n.Relation == scheduler.Misses && len(n.Where) == 0:
			say("the pod must be near pods matching %s, and there are none", n.Pods)
		case n.Relation == scheduler.Misses:
			say("the pod must be near pods matching %s, which are in %s, not in %s", n.Pods, some(n.Where), place)
		case n.Relation == scheduler.Avoids:
			say("the pod must be away from pods matching %s, and %s has %s", n.Pods, place, some(keyTexts(n.Who)))
		default:
			say("%s has %s, which must be away from pods matching %s", place, some(keyTexts(n.Who)), n.Pods)
		}
	}
	for _, s := range f.Stores {
		say("%s", storeText(s))
	}
	if len(parts) == 0 {
		return strings.Join(f.Reasons, ", ")
	}
	return strings.Join(parts, "; ")
}
