// Package sandbox keeps the pods' own part of a node: for each pod its namespaces, its shared memory and its place on the network.
//
// It writes DIR/ID/sandbox.json (what was asked for, and what became of it) with the files that containers get mounted (resolv.conf, hostname),
// and RUNDIR/ID/ns with one bind mount for each namespace, which keeps it alive without a process, and RUNDIR/ID/shm. A pod
// whose containers share process IDs has one process, "pause", in a control group of its own. Always: a record is on disk before anything
// is made, so whatever a killed process leaves is found and cleaned; a pod is ready only while all its namespaces are pinned.
package sandbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var (
	// ErrNotFound says that there is no such pod.
	ErrNotFound = errors.New("no such pod sandbox")
	// ErrExists says that a pod of the same name, UID and attempt is there.
	ErrExists = errors.New("pod sandbox exists")
)

// Network attaches pods: the bridge of package network, later CNI.
type Network interface {
	Add(ctx context.Context, sandbox, nsPath string) ([]netip.Addr, error)
	Remove(ctx context.Context, sandbox string) error
	Keep(sandboxes []string) error
}

// Config of a Manager.
type Config struct {
	Dir          string // records; on disk
	RunDir       string // pins; does not outlive a boot
	CgroupParent string // for pods that name none
	Executable   string // run as "EXECUTABLE pause"; /proc/self/exe if empty
	Network      Network
	Log          *slog.Logger
}

// Sandbox is one pod's sandbox at one moment, as a plain value. Config is shared: never change it.
type Sandbox struct {
	ID      string
	Created time.Time
	Ready   bool
	Config  *runtimeapi.PodSandboxConfig
	Handler string
	IPs     []netip.Addr
}

// Options are the namespaces that were asked for; never nil.
func (s Sandbox) Options() *runtimeapi.NamespaceOption {
	if o := s.Config.GetLinux().GetSecurityContext().GetNamespaceOptions(); o != nil {
		return o
	}
	return &runtimeapi.NamespaceOption{}
}

// HostNetwork says whether the pod lives on the node's network; then it has the node's host name too.
func (s Sandbox) HostNetwork() bool {
	return s.Options().GetNetwork() == runtimeapi.NamespaceMode_NODE
}

// box is what the manager holds of one sandbox.
type box struct {
	// Held while containers are made in it (shared), and while it is made, stopped or removed.
	use sync.RWMutex

	mu  sync.Mutex // guards rec
	rec record
}

func (b *box) record() record {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.rec
}

// Manager makes, stops and removes sandboxes.
type Manager struct {
	cfg Config

	mu    sync.RWMutex // guards boxes and names
	boxes map[string]*box
	names map[string]string // of which sandbox a name is
}

func (m *Manager) find(id string) (*box, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if b := m.boxes[id]; b != nil {
		return b, nil
	}
	return nil, fmt.Errorf("pod sandbox %q: %w", id, ErrNotFound)
}

// Get gives one sandbox.
func (m *Manager) Get(id string) (Sandbox, error) {
	b, err := m.find(id)
	if err != nil {
		return Sandbox{}, err
	}
	return b.record().value(), nil
}

// Resolve finds the whole ID of a sandbox by its first digits, if they fit one only.
func (m *Manager) Resolve(prefix string) string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.boxes[prefix] != nil || prefix == "" {
		return prefix
	}
	found := ""
	for id := range m.boxes {
		if strings.HasPrefix(id, prefix) {
			if found != "" {
				return prefix
			}
			found = id
		}
	}
	if found == "" {
		return prefix
	}
	return found
}

