package cri

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var errNoContainer = errors.New("no such container")

// record is what CRI knows of a container and the process does not. A record never changes once it is in the table; a changed
// one takes its place.
type record struct {
	ID       string                         `json:"id"`
	Sandbox  string                         `json:"sandbox"`
	Created  int64                          `json:"created"`
	Config   *runtimeapi.ContainerConfig    `json:"config"`
	ImageID  string                         `json:"imageId"`
	ImageRef string                         `json:"imageRef"`
	LogPath  string                         `json:"logPath,omitempty"`
	User     *runtimeapi.LinuxContainerUser `json:"user,omitempty"`
	Signal   runtimeapi.Signal              `json:"signal,omitempty"`

	made bool // it can be seen: set once the container is there
}

func (r *record) name() string {
	return fmt.Sprintf("%s_%s_%d", r.Sandbox, r.Config.GetMetadata().GetName(), r.Config.GetMetadata().GetAttempt())
}

// records keeps them in memory, and on disk in one file each.
type records struct {
	dir string

	mu     sync.RWMutex // guards the maps
	byID   map[string]*record
	byName map[string]string
	busy   map[string]*sync.Mutex // held while one is changed or removed
}

func openRecords(dir string, log *slog.Logger) (*records, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open container records: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("open container records: %w", err)
	}
	t := &records{dir: dir, byID: map[string]*record{}, byName: map[string]string{}, busy: map[string]*sync.Mutex{}}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		id, ok := strings.CutSuffix(e.Name(), ".json")
		var r record
		if ok {
			data, err := os.ReadFile(path)
			if err == nil {
				err = json.Unmarshal(data, &r)
			}
			if err == nil && r.ID == id && r.Config != nil {
				r.made = true
				t.put(&r)
				continue
			}
			log.Warn("forget a container whose record can't be read", "container", id, "error", err)
		}
		if err := os.Remove(path); err != nil {
			log.Warn("remove what is no container's record", "path", path, "error", err)
		}
	}
	return t, nil
}

func (t *records) put(r *record) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.byID[r.ID], t.byName[r.name()] = r, r.ID
	if t.busy[r.ID] == nil {
		t.busy[r.ID] = new(sync.Mutex)
	}
}

// reserve takes the container's name within its pod.
func (t *records) reserve(r *record) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if other := t.byName[r.name()]; other != "" {
		return fmt.Errorf("container %s attempt %d of this pod is %s already", r.Config.GetMetadata().GetName(), r.Config.GetMetadata().GetAttempt(), other)
	}
	t.byID[r.ID], t.byName[r.name()], t.busy[r.ID] = r, r.ID, new(sync.Mutex)
	return nil
}

func (t *records) save(r *record) error {
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode record of container %s: %w", r.ID, err)
	}
	path := filepath.Join(t.dir, r.ID+".json")
	// Not synced: no container outlives a stop of the machine. What then can't be read is removed at the next start.
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		return fmt.Errorf("save record of container: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("save record of container: %w", err)
	}
	t.put(r)
	return nil
}

func (t *records) remove(id string) error {
	if err := os.Remove(filepath.Join(t.dir, id+".json")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove record of container: %w", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if r := t.byID[id]; r != nil {
		delete(t.byName, r.name())
	}
	delete(t.byID, id)
	delete(t.busy, id)
	return nil
}

func (t *records) get(id string) *record {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.byID[id]
}

// find gives a container that is made, by its ID or the first digits of it.
func (t *records) find(id string) (*record, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	found := t.byID[id]
	if found == nil && id != "" {
		for full, r := range t.byID {
			if strings.HasPrefix(full, id) {
				if found != nil {
					return nil, fmt.Errorf("container %q: more than one begins so: %w", id, errNoContainer)
				}
				found = r
			}
		}
	}
	if found == nil || !found.made {
		return nil, fmt.Errorf("container %q: %w", id, errNoContainer)
	}
	return found, nil
}

// lock keeps others from changing or removing a container; nil if it is gone.
func (t *records) lock(id string) (unlock func()) {
	t.mu.RLock()
	mu := t.busy[id]
	t.mu.RUnlock()
	if mu == nil {
		return nil
	}
	mu.Lock()
	if t.get(id) == nil {
		mu.Unlock()
		return nil
	}
	return mu.Unlock
}

// list gives the containers that are made, the oldest first.
func (t *records) list() []*record { return t.where(func(*record) bool { return true }) }

func (t *records) where(fits func(*record) bool) []*record {
	t.mu.RLock()
	var all []*record
	for _, r := range t.byID {
		if r.made && fits(r) {
			all = append(all, r)
		}
	}
	t.mu.RUnlock()
	slices.SortFunc(all, func(a, b *record) int {
		if a.Created != b.Created {
			if a.Created < b.Created {
				return -1
			}
			return 1
		}
		return strings.Compare(a.ID, b.ID)
	})
	return all
}

func (t *records) of(sandbox string) []*record {
	return t.where(func(r *record) bool { return r.Sandbox == sandbox })
}
