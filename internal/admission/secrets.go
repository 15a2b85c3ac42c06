package admission

import (
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
)

// checkMirror refuses mirror pods what only the API could give them.
func checkMirror(pod *corev1.Pod) error {
	if pod.Spec.ServiceAccountName != "" {
		return errors.New("a mirror pod may not reference service accounts")
	}
	if namesSecret(pod) {
		return errors.New("a mirror pod may not reference secrets")
	}
	for i := range pod.Spec.Volumes {
		if p := pod.Spec.Volumes[i].Projected; p != nil {
			for _, s := range p.Sources {
				if s.ServiceAccountToken != nil {
					return errors.New("a mirror pod may not use ServiceAccountToken volume projections")
				}
			}
		}
	}
	return nil
}

// namesSecret says whether anything in the pod names a Secret.
func namesSecret(pod *corev1.Pod) bool {
	if len(pod.Spec.ImagePullSecrets) > 0 {
		return true
	}
	for i := range pod.Spec.Volumes {
		if volumeNamesSecret(&pod.Spec.Volumes[i]) {
			return true
		}
	}
	named := false
	eachSecret(pod, func(string, string, string, string) { named = true })
	return named
}

func volumeNamesSecret(v *corev1.Volume) bool {
	if v.Projected != nil {
		for _, s := range v.Projected.Sources {
			if s.Secret != nil {
				return true
			}
		}
	}
	return v.Secret != nil ||
		v.AzureFile != nil && v.AzureFile.SecretName != "" ||
		v.CephFS != nil && v.CephFS.SecretRef != nil ||
		v.Cinder != nil && v.Cinder.SecretRef != nil ||
		v.FlexVolume != nil && v.FlexVolume.SecretRef != nil ||
		v.RBD != nil && v.RBD.SecretRef != nil ||
		v.ScaleIO != nil && v.ScaleIO.SecretRef != nil ||
		v.ISCSI != nil && v.ISCSI.SecretRef != nil ||
		v.StorageOS != nil && v.StorageOS.SecretRef != nil ||
		v.CSI != nil && v.CSI.NodePublishSecretRef != nil
}

// eachSecret calls with each Secret that containers' environments name: the word for the container, its name, the variable ("" for all of
// the Secret) and the Secret.
func eachSecret(pod *corev1.Pod, call func(word, container, variable, secret string)) {
	visit := func(word, name string, env []corev1.EnvVar, from []corev1.EnvFromSource) {
		for _, e := range env {
			if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil {
				call(word, name, e.Name, e.ValueFrom.SecretKeyRef.Name)
			}
		}
		for _, f := range from {
			if f.SecretRef != nil {
				call(word, name, "", f.SecretRef.Name)
			}
		}
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		visit("init container", c.Name, c.Env, c.EnvFrom)
	}
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		visit("container", c.Name, c.Env, c.EnvFrom)
	}
	for i := range pod.Spec.EphemeralContainers {
		c := &pod.Spec.EphemeralContainers[i]
		visit("ephemeral container", c.Name, c.Env, c.EnvFrom)
	}
}

// checkSecrets holds a pod to the secrets that its account lists.
func checkSecrets(account *corev1.ServiceAccount, pod *corev1.Pod) error {
	listed, pulls := map[string]bool{}, map[string]bool{}
	for _, s := range account.Secrets {
		listed[s.Name] = true
	}
	for _, s := range account.ImagePullSecrets {
		pulls[s.Name] = true
	}
	for i := range pod.Spec.Volumes {
		if s := pod.Spec.Volumes[i].Secret; s != nil && !listed[s.SecretName] {
			return fmt.Errorf("volume with secret.secretName=%q is not allowed because service account %s does not reference that secret", s.SecretName, account.Name)
		}
	}
	var err error
	eachSecret(pod, func(word, container, variable, secret string) {
		switch {
		case err != nil || listed[secret]:
		case variable == "":
			err = fmt.Errorf("%s %s with envFrom referencing secret.secretName=%q is not allowed because service account %s does not reference that secret", word, container, secret, account.Name)
		default:
			err = fmt.Errorf("%s %s with envVar %s referencing secret.secretName=%q is not allowed because service account %s does not reference that secret", word, container, variable, secret, account.Name)
		}
	})
	if err != nil {
		return err
	}
	for i, s := range pod.Spec.ImagePullSecrets {
		if !pulls[s.Name] {
			return fmt.Errorf("imagePullSecrets[%d].name=%q is not allowed because service account %s does not reference that imagePullSecret", i, s.Name, account.Name)
		}
	}
	return nil
}
