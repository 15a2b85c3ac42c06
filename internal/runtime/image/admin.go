package image

import (
	"encoding/json"
	"io"
	"net/http"
)

// line is one line of an answer to /load.
type line struct {
	Progress
	Current int64  `json:"current,omitempty"`
	Total   int64  `json:"total,omitempty"`
	Error   string `json:"error,omitempty"`
}

// NewAdminHandler serves what CRI has no call for; the package comment tells the protocol. It asks nobody who they are:
// serve it on a socket that only root can open.
func NewAdminHandler(store *Store) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /load", func(w http.ResponseWriter, r *http.Request) {
		name := r.URL.Query().Get("name")
		if name != "" {
			if _, err := ParseReference(name); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
		}
		// What an archive has behind its end is read too: a connection cannot go on with a part of its request unread.
		defer func() { _, _ = io.Copy(io.Discard, r.Body) }()
		control := http.NewResponseController(w)
		_ = control.EnableFullDuplex() // progress goes out while the archive comes in
		w.Header().Set("Content-Type", "application/x-ndjson")
		w.WriteHeader(http.StatusOK)
		_ = control.Flush()
		out := json.NewEncoder(w)
		send := func(l line) {
			// A client that went away is noticed by the body's end.
			_ = out.Encode(l)
			_ = control.Flush()
		}
		images, err := store.Load(r.Context(), r.Body, name, func(p Progress) {
			send(line{Progress: p, Current: p.Current, Total: p.Total})
		})
		if err != nil {
			send(line{Progress: Progress{Status: "error"}, Error: err.Error()})
			return
		}
		for _, m := range images {
			send(line{Progress: Progress{Status: "loaded", Image: m.ID, Names: m.RepoTags}})
		}
	})
	return mux
}
