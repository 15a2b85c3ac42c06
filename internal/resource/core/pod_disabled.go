package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

type fieldPath = field.Path

// dropDisabled drops the fields of features that are off by default in Kubernetes 1.37, as its API server does without a word.
func dropDisabled(spec *corev1.PodSpec) {
	spec.EvictionResponders, spec.SchedulingGroup = nil, nil
	for i := range spec.Volumes {
		dropFromVolume(&spec.Volumes[i])
	}
	eachContainer(spec, nil, func(c *corev1.Container, _ *fieldPath, _ containerKind) {
		for i := range c.VolumeMounts {
			c.VolumeMounts[i].BindMountOptions = nil
		}
		for _, p := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
			if p == nil {
				continue
			}
			if p.HTTPGet != nil {
				p.HTTPGet.Protocol = nil
			}
			if p.GRPC != nil {
				p.GRPC.Mode = nil
			}
		}
	})
}

func dropFromVolume(v *corev1.Volume) {
	if v.EmptyDir != nil {
		v.EmptyDir.Mode = nil
	}
	if v.Projected != nil {
		for i := range v.Projected.Sources {
			v.Projected.Sources[i].ClusterTrustBundle = nil
			v.Projected.Sources[i].PodCertificate = nil
		}
	}
}
