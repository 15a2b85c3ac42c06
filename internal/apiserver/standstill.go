package apiserver

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// StorePath is where it is read how the store is: a StoreState. Nodes may, so that one whose renewals fail knows whether it is missed.
const StorePath = "/sampan/v1/store"

// StoreState is what a server says of its store.
type StoreState struct {
	// Stalled is for how long, up to now, the store has taken nothing at all; zero if it works, or if nothing is known of that. What is said here does not count as silence of
	// a node, neither before nor after it is said: internal/controller/tainteviction tells what that is for.
	Stalled metav1.Duration `json:"stalled"`
}

func (s *Server) storeState(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodGet {
		w.Header().Set("Allow", "GET")
		http.Error(w, "how the store is is only read", http.StatusMethodNotAllowed)
		return nil
	}
	stalled := time.Duration(0)
	if s.cfg.Standstill != nil {
		stalled = s.cfg.Standstill()
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-cache, private")
	if err := json.NewEncoder(w).Encode(StoreState{metav1.Duration{Duration: stalled}}); err != nil {
		return fmt.Errorf("tell how the store is: %w", err)
	}
	return nil
}
