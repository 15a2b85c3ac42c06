package auth

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/storage/ephemeral"
)

// leaseNamespace holds one Lease for each node, of the node's name.
const leaseNamespace = corev1.NamespaceNodeLease

// NetworkName is the ConfigMap in kube-system that tells nodes the cluster's address ranges.
const NetworkName = "sampan-network"

// BalancerName is the ConfigMap in kube-system that has the settings of load balancers.
const BalancerName = "sampan-load-balancer"

// reading are the verbs that change nothing.
var reading = []string{"get", "list", "watch"}

// node allows a node what it needs, and to change nothing of other nodes: itself, the pods bound to it with their status, its lease, events, and of ConfigMaps,
// Secrets, service accounts and claims those that its pods name, and the volumes that those claims have. What leads packets and answers for names on every node it may read of all: nodes, namespaces,
// Services and their endpoints, network policies, classes of runtimes, and of pods the list that these select from.
func (r *Rules) node(node string, q *Request) (bool, string) {
	switch q.Resource + "." + q.Group {
	case "nodes.":
		switch q.Verb {
		case "create": // the name is in the body, which the API server checks
			return q.Subresource == "", ""
		case "get", "update", "patch":
			if q.Name != node {
				return false, fmt.Sprintf("node '%s' cannot read or change '%s', only its own Node object", node, q.Name)
			}
			return q.Subresource == "" || q.Subresource == "status", ""
		case "list", "watch":
			return q.Subresource == "", ""
		}
	case "pods.":
		return r.nodePods(node, q)
	case "configmaps.", "secrets.":
		return r.nodeConfig(node, q)
	case "persistentvolumeclaims.", "persistentvolumes.":
		return r.nodeStorage(node, q)
	case "serviceaccounts.":
		return r.nodeAccount(node, q)
	case "tokenreviews.authentication.k8s.io":
		return q.Subresource == "" && q.Verb == "create", "" // for who talks to the node's own server
	case "leases.coordination.k8s.io":
		return nodeLease(node, q)
	case "events.", "events.events.k8s.io":
		return q.Subresource == "" && slices.Contains([]string{"create", "update", "patch"}, q.Verb), ""
	case "services.", "namespaces.", "endpointslices.discovery.k8s.io", "networkpolicies.networking.k8s.io", "servicecidrs.networking.k8s.io", "runtimeclasses.node.k8s.io":
		return q.Subresource == "" && slices.Contains(reading, q.Verb), ""
	}
	return false, ""
}

func (r *Rules) nodePods(node string, q *Request) (bool, string) {
	switch q.Verb {
	case "list", "watch": // network policies select among the pods of all nodes
		return q.Subresource == "" && q.Namespace == "", ""
	case "get", "delete":
		if q.Subresource != "" {
			return false, ""
		}
	case "update", "patch":
		if q.Subresource != "status" {
			return false, ""
		}
	default:
		return false, ""
	}
	for pod := range r.pods(node, q.Namespace) {
		if pod.Name == q.Name && pod.Namespace == q.Namespace {
			return true, ""
		}
	}
	return false, unrelated(node)
}

func (r *Rules) nodeConfig(node string, q *Request) (bool, string) {
	if q.Subresource != "" || !slices.Contains(reading, q.Verb) {
		return false, "can only read resources of this type"
	}
	if q.Namespace == "" {
		return false, "can only read namespaced object of this type"
	}
	name := q.Name
	if name == "" && q.Fields != nil {
		name, _ = q.Fields.RequiresExactMatch("metadata.name")
	}
	if name == "" {
		return false, "No Object name found"
	}
	if q.Resource == "configmaps" && q.Namespace == "kube-system" && (name == NetworkName || name == BalancerName) {
		return true, ""
	}
	for pod := range r.pods(node, q.Namespace) {
		if pod.Namespace == q.Namespace && Names(pod, q.Resource, name) {
			return true, ""
		}
	}
	return false, unrelated(node)
}

