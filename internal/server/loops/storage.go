package loops

import (
	"context"
	"errors"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/cache"
	"sampan.dev/internal/claim"
	"sampan.dev/internal/controller/ephemeralvolume"
	"sampan.dev/internal/controller/persistentvolume"
	"sampan.dev/internal/controller/storageprotection"
	"sampan.dev/internal/loop"
	"sampan.dev/internal/resource"
	"sampan.dev/internal/resource/core"
	"sampan.dev/internal/resource/storage"
)

// storing shows claims, volumes and classes to the controllers of storage, and to the scheduler.
type storing struct {
	*world
	claims, volumes, classes *resource.Kind
	index                    *storageIndex
}

// newStoring panics if the table has no storage.
func newStoring(w *world) storing {
	return storing{
		world: w, claims: w.kindOf(corev1.SchemeGroupVersion.WithKind("PersistentVolumeClaim")), volumes: w.kindOf(corev1.SchemeGroupVersion.WithKind("PersistentVolume")),
		classes: w.kindOf(storagev1.SchemeGroupVersion.WithKind("StorageClass")), index: newStorageIndex(),
	}
}

// storageParts are the controllers of storage.
func storageParts(s storing) []part { return []part{binder(s), protection(s), ephemeral(s)} }

// binder is the controller that binds claims to volumes.
func binder(s storing) part {
	c := persistentvolume.New(s, s, s.Events.As("persistentvolume-controller", ""), s.Queues, s.Log)
	return part{account: "persistent-volume-binder", run: c.Run, on: map[*resource.Kind]func(change){
		s.claims: func(ch change) {
			c.Mark(ch.key)
			for _, name := range s.index.keptFor(ch.key) {
				c.Mark(loop.Key{Name: name})
			}
		},
		s.volumes: func(ch change) {
			c.Mark(ch.key)
			for _, o := range []*cache.Object{ch.old, ch.new} {
				if o != nil {
					if r := cache.Typed[*corev1.PersistentVolume](o).Spec.ClaimRef; r != nil {
						c.Mark(loop.Key{Namespace: r.Namespace, Name: r.Name})
					}
				}
			}
			for _, key := range s.index.naming(ch.key.Name) {
				c.Mark(key)
			}
			if ch.new != nil {
				s.markThoseServed(cache.Typed[*corev1.PersistentVolume](ch.new), c.Mark)
			}
		},
		s.classes: func(ch change) {
			classes := []string{ch.key.Name}
			if ch.new != nil && storage.IsDefault(cache.Typed[*storagev1.StorageClass](ch.new)) {
				classes = append(classes, "") // those without a class may get it
			}
			for _, class := range classes {
				for _, key := range s.index.pending(class) {
					c.Mark(key)
				}
			}
		},
		s.pods: func(ch change) { // who waits for a claim is said in its events
			if ch.old != nil && ch.new != nil && ch.old.Field("spec.nodeName") == ch.new.Field("spec.nodeName") && ended(ch.old) == ended(ch.new) {
				return
			}
			for _, key := range claimsOf(ch) {
				if s.index.isPending(key) {
					c.Mark(key)
				}
			}
		},
	}}
}

// markThoseServed marks the claims that a volume which nobody has would do for, but for those that wait for a pod.
func (s storing) markThoseServed(v *corev1.PersistentVolume, mark func(loop.Key)) {
	if v.Spec.ClaimRef != nil || v.Status.Phase != corev1.VolumeAvailable {
		return
	}
	class := core.VolumeClass(v)
	if claim.Waits(s.Class(class)) {
		return
	}
	for _, key := range s.index.pending(class) {
		if c := s.Claim(key); c != nil && c.Spec.VolumeName == "" && claim.Does(v, c) {
			mark(key)
		}
	}
}

