package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sampan.dev/internal/agent/pressure"
)

// Kubernetes' own figures.
const (
	maxImages     = 50 // in a node's status, the largest
	maxImageNames = 5  // of one image there

	imagesHigh   = 85              // percent of their file system in use at which images are collected
	imagesLow    = 80              // and down to which
	imagesAge    = 2 * time.Minute // that an image is kept before somebody uses it
	collectAgain = 5 * time.Minute // after a collection that did not free enough

	everything = math.MaxInt64
)

// imageList is what the runtime has.
type imageList struct {
	list   []*cri.Image
	first  map[string]time.Time // when each was seen first, by ID; zero for those that were there before
	status []corev1.ContainerImage
	mark   []unix.Timespec // of when the list was asked for; nil: ask again
}

// markOf tells one state of our own runtime's images from another without asking it: its directories change with each image and each name (package image). Nil says that nothing can be told:
// of another runtime, or too soon after a change for the file system's clock to tell another.
func markOf(dir, runtime string) (mark []unix.Timespec) {
	var now unix.Timespec
	if runtime != "sampan" || unix.ClockGettime(unix.CLOCK_REALTIME, &now) != nil {
		return nil
	}
	for _, sub := range []string{"", "images"} {
		var st unix.Stat_t
		if unix.Stat(filepath.Join(dir, sub), &st) != nil || now.Nano()-st.Mtim.Nano() < int64(time.Second) {
			return nil
		}
		mark = append(mark, st.Mtim)
	}
	return mark
}

// update takes a new list over, and says whether the node's status changes by it.
func (i *imageList) update(list []*cri.Image, now time.Time) (changed bool) {
	first := make(map[string]time.Time, len(list))
	for _, img := range list {
		at, known := i.first[img.Id]
		if !known && i.first != nil {
			at = now
		}
		first[img.Id] = at
	}
	status := largest(list)
	changed = !equality.Semantic.DeepEqual(status, i.status)
	i.list, i.first, i.status = list, first, status
	return changed
}

// largest are the images as a node's status has them: names by digest first, then by tag.
func largest(list []*cri.Image) []corev1.ContainerImage {
	list = slices.SortedFunc(slices.Values(list), func(a, b *cri.Image) int {
		return cmp.Or(cmp.Compare(b.Size, a.Size), cmp.Compare(b.Id, a.Id))
	})
	status := make([]corev1.ContainerImage, 0, min(len(list), maxImages))
	for _, img := range list[:min(len(list), maxImages)] {
		names := slices.Concat(img.RepoDigests, img.RepoTags)
		status = append(status, corev1.ContainerImage{Names: names[:min(len(names), maxImageNames)], SizeBytes: int64(img.Size)})
	}
	return status
}

// removable are the images that may go, those that came first before the others: nobody uses them, they have been here for a while, and a registry has them. What is built in or was loaded
// by hand stays, since nobody could bring it back.
func removable(list []*cri.Image, first map[string]time.Time, used map[string]bool, now time.Time) []*cri.Image {
	var old []*cri.Image
	for _, img := range list {
		inUse := used[img.Id] || slices.ContainsFunc(slices.Concat(img.RepoTags, img.RepoDigests), func(name string) bool { return used[name] })
		if !img.Pinned && len(img.RepoDigests) > 0 && !inUse && now.Sub(first[img.Id]) >= imagesAge {
			old = append(old, img)
		}
	}
	slices.SortFunc(old, func(a, b *cri.Image) int {
		return cmp.Or(first[a.Id].Compare(first[b.Id]), cmp.Compare(a.Id, b.Id))
	})
	return old
}

// removeImages removes images that nobody uses until so much is freed.
func (r *relief) removeImages(ctx context.Context, wanted int64, now time.Time) (freed int64, err error) {
	a := r.agent
	used, err := a.imagesInUse(ctx)
	if err != nil {
		return 0, err
	}
	r.mu.Lock()
	candidates := removable(r.images.list, r.images.first, used, now)
	r.mu.Unlock()
	var errs []error
	for _, img := range candidates {
		if freed >= wanted {
			break
		}
		if _, err := a.images.RemoveImage(ctx, &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: img.Id}}); err != nil {
			errs = append(errs, errors.New(plain(err)))
			continue
		}
		a.log.Info("image removed, since nobody uses it", "image", img.Id, "names", img.RepoTags, "bytes", img.Size)
		freed += int64(img.Size)
		r.mu.Lock()
		r.images.mark = nil // ask again
		r.mu.Unlock()
	}
	if err := errors.Join(errs...); err != nil {
		return freed, fmt.Errorf("wanted to free %d bytes, but freed %d bytes space with errors in image deletion: %w", wanted, freed, err)
	}
	return freed, nil
}

// imagesInUse are the images, by ID and by name, of containers that there are, and of those that pods of this node are made of.
func (a *Agent) imagesInUse(ctx context.Context) (map[string]bool, error) {
	r, err := a.runtime.ListContainers(ctx, &cri.ListContainersRequest{})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	used := map[string]bool{}
	for _, c := range r.Containers {
		used[c.ImageRef], used[c.ImageId], used[c.GetImage().GetImage()] = true, true, true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, pod := range a.admitted {
		for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
			for i := range list {
				if name, err := withTag(list[i].Image); err == nil {
					used[name] = true
				}
			}
		}
	}
	for _, w := range a.workers {
		w.mu.Lock()
		for _, image := range w.work.Images {
			used[image.Ref] = true
		}
		w.mu.Unlock()
	}
	delete(used, "")
	return used, nil
}

// collect removes images while their file system is filled up to the high mark.
func (r *relief) collect(ctx context.Context, now time.Time) {
	a := r.agent
	seen, _, _ := r.now()
	level := seen[pressure.ImageFsAvailable]
	if level.Capacity <= 0 {
		return
	}
	percent := 100 - int(level.Available*100/level.Capacity)
	failed := !r.collected.IsZero()
	if percent < imagesHigh {
		r.collected = time.Time{}
		return
	}
	if failed && now.Sub(r.collected) < collectAgain {
		return
	}
	wanted := level.Capacity*(100-imagesLow)/100 - level.Available
	freed, err := r.removeImages(ctx, wanted, now)
	if ctx.Err() != nil {
		return
	}
	if err == nil && freed < wanted {
		words := fmt.Sprintf("Insufficient free disk space on the node's image filesystem (%d%% of %s used). Failed to free sufficient space by deleting unused images (freed %d bytes). "+
			"Investigate disk usage, as it could be used by active images, logs, volumes, or other data.", percent, sizeText(level.Capacity), freed)
		a.cfg.Events.Record(a.node.ref(), corev1.EventTypeWarning, "FreeDiskSpaceFailed", words)
		err = errors.New(words)
	}
	if freed > 0 && r.askRuntime(ctx) {
		a.node.again()
	}
	r.collected = time.Time{}
	if err == nil {
		return
	}
	r.collected = now
	if failed { // once may be by chance
		a.cfg.Events.Record(a.node.ref(), corev1.EventTypeWarning, "ImageGCFailed", err.Error())
	}
}

// sizeText is a size as a person reads it: 17.5 GiB.
func sizeText(n int64) string {
	size, unit := float64(n), "B"
	for _, next := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if size < 1024 {
			break
		}
		size, unit = size/1024, next
	}
	return fmt.Sprintf("%.1f %s", size, unit)
}
