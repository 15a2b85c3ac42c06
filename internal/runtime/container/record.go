package container

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
)

// validID keeps names that come from outside from being paths.
var validID = regexp.MustCompile(`^[0-9a-f]{8,64}$`)

func (m *Manager) dir(id string) string    { return filepath.Join(m.cfg.Dir, id) }
func (m *Manager) runDir(id string) string { return filepath.Join(m.cfg.RunDir, id) }
func (m *Manager) libRoot() string         { return filepath.Join(m.cfg.RunDir, "libcontainer") }

// save writes a value as JSON in one step.
func save(path string, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		f.Close()
		return err
	}
	// Not synced: after a loss of power nothing runs that this could be about; a kill leaves the old file or the new one.
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func read(path string, value any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, value)
}

func (m *Manager) saveState(s State) error {
	if err := save(filepath.Join(m.dir(s.ID), "state.json"), s); err != nil {
		return fmt.Errorf("record state of container %s: %w", s.ID, err)
	}
	return nil
}

// Spec returns what a container was created with.
func (m *Manager) Spec(id string) (Spec, bool) {
	m.mu.Lock()
	_, ok := m.all[id]
	m.mu.Unlock()
	if !ok {
		return Spec{}, false
	}
	var spec Spec
	if err := read(filepath.Join(m.dir(id), "spec.json"), &spec); err != nil {
		return Spec{}, false
	}
	return spec, true
}

// forgetBoot drops what libcontainer wrote before the machine started anew: RunDir may be on a disk, and its process numbers mean strangers now.
func (m *Manager) forgetBoot() error {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return err
	}
	path := filepath.Join(m.cfg.RunDir, "boot")
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, boot) {
		return nil
	}
	if err := errors.Join(os.RemoveAll(m.libRoot()), os.MkdirAll(m.libRoot(), 0o700)); err != nil {
		return err
	}
	return os.WriteFile(path, boot, 0o600)
}