// claimsOf are the claims that the pod uses. Its volumes never change.
func claimsOf(ch change) (keys []loop.Key) {
	o := ch.new
	if o == nil {
		o = ch.old
	}
	for name := range claim.Names(cache.Typed[*corev1.Pod](o)) {
		keys = append(keys, loop.Key{Namespace: ch.key.Namespace, Name: name})
	}
	return keys
}

// protection keeps claims and volumes from going while they are used.
func protection(s storing) part {
	c := storageprotection.New(s, s, s.Queues, s.Log)
	return part{account: "pvc-protection-controller", run: c.Run, on: map[*resource.Kind]func(change){
		s.claims: func(ch change) {
			if ch.new != nil && (ch.is.Deleting || !slices.Contains(ch.is.Finalizers, storageprotection.ClaimFinalizer)) {
				c.Mark(ch.key)
			}
		},
		s.volumes: func(ch change) {
			if ch.new != nil && (ch.is.Deleting || !slices.Contains(ch.is.Finalizers, storageprotection.VolumeFinalizer)) {
				c.Mark(ch.key)
			}
		},
		s.pods: func(ch change) {
			if ch.new != nil && !ch.is.Deleting {
				return
			}
			for _, key := range claimsOf(ch) {
				c.Mark(key)
			}
		},
	}}
}

// ephemeral makes the claims of pods' ephemeral volumes.
func ephemeral(s storing) part {
	c := ephemeralvolume.New(s, s, s.Events.As("ephemeral_volume", ""), s.Queues, s.Log)
	return part{account: "ephemeral-volume-controller", run: c.Run, on: map[*resource.Kind]func(change){
		s.pods: func(ch change) {
			if ch.old == nil && ch.new != nil && ephemeralvolume.Concerns(cache.Typed[*corev1.Pod](ch.new)) {
				c.Mark(ch.key)
			}
		},
		s.claims: func(ch change) { // one that is gone is made again
			if ch.new != nil {
				return
			}
			for _, key := range s.index.users(ch.key) {
				c.Mark(key)
			}
		},
	}}
}

func (s storing) Volume(name string) *corev1.PersistentVolume {
	return get[*corev1.PersistentVolume](s.world, s.volumes, "", name)
}

func (s storing) Claim(key loop.Key) *corev1.PersistentVolumeClaim {
	return get[*corev1.PersistentVolumeClaim](s.world, s.claims, key.Namespace, key.Name)
}

func (s storing) Class(name string) *storagev1.StorageClass {
	if name == "" {
		return nil
	}
	return get[*storagev1.StorageClass](s.world, s.classes, "", name)
}

// Scene implements persistentvolume.View.
func (s storing) Scene(c *corev1.PersistentVolumeClaim) (sc persistentvolume.Scene) {
	key := loop.Key{Namespace: c.Namespace, Name: c.Name}
	if name := c.Spec.VolumeName; name != "" {
		sc.Volume = s.Volume(name)
		return sc
	}
	if metav1.HasAnnotation(c.ObjectMeta, claim.Completed) {
		return sc
	}
	class := core.ClaimClass(c)
	sc.Class = s.Class(class)
	names := s.index.keptFor(key)
	if !claim.Waits(sc.Class) {
		names = append(names, s.index.free(class)...)
	}
	for _, name := range names {
		if v := s.Volume(name); v != nil {
			sc.Volumes = append(sc.Volumes, v)
		}
	}
	if class == "" {
		var all []*storagev1.StorageClass
		for o := range s.Cache.Snapshot().List(s.classes, cache.Selection{}) {
			all = append(all, cache.Typed[*storagev1.StorageClass](o))
		}
		sc.Default = storage.Default(all)
	}
	for _, user := range s.index.users(key) {
		if pod := s.Pod(user); pod != nil && pod.Spec.NodeName == "" && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed {
			sc.Pods = append(sc.Pods, pod.Name)
		}
	}
	return sc
}

