// Package volume makes the volumes of pods on the node, and removes them.
//
// It reads ConfigMaps, Secrets, claims and persistent volumes through its Source, asks for tokens of service accounts, and writes below one directory:
// PODS/UID/volumes/TYPE/NAME, and bind mounts for subPaths in PODS/UID/volume-subpaths. Always: Setup may be repeated at any time, and
// refreshes what came from the API, tokens once they are due; a config volume shows either all of its old content or all of the new;
// nothing a container planted in a volume leads this package outside of it.
package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Source is where volumes' content comes from. What is not there is an API NotFound error.
type Source interface {
	ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error)
	Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error)
	Claim(ctx context.Context, namespace, name string) (*corev1.PersistentVolumeClaim, error)
	PersistentVolume(ctx context.Context, name string) (*corev1.PersistentVolume, error)
}

// Manager makes volumes below one directory.
type Manager struct {
	dir    string
	source Source

	// Allocatable is what the node has, for references to limits that are not set. Nil: nothing.
	Allocatable func() corev1.ResourceList

	// Tokens makes tokens of service accounts. Nil: volumes with tokens cannot be made.
	Tokens Tokens
	// Due is called when Setup should be repeated for a pod, since a token of it is to be renewed: once for each Setup. It must not block.
	Due      func(types.UID)
	renewals renewals
	busy     busy

	// Labels are the node's own. Nil: every persistent volume is taken to be reached from here.
	Labels func() map[string]string

	mu    sync.Mutex                      // guards known
	known map[types.UID]map[string]Volume // persistent volumes of pods, by the names that these have for them
}

// New manages the volumes below dir.
func New(dir string, source Source) *Manager { return &Manager{dir: dir, source: source} }

// Volume is a volume that is there.
type Volume struct {
	Path     string // on the node
	ReadOnly bool   // whatever a mount asks for
}

// Dir is where all of a pod's files are.
func (m *Manager) Dir(uid types.UID) string { return filepath.Join(m.dir, string(uid)) }

// Error says which volume could not be made, in Kubernetes' words for the event FailedMount.
type Error struct {
	Volume string
	Words  string // before the cause; empty: that it could not be made
	Err    error
}

