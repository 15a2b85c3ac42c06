package apiserver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	apiversion "k8s.io/apimachinery/pkg/version"

	"sampan.dev/internal/auth"
	"sampan.dev/internal/store"
	"sampan.dev/internal/version"
)

// check is one question of /healthz, /livez or /readyz.
type check struct {
	name string
	ask  func(context.Context) error
}

// checks are those of an endpoint, in the order they are told.
func (s *Server) checks(endpoint string) []check {
	all := []check{
		{"ping", func(context.Context) error { return nil }},
		{"etcd", s.storeAnswers(aliveWithin)}, // what upstream's tools ask for; here it is whatever store there is
	}
	if endpoint == "readyz" {
		all[1].ask = s.storeAnswers(readyWithin)
		all = append(all, check{"informer-sync", s.cacheFilled}, check{"shutdown", s.notStopping})
		if s.cfg.Slow != nil {
			all = append(all, check{"store-pace", func(context.Context) error { return s.cfg.Slow() }})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.cfg.Ready)) {
		all = append(all, check{name, func(context.Context) error { return s.cfg.Ready[name]() }})
	}
	return all
}

// How long the store has to answer. A server that is not ready is not asked for a while; one that is not alive is started again by whoever looks after it, which makes no
// store quicker.
const (
	readyWithin = 2 * time.Second
	aliveWithin = 10 * time.Second
)

func (s *Server) storeAnswers(within time.Duration) func(context.Context) error {
	return func(ctx context.Context) error {
		asking, cancel := context.WithTimeout(ctx, within)
		defer cancel()
		_, err := s.store.Get(asking, "health")
		switch {
		case err == nil || errors.Is(err, store.ErrNotFound):
			return nil
		case s.cfg.Members != nil && ctx.Err() == nil:
			return fmt.Errorf("no answer within %v (%s)", within, s.cfg.Members(ctx))
		}
		return err
	}
}

func (s *Server) cacheFilled(context.Context) error {
	select {
	case <-s.cache.Ready():
		return nil
	default:
		return errors.New("the cache has not been filled yet")
	}
}

func (s *Server) notStopping(context.Context) error {
	select {
	case <-s.stopping:
		return errors.New("process is shutting down")
	default:
		return nil
	}
}

func (s *Server) health(w http.ResponseWriter, r *http.Request) error {
	endpoint, one, single := strings.Cut(strings.Trim(r.URL.Path, "/"), "/")
	checks := s.checks(endpoint)
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Cache-Control", "no-cache, private")
	h.Set("X-Content-Type-Options", "nosniff")
	if single {
		i := slices.IndexFunc(checks, func(c check) bool { return c.name == one })
		if i < 0 {
			http.NotFound(w, r)
			return nil
		}
		if err := checks[i].ask(r.Context()); err != nil {
			http.Error(w, fmt.Sprintf("internal server error: %v", err), http.StatusInternalServerError)
			return nil
		}
		_, _ = w.Write([]byte("ok"))
		return nil
	}
	q := r.URL.Query()
	excluded := map[string]bool{}
	for _, name := range q["exclude"] {
		excluded[name] = true
	}
	var told bytes.Buffer
	failed := false
	for _, c := range checks {
		if excluded[c.name] {
			delete(excluded, c.name)
			fmt.Fprintf(&told, "[+]%s excluded: ok\n", c.name)
			continue
		}
		if err := c.ask(r.Context()); err != nil {
			s.log.Warn("health check failed", "endpoint", endpoint, "check", c.name, "error", err)
			failed = true
			reason := "reason withheld"
			if auth.User(r.Context()).Name != auth.Anonymous {
				reason = err.Error()
			}
			fmt.Fprintf(&told, "[-]%s failed: %s\n", c.name, reason)
			continue
		}
		fmt.Fprintf(&told, "[+]%s ok\n", c.name)
	}
	if len(excluded) > 0 {
		var names []string
		for _, name := range slices.Sorted(maps.Keys(excluded)) {
			names = append(names, strconv.Quote(name))
		}
		fmt.Fprintf(&told, "warn: some health checks cannot be excluded: no matches for %s\n", strings.Join(names, ","))
	}
	if failed {
		http.Error(w, fmt.Sprintf("%s%s check failed", told.String(), endpoint), http.StatusInternalServerError)
		return nil
	}
	if _, verbose := q["verbose"]; !verbose {
		_, _ = w.Write([]byte("ok"))
		return nil
	}
	fmt.Fprintf(&told, "%s check passed\n", endpoint)
	_, _ = w.Write(told.Bytes())
	return nil
}

// version tells which Kubernetes this is.
func (s *Server) version(w http.ResponseWriter, r *http.Request) error {
	if strings.Trim(r.URL.Path, "/") != "version" {
		http.NotFound(w, r)
		return nil
	}
	data, err := json.MarshalIndent(apiversion.Info{
		Major: version.Major, Minor: version.Minor,
		EmulationMajor: version.Major, EmulationMinor: version.Minor,
		GitVersion: s.cfg.Version, GitTreeState: "clean",
		GoVersion: runtime.Version(), Compiler: runtime.Compiler, Platform: runtime.GOOS + "/" + runtime.GOARCH,
	}, "", "  ")
	if err != nil {
		return fmt.Errorf("tell version: %w", err)
	}
	s.send(w, r, asJSON.String(), http.StatusOK, data)
	return nil
}
