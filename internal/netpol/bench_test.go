package netpol

import (
	"fmt"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/loop"
	"sampan.dev/internal/nft"
)

// BenchmarkOneOfMany is what one pod's change costs beside 10,000 pods of 100 namespaces with 10 policies each: until the step that is sent to the kernel is known.
func BenchmarkOneOfMany(b *testing.B) {
	p := newProgram(Network{Table: table, Bridge: bridge})
	for n := range 100 {
		ns := fmt.Sprint("ns-", n)
		p.setNamespace(ns, map[string]string{"kubernetes.io/metadata.name": ns})
		for i := range 10 {
			key := loop.Key{Namespace: ns, Name: fmt.Sprint("np-", i)}
			app := metav1.LabelSelector{MatchLabels: map[string]string{"app": fmt.Sprint(i)}}
			o := &networking.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: key.Name}}
			o.Spec = networking.NetworkPolicySpec{PodSelector: app, PolicyTypes: []networking.PolicyType{networking.PolicyTypeIngress}, Ingress: []networking.NetworkPolicyIngressRule{{
				From: []networking.NetworkPolicyPeer{{PodSelector: &app}, {NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": "ns-0"}}}},
			}}}
			p.setPolicy(key, read(o))
		}
	}
	pod := func(i int, app string) (loop.Key, *Pod) {
		node := "elsewhere"
		if i%50 == 0 {
			node = here
		}
		o := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: fmt.Sprint("ns-", i%100), Name: fmt.Sprint("p-", i), Labels: map[string]string{"app": app}}, Spec: corev1.PodSpec{NodeName: node}}
		o.Status.PodIPs = []corev1.PodIP{{IP: netip.AddrFrom4([4]byte{10, 244, byte(i >> 8), byte(i)}).String()}}
		return loop.Key{Namespace: o.Namespace, Name: o.Name}, PodOf(o, here)
	}
	for i := range 10_000 {
		p.setPod(pod(i, fmt.Sprint(i%10)))
	}
	p.table()
	var sent nft.Change
	for i := 0; b.Loop(); i++ {
		p.setPod(pod(i%200*50, fmt.Sprint(i%11)))
		sent = p.step()
	}
	if len(sent.Sets)+len(sent.Chains) > 1 {
		b.Errorf("the last step was %+v", sent)
	}
}
