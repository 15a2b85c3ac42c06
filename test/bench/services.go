package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"sampan.dev/internal/client"
)

// service sends port 80 to port 80 of the pods with that label; of none if it is empty.
func service(name, app string) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(80)}}},
	}
	if app != "" {
		s.Spec.Selector = map[string]string{"app": app}
	}
	return s
}

// webPods makes n pods that serve, and returns their addresses.
func (b *bench) webPods(ctx context.Context, app string, n int) (ips []netip.Addr, err error) {
	for i := range n {
		p := pod(fmt.Sprintf("%s-%d", app, i), "sampan.dev/hello:1")
		p.Labels = map[string]string{"app": app, "number": fmt.Sprint(i)}
		if _, err := b.createReady(ctx, p); err != nil {
			return nil, err
		}
		made, err := client.Get[*corev1.Pod](ctx, b.client, "default", p.Name)
		if err != nil {
			return nil, err
		}
		ip, err := netip.ParseAddr(made.Status.PodIP)
		if err != nil {
			return nil, err
		}
		ips = append(ips, ip)
	}
	return ips, nil
}

// untilAnswers waits, without a pause worth naming, until connections to an address are answered, or refused.
func untilAnswers(ctx context.Context, to netip.AddrPort, answers bool) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var d net.Dialer
	for {
		c, err := d.DialContext(ctx, "tcp", to.String())
		if err == nil {
			c.Close()
		}
		if (err == nil) == answers {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%v: %w, the last: %w", to, ctx.Err(), err)
		}
		time.Sleep(100 * time.Microsecond)
	}
}

func frontOf(s *corev1.Service) (netip.AddrPort, error) {
	ip, err := netip.ParseAddr(s.Spec.ClusterIP)
	return netip.AddrPortFrom(ip, 80), err
}

func fine(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000) }

// services measures how soon what is asked for is so in the kernel.
func (b *bench) services(ctx context.Context) error {
	ips, err := b.webPods(ctx, "web", 2)
	if err != nil {
		return err
	}
	if err := b.newService(ctx); err != nil {
		return err
	}
	if err := b.readyAnswers(ctx); err != nil {
		return err
	}
	change := func(present int, upstream string) error {
		each, err := b.endpointChanges(ctx, ips[0])
		if err != nil {
			return err
		}
		line(fmt.Sprintf("an endpoint's change is in force, %d Services, median", present), fine(median(each)), "5 ms", upstream)
		line("  the same, 99th percentile of 200", fine(each[len(each)*99/100]), "", "")
		return nil
	}
	if err := change(0, "11 ms"); err != nil {
		return err
	}
	const many = 5000
	begin := time.Now()
	fronts, err := b.createServices(ctx, many)
	if err != nil {
		return err
	}
	created := time.Since(begin)
	if err := each(len(fronts), func(i int) error { return untilAnswers(ctx, fronts[i], true) }); err != nil {
		return err
	}
	line("5,000 Services created and all answering", fmt.Sprintf("%.1f s", time.Since(begin).Seconds()), "5 s", "61 s")
	line("  of it until the last is created", fmt.Sprintf("%.1f s", created.Seconds()), "", "")
	if err := change(many, "113 ms"); err != nil {
		return err
	}
	if err := b.kept(ctx, "with 5,000 Services"); err != nil {
		return err
	}
	if err := b.deleteServices(ctx, 1000, many); err != nil {
		return err
	}
	if err := change(1000, "36 ms"); err != nil {
		return err
	}
	if err := b.deleteServices(ctx, 0, 1000); err != nil {
		return err
	}
	if err := b.kept(ctx, "with 10 Services"); err != nil {
		return err
	}
	for i := range 2 {
		if _, err := b.deleteNow(ctx, fmt.Sprintf("web-%d", i)); err != nil {
			return err
		}
	}
	return nil
}

// newService measures from the request that creates a Service until it answers.
func (b *bench) newService(ctx context.Context) error {
	var all []time.Duration
	for i := range 50 {
		begin := time.Now()
		s, err := client.Create(ctx, b.client, service(fmt.Sprintf("new-%d", i), "web"))
		if err != nil {
			return err
		}
		to, err := frontOf(s)
		if err != nil {
			return err
		}
		if err := untilAnswers(ctx, to, true); err != nil {
			return err
		}
		all = append(all, time.Since(begin))
		if err := client.Delete[*corev1.Service](ctx, b.client, "default", s.Name, metav1.DeleteOptions{}); err != nil {
			return err
		}
	}
	line("a new Service answers, median of 50", fine(median(all)), "20 ms", "1020 ms")
	return nil
}

