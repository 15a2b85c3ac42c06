package admission_test

import (
	"reflect"
	"regexp"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const tokenPath = "/var/run/secrets/kubernetes.io/serviceaccount"

func mountsOf(p *corev1.Pod) (all []string) {
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for _, c := range list {
			for _, m := range c.VolumeMounts {
				readOnly := ""
				if m.ReadOnly {
					readOnly = " ro"
				}
				all = append(all, c.Name+" "+m.Name+" "+strings.TrimPrefix(m.MountPath, tokenPath)+readOnly)
			}
		}
	}
	return all
}

func TestTheVolumeToCallTheAPIWith(t *testing.T) {
	silent := account("ns", "silent")
	silent.AutomountServiceAccountToken = new(false)
	c := newChain(t, namespace("ns", corev1.NamespaceActive), account("ns", "default"), silent)
	container := func(name string, mounts ...corev1.VolumeMount) corev1.Container {
		return corev1.Container{Name: name, VolumeMounts: mounts}
	}
	for _, tc := range []struct {
		name    string
		change  func(*corev1.PodSpec)
		volumes string // a pattern of all names
		mounts  string // of all mounts; VOLUME is the volume's name
	}{
		{
			"every container has it, the initial ones too",
			func(s *corev1.PodSpec) {
				s.InitContainers, s.Containers = []corev1.Container{container("i")}, []corev1.Container{container("a", corev1.VolumeMount{Name: "v", MountPath: "/x"}), container("b")}
			},
			"kube-api-access-[a-z0-9]{5}", "i VOLUME  ro, a v /x, a VOLUME  ro, b VOLUME  ro",
		},
		{
			"a container that has something there keeps it",
			func(s *corev1.PodSpec) {
				s.Containers = []corev1.Container{container("a", corev1.VolumeMount{Name: "mine", MountPath: tokenPath}), container("b")}
			},
			"kube-api-access-[a-z0-9]{5}", "a mine , b VOLUME  ro",
		},
		{
			"all containers have something there: no volume",
			func(s *corev1.PodSpec) {
				s.Containers = []corev1.Container{container("a", corev1.VolumeMount{Name: "mine", MountPath: tokenPath})}
			},
			"", "a mine ",
		},
		{
			"a volume of such a name is taken",
			func(s *corev1.PodSpec) {
				s.Containers, s.Volumes = []corev1.Container{container("a")}, []corev1.Volume{{Name: "kube-api-access-mine"}}
			},
			"kube-api-access-mine", "a kube-api-access-mine  ro",
		},
		{"the pod does not want it", func(s *corev1.PodSpec) {
			s.Containers, s.AutomountServiceAccountToken = []corev1.Container{container("a")}, new(false)
		}, "", ""},
		{"the account does not want it", func(s *corev1.PodSpec) {
			s.Containers, s.ServiceAccountName = []corev1.Container{container("a")}, "silent"
		}, "", ""},
		{"the pod wants it though the account does not", func(s *corev1.PodSpec) {
			s.Containers, s.ServiceAccountName, s.AutomountServiceAccountToken = []corev1.Container{container("a")}, "silent", new(true)
		}, "kube-api-access-[a-z0-9]{5}", "a VOLUME  ro"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := pod("ns", tc.change)
			if err := c.create(p); err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, v := range p.Spec.Volumes {
				names = append(names, v.Name)
			}
			got := strings.Join(names, ", ")
			if !regexp.MustCompile("^" + tc.volumes + "$").MatchString(got) {
				t.Errorf("volumes %q", got)
			}
			if mounts, want := strings.Join(mountsOf(p), ", "), strings.ReplaceAll(tc.mounts, "VOLUME", got); mounts != want {
				t.Errorf("mounts %q, want %q", mounts, want)
			}
		})
	}
	p := pod("ns", func(s *corev1.PodSpec) { s.Containers = []corev1.Container{container("a")} })
	if err := c.create(p); err != nil {
		t.Fatal(err)
	}
	want := &corev1.ProjectedVolumeSource{DefaultMode: new(int32(420)), Sources: []corev1.VolumeProjection{
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{ExpirationSeconds: new(int64(3607)), Path: "token"}},
		{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"}, Items: []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}}}},
		{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.namespace"}}}}},
	}}
	if got := p.Spec.Volumes[0].Projected; !reflect.DeepEqual(got, want) {
		t.Errorf("volume %+v", got)
	}
}

