package statefulset

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"sampan.dev/internal/revision"
)

// history is what a set's revisions come to: which one is current, which one is of its template, and all, oldest first.
type history struct {
	current, update *appsv1.ControllerRevision
	all             []*appsv1.ControllerRevision
	collisions      int32
}

// Next says which revision a set's template is of. One that must be made has no name; one that must become the newest again has an older number than
// the one returned. All are sorted.
func Next(set *appsv1.StatefulSet, all []*appsv1.ControllerRevision) (update *appsv1.ControllerRevision, number int64, err error) {
	content, err := revision.Content(&set.Spec.Template)
	if err != nil {
		return nil, 0, err
	}
	for i := len(all) - 1; i >= 0; i-- {
		switch r := all[i]; {
		case !revision.Holds(r, &set.Spec.Template, content):
		case i == len(all)-1:
			return r, r.Revision, nil
		default:
			return r, revision.Next(all), nil
		}
	}
	n := revision.Next(all)
	return revision.New(set, Kind, &set.Spec.Template, content, n), n, nil
}

// history brings the revisions of a set up to its template.
func (c *Controller) history(ctx context.Context, set *appsv1.StatefulSet) (h history, err error) {
	h.all = c.view.Revisions(set)
	revision.Sort(h.all)
	if n := set.Status.CollisionCount; n != nil {
		h.collisions = *n
	}
	update, number, err := Next(set, h.all)
	switch {
	case err != nil:
		return h, err
	case update.Name == "":
		if update, err = c.createRevision(ctx, set, update, &h.collisions); err != nil {
			return h, err
		}
	case update.Revision != number:
		if err := c.api.UpdateRevision(ctx, update, func(r *appsv1.ControllerRevision) { r.Revision = number }); err != nil {
			return h, fmt.Errorf("make revision %s the newest: %w", update.Name, err)
		}
	}
	h.current, h.update = update, update
	for _, r := range h.all {
		if r.Name == set.Status.CurrentRevision {
			h.current = r
		}
	}
	return h, nil
}

// createRevision gives a revision a name that nothing else has. Where one of the name holds the same, that is the one.
func (c *Controller) createRevision(
	ctx context.Context, set *appsv1.StatefulSet, r *appsv1.ControllerRevision, collisions *int32,
) (*appsv1.ControllerRevision, error) {
	for {
		hash := revision.Hash(r.Data.Raw, *collisions)
		r.Name, r.Labels[revision.HashLabel] = revision.Name(set.Name, hash), hash
		err := c.api.CreateRevision(ctx, r)
		if err == nil {
			return r, nil
		}
		if !apierrors.IsAlreadyExists(err) {
			return nil, fmt.Errorf("create revision %s: %w", r.Name, err)
		}
		there := c.view.Revision(r.Namespace, r.Name)
		if there != nil && revision.Holds(there, &set.Spec.Template, r.Data.Raw) {
			return there, nil
		}
		*collisions++
	}
}

// truncate deletes the oldest revisions that no pod is of, if there are more than the set keeps.
func (c *Controller) truncate(ctx context.Context, set *appsv1.StatefulSet, h history) error {
	if set.Spec.RevisionHistoryLimit == nil {
		return nil
	}
	used := map[string]bool{h.current.Name: true, h.update.Name: true}
	for _, pod := range c.view.Pods(set) {
		used[pod.Labels[appsv1.ControllerRevisionHashLabelKey]] = true
	}
	for _, r := range revision.Surplus(h.all, int(*set.Spec.RevisionHistoryLimit), func(r *appsv1.ControllerRevision) bool { return used[r.Name] }) {
		if err := c.api.DeleteRevision(ctx, r); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete revision %s: %w", r.Name, err)
		}
	}
	return nil
}
