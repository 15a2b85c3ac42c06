package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"

	"sampan.dev/internal/agent/logs"
)

// serveLogs writes a container's log, in the words of Kubernetes where there is none.
func (a *Agent) serveLogs(w http.ResponseWriter, r *http.Request) {
	pod, ok := a.target(w, r)
	if !ok {
		return
	}
	name := r.PathValue("container")
	if containerOf(pod, name) == nil {
		http.Error(w, fmt.Sprintf("container %q not found in pod %q", name, pod.Name), http.StatusNotFound)
		return
	}
	o, previous, err := logOptions(r.URL.Query(), time.Now())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var m memory
	seen, err := a.observe(r.Context(), pod.UID, &m)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	c, err := logOf(pod, seen, name, previous)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	path := filepath.Join(a.logDir(pod.Namespace, pod.Name, pod.UID), logFile(c.Name, c.Attempt))
	out := &lazyWriter{ResponseWriter: w}
	switch r.URL.Query().Get("stream") {
	case "", "All":
		o.Stdout, o.Stderr = out, out
	case "Stdout":
		o.Stdout = out
	case "Stderr":
		o.Stderr = out
	}
	o.Flush = out.flush
	w.Header().Set("Content-Type", "text/plain")
	// The answer begins with the reader's first flush, once its place in the file is fixed: whatever is written after a client has
	// seen the answer begin comes to it.
	err = logs.Read(r.Context(), path, o, a.watcher, func() bool { return a.stillRuns(r.Context(), pod, c.ID) })
	if err != nil && r.Context().Err() == nil {
		if errors.Is(err, fs.ErrNotExist) {
			fmt.Fprintf(out, "unable to retrieve container logs for %s\n", c.ID)
			return
		}
		a.log.Info("serve log", "pod", pod.Namespace+"/"+pod.Name, "container", name, "error", err)
	}
}

type lazyWriter struct{ http.ResponseWriter }

func (w *lazyWriter) flush() {
	if f, ok := w.ResponseWriter.(http.Flusher); ok {
		f.Flush()
	}
}

// stillRuns asks the pod's worker, and the runtime only if the worker knows of none: it may just have started, or ended. A runtime
// that does not answer leaves the follower waiting.
func (a *Agent) stillRuns(ctx context.Context, pod *corev1.Pod, id string) bool {
	a.mu.Lock()
	worker := a.workers[pod.UID]
	a.mu.Unlock()
	if worker != nil {
		worker.mu.Lock()
		runs := slices.ContainsFunc(worker.running, func(c Container) bool { return c.ID == id })
		worker.mu.Unlock()
		if runs {
			return true
		}
	}
	var m memory
	seen, err := a.observe(ctx, pod.UID, &m)
	if err != nil {
		return ctx.Err() == nil
	}
	for _, c := range seen.Containers {
		if c.ID == id {
			return c.State != Exited
		}
	}
	return false
}

// logOf finds the container whose log is meant.
func logOf(pod *corev1.Pod, seen Observed, name string, previous bool) (*Container, error) {
	var all []*Container
	for i := range seen.Containers {
		if c := &seen.Containers[i]; c.Name == name && c.State != Created {
			all = append(all, c)
		}
	}
	waiting := waitingReason(pod, name)
	if previous {
		// While a container waits to be started again, the last one that ended is the previous one.
		if len(all) > 0 && all[0].State == Exited && waiting != "" {
			return all[0], nil
		}
		if len(all) > 1 {
			return all[1], nil
		}
		return nil, fmt.Errorf("previous terminated container %q in pod %q not found", name, pod.Name)
	}
	if len(all) > 0 {
		return all[0], nil
	}
	switch waiting {
	case reasonPull:
		return nil, fmt.Errorf("container %q in pod %q is waiting to start: image can't be pulled", name, pod.Name)
	case reasonPullBackOff:
		return nil, fmt.Errorf("container %q in pod %q is waiting to start: trying and failing to pull image", name, pod.Name)
	case "":
		return nil, fmt.Errorf("container %q in pod %q is not available", name, pod.Name)
	}
	return nil, fmt.Errorf("container %q in pod %q is waiting to start: %v", name, pod.Name, waiting)
}

func waitingReason(pod *corev1.Pod, name string) string {
	for _, list := range [][]corev1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses} {
		for i := range list {
			if list[i].Name == name && list[i].State.Waiting != nil {
				return list[i].State.Waiting.Reason
			}
		}
	}
	return ""
}

// logOptions reads a request's query, in the API's own names.
func logOptions(q url.Values, now time.Time) (o logs.Options, previous bool, err error) {
	o.Tail = -1
	number := func(name string, least int64, to func(int64)) {
		s := q.Get(name)
		if s == "" || err != nil {
			return
		}
		n, perr := strconv.ParseInt(s, 10, 64)
		if perr != nil || n < least {
			err = fmt.Errorf("invalid %s: %q", name, s)
			return
		}
		to(n)
	}
	number("tailLines", 0, func(n int64) { o.Tail = n })
	number("limitBytes", 1, func(n int64) { o.Limit = n })
	number("sinceSeconds", 1, func(n int64) { o.Since = now.Add(-time.Duration(n) * time.Second) })
	if s := q.Get("sinceTime"); s != "" && err == nil {
		if o.Since, err = time.Parse(time.RFC3339Nano, s); err != nil {
			err = fmt.Errorf("invalid sinceTime: %q", s)
		}
	}
	if s := q.Get("stream"); err == nil && s != "" && s != "All" && s != "Stdout" && s != "Stderr" {
		err = fmt.Errorf("invalid stream: %q", s)
	}
	o.Follow, o.Timestamps, previous = flag(q, "follow"), flag(q, "timestamps"), flag(q, "previous")
	return o, previous, err
}
