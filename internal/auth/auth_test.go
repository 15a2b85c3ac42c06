package auth

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"iter"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"sampan.dev/internal/token"
)

func TestWhoCalls(t *testing.T) {
	if u := User(context.Background()); u.Name != Anonymous || !u.In(Unauthenticated) || u.In(Authenticated) {
		t.Errorf("nobody named: %+v", u)
	}
	jane := FromCertificate(&x509.Certificate{Subject: pkix.Name{CommonName: "jane", Organization: []string{"dev"}}})
	if u := User(WithUser(context.Background(), jane)); u != jane || !u.In("dev") || !u.In(Authenticated) {
		t.Errorf("a certificate: %+v", u)
	}
	if u := FromCertificate(&x509.Certificate{}); u != nil {
		t.Errorf("a certificate without a name: %+v", u)
	}
	if n := (&Identity{Name: "system:node:n1", Groups: []string{"dev"}}).Node(); n != "" {
		t.Errorf("a node's name outside the nodes' group is node %q", n)
	}
}

// claimOf: the volume v-X is that of the claim X.
func claimOf(volume string) (namespace, name string) {
	if name, ok := strings.CutPrefix(volume, "v-"); ok {
		return "web", name
	}
	return "", ""
}

func pods(node, namespace string) iter.Seq[*corev1.Pod] {
	all := []*corev1.Pod{
		{
			ObjectMeta: metav1.ObjectMeta{Namespace: "web", Name: "a"},
			Spec: corev1.PodSpec{
				NodeName: "n1", ServiceAccountName: "robot",
				ImagePullSecrets: []corev1.LocalObjectReference{{Name: "pull"}},
				Volumes: []corev1.Volume{
					{VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "files"}}},
					{VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}},
					{Name: "tmp", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}},
					{VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
						{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"}}},
					}}}},
				},
				Containers: []corev1.Container{{
					EnvFrom: []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "env"}}}},
					Env: []corev1.EnvVar{{Name: "PLAIN", Value: "x"}, {ValueFrom: &corev1.EnvVarSource{
						SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "key"}},
					}}},
				}},
			},
		},
		{ObjectMeta: metav1.ObjectMeta{Namespace: "web", Name: "b"}, Spec: corev1.PodSpec{NodeName: "n2"}},
	}
	return func(yield func(*corev1.Pod) bool) {
		for _, p := range all {
			if p.Spec.NodeName == node && (namespace == "" || p.Namespace == namespace) && !yield(p) {
				return
			}
		}
	}
}