// nodeStorage allows to read a claim that a pod of the node uses, and the volume that such a claim has.
func (r *Rules) nodeStorage(node string, q *Request) (bool, string) {
	switch {
	case q.Verb != "get":
		return false, "can only get individual resources of this type"
	case q.Subresource != "":
		return false, "cannot get subresource"
	}
	namespace, name := q.Namespace, q.Name
	if q.Resource == "persistentvolumes" {
		if r.claim == nil {
			return false, unrelated(node)
		}
		namespace, name = r.claim(q.Name)
	}
	if namespace == "" || name == "" {
		return false, unrelated(node)
	}
	for pod := range r.pods(node, namespace) {
		if pod.Namespace == namespace && claims(pod, name) {
			return true, ""
		}
	}
	return false, unrelated(node)
}

func claims(pod *corev1.Pod, name string) bool {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if c := v.PersistentVolumeClaim; c != nil && c.ClaimName == name || v.Ephemeral != nil && ephemeral.VolumeClaimName(pod, v) == name {
			return true
		}
	}
	return false
}

// nodeAccount allows to read the service accounts of the node's pods, and to make tokens of them: what these are bound to is in the body,
// which the API server checks.
func (r *Rules) nodeAccount(node string, q *Request) (bool, string) {
	if q.Verb != "get" || q.Subresource != "" {
		if q.Verb != "create" || q.Name == "" {
			return false, "can only create tokens for individual service accounts"
		}
		if q.Subresource != "token" {
			return false, "can only create token subresource of serviceaccount"
		}
	}
	for pod := range r.pods(node, q.Namespace) {
		if pod.Namespace == q.Namespace && pod.Spec.ServiceAccountName == q.Name {
			return true, ""
		}
	}
	return false, unrelated(node)
}

func nodeLease(node string, q *Request) (bool, string) {
	if q.Subresource != "" || !slices.Contains([]string{"get", "create", "update", "patch", "delete"}, q.Verb) {
		return false, "can only get, create, update, patch, or delete a node lease"
	}
	if q.Namespace != leaseNamespace {
		return false, fmt.Sprintf("can only access leases in the %q system namespace", leaseNamespace)
	}
	// A lease that is created has its name in the body, which the API server checks.
	if q.Verb != "create" && q.Name != node {
		return false, "can only access node lease with the same name as the requesting node"
	}
	return true, ""
}

func unrelated(node string) string {
	return fmt.Sprintf("no relationship found between node '%s' and this object", node)
}

// Names says whether the pod names a ConfigMap or a Secret (resource "configmaps" or "secrets") of its namespace.
func Names(pod *corev1.Pod, resource, name string) bool {
	secret := resource == "secrets"
	if secret {
		for _, s := range pod.Spec.ImagePullSecrets {
			if s.Name == name {
				return true
			}
		}
	}
	for i := range pod.Spec.Volumes {
		if volumeNames(&pod.Spec.Volumes[i], secret, name) {
			return true
		}
	}
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if environmentNames(list[i].EnvFrom, list[i].Env, secret, name) {
				return true
			}
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		c := &pod.Spec.EphemeralContainers[i]
		if environmentNames(c.EnvFrom, c.Env, secret, name) {
			return true
		}
	}
	return false
}

func volumeNames(v *corev1.Volume, secret bool, name string) bool {
	if secret && v.Secret != nil && v.Secret.SecretName == name {
		return true
	}
	if !secret && v.ConfigMap != nil && v.ConfigMap.Name == name {
		return true
	}
	if v.Projected == nil {
		return false
	}
	for _, s := range v.Projected.Sources {
		if secret && s.Secret != nil && s.Secret.Name == name || !secret && s.ConfigMap != nil && s.ConfigMap.Name == name {
			return true
		}
	}
	return false
}

func environmentNames(from []corev1.EnvFromSource, env []corev1.EnvVar, secret bool, name string) bool {
	for _, e := range from {
		if secret && e.SecretRef != nil && e.SecretRef.Name == name || !secret && e.ConfigMapRef != nil && e.ConfigMapRef.Name == name {
			return true
		}
	}
	for _, e := range env {
		v := e.ValueFrom
		if v == nil {
			continue
		}
		if secret && v.SecretKeyRef != nil && v.SecretKeyRef.Name == name || !secret && v.ConfigMapKeyRef != nil && v.ConfigMapKeyRef.Name == name {
			return true
		}
	}
	return false
}
