package daemonset

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"sampan.dev/internal/revision"
	"sampan.dev/internal/workload"
)

// History is what a set's revisions come to.
type History struct {
	Current *appsv1.ControllerRevision // of the set's template; without a name if it is to be made
	Number  int64                      // that Current is to have
	Twins   []*appsv1.ControllerRevision
	Old     []*appsv1.ControllerRevision // oldest first
}

// Sort tells the revision of the set's template from those of others; of several that hold it the newest counts, the rest are its twins.
func Sort(ds *appsv1.DaemonSet, all []*appsv1.ControllerRevision) (h History, err error) {
	content, err := revision.Content(&ds.Spec.Template)
	if err != nil {
		return h, err
	}
	revision.Sort(all)
	for i := len(all) - 1; i >= 0; i-- {
		switch r := all[i]; {
		case !revision.Holds(r, &ds.Spec.Template, content):
			h.Old = append([]*appsv1.ControllerRevision{r}, h.Old...)
		case h.Current == nil:
			h.Current = r
		default:
			h.Twins = append(h.Twins, r)
		}
	}
	h.Number = revision.Next(h.Old)
	if h.Current == nil {
		h.Current = revision.New(ds, Kind, &ds.Spec.Template, content, h.Number)
	}
	h.Number = max(h.Number, h.Current.Revision)
	return h, nil
}

// hashOf is what the pods of a revision are labelled with.
func hashOf(r *appsv1.ControllerRevision) string {
	return r.Labels[appsv1.DefaultDaemonSetUniqueLabelKey]
}

// history brings the revisions of a set up to its template.
func (c *Controller) history(ctx context.Context, ds *appsv1.DaemonSet, all []*appsv1.ControllerRevision, pods []*corev1.Pod) (h History, err error) {
	for i, r := range all {
		if hashOf(r) != "" {
			continue
		}
		if err := c.api.UpdateRevision(ctx, r, func(r *appsv1.ControllerRevision) {
			if r.Labels == nil {
				r.Labels = map[string]string{}
			}
			r.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] = r.Name
		}); err != nil {
			return h, fmt.Errorf("label revision %s: %w", r.Name, err)
		}
		if all[i] = c.view.Revision(r.Namespace, r.Name); all[i] == nil {
			return h, fmt.Errorf("label revision %s: it is gone", r.Name)
		}
	}
	if h, err = Sort(ds, all); err != nil {
		return h, err
	}
	switch {
	case h.Current.Name == "":
		h.Current, err = c.createRevision(ctx, ds, h.Current)
		return h, err
	case h.Current.Revision != h.Number:
		if err := c.api.UpdateRevision(ctx, h.Current, func(r *appsv1.ControllerRevision) { r.Revision = h.Number }); err != nil {
			return h, fmt.Errorf("make revision %s the newest: %w", h.Current.Name, err)
		}
	}
	return h, c.merge(ctx, h, pods)
}

// merge gives the pods of a revision's twins to it and deletes the twins.
func (c *Controller) merge(ctx context.Context, h History, pods []*corev1.Pod) error {
	for _, twin := range h.Twins {
		for _, pod := range pods {
			if pod.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] != hashOf(twin) {
				continue
			}
			err := c.api.UpdatePod(ctx, pod, func(p *corev1.Pod) { p.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] = hashOf(h.Current) })
			if err != nil && !apierrors.IsNotFound(err) {
				return fmt.Errorf("label pod %s: %w", pod.Name, err)
			}
		}
		if err := c.api.DeleteRevision(ctx, twin); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete revision %s: %w", twin.Name, err)
		}
	}
	return nil
}

// createRevision makes a revision under the hash of its template. Where another one has that name, the count of collisions makes the next pass take
// another hash.
func (c *Controller) createRevision(ctx context.Context, ds *appsv1.DaemonSet, r *appsv1.ControllerRevision) (*appsv1.ControllerRevision, error) {
	hash := workload.Hash(&ds.Spec.Template, ds.Status.CollisionCount)
	r.Name, r.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] = ds.Name+"-"+hash, hash
	err := c.api.CreateRevision(ctx, r)
	if err == nil {
		return r, nil
	}
	err = fmt.Errorf("create revision %s: %w", r.Name, err)
	if !apierrors.IsAlreadyExists(err) {
		return nil, err
	}
	if there := c.view.Revision(r.Namespace, r.Name); there != nil && revision.Holds(there, &ds.Spec.Template, r.Data.Raw) {
		return there, nil
	}
	status := *ds.Status.DeepCopy()
	status.CollisionCount = new(int32(1))
	if was := ds.Status.CollisionCount; was != nil {
		*status.CollisionCount = *was + 1
	}
	if e := c.api.SetStatus(ctx, ds, status); e != nil {
		return nil, fmt.Errorf("count a collision: %w", e)
	}
	return nil, err
}

// truncate deletes the oldest revisions, but none that a pod is of, if there are more than the set keeps.
func (c *Controller) truncate(ctx context.Context, ds *appsv1.DaemonSet, old []*appsv1.ControllerRevision, pods []*corev1.Pod) error {
	if ds.Spec.RevisionHistoryLimit == nil {
		return nil
	}
	used := map[string]bool{}
	for _, pod := range pods {
		used[pod.Labels[appsv1.DefaultDaemonSetUniqueLabelKey]] = true
	}
	surplus := len(old) - int(*ds.Spec.RevisionHistoryLimit)
	for _, r := range old {
		if surplus <= 0 {
			return nil
		}
		if used[hashOf(r)] {
			continue
		}
		if err := c.api.DeleteRevision(ctx, r); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete revision %s: %w", r.Name, err)
		}
		surplus--
	}
	return nil
}
