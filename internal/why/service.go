package why

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// service explains a Service that leads nowhere.
func (l *look) service(o *corev1.Service) state {
	if o.Spec.Type == corev1.ServiceTypeExternalName {
		return well("is another name for %s: the cluster's DNS answers so, and nothing else is done for it", o.Spec.ExternalName)
	}
	ready, unready := 0, 0
	for _, slice := range all[*discoveryv1.EndpointSlice](l, "endpointslices", o.Namespace) {
		if slice.Labels[discoveryv1.LabelServiceName] != o.Name {
			continue
		}
		for _, e := range slice.Endpoints {
			if e.Conditions.Ready == nil || *e.Conditions.Ready {
				ready++
			} else {
				unready++
			}
		}
	}
	var s state
	switch {
	case ready > 0 && unready == 0:
		s = well("leads to %s, and all are ready", count(ready, "endpoint"))
	case ready > 0:
		s = well("leads to %s that %s ready; %d more are not", count(ready, "endpoint"), isAre(ready), unready)
	default:
		s = ill("leads nowhere: it has no endpoints that are ready")
	}
	if len(o.Spec.Selector) == 0 {
		if ready == 0 {
			s.because("it has no selector, so that its endpoints are not made of pods: somebody has to write them")
			s.advise("To have it lead somewhere: give it a selector, or write an EndpointSlice with the label %s=%s", discoveryv1.LabelServiceName, o.Name)
		}
		return l.balanced(s, o)
	}
	pods := all[*corev1.Pod](l, "pods", o.Namespace)
	var chosen []*corev1.Pod
	selector := labels.SelectorFromSet(o.Spec.Selector)
	for _, p := range pods {
		if selector.Matches(labels.Set(p.Labels)) && p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed {
			chosen = append(chosen, p)
		}
	}
	if len(chosen) == 0 && ready == 0 {
		l.nobodyMatches(&s, o, pods)
		return s
	}
	if ready == 0 || unready > 0 {
		l.group(&s.Cause, chosen, len(chosen))
	}
	lost := l.portsLost(&s, o, chosen)
	if ready == 0 && len(s.Causes) == 0 && !lost {
		s.because("%s, and the endpoints are not written yet", countMatch(len(chosen), o))
	}
	return l.balanced(s, o)
}

func countMatch(n int, o *corev1.Service) string {
	return fmt.Sprintf("%s its selector %s", map[bool]string{true: "1 pod matches", false: fmt.Sprintf("%d pods match", n)}[n == 1], labels.SelectorFromSet(o.Spec.Selector))
}

// nobodyMatches names the pods that come nearest to the selector, and what they differ by.
func (l *look) nobodyMatches(s *state, o *corev1.Service, pods []*corev1.Pod) {
	c := s.because("no pod of namespace %s matches its selector %s", o.Namespace, labels.SelectorFromSet(o.Spec.Selector))
	type near struct {
		pod    *corev1.Pod
		differ []string
	}
	var list []near
	for _, p := range pods {
		n := near{pod: p}
		named := false // a label of the selector, with whatever value
		for _, key := range slices.Sorted(maps.Keys(o.Spec.Selector)) {
			want := o.Spec.Selector[key]
			value, has := p.Labels[key]
			named = named || has
			switch {
			case !has:
				n.differ = append(n.differ, fmt.Sprintf("%s is missing, asked is %s", key, want))
			case value != want:
				n.differ = append(n.differ, fmt.Sprintf("%s is %s, asked is %s", key, value, want))
			}
		}
		if named {
			list = append(list, n)
		}
	}
	slices.SortStableFunc(list, func(a, b near) int { return cmp.Compare(len(a.differ), len(b.differ)) })
	told := map[string]bool{}
	var first *near
	for i := range list {
		n := &list[i]
		text := strings.Join(n.differ, "; ")
		if told[text] {
			continue
		}
		if first == nil {
			first = n
		}
		told[text] = true
		c.because("pod/%s comes near: label %s", n.pod.Name, text)
		if len(told) == 3 {
			break
		}
	}
	if first == nil {
		if len(pods) == 0 {
			c.because("the namespace has no pods at all")
		} else {
			c.because("of its %s none has any of these labels", count(len(pods), "pod"))
		}
		s.advise("To have it lead somewhere: start pods with the labels %s", labels.SelectorFromSet(o.Spec.Selector))
		return
	}
	var set []string
	for _, key := range slices.Sorted(maps.Keys(o.Spec.Selector)) {
		if first.pod.Labels[key] != o.Spec.Selector[key] {
			set = append(set, key+"="+o.Spec.Selector[key])
		}
	}
	s.advise("To have it lead there: ask for the labels that pod/%s has (%s), or give the pods' template %s", first.pod.Name,
		kubectl(o.Namespace, "edit service "+o.Name), strings.Join(set, ","))
}

// portsLost says which of the Service's named target ports no container of the pods has.
func (l *look) portsLost(s *state, o *corev1.Service, pods []*corev1.Pod) (lost bool) {
	if len(pods) == 0 {
		return false
	}
	for _, port := range o.Spec.Ports {
		if port.TargetPort.Type != intstr.String {
			continue
		}
		there, found := map[string]bool{}, false
		for _, p := range pods {
			for _, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
				for _, cp := range c.Ports {
					found = found || cp.Name == port.TargetPort.StrVal && protocolOf(cp.Protocol) == protocolOf(port.Protocol)
					if cp.Name != "" {
						there[fmt.Sprintf("%s (%d/%s)", cp.Name, cp.ContainerPort, protocolOf(cp.Protocol))] = true
					}
				}
			}
		}
		if found {
			continue
		}
		lost = true
		c := s.because("port %d leads to a port named %s (%s), and no container of its pods has one of that name", port.Port, port.TargetPort.StrVal, protocolOf(port.Protocol))
		if len(there) == 0 {
			c.because("they have no named ports")
		} else {
			c.because("they have %s", some(slices.Sorted(maps.Keys(there))))
		}
		s.advise("To have it lead there: name that port in the pods' template (containers[].ports[].name), or write its number as targetPort")
		s.well = false
		if !strings.HasPrefix(s.Text, "leads nowhere") {
			s.Text = fmt.Sprintf("leads nowhere by its port %d", port.Port)
		}
	}
	return lost
}

func protocolOf(p corev1.Protocol) corev1.Protocol {
	if p == "" {
		return corev1.ProtocolTCP
	}
	return p
}

// balanced adds what a Service of type LoadBalancer lacks.
func (l *look) balanced(s state, o *corev1.Service) state {
	if o.Spec.Type != corev1.ServiceTypeLoadBalancer || len(o.Status.LoadBalancer.Ingress) > 0 {
		return s
	}
	c := s.because("it has no external address yet")
	if e := l.lastEvent(o, func(e *corev1.Event) bool { return e.Type == corev1.EventTypeWarning }, reasons(l.eventsOf(o))...); e != nil {
		c.because("%s, %s: %s", e.Reason, l.times(e), oneLine(e.Message))
	}
	for _, condition := range o.Status.Conditions {
		if condition.Status != "True" && condition.Message != "" {
			c.because("%s: %s", condition.Reason, oneLine(condition.Message))
		}
	}
	if class := o.Spec.LoadBalancerClass; class != nil {
		c.because("it asks for the class %s: whoever serves that class has to give it one", *class)
	}
	if s.well {
		s.well, s.Text = false, "has no external address; inside the cluster it "+s.Text
	}
	return s
}

func reasons(events []*corev1.Event) (list []string) {
	for _, e := range events {
		list = append(list, e.Reason)
	}
	return list
}
