//lint:file-ignore SA1019 Endpoints are deprecated, and still served and read

package loops

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"sampan.dev/internal/cache"
	kind "sampan.dev/internal/resource"
)

// street is a control plane, seen from its Services.
type street struct {
	*plane
	services, slices, endpoints *kind.Kind
}

func newStreet(p *plane) street {
	return street{
		p, p.kindOf(corev1.SchemeGroupVersion.WithKind("Service")), p.kindOf(discovery.SchemeGroupVersion.WithKind("EndpointSlice")),
		p.kindOf(corev1.SchemeGroupVersion.WithKind("Endpoints")),
	}
}

func (s street) addService(name string, ip int, selector map[string]string) {
	s.t.Helper()
	s.make(s.services, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.ServiceSpec{
		Selector: selector, ClusterIP: fmt.Sprintf("10.96.%d.%d", ip/250, ip%250+1), ClusterIPs: []string{fmt.Sprintf("10.96.%d.%d", ip/250, ip%250+1)},
		IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, IPFamilyPolicy: new(corev1.IPFamilyPolicySingleStack), Type: corev1.ServiceTypeClusterIP,
		SessionAffinity: corev1.ServiceAffinityNone, InternalTrafficPolicy: new(corev1.ServiceInternalTrafficPolicyCluster),
		Ports: []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(8080)}},
	}})
}

// addBackend makes a pod of that label that is ready at that address.
func (s street) addBackend(name, app, ip string) {
	s.t.Helper()
	s.make(s.pods, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{"app": app}},
		Spec:       corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	})
	s.setReady(name, ip, corev1.ConditionTrue)
}

func (s street) setReady(name, ip string, ready corev1.ConditionStatus) {
	s.t.Helper()
	pod := get[*corev1.Pod](s.world, s.pods, "default", name)
	err := s.UpdatePodStatus(s.ctx, pod, func(st *corev1.PodStatus) {
		st.Phase, st.PodIP, st.PodIPs = corev1.PodRunning, ip, []corev1.PodIP{{IP: ip}}
		setCondition(st, corev1.PodCondition{Type: corev1.PodReady, Status: ready})
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

// told is what slices and Endpoints of a Service say: the addresses that are ready, in each.
func (s street) told(service string) string {
	var inSlices, inEndpoints []string
	n := 0
	for o := range s.Cache.Snapshot().List(s.slices, cache.Selection{Namespace: "default"}) {
		if o.LabelSet().Get(discovery.LabelServiceName) != service {
			continue
		}
		n++
		for _, e := range cache.Typed[*discovery.EndpointSlice](o).Endpoints {
			if *e.Conditions.Ready {
				inSlices = append(inSlices, e.Addresses...)
			}
		}
	}
	there := "no Endpoints"
	if e := get[*corev1.Endpoints](s.world, s.endpoints, "default", service); e != nil {
		there = "Endpoints"
		for _, subset := range e.Subsets {
			for _, a := range subset.Addresses {
				inEndpoints = append(inEndpoints, a.IP)
			}
		}
	}
	slices.Sort(inSlices)
	return strings.TrimSpace(fmt.Sprintf("%d slices %s, %s %s", n, strings.Join(inSlices, " "), there, strings.Join(inEndpoints, " ")))
}

func (s street) expect(service, want string) {
	s.t.Helper()
	s.until(fmt.Sprintf("of %s is told %q", service, want), func() bool { return s.told(service) == want })
}

func TestWhatIsBehindAServiceFollowsItsPods(t *testing.T) {
	p, stop := start(t, t.TempDir())
	s := newStreet(p)
	s.addNode("n1")
	s.addService("web", 1, map[string]string{"app": "web"})
	s.expect("web", "1 slices , Endpoints")
	s.addBackend("a", "web", "10.0.0.1")
	s.addBackend("b", "web", "10.0.0.2")
	s.addBackend("c", "other", "10.0.0.3")
	s.expect("web", "1 slices 10.0.0.1 10.0.0.2, Endpoints 10.0.0.1 10.0.0.2")
	s.setReady("a", "10.0.0.1", corev1.ConditionFalse)
	s.expect("web", "1 slices 10.0.0.2, Endpoints 10.0.0.2")

	// Another label brings a pod in and takes one out; another selector takes all in that it selects.
	relabel := func(pod, app string) {
		err := s.update(s.ctx, s.pods, "", "default", pod, "", func(o kind.Object) { o.SetLabels(map[string]string{"app": app}) })
		if err != nil {
			t.Fatal(err)
		}
	}
	relabel("c", "web")
	relabel("b", "other")
	s.expect("web", "1 slices 10.0.0.3, Endpoints 10.0.0.3")
	err := s.update(s.ctx, s.services, "", "default", "web", "", func(o kind.Object) { o.(*corev1.Service).Spec.Selector = map[string]string{"app": "other"} })
	if err != nil {
		t.Fatal(err)
	}
	s.expect("web", "1 slices 10.0.0.2, Endpoints 10.0.0.2")

	// Whoever deletes or edits them finds them put right.
	for o := range s.Cache.Snapshot().List(s.slices, cache.Selection{Namespace: "default"}) {
		s.drop(s.slices, "default", o.Name(), metav1.DeleteOptions{})
	}
	s.drop(s.endpoints, "default", "web", metav1.DeleteOptions{})
	s.expect("web", "1 slices 10.0.0.2, Endpoints 10.0.0.2")
	s.drop(s.services, "default", "web", metav1.DeleteOptions{})
	s.expect("web", "0 slices , no Endpoints")
	stop()
}

func TestWhatChangedWhileNobodyLookedIsPutRightAtTheStart(t *testing.T) {
	dir := t.TempDir()
	p, stop := start(t, dir)
	s := newStreet(p)
	s.addNode("n1")
	s.addBackend("a", "web", "10.0.0.1")
	s.make(s.endpoints, &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "left"}})
	s.make(s.endpoints, &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "leader", Annotations: map[string]string{"control-plane.alpha.kubernetes.io/leader": "{}"}}})
	s.addService("web", 1, map[string]string{"app": "web"})
	s.expect("web", "1 slices 10.0.0.1, Endpoints 10.0.0.1")
	s.expect("left", "0 slices , Endpoints")
	stop()

	p, _ = start(t, dir)
	s = newStreet(p)
	s.expect("left", "0 slices , no Endpoints")
	s.expect("leader", "0 slices , Endpoints")
	s.expect("web", "1 slices 10.0.0.1, Endpoints 10.0.0.1")
	s.setReady("a", "10.0.0.9", corev1.ConditionTrue)
	s.expect("web", "1 slices 10.0.0.9, Endpoints 10.0.0.9")
}

