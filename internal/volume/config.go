package volume

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"sampan.dev/internal/volume/downward"
)

// file is one file of a config volume.
type file struct {
	data []byte
	mode fs.FileMode
	uid  *int64 // its owner; nil: this process' own
}

const defaultMode = 0o644

// config makes a volume of one source. Secrets are kept in memory, never on disk.
func (m *Manager) config(ctx context.Context, path string, pod *corev1.Pod, source corev1.VolumeProjection, mode *int32, secret bool) (Volume, error) {
	files, err := m.collect(ctx, pod, source, modeOr(mode, defaultMode))
	if err != nil {
		return Volume{}, err
	}
	return show(path, pod, files, secret)
}

func (m *Manager) projected(ctx context.Context, path string, pod *corev1.Pod, source *corev1.ProjectedVolumeSource, due *time.Time) (Volume, error) {
	all := map[string]file{}
	for _, s := range source.Sources {
		if s.ServiceAccountToken != nil {
			f, at, err := m.token(ctx, path, pod, s.ServiceAccountToken, modeOr(source.DefaultMode, defaultMode))
			if err != nil {
				return Volume{}, err
			}
			if due.IsZero() || at.Before(*due) {
				*due = at
			}
			all[filepath.Clean(s.ServiceAccountToken.Path)] = f
			continue
		}
		files, err := m.collect(ctx, pod, s, modeOr(source.DefaultMode, defaultMode))
		if err != nil {
			return Volume{}, err
		}
		maps.Copy(all, files)
	}
	return show(path, pod, all, true)
}

// show writes the files where they belong.
func show(path string, pod *corev1.Pod, files map[string]file, inMemory bool) (Volume, error) {
	made := Volume{Path: path, ReadOnly: true}
	if err := os.MkdirAll(path, 0o755); err != nil {
		return made, err
	}
	if inMemory {
		mounted, err := isMount(path)
		if err != nil {
			return made, err
		}
		if !mounted {
			if err := unix.Mount("tmpfs", path, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0755"); err != nil {
				return made, fmt.Errorf("mount a tmpfs: %w", err)
			}
		}
	}
	changed, err := writeAtomically(path, files, func(dir string) error { return own(dir, pod, true) })
	if err != nil {
		return made, err
	}
	if changed {
		return made, ownRoot(path, pod)
	}
	return made, nil
}

func ownRoot(path string, pod *corev1.Pod) error {
	if pod.Spec.SecurityContext == nil || pod.Spec.SecurityContext.FSGroup == nil {
		return nil
	}
	if err := os.Lchown(path, -1, int(*pod.Spec.SecurityContext.FSGroup)); err != nil {
		return err
	}
	return os.Chmod(path, 0o775|fs.ModeSetgid)
}

func modeOr(mode *int32, otherwise fs.FileMode) fs.FileMode {
	if mode == nil {
		return otherwise
	}
	return fs.FileMode(*mode) & fs.ModePerm
}

// collect reads one source of a volume.
func (m *Manager) collect(ctx context.Context, pod *corev1.Pod, s corev1.VolumeProjection, mode fs.FileMode) (map[string]file, error) {
	switch {
	case s.ConfigMap != nil:
		cm, err := m.source.ConfigMap(ctx, pod.Namespace, s.ConfigMap.Name)
		if apierrors.IsNotFound(err) {
			if isTrue(s.ConfigMap.Optional) {
				return nil, nil
			}
			return nil, fmt.Errorf("configmap %q not found", s.ConfigMap.Name)
		}
		if err != nil {
			return nil, err
		}
		all := make(map[string][]byte, len(cm.Data)+len(cm.BinaryData))
		for k, v := range cm.Data {
			all[k] = []byte(v)
		}
		maps.Copy(all, cm.BinaryData)
		return pick(all, s.ConfigMap.Items, mode, isTrue(s.ConfigMap.Optional))
	case s.Secret != nil:
		secret, err := m.source.Secret(ctx, pod.Namespace, s.Secret.Name)
		if apierrors.IsNotFound(err) {
			if isTrue(s.Secret.Optional) {
				return nil, nil
			}
			return nil, fmt.Errorf("secret %q not found", s.Secret.Name)
		}
		if err != nil {
			return nil, err
		}
		return pick(secret.Data, s.Secret.Items, mode, isTrue(s.Secret.Optional))
	case s.DownwardAPI != nil:
		return m.downward(pod, s.DownwardAPI.Items, mode)
	}
	return nil, fmt.Errorf("a projected source of this kind is not supported on this node")
}

func isTrue(b *bool) bool { return b != nil && *b }

// pick takes all keys, or those that are named.
func pick(all map[string][]byte, items []corev1.KeyToPath, mode fs.FileMode, optional bool) (map[string]file, error) {
	files := map[string]file{}
	if len(items) == 0 {
		for k, v := range all {
			files[k] = file{data: v, mode: mode}
		}
		return files, nil
	}
	for _, item := range items {
		data, ok := all[item.Key]
		if !ok {
			if optional {
				continue
			}
			return nil, fmt.Errorf("references non-existent config key: %s", item.Key)
		}
		files[filepath.Clean(item.Path)] = file{data: data, mode: modeOr(item.Mode, mode)}
	}
	return files, nil
}

func (m *Manager) downward(pod *corev1.Pod, items []corev1.DownwardAPIVolumeFile, mode fs.FileMode) (map[string]file, error) {
	files := map[string]file{}
	for _, item := range items {
		var value string
		var err error
		switch {
		case item.FieldRef != nil:
			value, err = downward.Field(pod, item.FieldRef.FieldPath)
		case item.ResourceFieldRef != nil:
			var node corev1.ResourceList
			if m.Allocatable != nil {
				node = m.Allocatable()
			}
			value, err = downward.Resource(pod, item.ResourceFieldRef.ContainerName, item.ResourceFieldRef, node)
		}
		if err != nil {
			return nil, err
		}
		files[filepath.Clean(item.Path)] = file{data: []byte(value), mode: modeOr(item.Mode, mode)}
	}
	return files, nil
}