// List gives all sandboxes, the oldest first.
func (m *Manager) List() []Sandbox {
	m.mu.RLock()
	boxes := make([]*box, 0, len(m.boxes))
	for _, b := range m.boxes {
		boxes = append(boxes, b)
	}
	m.mu.RUnlock()
	all := make([]Sandbox, len(boxes))
	for i, b := range boxes {
		all[i] = b.record().value()
	}
	slices.SortFunc(all, func(a, b Sandbox) int {
		if c := a.Created.Compare(b.Created); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return all
}

// Use calls f while the sandbox is ready and can't be stopped; others may use it meanwhile.
func (m *Manager) Use(id string, f func(Sandbox) error) error {
	b, err := m.find(id)
	if err != nil {
		return err
	}
	b.use.RLock()
	defer b.use.RUnlock()
	s := b.record().value()
	if !s.Ready {
		return fmt.Errorf("pod sandbox %q is not ready", id)
	}
	return f(s)
}

// Run makes a sandbox. The record stays, not ready, if that fails and could not be undone.
func (m *Manager) Run(ctx context.Context, id string, config *runtimeapi.PodSandboxConfig, handler string) (Sandbox, error) {
	b := &box{rec: record{ID: id, Boot: bootID(), Created: time.Now().UnixNano(), Config: config, Handler: handler}}
	b.use.Lock()
	defer b.use.Unlock()
	name := b.rec.name()
	m.mu.Lock()
	if other := m.names[name]; other != "" {
		m.mu.Unlock()
		return Sandbox{}, fmt.Errorf("pod sandbox %s is %s: %w", name, other, ErrExists)
	}
	m.boxes[id], m.names[name] = b, id
	m.mu.Unlock()

	err := m.build(ctx, b)
	if err == nil {
		return b.record().value(), nil
	}
	err = fmt.Errorf("make pod sandbox %s: %w", name, err)
	clean := context.WithoutCancel(ctx)
	if undo := errors.Join(m.dismantle(clean, b), m.forget(b)); undo != nil {
		return Sandbox{}, errors.Join(err, undo)
	}
	return Sandbox{}, err
}

func (m *Manager) build(ctx context.Context, b *box) error {
	rec := b.record()
	if err := m.save(rec); err != nil {
		return err
	}
	s := rec.value()
	if err := m.writeFiles(s); err != nil {
		return err
	}
	if err := m.makeNamespaces(s); err != nil {
		return err
	}
	if !s.HostNetwork() {
		ips, err := m.cfg.Network.Add(ctx, s.ID, m.pin(s.ID, "net"))
		if err != nil {
			return err
		}
		rec.IPs = ips
	}
	rec.Ready = true
	if err := m.save(rec); err != nil {
		return err
	}
	b.mu.Lock()
	b.rec = rec
	b.mu.Unlock()
	return nil
}

// Stop takes the sandbox's network and namespaces away. before is called when no new container can begin in it any more; it
// ends those that are there. Stopping again is safe; a sandbox that is not there is no error.
func (m *Manager) Stop(ctx context.Context, id string, before func() error) error {
	b, err := m.find(id)
	if err != nil {
		return nil
	}
	b.use.Lock()
	defer b.use.Unlock()
	if err := before(); err != nil {
		return err
	}
	rec := b.record()
	if rec.Ready {
		rec.Ready = false
		if err := m.save(rec); err != nil {
			return err
		}
		b.mu.Lock()
		b.rec = rec
		b.mu.Unlock()
	}
	if rec.Clean {
		return nil
	}
	if err := m.dismantle(ctx, b); err != nil {
		return fmt.Errorf("stop pod sandbox %s: %w", rec.name(), err)
	}
	rec.Clean = true
	b.mu.Lock()
	b.rec = rec
	b.mu.Unlock()
	return m.save(rec)
}

// dismantle removes all that is beside the record. It tries everything.
func (m *Manager) dismantle(ctx context.Context, b *box) error {
	rec := b.record()
	var errs []error
	s := rec.value()
	if s.Options().GetPid() == runtimeapi.NamespaceMode_POD {
		errs = append(errs, m.endPause(s))
	}
	if !s.HostNetwork() {
		errs = append(errs, m.cfg.Network.Remove(ctx, rec.ID))
	}
	errs = append(errs, m.unpin(rec.ID))
	return errors.Join(errs...)
}

// Remove forgets a sandbox that has been stopped. One that is not there is no error.
func (m *Manager) Remove(id string) error {
	b, err := m.find(id)
	if err != nil {
		return nil
	}
	b.use.Lock()
	defer b.use.Unlock()
	if b.record().Ready {
		return fmt.Errorf("remove pod sandbox %s: it is not stopped", id)
	}
	return m.forget(b)
}

func (m *Manager) forget(b *box) error {
	rec := b.record()
	if err := os.RemoveAll(filepath.Join(m.cfg.Dir, rec.ID)); err != nil {
		return fmt.Errorf("remove pod sandbox %s: %w", rec.ID, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.boxes, rec.ID)
	if m.names[rec.name()] == rec.ID {
		delete(m.names, rec.name())
	}
	return nil
}