func TestWhoMayDoWhat(t *testing.T) {
	admin := &Identity{Name: "admin", Groups: []string{Masters, Authenticated}}
	jane := &Identity{Name: "jane", Groups: []string{"dev", Authenticated}}
	n1 := &Identity{Name: "system:node:n1", Groups: []string{Nodes, Authenticated}}
	n2 := &Identity{Name: "system:node:n2", Groups: []string{Nodes, Authenticated}}
	fakeNode := &Identity{Name: "system:node:n1", Groups: []string{Authenticated}}
	account := FromClaims(&token.Claims{Kubernetes: token.Kubernetes{Namespace: "web", ServiceAccount: token.Ref{Name: "robot"}}})
	monitor := &Identity{Name: "prometheus", Groups: []string{Monitoring, Authenticated}}
	nodeName := fields.OneTermEqualSelector("spec.nodeName", "n1")
	for _, c := range []struct {
		name string
		q    Request
		want bool
	}{
		{"an administrator may all", Request{User: admin, Verb: "delete", Resource: "nodes", Name: "n1"}, true},
		{"an administrator may all paths", Request{User: admin, Verb: "get", Path: "/metrics"}, true},
		{"anonymous sees the version", Request{User: anonymous, Verb: "get", Path: "/version"}, true},
		{"anonymous sees health", Request{User: anonymous, Verb: "get", Path: "/livez/ping"}, true},
		{"anonymous does not post to health", Request{User: anonymous, Verb: "post", Path: "/healthz"}, false},
		{"anonymous does not see what begins like health", Request{User: anonymous, Verb: "get", Path: "/healthzz"}, false},
		{"anonymous does not see the kinds", Request{User: anonymous, Verb: "get", Path: "/api"}, false},
		{"anonymous does not see metrics", Request{User: anonymous, Verb: "get", Path: "/metrics"}, false},
		{"anonymous does not see pods", Request{User: anonymous, Verb: "list", Resource: "pods"}, false},
		{"anonymous asks nothing about itself", Request{User: anonymous, Verb: "create", Group: "authorization.k8s.io", Resource: "selfsubjectaccessreviews"}, false},
		{"somebody sees the kinds", Request{User: jane, Verb: "get", Path: "/apis/coordination.k8s.io/v1"}, true},
		{"somebody asks what they may", Request{User: jane, Verb: "create", Group: "authorization.k8s.io", Resource: "selfsubjectaccessreviews"}, true},
		{"somebody may not see pods", Request{User: jane, Verb: "get", Resource: "pods", Namespace: "web", Name: "a"}, false},
		{"somebody may not see metrics", Request{User: jane, Verb: "get", Path: "/metrics"}, false},
		{"anonymous does not see how the store is", Request{User: anonymous, Verb: "get", Path: "/sampan/v1/store"}, false},
		{"somebody may not see how the store is", Request{User: jane, Verb: "get", Path: "/sampan/v1/store"}, false},
		{"a pod may not see how the store is", Request{User: account, Verb: "get", Path: "/sampan/v1/store"}, false},
		{"a node's name without the group does not see it", Request{User: fakeNode, Verb: "get", Path: "/sampan/v1/store"}, false},
		{"a node sees how the store is", Request{User: n1, Verb: "get", Path: "/sampan/v1/store"}, true},
		{"a node changes nothing about it", Request{User: n1, Verb: "post", Path: "/sampan/v1/store"}, false},
		{"a node does not see what is beside it", Request{User: n1, Verb: "get", Path: "/sampan/v1/snapshot"}, false},
		{"an administrator sees how the store is", Request{User: admin, Verb: "get", Path: "/sampan/v1/store"}, true},
		{"the monitor sees metrics", Request{User: monitor, Verb: "get", Path: "/metrics"}, true},

		{"a node reads itself", Request{User: n1, Verb: "get", Resource: "nodes", Name: "n1"}, true},
		{"a node reports its status", Request{User: n1, Verb: "patch", Resource: "nodes", Subresource: "status", Name: "n1"}, true},
		{"a node does not change another", Request{User: n1, Verb: "patch", Resource: "nodes", Subresource: "status", Name: "n2"}, false},
		{"a node does not delete itself", Request{User: n1, Verb: "delete", Resource: "nodes", Name: "n1"}, false},
		{"a node's name without the group is nobody's", Request{User: fakeNode, Verb: "get", Resource: "nodes", Name: "n1"}, false},
		{"a node watches its pods", Request{User: n1, Verb: "watch", Resource: "pods", Fields: nodeName}, true},
		{"a node watches what policies select from", Request{User: n1, Verb: "watch", Resource: "pods"}, true},
		{"a node watches the nodes that it routes to", Request{User: n1, Verb: "watch", Resource: "nodes"}, true},
		{"a node watches endpoints", Request{User: n1, Verb: "list", Group: "discovery.k8s.io", Resource: "endpointslices"}, true},
		{"a node changes no endpoints", Request{User: n1, Verb: "update", Group: "discovery.k8s.io", Resource: "endpointslices", Namespace: "web", Name: "a"}, false},
		{"a node changes no policies", Request{User: n1, Verb: "delete", Group: "networking.k8s.io", Resource: "networkpolicies", Namespace: "web", Name: "a"}, false},
		{"a node changes no namespaces", Request{User: n1, Verb: "patch", Resource: "namespaces", Name: "web"}, false},
		{"a node is told the cluster's ranges", Request{User: n1, Verb: "watch", Resource: "configmaps", Namespace: "kube-system", Fields: fields.OneTermEqualSelector("metadata.name", NetworkName)}, true},
		{"a node does not choose the cluster's ranges", Request{User: n1, Verb: "update", Resource: "configmaps", Namespace: "kube-system", Name: NetworkName}, false},
		{"a node does not read the keys of nodes", Request{User: n1, Verb: "get", Resource: "configmaps", Namespace: "kube-system", Name: "sampan-node-keys"}, false},
		{"a node reads a pod of its own", Request{User: n1, Verb: "get", Resource: "pods", Namespace: "web", Name: "a"}, true},
		{"a node does not read another's pod", Request{User: n1, Verb: "get", Resource: "pods", Namespace: "web", Name: "b"}, false},
		{"a node writes its pod's status", Request{User: n1, Verb: "update", Resource: "pods", Subresource: "status", Namespace: "web", Name: "a"}, true},
		{"a node does not write its pod's spec", Request{User: n1, Verb: "update", Resource: "pods", Namespace: "web", Name: "a"}, false},
		{"a node removes its pod", Request{User: n1, Verb: "delete", Resource: "pods", Namespace: "web", Name: "a"}, true},
		{"a node does not remove all pods", Request{User: n1, Verb: "deletecollection", Resource: "pods", Namespace: "web"}, false},
		{"a node does not run commands in pods", Request{User: n1, Verb: "create", Resource: "pods", Subresource: "exec", Namespace: "web", Name: "a"}, false},
		{"a node renews its lease", Request{User: n1, Verb: "update", Group: "coordination.k8s.io", Resource: "leases", Namespace: leaseNamespace, Name: "n1"}, true},
		{"a node leaves other leases alone", Request{User: n1, Verb: "update", Group: "coordination.k8s.io", Resource: "leases", Namespace: leaseNamespace, Name: "n2"}, false},
		{"a node's lease is in one namespace", Request{User: n1, Verb: "update", Group: "coordination.k8s.io", Resource: "leases", Namespace: "web", Name: "n1"}, false},
		{"a node tells events", Request{User: n1, Verb: "create", Resource: "events", Namespace: "web"}, true},
		{"a node does not read events", Request{User: n1, Verb: "list", Resource: "events", Namespace: "web"}, false},
		{"a pull secret", Request{User: n1, Verb: "get", Resource: "secrets", Namespace: "web", Name: "pull"}, true},
		{"a secret in a volume", Request{User: n1, Verb: "get", Resource: "secrets", Namespace: "web", Name: "files"}, true},
		{"a secret in the environment", Request{User: n1, Verb: "get", Resource: "secrets", Namespace: "web", Name: "key"}, true},
		{"a config map in a projected volume", Request{User: n1, Verb: "get", Resource: "configmaps", Namespace: "web", Name: "kube-root-ca.crt"}, true},
		{"a config map in the environment, watched by name", Request{User: n1, Verb: "watch", Resource: "configmaps", Namespace: "web", Fields: fields.OneTermEqualSelector("metadata.name", "env")}, true},
		{"a config map's name is no secret's", Request{User: n1, Verb: "get", Resource: "secrets", Namespace: "web", Name: "env"}, false},
		{"a secret that no pod names", Request{User: n1, Verb: "get", Resource: "secrets", Namespace: "web", Name: "other"}, false},
		{"a secret of the same name elsewhere", Request{User: n1, Verb: "get", Resource: "secrets", Namespace: "db", Name: "pull"}, false},
		{"a claim that a pod uses", Request{User: n1, Verb: "get", Resource: "persistentvolumeclaims", Namespace: "web", Name: "data"}, true},
		{"a claim that was made for a pod", Request{User: n1, Verb: "get", Resource: "persistentvolumeclaims", Namespace: "web", Name: "a-tmp"}, true},
		{"a claim of another node's pod", Request{User: n2, Verb: "get", Resource: "persistentvolumeclaims", Namespace: "web", Name: "data"}, false},
		{"a claim of the same name elsewhere", Request{User: n1, Verb: "get", Resource: "persistentvolumeclaims", Namespace: "db", Name: "data"}, false},
		{"a claim that no pod uses", Request{User: n1, Verb: "get", Resource: "persistentvolumeclaims", Namespace: "web", Name: "other"}, false},
		{"all claims", Request{User: n1, Verb: "list", Resource: "persistentvolumeclaims", Namespace: "web"}, false},
		{"a claim's status", Request{User: n1, Verb: "get", Resource: "persistentvolumeclaims", Subresource: "status", Namespace: "web", Name: "data"}, false},
		{"a node binds no claims", Request{User: n1, Verb: "update", Resource: "persistentvolumeclaims", Namespace: "web", Name: "data"}, false},
		{"the volume of a claim that a pod uses", Request{User: n1, Verb: "get", Resource: "persistentvolumes", Name: "v-data"}, true},
		{"the volume of a claim of another node's pod", Request{User: n2, Verb: "get", Resource: "persistentvolumes", Name: "v-data"}, false},
		{"the volume of another claim", Request{User: n1, Verb: "get", Resource: "persistentvolumes", Name: "v-other"}, false},
		{"a volume that nobody has", Request{User: n1, Verb: "get", Resource: "persistentvolumes", Name: "free"}, false},
		{"all volumes", Request{User: n1, Verb: "list", Resource: "persistentvolumes"}, false},
		{"all secrets", Request{User: n1, Verb: "list", Resource: "secrets", Namespace: "web"}, false},
		{"secrets of all namespaces", Request{User: n1, Verb: "list", Resource: "secrets"}, false},
		{"a node makes tokens for its pod's account", Request{User: n1, Verb: "create", Resource: "serviceaccounts", Subresource: "token", Namespace: "web", Name: "robot"}, true},
		{"a node reads its pod's account", Request{User: n1, Verb: "get", Resource: "serviceaccounts", Namespace: "web", Name: "robot"}, true},
		{"a node makes no tokens for other accounts", Request{User: n1, Verb: "create", Resource: "serviceaccounts", Subresource: "token", Namespace: "web", Name: "admin"}, false},
		{"a node makes no tokens for accounts of the same name elsewhere", Request{User: n1, Verb: "create", Resource: "serviceaccounts", Subresource: "token", Namespace: "db", Name: "robot"}, false},
		{"a node makes no accounts", Request{User: n1, Verb: "create", Resource: "serviceaccounts", Namespace: "web", Name: ""}, false},
		{"a node does not list accounts", Request{User: n1, Verb: "list", Resource: "serviceaccounts", Namespace: "web"}, false},
		{"a node asks whose a token is", Request{User: n1, Verb: "create", Group: "authentication.k8s.io", Resource: "tokenreviews"}, true},
		{"somebody does not ask whose a token is", Request{User: jane, Verb: "create", Group: "authentication.k8s.io", Resource: "tokenreviews"}, false},
		{"a service account sees who issues tokens", Request{User: account, Verb: "get", Path: "/.well-known/openid-configuration"}, true},
		{"a service account sees by which keys", Request{User: account, Verb: "get", Path: "/openid/v1/jwks"}, true},
		{"somebody does not see who issues tokens", Request{User: jane, Verb: "get", Path: "/openid/v1/jwks"}, false},
		{"a service account sees the kinds", Request{User: account, Verb: "get", Path: "/apis"}, true},
		{"a service account asks who it is", Request{User: account, Verb: "create", Group: "authentication.k8s.io", Resource: "selfsubjectreviews"}, true},
		{"a service account may not see pods", Request{User: account, Verb: "list", Resource: "pods", Namespace: "web"}, false},
		{"a node writes no secrets", Request{User: n1, Verb: "update", Resource: "secrets", Namespace: "web", Name: "pull"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, reason := NewRules(pods).WithVolumes(claimOf).Authorize(&c.q)
			if got != c.want {
				t.Errorf("allowed %v (%s), want %v", got, reason, c.want)
			}
			if got && reason != "" {
				t.Errorf("allowed, and yet a reason against: %s", reason)
			}
		})
	}
}

func TestTableNamesNoUnknownVerb(t *testing.T) {
	known := []string{"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"}
	for _, r := range table {
		for _, v := range r.verbs {
			if !slices.Contains(known, v) {
				t.Errorf("verb %q", v)
			}
		}
	}
}
