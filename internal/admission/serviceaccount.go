package admission

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/watch"

	"sampan.dev/internal/cache"
	"sampan.dev/internal/resource"
	"sampan.dev/internal/token"
)

// ServiceAccount gives each pod a service account that exists, the account's image pull secrets, and a volume with what it takes to call
// the API as that account.
type ServiceAccount struct {
	state state
	kind  *resource.Kind
}

const (
	defaultServiceAccount = "default"

	// accountWait is how long a pod waits for the default account, which a controller makes for each new namespace: so that one may create a namespace
	// and what is in it at once.
	accountWait = 1500 * time.Millisecond

	tokenVolume = "kube-api-access-" // and five letters
	tokenPath   = "/var/run/secrets/kubernetes.io/serviceaccount"
	rootCA      = "kube-root-ca.crt"
)

func newServiceAccount(table *resource.Table, s state) ServiceAccount {
	kind, _ := table.ByKind(corev1.SchemeGroupVersion.WithKind("ServiceAccount"))
	return ServiceAccount{s, kind}
}

// Admit implements Step.
func (s ServiceAccount) Admit(ctx context.Context, a *Attributes) error {
	pod := newPod(a)
	if pod == nil {
		return nil
	}
	forbidden := func(err error) error { return apierrors.NewForbidden(a.Kind.GroupResource(), a.Name, err) }
	if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		if err := checkMirror(pod); err != nil { // it shows what a node runs without asking, and must not be changed
			return forbidden(err)
		}
		return nil
	}
	if pod.Spec.ServiceAccountName == "" {
		pod.Spec.ServiceAccountName = defaultServiceAccount
	}
	name := pod.Spec.ServiceAccountName
	pod.Spec.DeprecatedServiceAccount = name
	obj := s.find(ctx, a.Namespace, name)
	if obj == nil {
		return forbidden(fmt.Errorf("error looking up service account %s/%s: %w", a.Namespace, name,
			apierrors.NewNotFound(corev1.Resource("serviceaccount"), name)))
	}
	account := cache.Typed[*corev1.ServiceAccount](obj)
	if automounts(account, pod) {
		mountToken(pod)
	}
	if len(pod.Spec.ImagePullSecrets) == 0 && len(account.ImagePullSecrets) > 0 {
		pod.Spec.ImagePullSecrets = append(pod.Spec.ImagePullSecrets, account.ImagePullSecrets...)
	}
	if enforced, _ := strconv.ParseBool(account.Annotations["kubernetes.io/enforce-mountable-secrets"]); enforced {
		if err := checkSecrets(account, pod); err != nil {
			return forbidden(err)
		}
	}
	return nil
}

// find gives the account of that name, or nil.
func (s ServiceAccount) find(ctx context.Context, namespace, name string) *cache.Object {
	now := s.state.Snapshot()
	if obj := now.Get(s.kind, namespace, name); obj != nil || name != defaultServiceAccount {
		return obj
	}
	one := cache.Selection{Namespace: namespace, Fields: fields.OneTermEqualSelector("metadata.name", name)}
	w, err := s.state.Watch(s.kind, one, now.Revision())
	if err != nil {
		return nil
	}
	defer w.Stop()
	timeout := time.NewTimer(accountWait)
	defer timeout.Stop()
	select {
	case ev := <-w.Events():
		if ev.Type == watch.Added {
			return ev.Object
		}
	case <-timeout.C:
	case <-ctx.Done():
	}
	return nil
}

// automounts says whether the pod wants the volume: what it says itself counts first, then what the account says.
func automounts(account *corev1.ServiceAccount, pod *corev1.Pod) bool {
	for _, wanted := range []*bool{pod.Spec.AutomountServiceAccountToken, account.AutomountServiceAccountToken} {
		if wanted != nil {
			return *wanted
		}
	}
	return true
}

// mountToken gives each container that has nothing at the usual path the volume with the token.
func mountToken(pod *corev1.Pod) {
	name, there := "", false
	for i := range pod.Spec.Volumes {
		if strings.HasPrefix(pod.Spec.Volumes[i].Name, tokenVolume) {
			name, there = pod.Spec.Volumes[i].Name, true
			break
		}
	}
	if !there {
		name = tokenVolume + rand.String(5)
	}
	mounted := false
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if !mounts(&list[i], tokenPath) {
				list[i].VolumeMounts = append(list[i].VolumeMounts, corev1.VolumeMount{Name: name, ReadOnly: true, MountPath: tokenPath})
				mounted = true
			}
		}
	}
	if mounted && !there {
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Projected: tokenSources()}})
	}
}

func mounts(c *corev1.Container, path string) bool {
	for _, m := range c.VolumeMounts {
		if m.MountPath == path {
			return true
		}
	}
	return false
}

// tokenSources are what it takes to call the API: the token, whom to trust, and the namespace.
func tokenSources() *corev1.ProjectedVolumeSource {
	seconds, mode := int64(token.InjectedSeconds), corev1.ProjectedVolumeSourceDefaultMode
	return &corev1.ProjectedVolumeSource{DefaultMode: &mode, Sources: []corev1.VolumeProjection{
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: &seconds}},
		{ConfigMap: &corev1.ConfigMapProjection{
			LocalObjectReference: corev1.LocalObjectReference{Name: rootCA}, Items: []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}},
		}},
		{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{
			{Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.namespace"}},
		}}},
	}}
}
