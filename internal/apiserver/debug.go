package apiserver

import (
	"fmt"
	"net/http"
	"runtime/pprof"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// What a look at the running program may take.
const (
	profileFor  = 30 * time.Second // as long as nothing else is asked for
	profileMost = 5 * time.Minute
)

// debug serves profiles of this program under upstream's paths, in the form that `go tool pprof` reads: /debug/pprof/profile?seconds=N is of processor time, every other name one
// of runtime/pprof's (heap, goroutine, allocs, block, mutex, threadcreate; with debug=1 or 2 as text). Only who may get the path is let in: administrators.
func (s *Server) debug(w http.ResponseWriter, r *http.Request) error {
	name, ok := strings.CutPrefix(strings.TrimSuffix(r.URL.Path, "/"), "/debug/pprof")
	if !ok {
		http.NotFound(w, r)
		return nil
	}
	if r.Method != http.MethodGet {
		w.Header().Set("Allow", http.MethodGet)
		http.Error(w, http.StatusText(http.StatusMethodNotAllowed), http.StatusMethodNotAllowed)
		return nil
	}
	name = strings.TrimPrefix(name, "/")
	switch name {
	case "":
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprintln(w, "profile")
		for _, p := range pprof.Profiles() {
			fmt.Fprintln(w, p.Name())
		}
		return nil
	case "profile":
		return s.processorTime(w, r)
	}
	p := pprof.Lookup(name)
	if p == nil {
		http.NotFound(w, r)
		return nil
	}
	level, _ := strconv.Atoi(r.URL.Query().Get("debug"))
	contentType := "application/octet-stream"
	if level > 0 {
		contentType = "text/plain; charset=utf-8"
	}
	w.Header().Set("Content-Type", contentType)
	return p.WriteTo(w, level)
}

func (s *Server) processorTime(w http.ResponseWriter, r *http.Request) error {
	took := profileFor
	if text := r.URL.Query().Get("seconds"); text != "" {
		n, err := strconv.ParseFloat(text, 64)
		took = time.Duration(n * float64(time.Second))
		if err != nil || took <= 0 || took > profileMost {
			return apierrors.NewBadRequest(fmt.Sprintf("seconds=%q: a number above 0 and up to %.0f is wanted", text, profileMost.Seconds()))
		}
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	if err := pprof.StartCPUProfile(w); err != nil { // there is one at a time
		return apierrors.NewInternalError(err)
	}
	defer pprof.StopCPUProfile()
	timer := time.NewTimer(took)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.Context().Done():
	}
	return nil
}
