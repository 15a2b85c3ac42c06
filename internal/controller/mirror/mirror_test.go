//lint:file-ignore SA1019 Endpoints are deprecated, and still served and read

package mirror

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"sampan.dev/internal/loop"
)

var service = &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "db"}}

type change func(*corev1.Endpoints)

func newEndpoints(changes ...change) *corev1.Endpoints {
	e := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "db", UID: "ep", Labels: map[string]string{"team": "a"}}}
	for _, f := range changes {
		f(e)
	}
	return e
}

// subset adds addresses: those after a "not" are not ready; numbers are ports.
func subset(words string) change {
	return func(e *corev1.Endpoints) {
		var s corev1.EndpointSubset
		list := &s.Addresses
		for _, w := range strings.Fields(words) {
			var port int32
			switch n, _ := fmt.Sscanf(w, ":%d", &port); {
			case w == "not":
				list = &s.NotReadyAddresses
			case n == 1:
				s.Ports = append(s.Ports, corev1.EndpointPort{Name: fmt.Sprint("p", port), Port: port, Protocol: corev1.ProtocolTCP})
			default:
				*list = append(*list, corev1.EndpointAddress{IP: w})
			}
		}
		e.Subsets = append(e.Subsets, s)
	}
}

func many(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "10.1.%d.%d ", i/250, i%250)
	}
	return b.String()
}

func annotated(key string) change {
	return func(e *corev1.Endpoints) {
		if e.Annotations == nil {
			e.Annotations = map[string]string{}
		}
		e.Annotations[key] = "x"
	}
}

func skipped(e *corev1.Endpoints) { e.Labels[discovery.LabelSkipMirror] = "true" }
func deleted(e *corev1.Endpoints) { e.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)} }

func words(s *discovery.EndpointSlice) string {
	text := fmt.Sprint(s.Name, " ", s.AddressType, "[")
	for _, p := range s.Ports {
		text += fmt.Sprintf("%s:%d/%s", *p.Name, *p.Port, *p.Protocol)
	}
	text += "]"
	if len(s.Endpoints) > 8 {
		return fmt.Sprint(text, " ", len(s.Endpoints))
	}
	for _, e := range s.Endpoints {
		text += " " + strings.Join(e.Addresses, ",")
		if !*e.Conditions.Ready {
			text += "!"
		}
	}
	return text
}

func (p Plan) String() string {
	var all []string
	for i, list := range [][]*discovery.EndpointSlice{p.Create, p.Update, p.Delete} {
		for _, s := range list {
			if i == 2 {
				all = append(all, "delete "+s.Name)
			} else {
				all = append(all, []string{"create", "update "}[i]+words(s))
			}
		}
	}
	if p.Skipped > 0 {
		all = append(all, fmt.Sprintf("%d skipped, %d invalid", p.Skipped, p.Invalid))
	}
	return strings.Join(all, "; ")
}

// settle carries a plan out, and sees that none follows it.
func settle(t testing.TB, service *corev1.Service, e *corev1.Endpoints, existing []*discovery.EndpointSlice) (after []*discovery.EndpointSlice) {
	t.Helper()
	byName := map[string]*discovery.EndpointSlice{}
	last := 0
	for _, s := range existing {
		byName[s.Name] = s
		fmt.Sscanf(s.Name, "db-%d", &last)
	}
	p := Decide(service, e, existing)
	for _, s := range p.Create {
		last++
		s.Name, s.ResourceVersion = fmt.Sprint("db-", last), "1"
		byName[s.Name] = s
	}
	for _, s := range p.Update {
		if old := byName[s.Name]; old == nil || old.AddressType != s.AddressType || old.ResourceVersion != s.ResourceVersion || reflect.DeepEqual(old, s) {
			t.Fatalf("it makes %v of %v", s, old)
		}
		byName[s.Name] = s
	}
	for _, s := range p.Delete {
		delete(byName, s.Name)
	}
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		after = append(after, byName[name])
	}
	if p := Decide(service, e, after); p.changes() {
		t.Fatalf("and then %s", p)
	}
	return after
}

