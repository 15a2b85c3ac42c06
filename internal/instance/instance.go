// Package instance says where one sampan lives on a machine: its data directory, and every name that is derived from it.
//
// It writes DIR/settings.json, which remembers the flags of the last start, and holds DIR/lock while sampan runs. Always: two
// data directories share no name, so that several clusters and several nodes fit on one machine; and whoever knows the data
// directory can find what runs, stop it, and remove every trace of it, even after sampan itself has died.
package instance

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// DefaultDir is where sampan keeps its data unless --data-dir says otherwise.
const DefaultDir = "/var/lib/sampan"

// Instance is one data directory and what is named after it. It is a plain value; nothing of it needs to exist.
type Instance struct {
	Dir string // absolute
	ID  string // the first 8 hexadecimal digits of Dir's SHA-256
}

// At returns the instance whose data is, or will be, in dir.
func At(dir string) (Instance, error) {
	if dir == "" {
		return Instance{}, fmt.Errorf("data directory: the name is empty")
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return Instance{}, fmt.Errorf("data directory %s: %w", dir, err)
	}
	// A link and its target are one directory. What does not exist yet has no links to follow.
	if real, err := filepath.EvalSymlinks(abs); err == nil {
		abs = real
	}
	if abs == "/" {
		return Instance{}, fmt.Errorf("data directory: / cannot be one")
	}
	sum := sha256.Sum256([]byte(abs))
	return Instance{Dir: abs, ID: hex.EncodeToString(sum[:4])}, nil
}

// Exists says whether the data directory has been used before.
func (i Instance) Exists() bool {
	_, err := os.Stat(i.settingsPath())
	return err == nil
}

func (i Instance) under(elem ...string) string {
	return filepath.Join(append([]string{i.Dir}, elem...)...)
}

// Files and directories below the data directory.
func (i Instance) PKI() string        { return i.under("pki") }
func (i Instance) Store() string      { return i.under("store") }
func (i Instance) RuntimeDir() string { return i.under("runtime") }
func (i Instance) Pods() string       { return i.under("pods") }
func (i Instance) PodLogs() string    { return i.under("logs", "pods") }
func (i Instance) Log() string        { return i.under("logs", "sampan.log") }
func (i Instance) RuntimeLog() string { return i.under("logs", "runtime.log") }
func (i Instance) Bin() string        { return i.under("bin") }
func (i Instance) Kubeconfig() string { return i.under("kubeconfig") }

func (i Instance) settingsPath() string { return i.under("settings.json") }
func (i Instance) lockPath() string     { return i.under("lock") }

// RunDir holds what does not outlive a boot: sockets and the pins of namespaces. It is on a tmpfs, and short enough for a socket's name.
func (i Instance) RunDir() string { return filepath.Join("/run/sampan", i.ID) }

// RuntimeSocket is where sampan-runtime serves the CRI, AdminSocket where it takes image archives.
func (i Instance) RuntimeSocket() string { return filepath.Join(i.RunDir(), "runtime.sock") }
func (i Instance) AdminSocket() string   { return filepath.Join(i.RunDir(), "runtime-admin.sock") }

// CgroupParent is the path, in each hierarchy, of the control group that holds all pods.
func (i Instance) CgroupParent() string { return "/sampan-" + i.ID }

// Bridge is the network link that pods hang on: 15 characters, the kernel's limit (IFNAMSIZ).
func (i Instance) Bridge() string { return "sampan-" + i.ID }

// Table is the name of the nftables table that holds all rules.
func (i Instance) Table() string { return "sampan-" + i.ID }

// Remove deletes what sampan put into the data directory and below /run, and the directory itself if nothing else is in it: a person may
// have named one that holds other things too.
func (i Instance) Remove() error {
	var errs []error
	for _, path := range []string{i.RunDir(), i.PKI(), i.Store(), i.RuntimeDir(), i.Pods(), i.under("logs"), i.Bin(), i.Kubeconfig(), i.settingsPath(), i.lockPath()} {
		if err := os.RemoveAll(path); err != nil {
			errs = append(errs, fmt.Errorf("remove %s: %w", path, err))
		}
	}
	if err := os.Remove(i.Dir); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTEMPTY) && !errors.Is(err, syscall.EBUSY) {
		errs = append(errs, fmt.Errorf("remove %s: %w", i.Dir, err))
	}
	return errors.Join(errs...)
}
