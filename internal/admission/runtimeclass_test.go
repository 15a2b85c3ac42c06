package admission_test

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestWhatARuntimeClassGivesAPod(t *testing.T) {
	class := func(name string, change func(*nodev1.RuntimeClass)) *nodev1.RuntimeClass {
		c := &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Handler: "runsc"}
		change(c)
		return c
	}
	quarter := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("250m")}
	c := newChain(t, namespace("there", corev1.NamespaceActive), account("there", "default"),
		class("plain", func(*nodev1.RuntimeClass) {}),
		class("heavy", func(c *nodev1.RuntimeClass) { c.Overhead = &nodev1.Overhead{PodFixed: quarter} }),
		class("pool", func(c *nodev1.RuntimeClass) {
			c.Scheduling = &nodev1.Scheduling{
				NodeSelector: map[string]string{"pool": "vm"},
				Tolerations:  []corev1.Toleration{{Key: "vm", Operator: corev1.TolerationOpExists}, {Key: "gpu", Value: "yes", Effect: corev1.TaintEffectNoSchedule}},
			}
		}))
	of := func(class string, change func(*corev1.PodSpec)) *corev1.Pod {
		return pod("there", func(s *corev1.PodSpec) {
			if class != "" {
				s.RuntimeClassName = &class
			}
			if change != nil {
				change(s)
			}
		})
	}
	for _, tc := range []struct {
		name string
		pod  *corev1.Pod
		want string // overhead, selector and tolerations of its own; or the error
	}{
		{"a pod of no class", of("", nil), "{} map[] []"},
		{"a class that says nothing", of("plain", nil), "{} map[] []"},
		{"a class with overhead", of("heavy", nil), "{250m} map[] []"},
		{"the same overhead is there already", of("heavy", func(s *corev1.PodSpec) { s.Overhead = quarter }), "{250m} map[] []"},
		{"a class of a pool of nodes", of("pool", nil), "{} map[pool:vm] [vm Exists   gpu  yes NoSchedule ]"},
		{"a pod with a selector of its own", of("pool", func(s *corev1.PodSpec) { s.NodeSelector = map[string]string{"disk": "ssd", "pool": "vm"} }), "{} map[disk:ssd pool:vm] [vm Exists   gpu  yes NoSchedule ]"},
		{"a pod that tolerates more", of("pool", func(s *corev1.PodSpec) {
			s.Tolerations = []corev1.Toleration{{Key: "gpu", Operator: corev1.TolerationOpExists}}
		}), "{} map[pool:vm] [gpu Exists   vm Exists   ]"},
		{"a pod that tolerates less", of("pool", func(s *corev1.PodSpec) {
			s.Tolerations = []corev1.Toleration{{Key: "vm", Operator: corev1.TolerationOpEqual, Value: "a"}}
		}), "{} map[pool:vm] [vm Exists   gpu  yes NoSchedule ]"},
		{"a class that is not there", of("ghost", nil), `pods "p" is forbidden: pod rejected: RuntimeClass "ghost" not found`},
		{"another overhead", of("heavy", func(s *corev1.PodSpec) {
			s.Overhead = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}
		}), `pods "p" is forbidden: pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead`},
		{"overhead without a class", of("", func(s *corev1.PodSpec) { s.Overhead = quarter }), `pods "p" is forbidden: pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead`},
		{"overhead of a class without", of("plain", func(s *corev1.PodSpec) { s.Overhead = quarter }), `pods "p" is forbidden: pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead`},
		{"another pool", of("pool", func(s *corev1.PodSpec) { s.NodeSelector = map[string]string{"pool": "metal"} }), `pods "p" is forbidden: conflict: runtimeClass.scheduling.nodeSelector[pool] = vm; pod.spec.nodeSelector[pool] = metal`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := c.create(tc.pod)
			s, overhead, tolerations := tc.pod.Spec, "", ""
			if q, has := s.Overhead[corev1.ResourceCPU]; has {
				overhead = q.String()
			}
			for _, t := range s.Tolerations {
				if t.Key != corev1.TaintNodeNotReady && t.Key != corev1.TaintNodeUnreachable { // those that every pod gets
					tolerations += fmt.Sprintf("%s %s %s %s ", t.Key, t.Operator, t.Value, t.Effect)
				}
			}
			got := fmt.Sprintf("{%s} %v [%s]", overhead, s.NodeSelector, tolerations)
			if err != nil {
				got = err.Error()
			}
			if got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}
