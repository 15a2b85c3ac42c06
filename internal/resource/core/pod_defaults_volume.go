package core

import (
	"reflect"

	corev1 "k8s.io/api/core/v1"
)

const fileMode = int32(0o644) // of files in volumes made from objects

func defaultVolume(v *corev1.Volume) {
	s := &v.VolumeSource
	if reflect.ValueOf(*s).IsZero() {
		s.EmptyDir = &corev1.EmptyDirVolumeSource{}
	}
	switch {
	case s.HostPath != nil:
		orPointer(&s.HostPath.Type, corev1.HostPathUnset)
	case s.Secret != nil:
		orPointer(&s.Secret.DefaultMode, fileMode)
	case s.ConfigMap != nil:
		orPointer(&s.ConfigMap.DefaultMode, fileMode)
	case s.DownwardAPI != nil:
		orPointer(&s.DownwardAPI.DefaultMode, fileMode)
		defaultDownward(s.DownwardAPI.Items)
	case s.Projected != nil:
		orPointer(&s.Projected.DefaultMode, fileMode)
		for _, from := range s.Projected.Sources {
			if from.DownwardAPI != nil {
				defaultDownward(from.DownwardAPI.Items)
			}
			if from.ServiceAccountToken != nil {
				orPointer(&from.ServiceAccountToken.ExpirationSeconds, 3600)
			}
		}
	case s.Image != nil:
		orDefault(&s.Image.PullPolicy, pullPolicy(s.Image.Reference))
	case s.Ephemeral != nil && s.Ephemeral.VolumeClaimTemplate != nil:
		DefaultClaimSpec(&s.Ephemeral.VolumeClaimTemplate.Spec)
	case s.ISCSI != nil:
		orDefault(&s.ISCSI.ISCSIInterface, "default")
	case s.RBD != nil:
		orDefault(&s.RBD.RBDPool, "rbd")
		orDefault(&s.RBD.RadosUser, "admin")
		orDefault(&s.RBD.Keyring, "/etc/ceph/keyring")
	case s.AzureDisk != nil:
		orPointer(&s.AzureDisk.CachingMode, corev1.AzureDataDiskCachingReadWrite)
		orPointer(&s.AzureDisk.Kind, corev1.AzureSharedBlobDisk)
		orPointer(&s.AzureDisk.FSType, "ext4")
		orPointer(&s.AzureDisk.ReadOnly, false)
	case s.ScaleIO != nil:
		orDefault(&s.ScaleIO.StorageMode, "ThinProvisioned")
		orDefault(&s.ScaleIO.FSType, "xfs")
	}
}

func defaultDownward(files []corev1.DownwardAPIVolumeFile) {
	for i := range files {
		if files[i].FieldRef != nil {
			orDefault(&files[i].FieldRef.APIVersion, "v1")
		}
	}
}
