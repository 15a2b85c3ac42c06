package scheduler

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"sampan.dev/internal/claim"
	"sampan.dev/internal/loop"
)

// warehouse is storage in memory.
type warehouse struct {
	claims  map[loop.Key]*corev1.PersistentVolumeClaim
	volumes map[string]*corev1.PersistentVolume
	classes map[string]*storagev1.StorageClass
}

func newWarehouse() *warehouse {
	return &warehouse{map[loop.Key]*corev1.PersistentVolumeClaim{}, map[string]*corev1.PersistentVolume{}, map[string]*storagev1.StorageClass{}}
}

func (w *warehouse) Claim(key loop.Key) *corev1.PersistentVolumeClaim { return w.claims[key] }
func (w *warehouse) Volume(name string) *corev1.PersistentVolume      { return w.volumes[name] }
func (w *warehouse) Class(name string) *storagev1.StorageClass        { return w.classes[name] }
func (w *warehouse) list() []*corev1.PersistentVolume {
	return slices.Collect(maps.Values(w.volumes))
}

func (w *warehouse) class(name string, waits bool) *storagev1.StorageClass {
	mode := storagev1.VolumeBindingImmediate
	if waits {
		mode = storagev1.VolumeBindingWaitForFirstConsumer
	}
	c := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: claim.NoProvisioner, VolumeBindingMode: &mode}
	w.classes[name] = c
	return c
}

// volume is one of so many GiB, on the disks of these nodes; none: every node reaches it.
func (w *warehouse) volume(name, class string, size int, nodes ...string) *corev1.PersistentVolume {
	v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeSpec{
		StorageClassName: class, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Capacity: corev1.ResourceList{"storage": *resource.NewQuantity(int64(size)<<30, resource.BinarySI)},
	}, Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeAvailable}}
	if len(nodes) > 0 {
		v.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "kubernetes.io/hostname", Operator: corev1.NodeSelectorOpIn, Values: nodes}},
		}}}}
	}
	w.volumes[name] = v
	return v
}

func (w *warehouse) claim(name, class string, size int) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: aPod("x", "").Namespace, Name: name, UID: types.UID(name)},
		Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: &class, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{"storage": *resource.NewQuantity(int64(size)<<30, resource.BinarySI)}},
		},
		Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending},
	}
	w.claims[loop.Key{Namespace: c.Namespace, Name: name}] = c
	return c
}

func (w *warehouse) bound(name, volume string) {
	c := w.claim(name, "local", 1)
	c.Spec.VolumeName, c.Annotations, c.Status.Phase = volume, map[string]string{claim.Completed: "yes"}, corev1.ClaimBound
	if v := w.volumes[volume]; v != nil {
		v.Spec.ClaimRef, v.Status.Phase = &corev1.ObjectReference{Namespace: c.Namespace, Name: name, UID: c.UID}, corev1.VolumeBound
	}
}

// with gives the pod volumes of these claims.
func with(claims ...string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		for _, c := range claims {
			p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: c, VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: c}}})
		}
	}
}

