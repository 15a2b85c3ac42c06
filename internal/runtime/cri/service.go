// Package cri is the runtime as CRI's RuntimeService shows it: pods and containers out of sandboxes, images, snapshots and processes.
//
// It writes DIR/containers-cri/ID.json, what a container was asked for; all else is written by the packages that it joins. Always: a container's record
// is on disk before anything of it is made, and goes last; so what a killed process leaves is found, and removed or shown. No
// lock is held over more than one pod.
package cri

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sampan.dev/internal/runtime/container"
	"sampan.dev/internal/runtime/image"
	"sampan.dev/internal/runtime/network"
	"sampan.dev/internal/runtime/sandbox"
	"sampan.dev/internal/runtime/snapshot"
	"sampan.dev/internal/runtime/stream"
)

// Config of a Service.
type Config struct {
	Root         string // on disk
	RunDir       string // does not outlive a boot
	CgroupRoot   string // where the hierarchies are
	CgroupParent string // for pods that name none
	Bridge       string
	Version      string
	Log          *slog.Logger
}

// Service answers CRI's calls about pods and containers.
type Service struct {
	runtimeapi.UnimplementedRuntimeServiceServer

	cfg        Config
	images     *image.Store
	snapshots  *snapshot.Store
	network    *network.Network
	sandboxes  *sandbox.Manager
	containers *container.Manager
	streams    *stream.Server
	records    *records
	events     *broker
	samples    samples
	collecting sync.Mutex // held while unused layers are deleted
}

// Open opens all parts, finds what ran before, and cleans what was left half made.
func Open(ctx context.Context, cfg Config) (s *Service, err error) {
	s = &Service{cfg: cfg, events: newBroker(cfg.Log)}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if s.snapshots, err = snapshot.Open(filepath.Join(cfg.Root, "snapshots"), cfg.Log); err != nil {
		return s, err
	}
	if s.images, err = image.Open(filepath.Join(cfg.Root, "images"), image.Options{Log: cfg.Log, InUse: s.snapshots.Layers}); err != nil {
		return s, err
	}
	if s.network, err = network.Open(network.Config{Dir: filepath.Join(cfg.Root, "network"), Bridge: cfg.Bridge, Log: cfg.Log}); err != nil {
		return s, err
	}
	if s.records, err = openRecords(filepath.Join(cfg.Root, "containers-cri"), cfg.Log); err != nil {
		return s, err
	}
	s.sandboxes, err = sandbox.Open(ctx, sandbox.Config{
		Dir: filepath.Join(cfg.Root, "sandboxes"), RunDir: filepath.Join(cfg.RunDir, "sandboxes"),
		CgroupParent: cfg.CgroupParent, Network: s.network, Log: cfg.Log,
	})
	if err != nil {
		return s, err
	}
	s.containers, err = container.Open(container.Config{
		Dir: filepath.Join(cfg.Root, "containers"), RunDir: filepath.Join(cfg.RunDir, "containers"),
		CgroupRoot: cfg.CgroupRoot, Log: cfg.Log, OnEvent: s.onState,
	})
	if err != nil {
		return s, err
	}
	s.settle(ctx)
	s.streams, err = stream.New("127.0.0.1:0", execution{s}, cfg.Log)
	return s, err
}

// settle makes records, containers and snapshots agree after a start.
func (s *Service) settle(ctx context.Context) {
	warn := func(what, id string, err error) {
		if err != nil {
			s.cfg.Log.Warn(what, "container", id, "error", err)
		}
	}
	known := map[string]bool{}
	for _, id := range s.containers.IDs() {
		if s.records.get(id) == nil {
			warn("remove a container that has no record", id, s.containers.Remove(ctx, id))
			continue
		}
		known[id] = true
	}
	var keep []string
	for _, r := range s.records.list() {
		if !known[r.ID] {
			warn("forget a container that was not made", r.ID, s.records.remove(r.ID))
			continue
		}
		keep = append(keep, r.ID)
		// A pod that has lost its namespaces (the machine was restarted, or they were taken away) has no running container.
		if pod, err := s.sandboxes.Get(r.Sandbox); err != nil || !pod.Ready {
			if st, err := s.state(r.ID); err == nil && st.Status == container.Running {
				warn("stop a container whose pod has ended", r.ID, s.containers.Stop(ctx, r.ID, 0))
			}
		}
	}
	if err := s.snapshots.Reconcile(keep); err != nil {
		s.cfg.Log.Warn("remove snapshots that nobody needs", "error", err)
	}
	if err := s.images.Collect(); err != nil {
		s.cfg.Log.Warn("delete layers that nobody needs", "error", err)
	}
}

// Images is the store, for those who serve it.
func (s *Service) Images() *image.Store { return s.images }

// Run serves streams and hands events out until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	var all sync.WaitGroup
	all.Go(func() { s.events.run(ctx, s.describe) })
	err := s.streams.Run(ctx)
	all.Wait()
	return err
}

// Close lets go of all that was opened. Pods and containers run on.
func (s *Service) Close() error {
	var errs []error
	if s.containers != nil {
		errs = append(errs, s.containers.Close())
	}
	if s.sandboxes != nil {
		errs = append(errs, s.sandboxes.Close())
	}
	if s.network != nil {
		s.network.Close()
	}
	if s.images != nil {
		errs = append(errs, s.images.Close())
	}
	return errors.Join(errs...)
}

// newID makes the ID of a pod or container: 64 hexadecimal digits, as all tools expect.
func newID() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// coded gives an error the gRPC code that callers go by.
func coded(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	code := codes.Unknown
	switch {
	case errors.Is(err, sandbox.ErrNotFound), errors.Is(err, container.ErrNotFound), errors.Is(err, errNoContainer):
		code = codes.NotFound
	case errors.Is(err, sandbox.ErrExists):
		code = codes.AlreadyExists
	case errors.Is(err, context.DeadlineExceeded):
		code = codes.DeadlineExceeded
	case errors.Is(err, context.Canceled):
		code = codes.Canceled
	}
	return status.Error(code, err.Error())
}

func invalid(format string, args ...any) error {
	return status.Error(codes.InvalidArgument, fmt.Sprintf(format, args...))
}

func (s *Service) state(id string) (container.State, error) {
	st, ok := s.containers.State(id)
	if !ok {
		return st, fmt.Errorf("container %q: %w", id, errNoContainer)
	}
	return st, nil
}
