package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/component-helpers/storage/ephemeral"

	"sampan.dev/internal/claim"
)

// persistent is a volume that outlives the pod: whatever its claim is bound to. It is looked up and prepared once for a pod; later, a container that starts again
// needs neither servers nor a claim that is still to stay.
func (m *Manager) persistent(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) (Volume, error) {
	m.mu.Lock()
	made, known := m.known[pod.UID][v.Name]
	m.mu.Unlock()
	if known {
		return made, nil
	}
	pv, err := m.resolve(ctx, pod, v)
	if err != nil {
		return made, &Error{Volume: v.Name, Words: fmt.Sprintf("Unable to attach or mount volumes: unmounted volumes=[%s], unattached volumes=[], failed to process volumes=[%s]: ", v.Name, v.Name), Err: err}
	}
	if m.Labels != nil && !reaches(pv, m.Labels()) {
		return made, &Error{Volume: pv.Name, Words: fmt.Sprintf("MountVolume.NodeAffinity check failed for volume %q : ", pv.Name), Err: errors.New("no matching NodeSelectorTerms")}
	}
	if made, err = m.mountOf(pod, v, pv); err != nil {
		return made, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.known == nil {
		m.known = map[types.UID]map[string]Volume{}
	}
	if m.known[pod.UID] == nil {
		m.known[pod.UID] = map[string]Volume{}
	}
	m.known[pod.UID][v.Name] = made
	return made, nil
}

// resolve finds the volume behind a claim, in Kubernetes' words if there is none.
func (m *Manager) resolve(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) (*corev1.PersistentVolume, error) {
	name := claim.Name(pod, v)
	fail := func(format string, args ...any) (*corev1.PersistentVolume, error) {
		return nil, fmt.Errorf("error processing PVC %s/%s: %w", pod.Namespace, name, fmt.Errorf(format, args...))
	}
	c, err := m.source.Claim(ctx, pod.Namespace, name)
	switch {
	case err != nil:
		return fail("failed to fetch PVC from API server: %w", err)
	case c.DeletionTimestamp != nil && !begun(pod):
		return fail("PVC is being deleted")
	case c.Status.Phase != corev1.ClaimBound:
		return fail("PVC is not bound")
	case c.Spec.VolumeName == "":
		return fail("PVC has empty pvc.Spec.VolumeName")
	}
	if v.Ephemeral != nil {
		if err := ephemeral.VolumeIsForPod(pod, c); err != nil {
			return nil, err
		}
	}
	pv, err := m.source.PersistentVolume(ctx, c.Spec.VolumeName)
	switch {
	case err != nil:
		return fail("failed to fetch PV %s from API server: %w", c.Spec.VolumeName, err)
	case pv.Spec.ClaimRef == nil:
		return fail("found PV object %s but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim", pv.Name)
	case pv.Spec.ClaimRef.UID != c.UID:
		return fail("found PV object %s but its pv.Spec.ClaimRef.UID %s does not point to claim.UID %s", pv.Name, pv.Spec.ClaimRef.UID, c.UID)
	}
	return pv, nil
}

// begun says that the pod has run on the node before: what it uses stays its until it goes.
func begun(pod *corev1.Pod) bool {
	return slices.ContainsFunc(slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses), func(s corev1.ContainerStatus) bool { return s.ContainerID != "" })
}

func reaches(pv *corev1.PersistentVolume, labels map[string]string) bool {
	a := pv.Spec.NodeAffinity
	if a == nil || a.Required == nil {
		return true
	}
	s, err := nodeaffinity.NewNodeSelector(a.Required)
	node := &corev1.Node{}
	node.Labels = labels
	return err == nil && s.Match(node)
}

// mountOf is where a persistent volume is on the node.
func (m *Manager) mountOf(pod *corev1.Pod, v *corev1.Volume, pv *corev1.PersistentVolume) (made Volume, err error) {
	if pv.Spec.VolumeMode != nil && *pv.Spec.VolumeMode == corev1.PersistentVolumeBlock {
		return made, &Error{Volume: pv.Name, Words: fmt.Sprintf("MapVolume.SetUpDevice failed for volume %q : ", pv.Name), Err: errors.New("volumes of volumeMode Block are not supported on this node")}
	}
	switch s := &pv.Spec.PersistentVolumeSource; {
	case s.Local != nil:
		made, err = m.local(pod, pv.Name, s.Local)
	case s.HostPath != nil:
		made, err = hostPath(s.HostPath)
	default:
		err = fmt.Errorf("volumes of type %s are not supported on this node", kindOfPersistent(s))
	}
	if err != nil {
		var said *Error
		if errors.As(err, &said) {
			return made, err
		}
		return made, &Error{Volume: pv.Name, Err: err}
	}
	made.ReadOnly = v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ReadOnly
	if s := pv.Spec.Local; s != nil && !made.ReadOnly {
		if err := own(made.Path, pod, false); err != nil {
			return made, &Error{Volume: pv.Name, Err: fmt.Errorf("give it to the pod's fsGroup: %w", err)}
		}
	}
	return made, nil
}

// local is a directory of the node that somebody has made. It is mounted from where it is: there is nothing to be taken away later.
func (m *Manager) local(_ *corev1.Pod, name string, s *corev1.LocalVolumeSource) (made Volume, err error) {
	info, err := os.Stat(s.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return made, &Error{Volume: name, Words: fmt.Sprintf("MountVolume.NewMounter initialization failed for volume %q : ", name), Err: fmt.Errorf("path %q does not exist", s.Path)}
	case err != nil:
		return made, err
	case info.Mode()&fs.ModeDevice != 0:
		return made, fmt.Errorf("local volume %s is a block device: make a file system on it and mount it, and name the directory", s.Path)
	case !info.IsDir():
		return made, fmt.Errorf("path %q is not a directory", s.Path)
	}
	return Volume{Path: s.Path}, nil
}

// kindOfPersistent names the source that is set, as it is written in a manifest.
func kindOfPersistent(s *corev1.PersistentVolumeSource) string {
	for name, set := range map[string]bool{
		"csi": s.CSI != nil, "nfs": s.NFS != nil, "iscsi": s.ISCSI != nil, "fc": s.FC != nil, "rbd": s.RBD != nil, "cephfs": s.CephFS != nil, "flexVolume": s.FlexVolume != nil,
		"glusterfs": s.Glusterfs != nil, "azureDisk": s.AzureDisk != nil, "azureFile": s.AzureFile != nil, "gcePersistentDisk": s.GCEPersistentDisk != nil,
		"awsElasticBlockStore": s.AWSElasticBlockStore != nil, "vsphereVolume": s.VsphereVolume != nil, "cinder": s.Cinder != nil, "portworxVolume": s.PortworxVolume != nil,
	} {
		if set {
			return name
		}
	}
	return "unknown"
}