func (e *Error) Error() string {
	if e.Words != "" {
		return e.Words + e.Err.Error()
	}
	return fmt.Sprintf("MountVolume.SetUp failed for volume %q : %v", e.Volume, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// Setup makes all volumes of a pod, and brings those that are there up to date. It returns them by name.
func (m *Manager) Setup(ctx context.Context, pod *corev1.Pod) (map[string]Volume, error) {
	if err := checkUID(pod.UID); err != nil {
		return nil, err
	}
	defer m.busy.lock(pod.UID)()
	if err := os.MkdirAll(m.Dir(pod.UID), 0o750); err != nil {
		return nil, fmt.Errorf("make the directory of pod %s: %w", pod.UID, err)
	}
	volumes := make(map[string]Volume, len(pod.Spec.Volumes))
	var due time.Time
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		made, err := m.make(ctx, pod, v, &due)
		var said *Error
		if errors.As(err, &said) {
			return nil, err
		}
		if err != nil {
			return nil, &Error{Volume: v.Name, Err: err}
		}
		volumes[v.Name] = made
	}
	m.renewals.set(pod.UID, due, m.Due)
	return volumes, nil
}

// make makes one volume, and turns due to when it should be made again, if that is earlier.
func (m *Manager) make(ctx context.Context, pod *corev1.Pod, v *corev1.Volume, due *time.Time) (Volume, error) {
	at := func(kind string) string {
		return filepath.Join(m.Dir(pod.UID), "volumes", "kubernetes.io~"+kind, v.Name)
	}
	switch {
	case v.EmptyDir != nil:
		return emptyDir(at("empty-dir"), pod, v.EmptyDir)
	case v.HostPath != nil:
		return hostPath(v.HostPath)
	case v.ConfigMap != nil:
		return m.config(ctx, at("configmap"), pod, corev1.VolumeProjection{ConfigMap: &corev1.ConfigMapProjection{
			LocalObjectReference: v.ConfigMap.LocalObjectReference, Items: v.ConfigMap.Items, Optional: v.ConfigMap.Optional,
		}}, v.ConfigMap.DefaultMode, false)
	case v.Secret != nil:
		return m.config(ctx, at("secret"), pod, corev1.VolumeProjection{Secret: &corev1.SecretProjection{
			LocalObjectReference: corev1.LocalObjectReference{Name: v.Secret.SecretName}, Items: v.Secret.Items, Optional: v.Secret.Optional,
		}}, v.Secret.DefaultMode, true)
	case v.DownwardAPI != nil:
		return m.config(ctx, at("downward-api"), pod, corev1.VolumeProjection{DownwardAPI: &corev1.DownwardAPIProjection{
			Items: v.DownwardAPI.Items,
		}}, v.DownwardAPI.DefaultMode, false)
	case v.Projected != nil:
		return m.projected(ctx, at("projected"), pod, v.Projected, due)
	case v.PersistentVolumeClaim != nil, v.Ephemeral != nil:
		return m.persistent(ctx, pod, v)
	}
	return Volume{}, fmt.Errorf("volumes of type %s are not supported on this node", kindOf(v))
}

// kindOf names the source that is set, as it is written in a manifest.
func kindOf(v *corev1.Volume) string {
	s := v.VolumeSource
	for name, set := range map[string]bool{
		"nfs": s.NFS != nil, "csi": s.CSI != nil, "iscsi": s.ISCSI != nil,
		"image": s.Image != nil, "glusterfs": s.Glusterfs != nil, "rbd": s.RBD != nil,
		"cephfs": s.CephFS != nil, "fc": s.FC != nil, "gitRepo": s.GitRepo != nil, "flexVolume": s.FlexVolume != nil,
		"gcePersistentDisk": s.GCEPersistentDisk != nil, "awsElasticBlockStore": s.AWSElasticBlockStore != nil,
		"azureDisk": s.AzureDisk != nil, "azureFile": s.AzureFile != nil, "vsphereVolume": s.VsphereVolume != nil,
	} {
		if set {
			return name
		}
	}
	return "unknown"
}

func checkUID(uid types.UID) error {
	if s := string(uid); s == "" || s == "." || s == ".." || strings.ContainsAny(s, "/\x00") {
		return fmt.Errorf("pod uid %q cannot name a directory", s)
	}
	return nil
}

// Teardown unmounts and removes all of a pod's files. A container's symbolic links are removed, never followed.
func (m *Manager) Teardown(uid types.UID) error { return m.remove(uid) }

// RemoveVolumes unmounts and removes a pod's volumes, and leaves its other files.
func (m *Manager) RemoveVolumes(uid types.UID) error {
	return errors.Join(m.remove(uid, "volumes"), m.remove(uid, "volume-subpaths"))
}

func (m *Manager) remove(uid types.UID, below ...string) error {
	if err := checkUID(uid); err != nil {
		return err
	}
	defer m.busy.lock(uid)()
	m.renewals.set(uid, time.Time{}, m.Due)
	m.mu.Lock()
	delete(m.known, uid)
	m.mu.Unlock()
	name := filepath.Join(append([]string{string(uid)}, below...)...)
	root, err := os.OpenRoot(m.dir)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("remove the files of pod %s: %w", uid, err)
	}
	defer root.Close()
	if _, err := root.Lstat(name); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := unmountBelow(filepath.Join(m.dir, name)); err != nil {
		return fmt.Errorf("remove the files of pod %s: %w", uid, err)
	}
	if err := root.RemoveAll(name); err != nil {
		return fmt.Errorf("remove the files of pod %s: %w", uid, err)
	}
	return nil
}

// Pods lists the pods that have files.
func (m *Manager) Pods() ([]types.UID, error) {
	entries, err := os.ReadDir(m.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list the files of pods: %w", err)
	}
	var uids []types.UID
	for _, e := range entries {
		if e.IsDir() {
			uids = append(uids, types.UID(e.Name()))
		}
	}
	return uids, nil
}

// Refers says whether a volume, or the environment, of the pod refers to a ConfigMap or Secret of that name.
func Refers(pod *corev1.Pod, name string) bool {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		switch {
		case v.ConfigMap != nil && v.ConfigMap.Name == name, v.Secret != nil && v.Secret.SecretName == name:
			return true
		case v.Projected != nil:
			for _, s := range v.Projected.Sources {
				if s.ConfigMap != nil && s.ConfigMap.Name == name || s.Secret != nil && s.Secret.Name == name {
					return true
				}
			}
		}
	}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			for _, f := range list[i].EnvFrom {
				if f.ConfigMapRef != nil && f.ConfigMapRef.Name == name || f.SecretRef != nil && f.SecretRef.Name == name {
					return true
				}
			}
			for _, e := range list[i].Env {
				if f := e.ValueFrom; f != nil && (f.ConfigMapKeyRef != nil && f.ConfigMapKeyRef.Name == name || f.SecretKeyRef != nil && f.SecretKeyRef.Name == name) {
					return true
				}
			}
		}
	}
	for _, s := range pod.Spec.ImagePullSecrets {
		if s.Name == name {
			return true
		}
	}
	return false
}
