package images

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// debs gives the files of packages and of the libraries that they need, from the cache or by apt-get. Whatever is in the cache is
// taken as it is, so that tests need no network a second time.
func (c *Cache) debs(ctx context.Context, packages ...string) ([]string, error) {
	note := filepath.Join(c.dir, "debs", strings.Join(packages, "+")+".list")
	if data, err := os.ReadFile(note); err == nil {
		files := strings.Fields(string(data))
		for i, f := range files {
			files[i] = filepath.Join(c.dir, "debs", f)
		}
		if !slices.ContainsFunc(files, func(f string) bool { _, err := os.Stat(f); return err != nil }) {
			return files, nil
		}
	}
	for _, tool := range []string{"apt-get", "apt-cache", "dpkg-deb"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("needs Debian's packages (%s), and this machine has no %s: run it on Debian or Ubuntu, or bring a filled cache to %s",
				strings.Join(packages, ", "), tool, c.dir)
		}
	}
	files, err := c.download(ctx, packages)
	if err != nil { // most often because the package lists are missing or old
		if _, e := run(ctx, c.dir, "apt-get", "update", "-qq"); e != nil {
			return nil, fmt.Errorf("needs Debian's packages (%s), which apt-get could not fetch: %w", strings.Join(packages, ", "), errors.Join(err, e))
		}
		if files, err = c.download(ctx, packages); err != nil {
			return nil, fmt.Errorf("needs Debian's packages (%s), which apt-get could not fetch: %w", strings.Join(packages, ", "), err)
		}
	}
	var names []string
	for _, f := range files {
		names = append(names, filepath.Base(f))
	}
	if err := os.WriteFile(note+".tmp", []byte(strings.Join(names, "\n")), 0o644); err != nil {
		return nil, err
	}
	return files, os.Rename(note+".tmp", note)
}

func (c *Cache) download(ctx context.Context, packages []string) ([]string, error) {
	all, err := libraries(ctx, packages)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(c.dir, "download-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if _, err := run(ctx, dir, "apt-get", append([]string{"download", "-qq"}, all...)...); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, e := range entries {
		to := filepath.Join(c.dir, "debs", e.Name())
		if err := os.Rename(filepath.Join(dir, e.Name()), to); err != nil {
			return nil, err
		}
		files = append(files, to)
	}
	if len(files) != len(all) {
		return nil, fmt.Errorf("asked for %d packages, got %d", len(all), len(files))
	}
	return files, nil
}

// libraries adds to packages the libraries, and the packages of common files, that they depend on. Tools for installing
// are left out: nothing is installed.
func libraries(ctx context.Context, packages []string) ([]string, error) {
	all := slices.Clone(packages)
	for i := 0; i < len(all); i++ {
		out, err := run(ctx, "", "apt-cache", "depends", "--important", all[i])
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(out) {
			dep, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: ")
			wanted := strings.HasPrefix(dep, "lib") || dep == "zlib1g" || strings.HasSuffix(dep, "-common")
			if ok && wanted && !slices.Contains(all, dep) {
				all = append(all, dep)
			}
		}
	}
	return all, nil
}

// run runs a command and gives what it printed.
func run(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}

// unneeded are parts of packages that no program reads.
var unneeded = []string{"usr/share/doc", "usr/share/man", "usr/share/lintian", "usr/share/locale", "usr/share/initramfs-tools", "usr/share/bug", "etc/systemd", "lib/systemd", "usr/lib/systemd"}

// addDebs writes the files of packages to an archive, with their owners and modes.
func addDebs(a *archive, debs []string) error {
	for _, deb := range debs {
		var out bytes.Buffer
		cmd := exec.Command("dpkg-deb", "--fsys-tarfile", deb)
		cmd.Stdout, cmd.Stderr = &out, os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("unpack %s: %w", deb, err)
		}
		in := tar.NewReader(&out)
		for {
			hdr, err := in.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				return fmt.Errorf("unpack %s: %w", deb, err)
			}
			name := path.Clean(hdr.Name)
			if slices.ContainsFunc(unneeded, func(u string) bool { return name == u || strings.HasPrefix(name, u+"/") }) {
				continue
			}
			if err := a.add(hdr, in); err != nil {
				return fmt.Errorf("unpack %s: %w", deb, err)
			}
		}
	}
	return nil
}