// Users are the pods that use a claim.
func (s storing) Users(c loop.Key) (pods []*corev1.Pod) {
	for _, key := range s.index.users(c) {
		if pod := s.Pod(key); pod != nil {
			pods = append(pods, pod)
		}
	}
	return pods
}

// changeSeen changes exactly that version of an object, and returns what is there then.
func changeSeen[T resource.Object](ctx context.Context, w *world, kind *resource.Kind, sub string, seen T, change func(T)) (next T, err error) {
	o, _, err := w.Registry.Update(ctx, kind, sub, seen.GetNamespace(), seen.GetName(), func(resource.Object) (resource.Object, error) {
		n := seen.DeepCopyObject().(T) // with its resourceVersion
		change(n)
		return n, nil
	}, metav1.UpdateOptions{})
	if err != nil {
		return next, err
	}
	return o.(T), w.shown(ctx)
}

func (s storing) UpdateVolume(ctx context.Context, v *corev1.PersistentVolume, change func(*corev1.PersistentVolume)) (*corev1.PersistentVolume, error) {
	return changeSeen(ctx, s.world, s.volumes, "", v, change)
}

func (s storing) SetVolumeStatus(ctx context.Context, v *corev1.PersistentVolume, change func(*corev1.PersistentVolumeStatus)) (*corev1.PersistentVolume, error) {
	return changeSeen(ctx, s.world, s.volumes, "status", v, func(v *corev1.PersistentVolume) { change(&v.Status) })
}

func (s storing) UpdateClaim(ctx context.Context, c *corev1.PersistentVolumeClaim, change func(*corev1.PersistentVolumeClaim)) (*corev1.PersistentVolumeClaim, error) {
	return changeSeen(ctx, s.world, s.claims, "", c, change)
}

func (s storing) SetClaimStatus(ctx context.Context, c *corev1.PersistentVolumeClaim, change func(*corev1.PersistentVolumeClaimStatus)) (*corev1.PersistentVolumeClaim, error) {
	return changeSeen(ctx, s.world, s.claims, "status", c, func(c *corev1.PersistentVolumeClaim) { change(&c.Status) })
}

func (s storing) CreateClaim(ctx context.Context, c *corev1.PersistentVolumeClaim) error {
	return s.create(ctx, s.claims, c)
}

// BindVolume is the scheduler's; it needs no waiting, since the scheduler hears of what has changed.
func (s storing) BindVolume(ctx context.Context, v *corev1.PersistentVolume, c *corev1.PersistentVolumeClaim) error {
	_, _, err := s.Registry.Update(ctx, s.volumes, "", "", v.Name, func(current resource.Object) (resource.Object, error) {
		next, is := current.(*corev1.PersistentVolume)
		if !is || next.UID != v.UID {
			return nil, apierrors.NewNotFound(s.volumes.GroupResource(), v.Name)
		}
		if next.DeletionTimestamp != nil || next.Spec.ClaimRef != nil && !claim.Has(next, c) {
			return nil, apierrors.NewConflict(s.volumes.GroupResource(), v.Name, errors.New("it has been given to another claim, or is being deleted"))
		}
		claim.Give(next, c)
		return next, nil
	}, metav1.UpdateOptions{})
	return err
}

// SelectNode is the scheduler's.
func (s storing) SelectNode(ctx context.Context, c *corev1.PersistentVolumeClaim, node string) error {
	_, _, err := s.Registry.Update(ctx, s.claims, "", c.Namespace, c.Name, func(current resource.Object) (resource.Object, error) {
		next, is := current.(*corev1.PersistentVolumeClaim)
		if !is || next.UID != c.UID {
			return nil, apierrors.NewNotFound(s.claims.GroupResource(), c.Name)
		}
		next.ResourceVersion = ""
		metav1.SetMetaDataAnnotation(&next.ObjectMeta, claim.SelectedNode, node)
		return next, nil
	}, metav1.UpdateOptions{})
	return err
}