func TestMirrorPodsHaveNothingOfTheAPI(t *testing.T) {
	c := newChain(t, namespace("ns", corev1.NamespaceActive), account("ns", "default"))
	for _, tc := range []struct {
		name   string
		change func(*corev1.PodSpec)
		want   string
	}{
		{"a plain one is not changed", nil, ""},
		{"an account", func(s *corev1.PodSpec) { s.ServiceAccountName = "default" }, `pods "p" is forbidden: a mirror pod may not reference service accounts`},
		{"a secret in a volume", func(s *corev1.PodSpec) {
			s.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s"}}}}
		}, `pods "p" is forbidden: a mirror pod may not reference secrets`},
		{"a secret in the environment", func(s *corev1.PodSpec) {
			s.Containers = []corev1.Container{{EnvFrom: []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "s"}}}}}}
		}, `a mirror pod may not reference secrets`},
		{"a token", func(s *corev1.PodSpec) {
			s.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
				{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "t"}},
			}}}}}
		}, `a mirror pod may not use ServiceAccountToken volume projections`},
	} {
		p := pod("ns", tc.change)
		p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
		err := c.create(p)
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", tc.name, err)
		}
		if tc.want == "" && (p.Spec.ServiceAccountName != "" || len(p.Spec.Volumes) > 0) {
			t.Errorf("%s: %+v", tc.name, p.Spec)
		}
	}
}

func TestAnAccountMayHoldPodsToItsSecrets(t *testing.T) {
	strict := account("ns", "strict", "pull")
	strict.Annotations = map[string]string{"kubernetes.io/enforce-mountable-secrets": "true"}
	strict.Secrets = []corev1.ObjectReference{{Name: "mine"}}
	loose := account("ns", "loose")
	loose.ObjectMeta = metav1.ObjectMeta{Namespace: "ns", Name: "loose", Annotations: map[string]string{"kubernetes.io/enforce-mountable-secrets": "no"}}
	c := newChain(t, namespace("ns", corev1.NamespaceActive), strict, loose)
	ref := func(name string) corev1.LocalObjectReference { return corev1.LocalObjectReference{Name: name} }
	env := func(secret string) []corev1.EnvVar {
		return []corev1.EnvVar{{Name: "E", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: ref(secret)}}}}
	}
	from := []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: ref("other")}}}
	volume := func(secret string) []corev1.Volume {
		return []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: secret}}}}
	}
	for _, tc := range []struct {
		name   string
		change func(*corev1.PodSpec)
		want   string
	}{
		{"its own secrets", func(s *corev1.PodSpec) {
			s.Volumes, s.Containers = volume("mine"), []corev1.Container{{Name: "c", Env: env("mine")}}
		}, ""},
		{"another in a volume", func(s *corev1.PodSpec) { s.Volumes = volume("other") }, `volume with secret.secretName="other" is not allowed because service account strict does not reference that secret`},
		{"another in a variable", func(s *corev1.PodSpec) { s.Containers = []corev1.Container{{Name: "c", Env: env("other")}} }, `container c with envVar E referencing secret.secretName="other" is not allowed because service account strict does not reference that secret`},
		{"another in an initial container's", func(s *corev1.PodSpec) { s.InitContainers = []corev1.Container{{Name: "i", Env: env("other")}} }, `init container i with envVar E referencing secret.secretName="other" is not allowed`},
		{"another in the whole environment", func(s *corev1.PodSpec) { s.Containers = []corev1.Container{{Name: "c", EnvFrom: from}} }, `container c with envFrom referencing secret.secretName="other" is not allowed`},
		{"another to pull with", func(s *corev1.PodSpec) { s.ImagePullSecrets = []corev1.LocalObjectReference{ref("pull"), ref("other")} }, `imagePullSecrets[1].name="other" is not allowed because service account strict does not reference that imagePullSecret`},
		{"an account that does not mind", func(s *corev1.PodSpec) { s.ServiceAccountName, s.Volumes = "loose", volume("other") }, ""},
	} {
		p := pod("ns", func(s *corev1.PodSpec) { s.ServiceAccountName = "strict"; tc.change(s) })
		err := c.create(p)
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), `pods "p" is forbidden: `+tc.want) {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}
