// Package kubeconfig writes the files that tell kubectl where a cluster is, and merges a context into a person's own file.
//
// It edits the YAML document in place, so that everything else in a person's file stays: entries, unknown fields, comments and order.
// Always: a file appears whole, by a rename, readable by its owner alone; an entry of the same name that another program made, or that
// belongs to another data directory still in use, is never touched.
package kubeconfig

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.yaml.in/yaml/v3"
)

// Entry is one cluster with its administrator, under one name.
type Entry struct {
	Name    string // of the context, the cluster and, with -admin, the user
	Server  string // https://HOST:PORT
	CA      []byte // PEM
	Cert    []byte // PEM, of the client
	Key     []byte // PEM
	DataDir string // whose cluster this is, kept as an extension of the cluster's entry
}

// extension is the name under which DataDir is kept: the kubeconfig format has a place for others' data.
const extension = "sampan.dev"

// Owner is to whom a written file shall belong. The zero value leaves it to the writing process.
type Owner struct {
	Set      bool
	UID, GID int
}

// Write makes path a kubeconfig of its own with e as its only and current context.
func Write(path string, e Entry) error {
	doc := newDocument()
	set(root(doc), e)
	setScalar(root(doc), "current-context", e.Name)
	if err := save(path, doc, 0o600, Owner{}); err != nil {
		return fmt.Errorf("write kubeconfig %s: %w", path, err)
	}
	return nil
}

// Merged says what Merge did.
type Merged struct {
	Context string // the name that the context got: Entry.Name, or another if that one is somebody else's
	Current string // the file's current context afterwards
}

// Merge adds e to the file at path, or brings it up to date there. If the name is taken by an entry that is not of e.DataDir and
// whose own data directory (if it names one) still exists, fallback is used as the name. The current context is set only if there is none.
func Merge(path string, e Entry, fallback string, owner Owner) (Merged, error) {
	var done Merged
	err := edit(path, owner, func(doc *yaml.Node) (bool, error) {
		r := root(doc)
		if taken(r, e.Name, e.DataDir) {
			e.Name = fallback
			if taken(r, e.Name, e.DataDir) {
				return false, fmt.Errorf("the names of its entries are taken: remove cluster %q there, or name another file with --kubeconfig", fallback)
			}
		}
		set(r, e)
		if scalar(r, "current-context") == "" {
			setScalar(r, "current-context", e.Name)
		}
		done = Merged{Context: e.Name, Current: scalar(r, "current-context")}
		return true, nil
	})
	if err != nil {
		return Merged{}, fmt.Errorf("merge context %s into %s: %w", e.Name, path, err)
	}
	return done, nil
}

// Remove takes out of the file at path every cluster of dataDir, with the contexts and users made for it. A file that is not there is no error.
func Remove(path, dataDir string, owner Owner) error {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	err := edit(path, owner, func(doc *yaml.Node) (bool, error) {
		r := root(doc)
		var names []string
		for _, c := range items(r, "clusters") {
			if dirOf(c) == dataDir {
				names = append(names, scalar(c, "name"))
			}
		}
		for _, name := range names {
			drop(r, "clusters", name)
			drop(r, "contexts", name)
			drop(r, "users", userName(name))
			if scalar(r, "current-context") == name {
				setScalar(r, "current-context", "")
			}
		}
		return len(names) > 0, nil
	})
	if err != nil {
		return fmt.Errorf("remove context from %s: %w", path, err)
	}
	return nil
}

func userName(name string) string { return name + "-admin" }

// taken says whether the name belongs to something that must not be touched.
func taken(r *yaml.Node, name, dataDir string) bool {
	for _, list := range []string{"clusters", "contexts"} {
		if c := item(r, list, name); c != nil {
			cluster := item(r, "clusters", name)
			if cluster == nil {
				return true
			}
			dir := dirOf(cluster)
			if dir == dataDir {
				continue
			}
			if dir == "" {
				return true
			}
			if _, err := os.Stat(filepath.Join(dir, "settings.json")); err == nil {
				return true
			}
		}
	}
	return false
}

func set(r *yaml.Node, e Entry) {
	b64 := base64.StdEncoding.EncodeToString
	put(r, "clusters", e.Name, "cluster", map[string]any{
		"server":                     e.Server,
		"certificate-authority-data": b64(e.CA),
		"extensions":                 []any{map[string]any{"name": extension, "extension": map[string]any{"dataDir": e.DataDir}}},
	})
	put(r, "users", userName(e.Name), "user", map[string]any{
		"client-certificate-data": b64(e.Cert),
		"client-key-data":         b64(e.Key),
	})
	// A namespace that the person chose for the context stays.
	ctx := map[string]any{"cluster": e.Name, "user": userName(e.Name)}
	if old := item(r, "contexts", e.Name); old != nil {
		if ns := scalar(child(old, "context"), "namespace"); ns != "" {
			ctx["namespace"] = ns
		}
	}
	put(r, "contexts", e.Name, "context", ctx)
}

// edit changes the file at path under the lock that kubectl itself uses, path + ".lock".
func edit(path string, owner Owner, change func(doc *yaml.Node) (bool, error)) error {
	// A link is followed, so that a person's linked file is changed and the link stays.
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	if err := makeDir(filepath.Dir(path), owner); err != nil {
		return err
	}
	unlock, err := lock(path + ".lock")
	if err != nil {
		return err
	}
	defer unlock()
	mode := fs.FileMode(0o600)
	doc := newDocument()
	switch data, err := os.ReadFile(path); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case len(bytes.TrimSpace(data)) > 0:
		doc = &yaml.Node{}
		if err := yaml.Unmarshal(data, doc); err != nil {
			return fmt.Errorf("it is not YAML, so it is left alone: %w", err)
		}
		if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 || root(doc).Kind != yaml.MappingNode {
			return errors.New("it is not a kubeconfig, so it is left alone")
		}
		if info, err := os.Stat(path); err == nil {
			mode = info.Mode().Perm()
		}
	}
	changed, err := change(doc)
	if err != nil || !changed {
		return err
	}
	return save(path, doc, mode, owner)
}

func lock(path string) (unlock func(), err error) {
	for try := 0; ; try++ {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL, 0o600)
		if err == nil {
			f.Close()
			return func() { os.Remove(path) }, nil
		}
		if !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		if try == 50 {
			return nil, fmt.Errorf("%s is held by another program; if none is at work on it, remove that file", path)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func makeDir(dir string, owner Owner) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	return owner.give(dir)
}

func (o Owner) give(path string) error {
	if !o.Set {
		return nil
	}
	return os.Chown(path, o.UID, o.GID)
}

func save(path string, doc *yaml.Node, mode fs.FileMode, owner Owner) error {
	var buf bytes.Buffer
	enc := yaml.NewEncoder(&buf)
	enc.SetIndent(2)
	if err := errors.Join(enc.Encode(doc), enc.Close()); err != nil {
		return err
	}
	if info, err := os.Stat(path); err == nil && !owner.Set {
		owner = ownerOf(info)
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".kubeconfig-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(buf.Bytes())
	if err := errors.Join(err, tmp.Chmod(mode), tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if err := owner.give(tmp.Name()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
