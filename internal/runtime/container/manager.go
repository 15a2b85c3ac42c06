package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	_ "github.com/opencontainers/cgroups/devices" // lets control groups say which devices may be used
	"github.com/opencontainers/runc/libcontainer"
)

// Manager looks after all containers of a node.
type Manager struct {
	cfg      Config
	ownOOM   int
	lowerOOM bool
	closing  context.Context
	close    context.CancelFunc
	watching sync.WaitGroup

	mu  sync.Mutex // guards all
	all map[string]*container
}

// container is what is kept in memory of one.
type container struct {
	id    string
	op    sync.Mutex    // held by Start and Remove, one at a time
	ended chan struct{} // closed once it has exited

	mu      sync.Mutex // guards the fields below
	state   State
	io      *stdio                // while it runs
	process *process              // its first process, while it runs
	child   *libcontainer.Process // the same, if it is this process's child
	paths   map[string]string     // of its control groups, by controller
	stop    *stopping             // a stop under way
}

// Open finds the containers that there are: those that run are looked after again, the others have exited.
func Open(cfg Config) (*Manager, error) {
	if cfg.CgroupRoot == "" {
		cfg.CgroupRoot = "/sys/fs/cgroup"
	}
	if cfg.OnEvent == nil {
		cfg.OnEvent = func(State) {}
	}
	m := &Manager{cfg: cfg, all: map[string]*container{}}
	m.closing, m.close = context.WithCancel(context.Background())
	m.ownOOM, m.lowerOOM = canLowerOOM()
	for _, dir := range []string{cfg.Dir, cfg.RunDir, m.libRoot()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("open containers: %w", err)
		}
	}
	if err := m.forgetBoot(); err != nil {
		return nil, fmt.Errorf("open containers: %w", err)
	}
	entries, err := os.ReadDir(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("open containers: %w", err)
	}
	for _, e := range entries {
		if !validID.MatchString(e.Name()) {
			continue
		}
		if err := m.adopt(e.Name()); err != nil {
			cfg.Log.Warn("container cannot be taken up again; what is left of it is removed", "container", e.Name(), "error", err)
			if err := os.RemoveAll(m.dir(e.Name())); err != nil {
				return nil, fmt.Errorf("open containers: %w", err)
			}
		}
	}
	return m, nil
}

// Close stops looking after the containers, which run on.
func (m *Manager) Close() error {
	m.close()
	m.watching.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.all {
		if c.process != nil {
			c.process.close()
		}
		if c.io != nil && c.io.stdin != nil {
			_ = c.io.stdin.Close()
		}
	}
	return nil
}

func (m *Manager) get(id string) (*container, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.all[id]
	if c == nil {
		return nil, fmt.Errorf("container %s: %w", id, ErrNotFound)
	}
	return c, nil
}

// State returns what there is to know of a container now.
func (m *Manager) State(id string) (State, bool) {
	c, err := m.get(id)
	if err != nil {
		return State{}, false
	}
	return c.now(), true
}

func (c *container) now() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

// IDs lists all containers, sorted.
func (m *Manager) IDs() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	ids := make([]string, 0, len(m.all))
	for id := range m.all {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// Create writes a container down. Nothing runs yet.
func (m *Manager) Create(_ context.Context, s Spec) (State, error) {
	if !validID.MatchString(s.ID) {
		return State{}, fmt.Errorf("create container: %q is no ID", s.ID)
	}
	c := &container{id: s.ID, ended: make(chan struct{}), state: State{ID: s.ID, Status: Created, Created: time.Now()}}
	m.mu.Lock()
	if m.all[s.ID] != nil {
		m.mu.Unlock()
		return State{}, fmt.Errorf("create container %s: %w", s.ID, ErrExists)
	}
	m.all[s.ID] = c
	m.mu.Unlock()
	err := os.MkdirAll(m.dir(s.ID), 0o700)
	if err == nil {
		err = errors.Join(save(filepath.Join(m.dir(s.ID), "spec.json"), s), m.saveState(c.state), m.makeFIFOs(&s))
	}
	if err != nil {
		m.forget(s.ID)
		return State{}, fmt.Errorf("create container %s: %w", s.ID, err)
	}
	return c.state, nil
}

// forget drops a container and its files.
func (m *Manager) forget(id string) {
	m.mu.Lock()
	delete(m.all, id)
	m.mu.Unlock()
	if err := errors.Join(os.RemoveAll(m.dir(id)), os.RemoveAll(m.runDir(id))); err != nil {
		m.cfg.Log.Warn("files of a container are left", "container", id, "error", err)
	}
}