func TestAPodGoesWhereItsVolumesAre(t *testing.T) {
	const unhelpful = " preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
	for name, c := range map[string]struct {
		stock func(w *warehouse)
		pod   func(*corev1.Pod)
		want  string // the node and what is given there, or why not
	}{
		"its volume is on one node": {func(w *warehouse) { w.volume("v", "local", 1, "b"); w.bound("data", "v") }, with("data"), "b"},
		"its volumes are on two nodes": {func(w *warehouse) {
			w.volume("v", "local", 1, "b")
			w.volume("u", "local", 1, "a")
			w.bound("data", "v")
			w.bound("log", "u")
		}, with("data", "log"), "0/2 nodes are available: 2 node(s) didn't match PersistentVolume's node affinity." + unhelpful},
		"its volume is gone": {func(w *warehouse) { w.bound("data", "v") }, with("data"), `0/2 nodes are available: persistentvolume "v" not found.` + unhelpful},
		"its claim is lost": {
			func(w *warehouse) {
				w.bound("data", "v")
				w.claims[loop.Key{Namespace: aPod("x", "").Namespace, Name: "data"}].Status.Phase = corev1.ClaimLost
			},
			with("data"), `0/2 nodes are available: persistentvolumeclaim "data" bound to non-existent persistentvolume "v".` + unhelpful,
		},
		"its claim is not there": {func(*warehouse) {}, with("data"), `0/2 nodes are available: persistentvolumeclaim "data" not found.` + unhelpful},
		"its claim is not made yet": {
			func(*warehouse) {}, func(p *corev1.Pod) {
				p.Spec.Volumes = []corev1.Volume{{Name: "tmp", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}}}
			}, `0/2 nodes are available: waiting for ephemeral volume controller to create the persistentvolumeclaim "new-tmp".` + unhelpful,
		},
		"its claim is going": {
			func(w *warehouse) { w.claim("data", "local", 1).DeletionTimestamp = &metav1.Time{} }, with("data"), `0/2 nodes are available: persistentvolumeclaim "data" is being deleted.` + unhelpful,
		},
		"its claim is to be bound at once":         {func(w *warehouse) { w.claim("data", "", 1) }, with("data"), "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims." + unhelpful},
		"its claim is of a class that is not here": {func(w *warehouse) { w.claim("data", "x", 1) }, with("data"), "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims." + unhelpful},
		"its claim names a volume":                 {func(w *warehouse) { w.claim("data", "local", 1).Spec.VolumeName = "v" }, with("data"), "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims." + unhelpful},
		"its claim waits, and there is a volume":   {func(w *warehouse) { w.claim("data", "local", 1); w.volume("v", "local", 2, "b") }, with("data"), "b v"},
		"the smallest there": {func(w *warehouse) {
			w.claim("data", "local", 1)
			w.volume("v", "local", 3, "b")
			w.volume("u", "local", 2, "b")
		}, with("data"), "b u"},
		"one that every node reaches": {func(w *warehouse) {
			w.claim("data", "local", 1)
			w.volume("v", "local", 3, "b")
			w.volume("u", "local", 2)
		}, func(p *corev1.Pod) {
			with("data")(p)
			p.Spec.NodeSelector = map[string]string{"kubernetes.io/hostname": "b"}
		}, "b u"},
		"none is large enough": {func(w *warehouse) { w.claim("data", "local", 2); w.volume("v", "local", 1, "b") }, with("data"), "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind." + unhelpful},
		"two claims, and a volume for each": {func(w *warehouse) {
			w.claim("data", "local", 2)
			w.claim("log", "local", 1)
			w.volume("v", "local", 1, "b")
			w.volume("u", "local", 2, "b")
		}, with("data", "log"), "b v u"},
		"two claims, and one volume": {func(w *warehouse) {
			w.claim("data", "local", 1)
			w.claim("log", "local", 1)
			w.volume("v", "local", 1, "b")
		}, with("data", "log"), "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind." + unhelpful},
		"one that is kept for it": {func(w *warehouse) {
			c := w.claim("data", "local", 1)
			w.volume("v", "local", 1, "a")
			w.volume("u", "local", 9, "b").Spec.ClaimRef = &corev1.ObjectReference{Namespace: c.Namespace, Name: "data"}
		}, with("data"), "b u"},
		"one that is promised to another": {func(w *warehouse) {
			w.claim("data", "local", 1)
			w.volume("promised", "local", 1, "b")
			w.volume("v", "local", 2, "b")
		}, with("data"), "b v"},
		"somebody makes one": {func(w *warehouse) { w.class("cloud", true).Provisioner = "example.org/p"; w.claim("data", "cloud", 1) }, func(p *corev1.Pod) {
			with("data")(p)
			p.Spec.NodeSelector = map[string]string{"kubernetes.io/hostname": "b"}
		}, "b +data"},
		"somebody makes one in another place": {func(w *warehouse) {
			c := w.class("cloud", true)
			c.Provisioner = "example.org/p"
			c.AllowedTopologies = []corev1.TopologySelectorTerm{{MatchLabelExpressions: []corev1.TopologySelectorLabelRequirement{{Key: "kubernetes.io/hostname", Values: []string{"b"}}}}}
			w.claim("data", "cloud", 1)
		}, with("data"), "b +data"},
		"a node was chosen before": {func(w *warehouse) {
			w.class("cloud", true).Provisioner = "example.org/p"
			w.claim("data", "cloud", 1).Annotations = map[string]string{claim.SelectedNode: "b"}
		}, with("data"), "b +data"},
		"its volume is in a zone": {func(w *warehouse) {
			w.volume("v", "local", 1).Labels = map[string]string{aZone: "z2__z3"}
			w.bound("data", "v")
		}, with("data"), "b"},
		"its volume is in a zone without nodes": {
			func(w *warehouse) {
				w.volume("v", "local", 1).Labels = map[string]string{aZone: "z3"}
				w.bound("data", "v")
			}, with("data"), "0/2 nodes are available: 2 node(s) had no available volume zone." + unhelpful,
		},
		"another pod has the claim for itself": {
			func(w *warehouse) {
				w.volume("v", "local", 1)
				w.bound("taken", "v")
				w.claims[loop.Key{Namespace: aPod("x", "").Namespace, Name: "taken"}].Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}
			}, with("taken"),
			"0/2 nodes are available: 2 node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod. preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod.",
		},
		"another pod has the claim, and shares it": {func(w *warehouse) { w.volume("v", "local", 1, "b"); w.bound("taken", "v") }, with("taken"), "b"},
		"another, less important pod has the claim for itself": {
			func(w *warehouse) {
				w.volume("v", "local", 1)
				w.bound("taken", "v")
				w.claims[loop.Key{Namespace: aPod("x", "").Namespace, Name: "taken"}].Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}
			}, func(p *corev1.Pod) { with("taken")(p); p.Spec.Priority = new(int32(5)) }, "user goes from a",
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWarehouse()
			w.class("local", true)
			c.stock(w)
			a, b := aNode("a", "cpu=4"), aNode("b", "cpu=4")
			a.Labels[aZone], b.Labels[aZone] = "z1", "z2"
			nodes := Snapshot([]*corev1.Node{a, b}, []*corev1.Pod{aPod("user", "", on("a"), with("taken"))}, noLabels)
			nodes.Stock(w, w.list())
			nodes.shelf.promise("promised", loop.Key{Namespace: "other", Name: "data"})
			need := NeedOf(aPod("new", "", c.pod))
			node, refusal := Pick(need, nodes)
			got := ""
			if refusal != nil {
				if r := makeRoom(need, nodes, refusal, func(string) []Budget { return nil }); r != nil {
					got = fmt.Sprintf("%s goes from %s", r.victims[0].key.Name, r.node.Name)
				} else {
					got = refusal.Error()
				}
			} else {
				got = node.Name
				if ch := need.chosen(node); ch != nil {
					for _, g := range ch.give {
						got += " " + g.volume.Name
					}
					for _, m := range ch.make {
						got += " +" + m.Name
					}
				}
			}
			if strings.TrimSpace(got) != c.want {
				t.Errorf("\ngot  %s\nwant %s", got, c.want)
			}
		})
	}
}

// Nodes with three disks each, and a pod whose claim waits for one.
func BenchmarkPickWithAClaimAmong3000Volumes(b *testing.B) {
	w := newWarehouse()
	w.class("local", true)
	w.claim("data", "local", 1)
	nodes := NewNodes()
	for i := range 1000 {
		name := fmt.Sprint("n", i)
		nodes.Set(aNode(name, "cpu=32 memory=64Gi"))
		for disk := range 3 {
			w.volume(fmt.Sprint(name, "-", disk), "local", 1+disk, name)
		}
	}
	nodes.Stock(w, w.list())
	pod := aPod("web", "cpu=100m memory=100Mi", with("data"))
	b.ReportAllocs()
	for b.Loop() {
		Pick(NeedOf(pod), nodes)
	}
}
