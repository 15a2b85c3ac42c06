package apiserver

import (
	corev1 "k8s.io/api/core/v1"

	"sampan.dev/internal/cache"
)

// claimOf gives the claim that has a persistent volume, for the rule about nodes.
func (s *Server) claimOf(volume string) (namespace, name string) {
	kind, _ := s.table.ByResource(corev1.SchemeGroupVersion.WithResource("persistentvolumes"))
	if kind == nil {
		return "", ""
	}
	o := s.cache.Snapshot().Get(kind, "", volume)
	if o == nil {
		return "", ""
	}
	if r := cache.Typed[*corev1.PersistentVolume](o).Spec.ClaimRef; r != nil {
		return r.Namespace, r.Name
	}
	return "", ""
}