func TestDecide(t *testing.T) {
	made := func(changes ...change) []*discovery.EndpointSlice {
		return settle(t, service, newEndpoints(changes...), nil)
	}
	selecting := service.DeepCopy()
	selecting.Spec.Selector = map[string]string{"app": "db"}
	for name, c := range map[string]struct {
		service  *corev1.Service
		e        *corev1.Endpoints
		existing []*discovery.EndpointSlice
		want     string
	}{
		"nothing is told":                       {service, newEndpoints(), nil, ""},
		"ready and not":                         {service, newEndpoints(subset("10.0.0.1 not 10.0.0.2 :80")), nil, "create IPv4[p80:80/TCP] 10.0.0.1 10.0.0.2!"},
		"a slice of each family":                {service, newEndpoints(subset("10.0.0.1 fd00::1 :80")), nil, "create IPv4[p80:80/TCP] 10.0.0.1; create IPv6[p80:80/TCP] fd00::1"},
		"ports of the same addresses":           {service, newEndpoints(subset("10.0.0.1 :80"), subset("10.0.0.1 :81")), nil, "create IPv4[p81:81/TCPp80:80/TCP] 10.0.0.1"},
		"without ports":                         {service, newEndpoints(subset("10.0.0.1")), nil, "create IPv4[] 10.0.0.1"},
		"irregular addresses are put right":     {service, newEndpoints(subset("010.0.0.01 :80")), nil, "create IPv4[p80:80/TCP] 10.0.0.1"},
		"what is no address is left out":        {service, newEndpoints(subset("10.0.0.1 localhost :80")), nil, "create IPv4[p80:80/TCP] 10.0.0.1; 1 skipped, 1 invalid"},
		"a thousand at most":                    {service, newEndpoints(subset(many(1010) + ":80")), nil, "create IPv4[p80:80/TCP] 1000; 10 skipped, 0 invalid"},
		"no such Service":                       {nil, newEndpoints(subset("10.0.0.1 :80")), made(subset("10.0.0.1 :80")), "delete db-1"},
		"the Service has a selector":            {selecting, newEndpoints(subset("10.0.0.1 :80")), made(subset("10.0.0.1 :80")), "delete db-1"},
		"the Endpoints are gone":                {service, nil, made(subset("10.0.0.1 :80")), "delete db-1"},
		"somebody asked that they be not":       {service, newEndpoints(subset("10.0.0.1 :80"), skipped), made(subset("10.0.0.1 :80")), "delete db-1"},
		"a leader is elected with them":         {service, newEndpoints(subset("10.0.0.1 :80"), annotated("control-plane.alpha.kubernetes.io/leader")), nil, ""},
		"another address: one update":           {service, newEndpoints(subset("10.0.0.1 10.0.0.2 :80")), made(subset("10.0.0.1 :80")), "update db-1 IPv4[p80:80/TCP] 10.0.0.1 10.0.0.2"},
		"another port: the slice is used again": {service, newEndpoints(subset("10.0.0.1 :81")), made(subset("10.0.0.1 :80")), "update db-1 IPv4[p81:81/TCP] 10.0.0.1"},
		"a family goes":                         {service, newEndpoints(subset("10.0.0.1 :80")), made(subset("10.0.0.1 fd00::1 :80")), "delete db-2"},
		"another family is another slice":       {service, newEndpoints(subset("fd00::1 :80")), made(subset("10.0.0.1 :80")), "create IPv6[p80:80/TCP] fd00::1; delete db-1"},
		"an annotation is taken over":           {service, newEndpoints(subset("10.0.0.1 :80"), annotated("mine")), made(subset("10.0.0.1 :80")), "update db-1 IPv4[p80:80/TCP] 10.0.0.1"},
		"but not those of others' work":         {service, newEndpoints(subset("10.0.0.1 :80"), annotated(corev1.LastAppliedConfigAnnotation), annotated(corev1.EndpointsLastChangeTriggerTime)), made(subset("10.0.0.1 :80")), ""},
		"Endpoints made anew own their slices":  {service, newEndpoints(subset("10.0.0.1 :80"), func(e *corev1.Endpoints) { e.UID = "new" }), made(subset("10.0.0.1 :80")), "update db-1 IPv4[p80:80/TCP] 10.0.0.1"},
		"Endpoints being deleted get no more":   {service, newEndpoints(subset("10.0.0.1 :80"), deleted), nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			before := fmt.Sprint(c.e, c.existing)
			if got := Decide(c.service, c.e, c.existing).String(); got != c.want {
				t.Errorf("%s\nwant %s", got, c.want)
			}
			if fmt.Sprint(c.e, c.existing) != before {
				t.Error("it changed what it was given")
			}
			settle(t, c.service, c.e, c.existing)
		})
	}
}