// readyAnswers measures from the word that a pod is Ready until its Service answers.
func (b *bench) readyAnswers(ctx context.Context) error {
	s, err := client.Create(ctx, b.client, service("late", "late"))
	if err != nil {
		return err
	}
	to, err := frontOf(s)
	if err != nil {
		return err
	}
	var all []time.Duration
	for i := range 20 {
		p := pod(fmt.Sprintf("late-%d", i), "sampan.dev/hello:1")
		p.Labels = map[string]string{"app": "late"}
		// What is Ready answers by itself: without a probe, the figure would be of the program's start.
		p.Spec.Containers[0].ReadinessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt32(80)}}}
		if _, err := b.createReady(ctx, p); err != nil {
			return err
		}
		begin := time.Now()
		if err := untilAnswers(ctx, to, true); err != nil {
			return err
		}
		all = append(all, time.Since(begin))
		if _, err := b.deleteNow(ctx, p.Name); err != nil {
			return err
		}
	}
	line("a pod is seen to be Ready to its Service answers, of 20", fine(median(all)), "5 ms", "31 ms")
	return client.Delete[*corev1.Service](ctx, b.client, "default", s.Name, metav1.DeleteOptions{})
}

// endpointChanges measures from the request that changes an EndpointSlice until connections are answered, or refused, accordingly; sorted.
func (b *bench) endpointChanges(ctx context.Context, pod netip.Addr) (all []time.Duration, err error) {
	s, err := client.Create(ctx, b.client, service("changing", ""))
	if err != nil {
		return nil, err
	}
	to, err := frontOf(s)
	if err != nil {
		return nil, err
	}
	slice, err := client.Create(ctx, b.client, &discovery.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: "changing", Labels: map[string]string{discovery.LabelServiceName: "changing"}},
		AddressType: discovery.AddressTypeIPv4,
		Ports:       []discovery.EndpointPort{{Name: new(string), Port: new(int32(80)), Protocol: new(corev1.ProtocolTCP)}},
	})
	if err != nil {
		return nil, err
	}
	for i := range 200 {
		there := i%2 == 0
		slice = slice.DeepCopy()
		slice.Endpoints = nil
		if there {
			slice.Endpoints = []discovery.Endpoint{{Addresses: []string{pod.String()}, Conditions: discovery.EndpointConditions{Ready: new(true)}}}
		}
		begin := time.Now()
		if slice, err = client.Update(ctx, b.client, slice, ""); err != nil {
			return nil, err
		}
		if err := untilAnswers(ctx, to, there); err != nil {
			return nil, err
		}
		all = append(all, time.Since(begin))
	}
	slices.Sort(all)
	return all, errors.Join(client.Delete[*corev1.Service](ctx, b.client, "default", "changing", metav1.DeleteOptions{}),
		client.Delete[*discovery.EndpointSlice](ctx, b.client, "default", "changing", metav1.DeleteOptions{}))
}

// each does f for 0 to n-1, 64 at a time.
func each(n int, f func(i int) error) error {
	const clients = 64
	errs := make([]error, clients)
	var all sync.WaitGroup
	for k := range clients {
		all.Go(func() {
			for i := k; i < n && errs[k] == nil; i += clients {
				errs[k] = f(i)
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

func (b *bench) createServices(ctx context.Context, n int) ([]netip.AddrPort, error) {
	fronts := make([]netip.AddrPort, n)
	return fronts, each(n, func(i int) error {
		s, err := client.Create(ctx, b.client, service(fmt.Sprintf("many-%d", i), "web"))
		if err == nil {
			fronts[i], err = frontOf(s)
		}
		return err
	})
}

// deleteServices deletes those from one number to before another, and waits until their EndpointSlices have gone, too.
func (b *bench) deleteServices(ctx context.Context, from, to int) error {
	if err := each(to-from, func(i int) error {
		return client.Delete[*corev1.Service](ctx, b.client, "default", fmt.Sprintf("many-%d", from+i), metav1.DeleteOptions{})
	}); err != nil {
		return err
	}
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		left, _, err := client.List[*discovery.EndpointSlice](ctx, b.client, client.Selection{Namespace: "default"})
		if err != nil {
			return err
		}
		if len(left) <= from+10 {
			return nil
		}
	}
	return errors.New("EndpointSlices of Services that are gone stay")
}
