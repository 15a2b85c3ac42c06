package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/cache"
)

// maxWait is how long a read waits for a revision that is still to come.
const maxWait = 3 * time.Second

// fresh gives a snapshot that has every write answered before now.
func (s *Server) fresh(ctx context.Context) (*cache.Snapshot, error) {
	revision, err := s.store.Current(ctx)
	if err != nil {
		return nil, apierrors.NewTimeoutError(err.Error(), 1)
	}
	if snap := s.cache.Snapshot(); snap.Revision() >= revision {
		return snap, nil
	}
	if err := s.cache.Wait(ctx, revision); err != nil {
		return nil, fmt.Errorf("wait for revision %d: %w", revision, err)
	}
	return s.cache.Snapshot(), nil
}

// notOlder gives a snapshot that is at a revision at least.
func (s *Server) notOlder(ctx context.Context, revision int64) (*cache.Snapshot, error) {
	if snap := s.cache.Snapshot(); snap.Revision() >= revision {
		return snap, nil
	}
	waiting, cancel := context.WithTimeout(ctx, maxWait)
	defer cancel()
	if err := s.cache.Wait(waiting, revision); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, tooLargeRevision(revision, s.cache.Snapshot().Revision())
	}
	return s.cache.Snapshot(), nil
}

func tooLargeRevision(want, have int64) error {
	err := apierrors.NewTimeoutError(fmt.Sprintf("Too large resource version: %d, current: %d", want, have), 1)
	err.ErrStatus.Details.Causes = []metav1.StatusCause{{
		Type: metav1.CauseTypeResourceVersionTooLarge, Message: "Too large resource version",
	}}
	return err
}

// at gives the snapshot that a resourceVersion of a get, or of a list without further conditions, stands for.
func (s *Server) at(ctx context.Context, resourceVersion string) (*cache.Snapshot, error) {
	switch resourceVersion {
	case "":
		return s.fresh(ctx)
	case "0":
		return s.cache.Snapshot(), nil
	}
	revision, err := strconv.ParseUint(resourceVersion, 10, 63)
	if err != nil {
		return nil, bad(fmt.Sprintf("invalid resource version %q: %v", resourceVersion, err))
	}
	return s.notOlder(ctx, int64(revision))
}

func (s *Server) get(w http.ResponseWriter, r *http.Request, c *call) error {
	m, err := negotiate(r, allowObjects)
	if err != nil {
		return err
	}
	var o metav1.GetOptions
	if err := optionsOf(query(r), &o, metav1.Convert_url_Values_To_v1_GetOptions); err != nil {
		return err
	}
	snap, err := s.at(r.Context(), o.ResourceVersion)
	if err != nil {
		return err
	}
	obj := snap.Get(c.kind, c.namespace, c.name)
	if obj == nil {
		return apierrors.NewNotFound(c.gr(), c.name)
	}
	if m.as != "" || !c.isStored() {
		s.writeObject(w, r, c, m, http.StatusOK, obj.Decoded())
		return nil
	}
	if m.format == asProtobuf {
		s.send(w, r, m.format.String(), http.StatusOK, obj.Protobuf())
		return nil
	}
	data, err := fromJSON(m, obj.JSON())
	if err != nil {
		return fmt.Errorf("read %s %s: %w", c.gr(), c.name, err)
	}
	if m.format == asJSON && !m.pretty && (len(data) == 0 || data[len(data)-1] != '\n') {
		data = append(data[:len(data):len(data)], '\n') // a copy: what is kept is shared
	}
	s.send(w, r, m.format.String(), http.StatusOK, data)
	return nil
}

// isStored says that the client speaks the version that is stored, whose encoded forms are at hand.
func (c *call) isStored() bool { return c.as.GroupVersionKind == c.kind.GroupVersionKind }