func TestASliceLooksAsUpstreams(t *testing.T) {
	s := Decide(service, newEndpoints(subset("10.0.0.1 :80"), annotated("mine")), nil).Create[0]
	want := metav1.ObjectMeta{
		Namespace: "ns", GenerateName: "db-", Annotations: map[string]string{"mine": "x"}, Labels: map[string]string{
			"team": "a", "kubernetes.io/service-name": "db", "endpointslice.kubernetes.io/managed-by": "endpointslicemirroring-controller.k8s.io",
		},
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Endpoints", Name: "db", UID: "ep", Controller: new(true), BlockOwnerDeletion: new(true)}},
	}
	if !reflect.DeepEqual(s.ObjectMeta, want) {
		t.Errorf("%+v\nwant %+v", s.ObjectMeta, want)
	}
	if c := s.Endpoints[0].Conditions; c.Serving != nil || c.Terminating != nil {
		t.Errorf("%+v", c)
	}
}

// From whatever slices there are, one plan makes them tell what the Endpoints tell, and none is planned after it.
func TestFromAnySlicesAPlanReachesWhatIsWanted(t *testing.T) {
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 7))
		random := func() *corev1.Endpoints {
			var changes []change
			for range r.IntN(4) {
				text := ""
				for range r.IntN(4) {
					text += []string{"10.0.0.", "fd00::", "10.0.0."}[r.IntN(3)] + fmt.Sprint(1+r.IntN(4)) + []string{" ", " ", " not "}[r.IntN(3)]
				}
				for range 1 + r.IntN(2) {
					text += fmt.Sprintf(":%d ", 80+r.IntN(2))
				}
				changes = append(changes, subset(text))
			}
			return newEndpoints(append(changes, []change{func(*corev1.Endpoints) {}, annotated("mine"), skipped}[r.IntN(3)])...)
		}
		var existing []*discovery.EndpointSlice
		for range r.IntN(3) {
			for _, s := range settle(t, service, random(), nil) {
				s.Name = fmt.Sprint("db-", len(existing)+1)
				if r.IntN(6) == 0 {
					s.Endpoints = append(s.Endpoints, s.Endpoints[0])
				}
				existing = append(existing, s)
			}
		}
		e := random()
		tell := func(all []*discovery.EndpointSlice) (lines []string) {
			for _, s := range all {
				one := *s
				one.Name = ""
				one.Endpoints = slices.Clone(s.Endpoints)
				slices.SortFunc(one.Endpoints, func(a, b discovery.Endpoint) int { return strings.Compare(a.Addresses[0], b.Addresses[0]) })
				lines = append(lines, words(&one))
			}
			slices.Sort(lines)
			return lines
		}
		got, want := tell(settle(t, service, e, existing)), tell(settle(t, service, e, nil))
		if !slices.Equal(got, want) {
			t.Fatalf("seed %d: %v\nwant %v", seed, got, want)
		}
	}
}

