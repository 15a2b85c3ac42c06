package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// record is what sandbox.json holds.
type record struct {
	ID      string                       `json:"id"`
	Boot    string                       `json:"boot"` // of the kernel that holds the namespaces
	Created int64                        `json:"created"`
	Ready   bool                         `json:"ready"`
	Clean   bool                         `json:"clean,omitempty"` // nothing but the record is left
	Config  *runtimeapi.PodSandboxConfig `json:"config"`
	Handler string                       `json:"handler,omitempty"`
	IPs     []netip.Addr                 `json:"ips,omitempty"`
}

func (r record) value() Sandbox {
	return Sandbox{ID: r.ID, Created: time.Unix(0, r.Created), Ready: r.Ready, Config: r.Config, Handler: r.Handler, IPs: r.IPs}
}

// name is what may be there once only.
func (r record) name() string {
	meta := r.Config.GetMetadata()
	return fmt.Sprintf("%s/%s_%s_%d", meta.GetNamespace(), meta.GetName(), meta.GetUid(), meta.GetAttempt())
}

var bootID = sync.OnceValue(func() string {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(data))
})

// save writes the record so that it is there whole or not at all.
func (m *Manager) save(rec record) error {
	data, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("encode record of pod sandbox %s: %w", rec.ID, err)
	}
	dir := filepath.Join(m.cfg.Dir, rec.ID)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("save record of pod sandbox: %w", err)
	}
	path := filepath.Join(dir, "sandbox.json")
	// Not synced: a record has to outlive this process; after a stop of the machine no sandbox is left that it could tell of.
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		return fmt.Errorf("save record of pod sandbox: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("save record of pod sandbox: %w", err)
	}
	return nil
}

// Open finds the sandboxes that were there, and cleans what is left of those that are no more.
func Open(ctx context.Context, cfg Config) (*Manager, error) {
	if cfg.Executable == "" {
		cfg.Executable = "/proc/self/exe"
	}
	m := &Manager{cfg: cfg, boxes: map[string]*box{}, names: map[string]string{}}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("open sandboxes: %w", err)
	}
	if err := privateMount(cfg.RunDir); err != nil {
		return nil, fmt.Errorf("open sandboxes: %w", err)
	}
	entries, err := os.ReadDir(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("open sandboxes: %w", err)
	}
	var alive []string
	for _, e := range entries {
		b := m.load(ctx, e.Name())
		if b == nil {
			continue
		}
		m.boxes[b.rec.ID], m.names[b.rec.name()] = b, b.rec.ID
		if b.rec.Ready {
			alive = append(alive, b.rec.ID)
		}
	}
	pins, err := os.ReadDir(cfg.RunDir)
	if err != nil {
		return nil, fmt.Errorf("open sandboxes: %w", err)
	}
	for _, e := range pins {
		if m.boxes[e.Name()] == nil {
			if err := m.unpin(e.Name()); err != nil {
				cfg.Log.Warn("clean up after a pod sandbox that is no more", "sandbox", e.Name(), "error", err)
			}
		}
	}
	if err := cfg.Network.Keep(alive); err != nil {
		cfg.Log.Warn("free what pods of the past held on the network", "error", err)
	}
	return m, nil
}

// load reads one record, nil if there is none that can be read, and settles what state its sandbox is in.
func (m *Manager) load(ctx context.Context, id string) *box {
	dir := filepath.Join(m.cfg.Dir, id)
	data, err := os.ReadFile(filepath.Join(dir, "sandbox.json"))
	b := &box{}
	if err == nil {
		err = json.Unmarshal(data, &b.rec)
	}
	if err == nil && (b.rec.ID != id || b.rec.Config == nil) {
		err = errors.New("not a record of this sandbox")
	}
	if err != nil {
		m.cfg.Log.Warn("forget a pod sandbox whose record can't be read", "sandbox", id, "error", err)
		if err := os.RemoveAll(dir); err != nil {
			m.cfg.Log.Warn("remove the directory of a pod sandbox", "sandbox", id, "error", err)
		}
		return nil
	}
	if b.rec.Clean && b.rec.Boot == bootID() {
		return b
	}
	if b.rec.Ready && b.rec.Boot == bootID() && m.pinned(b.rec.value()) {
		return b
	}
	b.rec.Ready = false
	if err := m.dismantle(ctx, b); err != nil {
		m.cfg.Log.Warn("clean up after a pod sandbox that has ended", "sandbox", id, "error", err)
	} else {
		b.rec.Clean, b.rec.Boot = true, bootID()
	}
	if err := m.save(b.rec); err != nil {
		m.cfg.Log.Warn("save that a pod sandbox has ended", "sandbox", id, "error", err)
	}
	return b
}

// Close takes the run directory's mount away if no sandbox needs it. Sandboxes stay.
func (m *Manager) Close() error { return leaveMount(m.cfg.RunDir) }
