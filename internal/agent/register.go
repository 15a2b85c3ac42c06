package agent

import (
	"context"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// noteLabels names the labels that the node has because this agent was told so: when it is told so no more, they go. All others are other people's.
const noteLabels = "sampan.dev/node-labels"

// labels are the node's own.
func (k *nodeKeeper) labels() map[string]string {
	labels := map[string]string{
		corev1.LabelHostname: k.agent.cfg.NodeName, corev1.LabelOSStable: runtime.GOOS, corev1.LabelArchStable: runtime.GOARCH,
		"beta.kubernetes.io/os": runtime.GOOS, "beta.kubernetes.io/arch": runtime.GOARCH,
	}
	maps.Copy(labels, k.agent.cfg.Labels)
	return labels
}

// relabel gives the node its labels, and takes those away that it had been given and is not to have any more.
func (k *nodeKeeper) relabel(n *corev1.Node) {
	labels := k.labels()
	for name := range strings.SplitSeq(n.Annotations[noteLabels], ",") {
		if _, still := labels[name]; !still {
			delete(n.Labels, name)
		}
	}
	if n.Labels == nil {
		n.Labels = map[string]string{}
	}
	maps.Copy(n.Labels, labels)
	given := strings.Join(slices.Sorted(maps.Keys(k.agent.cfg.Labels)), ",")
	switch {
	case given == n.Annotations[noteLabels]:
	case given == "":
		delete(n.Annotations, noteLabels)
	default:
		metav1.SetMetaDataAnnotation(&n.ObjectMeta, noteLabels, given)
	}
}

// register makes the Node, or brings labels and pod range of the one that is there up to date.
func (k *nodeKeeper) register(ctx context.Context) error {
	a := k.agent
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: a.cfg.NodeName}, Spec: corev1.NodeSpec{Taints: a.cfg.Taints}}
	k.relabel(node)
	if len(a.cfg.PodCIDRs) > 0 {
		node.Spec.PodCIDRs = k.podCIDRs()
		node.Spec.PodCIDR = node.Spec.PodCIDRs[0]
	}
	a.announceFence(node)
	k.fillStatus(node, time.Now())
	made, err := a.cfg.API.CreateNode(ctx, node)
	k.told.fresh = k.told.fresh || err == nil
	if apierrors.IsAlreadyExists(err) {
		made, err = a.cfg.API.Node(ctx, a.cfg.NodeName)
		if err == nil && made.Status.NodeInfo.BootID != "" && made.Status.NodeInfo.BootID != k.system.BootID {
			a.cfg.Events.Record(k.ref(), corev1.EventTypeWarning, "Rebooted", fmt.Sprintf("Node %s has been rebooted, boot id: %s", a.cfg.NodeName, k.system.BootID))
		}
		change := func(n *corev1.Node) {
			k.relabel(n)
			a.announceFence(n)
			if n.Spec.PodCIDR == "" {
				n.Spec.PodCIDR, n.Spec.PodCIDRs = node.Spec.PodCIDR, node.Spec.PodCIDRs
			}
		}
		if err == nil {
			want := made.DeepCopy()
			if change(want); !equality.Semantic.DeepEqual(want, made) {
				made, err = a.cfg.API.UpdateNode(ctx, a.cfg.NodeName, change)
			}
		}
	}
	if err != nil {
		return fmt.Errorf("register node %s: %w", a.cfg.NodeName, err)
	}
	k.mu.Lock()
	k.node = made
	k.mu.Unlock()
	a.cfg.Events.Record(k.ref(), corev1.EventTypeNormal, "Starting", "Starting kubelet.")
	return nil
}