// fake is an API with one name. What is written shows at once.
type fake struct {
	mu     sync.Mutex
	scene  Scene
	did    []string
	refuse []error // answers to the next writes
}

func (f *fake) Scene(loop.Key) Scene {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.scene
}

func (f *fake) write(verb string, after ...*discovery.EndpointSlice) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.refuse) > 0 {
		err := f.refuse[0]
		f.refuse = f.refuse[1:]
		return err
	}
	f.did, f.scene.Slices = append(f.did, verb), after
	return nil
}

func (f *fake) Create(_ context.Context, s *discovery.EndpointSlice) error {
	return f.write("create", s)
}

func (f *fake) Update(_ context.Context, s *discovery.EndpointSlice) error {
	return f.write("update", s)
}

func (f *fake) Delete(context.Context, *discovery.EndpointSlice) error { return f.write("delete") }
func (f *fake) Shown(context.Context) error                            { return nil }

func (f *fake) Record(_ runtime.Object, kind, reason, message string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.did = append(f.did, kind+" "+reason+" "+message)
}

func TestController(t *testing.T) {
	r := discovery.Resource("endpointslices")
	ending := apierrors.NewForbidden(r, "", errors.New("it is being terminated"))
	ending.ErrStatus.Details.Causes = append(ending.ErrStatus.Details.Causes, metav1.StatusCause{Type: corev1.NamespaceTerminatingCause})
	e := newEndpoints(subset("10.0.0.1 :80"))
	old := settle(t, service, newEndpoints(subset("10.0.0.9 :80")), nil)
	for name, c := range map[string]struct {
		scene  Scene
		refuse []error
		want   []string
	}{
		"new Endpoints":                         {Scene{Service: service, Endpoints: e}, nil, []string{"create"}},
		"changed ones":                          {Scene{Service: service, Endpoints: e, Slices: old}, nil, []string{"update"}},
		"a Service that is gone":                {Scene{Endpoints: e, Slices: old}, nil, []string{"delete"}},
		"nothing at all":                        {Scene{}, nil, nil},
		"a namespace that ends gets no more":    {Scene{Service: service, Endpoints: e}, []error{ending, ending}, nil},
		"somebody else has written":             {Scene{Service: service, Endpoints: e, Slices: old}, []error{apierrors.NewConflict(r, "x", nil), apierrors.NewNotFound(r, "x")}, []string{"update"}},
		"somebody else has deleted it":          {Scene{Endpoints: e, Slices: old}, []error{apierrors.NewNotFound(r, "x")}, []string{"delete"}},
		"failures are tried again":              {Scene{Service: service, Endpoints: e}, []error{errors.New("no"), errors.New("no")}, []string{"create"}},
		"what is no address is told once":       {Scene{Service: service, Endpoints: newEndpoints(subset("10.0.0.1 x :80"))}, nil, []string{"Warning InvalidIPAddress Skipped 1 invalid IP addresses when mirroring to EndpointSlices", "create"}},
		"and so is what is more than is copied": {Scene{Service: service, Endpoints: newEndpoints(subset(many(1001) + ":80"))}, nil, []string{"Warning TooManyAddressesToMirror A max of 1000 addresses can be mirrored to EndpointSlices per Endpoints subset. 1 addresses were skipped", "create"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fake{scene: c.scene, refuse: c.refuse}
				ctl := New(f, f, f, nil, nil)
				ctx, stop := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() { done <- ctl.Run(ctx) }()
				for range 2 { // its own writes come back as marks
					ctl.Mark(loop.Key{Namespace: "ns", Name: "db"})
					time.Sleep(10 * time.Second)
					synctest.Wait()
				}
				stop()
				if err := <-done; err != nil {
					t.Error(err)
				}
				if !slices.Equal(f.did, c.want) || len(f.refuse) > 0 {
					t.Errorf("%v, %v left\nwant %v", f.did, f.refuse, c.want)
				}
			})
		})
	}
}
