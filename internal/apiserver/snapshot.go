package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"sampan.dev/internal/store/snapshot"
)

// SnapshotPath is where a snapshot of the store is read (GET), and where one is sent that the store is to be brought back to (POST). Only the cluster's masters may.
const SnapshotPath = "/sampan/v1/snapshot"

// SchedulingPath is where the KubeSchedulerConfiguration is read that the server was started with; it is empty if there was none.
const SchedulingPath = "/sampan/v1/scheduling"

func (s *Server) scheduling(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodGet {
		w.Header().Set("Allow", "GET")
		http.Error(w, "the scheduler's configuration is only read", http.StatusMethodNotAllowed)
		return nil
	}
	w.Header().Set("Content-Type", "application/yaml")
	_, err := io.WriteString(w, s.cfg.Scheduling)
	if err != nil {
		return fmt.Errorf("send the scheduler's configuration: %w", err)
	}
	return nil
}

// Snapshots saves and restores the store.
type Snapshots interface {
	Save(ctx context.Context, w io.Writer) error
	// Restore fails with snapshot.ErrDamaged before anything is changed if what it reads is no snapshot.
	Restore(ctx context.Context, r io.Reader) (snapshot.Changes, error)
}

func (s *Server) snapshot(w http.ResponseWriter, r *http.Request) error {
	switch {
	case s.cfg.Snapshots == nil || r.URL.Path != SnapshotPath:
		http.NotFound(w, r)
		return nil
	case r.Method == http.MethodGet:
		w.Header().Set("Content-Type", "application/octet-stream")
		if err := s.cfg.Snapshots.Save(r.Context(), w); err != nil {
			// It may be half written by now: only a broken connection tells the other end, and the check at the end of the format.
			s.log.Warn("a snapshot was not sent", "error", err)
			panic(http.ErrAbortHandler)
		}
		return nil
	case r.Method != http.MethodPost:
		w.Header().Set("Allow", "GET, POST")
		http.Error(w, "a snapshot is read with GET and restored with POST", http.StatusMethodNotAllowed)
		return nil
	}
	done, err := s.cfg.Snapshots.Restore(r.Context(), r.Body)
	switch {
	case errors.Is(err, snapshot.ErrDamaged):
		return apierrors.NewBadRequest(err.Error())
	case err != nil:
		return fmt.Errorf("restore: %w", err)
	}
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(done)
}
