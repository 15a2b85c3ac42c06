package core

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/resource"
)

// Node is a machine that runs pods.
func Node() *resource.Kind {
	info := corev1.NodeSystemInfo{}.SwaggerDoc()
	return &resource.Kind{
		GroupVersionKind: gvk("Node"), Plural: "nodes", Singular: "node", ShortNames: []string{"no"},
		Prefix:   "/registry/minions/",
		Connects: []string{"proxy"},
		New:      func() resource.Object { return &corev1.Node{} },
		NewList:  func() runtime.Object { return &corev1.NodeList{} },

		Default: func(o resource.Object) { defaultNode(o.(*corev1.Node)) },
		// A node comes with its status when it registers, so PrepareCreate has nothing to drop.
		PrepareUpdate: func(new, old resource.Object) { new.(*corev1.Node).Status = old.(*corev1.Node).Status },
		NameRule:      apivalidation.NameIsDNSSubdomain,
		Validate:      func(o resource.Object) field.ErrorList { return node(o.(*corev1.Node)) },
		ValidateUpdate: func(new, old resource.Object) field.ErrorList {
			return nodeUpdate(new.(*corev1.Node), old.(*corev1.Node))
		},
		Status: &resource.Status{
			PrepareUpdate: func(new, old resource.Object) { new.(*corev1.Node).Spec = old.(*corev1.Node).Spec },
			ValidateUpdate: func(new, old resource.Object) field.ErrorList {
				return nodeUpdate(new.(*corev1.Node), old.(*corev1.Node))
			},
		},

		Fields: func(o resource.Object) map[string]string {
			unschedulable := strconv.FormatBool(o.(*corev1.Node).Spec.Unschedulable)
			return metaFields(o, map[string]string{"spec.unschedulable": unschedulable})
		},
		FieldNames: []string{"metadata.name", "spec.unschedulable"},
		Columns: []metav1.TableColumnDefinition{
			resource.NameColumn(),
			column("Status", "string", "The status of the node", 0),
			column("Roles", "string", "The roles of the node", 0),
			resource.AgeColumn(),
			column("Version", "string", info["kubeletVersion"], 0),
			column("Internal-IP", "string", corev1.NodeStatus{}.SwaggerDoc()["addresses"], 1),
			column("External-IP", "string", corev1.NodeStatus{}.SwaggerDoc()["addresses"], 1),
			column("OS-Image", "string", info["osImage"], 1),
			column("Kernel-Version", "string", info["kernelVersion"], 1),
			column("Container-Runtime", "string", info["containerRuntimeVersion"], 1),
		},
		Row: func(o resource.Object, now time.Time) []any { return nodeRow(o.(*corev1.Node), now) },
	}
}

func defaultNode(n *corev1.Node) {
	if n.Status.Allocatable == nil && n.Status.Capacity != nil {
		n.Status.Allocatable = n.Status.Capacity.DeepCopy()
	}
	roundUp(n.Status.Capacity)
	roundUp(n.Status.Allocatable)
	// podCIDR is the older name of the first of podCIDRs; where both are there the older one counts, as upstream reads v1.
	if n.Spec.PodCIDR != "" && (len(n.Spec.PodCIDRs) == 0 || n.Spec.PodCIDRs[0] != n.Spec.PodCIDR) {
		n.Spec.PodCIDRs = []string{n.Spec.PodCIDR}
	}
	if len(n.Spec.PodCIDRs) > 0 {
		n.Spec.PodCIDR = n.Spec.PodCIDRs[0]
	}
}

const (
	rolePrefix = "node-role.kubernetes.io/"
	roleLabel  = "kubernetes.io/role"
)

func nodeRow(n *corev1.Node, now time.Time) []any {
	status := "Unknown"
	for _, c := range n.Status.Conditions {
		if c.Type != corev1.NodeReady {
			continue
		}
		status = "NotReady"
		if c.Status == corev1.ConditionTrue {
			status = "Ready"
		}
	}
	if n.Spec.Unschedulable {
		status += ",SchedulingDisabled"
	}
	orUnknown := func(s string) string {
		if s == "" {
			return "<unknown>"
		}
		return s
	}
	info := n.Status.NodeInfo
	return []any{
		n.Name, status, orNone(strings.Join(nodeRoles(n), ",")), resource.Age(n, now), info.KubeletVersion,
		orNone(nodeAddress(n, corev1.NodeInternalIP)), orNone(nodeAddress(n, corev1.NodeExternalIP)),
		orUnknown(info.OSImage), orUnknown(info.KernelVersion), orUnknown(info.ContainerRuntimeVersion),
	}
}

func nodeRoles(n *corev1.Node) []string {
	roles := make(map[string]bool)
	for key, value := range n.Labels {
		if role, ok := strings.CutPrefix(key, rolePrefix); ok && role != "" {
			roles[role] = true
		} else if key == roleLabel && value != "" {
			roles[value] = true
		}
	}
	return slices.Sorted(maps.Keys(roles))
}

func nodeAddress(n *corev1.Node, kind corev1.NodeAddressType) string {
	for _, a := range n.Status.Addresses {
		if a.Type == kind {
			return a.Address
		}
	}
	return ""
}