func TestEndpointsWrittenByHandAreMirrored(t *testing.T) {
	p, _ := start(t, t.TempDir())
	s := newStreet(p)
	s.make(s.endpoints, &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "db"}, Subsets: []corev1.EndpointSubset{{
		Addresses: []corev1.EndpointAddress{{IP: "192.0.2.1"}}, Ports: []corev1.EndpointPort{{Port: 5432, Protocol: corev1.ProtocolTCP}},
	}}})
	s.addService("db", 1, nil)
	s.expect("db", "1 slices 192.0.2.1, Endpoints 192.0.2.1")
	err := s.update(s.ctx, s.endpoints, "", "default", "db", "", func(o kind.Object) { o.(*corev1.Endpoints).Subsets[0].Addresses[0].IP = "192.0.2.2" })
	if err != nil {
		t.Fatal(err)
	}
	s.expect("db", "1 slices 192.0.2.2, Endpoints 192.0.2.2")
	s.drop(s.endpoints, "default", "db", metav1.DeleteOptions{})
	s.expect("db", "0 slices , no Endpoints")
}

func TestAPodsNodeThatComesLaterBringsItIn(t *testing.T) {
	p, _ := start(t, t.TempDir())
	s := newStreet(p)
	s.addService("web", 1, map[string]string{"app": "web"})
	s.addNode("n1")
	s.addBackend("a", "web", "10.0.0.1")
	s.expect("web", "1 slices 10.0.0.1, Endpoints 10.0.0.1")
	err := s.update(s.ctx, s.nodes, "", "", "n1", "", func(o kind.Object) { o.SetLabels(map[string]string{corev1.LabelTopologyZone: "z"}) })
	if err != nil {
		t.Fatal(err)
	}
	s.until("the endpoint has its zone", func() bool {
		for o := range s.Cache.Snapshot().List(s.slices, cache.Selection{Namespace: "default"}) {
			for _, e := range cache.Typed[*discovery.EndpointSlice](o).Endpoints {
				return e.Zone != nil && *e.Zone == "z"
			}
		}
		return false
	})
}

// With many Services, a pod's change writes its own Service's slice and Endpoints, once each, and nothing else.
func TestAPodsChangeAmongManyServicesWritesItsOwn(t *testing.T) {
	p, _ := start(t, t.TempDir())
	s := newStreet(p)
	s.addNode("n1")
	const n = 200
	for i := range n {
		name := fmt.Sprint("s", i)
		s.addBackend(name, name, fmt.Sprintf("10.0.0.%d", i+1))
		s.addService(name, i, map[string]string{"app": name})
	}
	for i := range n {
		s.expect(fmt.Sprint("s", i), fmt.Sprintf("1 slices 10.0.0.%d, Endpoints 10.0.0.%[1]d", i+1))
	}
	before := s.Revision()
	s.setReady("s7", "10.0.0.8", corev1.ConditionFalse)
	s.expect("s7", "1 slices , Endpoints")
	if wrote := s.Revision() - before; wrote != 3 {
		t.Errorf("%d writes: the pod's status, a slice and Endpoints are three", wrote)
	}
}
