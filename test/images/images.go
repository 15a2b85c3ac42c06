// Package images assembles the images that tests run, without any registry: nginx and busybox from Debian's packages, and a
// small program of our own, and serves them from a registry on loopback.
//
// It writes below one cache directory outside the tree (packages as downloaded, archives as made); nothing else. Always: an
// archive in the cache is whole, and named after everything that went into it, so that a changed recipe makes another. Only tests, and
// the command beside this package, import it.
package images

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/match"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/sys/unix"
)

// Names of the images that can be made.
const (
	Nginx    = "nginx:latest"
	Nginx110 = "nginx:1.10" // the same nginx under the name that older manifests use; another image ID
	Nginx111 = "nginx:1.11" // likewise
	Busybox  = "busybox:latest"
	Testprog = "testprog:1" // see the package testprog beside this one
)

// All lists them.
var All = []string{Nginx, Nginx110, Nginx111, Busybox, Testprog}

// recipe is part of each archive's name: count it up when what is made changes otherwise than by its inputs.
const recipe = "1"

// Cache keeps what was made below one directory.
type Cache struct{ dir string }

// Open opens the cache in dir; if dir is empty, in the user's cache directory.
func Open(dir string) (*Cache, error) {
	if dir == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			user = os.TempDir() // no home, as in some sandboxes
		}
		dir = filepath.Join(user, "sampan-test")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open image cache: %w", err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "debs"), 0o755); err != nil {
		return nil, fmt.Errorf("open image cache: %w", err)
	}
	return &Cache{dir: dir}, nil
}

// Archive gives the path of a docker archive with one image, made if need be.
func (c *Cache) Archive(ctx context.Context, image string) (path string, err error) {
	unlock, err := c.lock()
	if err != nil {
		return "", err
	}
	defer unlock()
	key, make, err := c.plan(ctx, image)
	if err != nil {
		return "", fmt.Errorf("make image %s: %w", image, err)
	}
	path = filepath.Join(c.dir, fmt.Sprintf("%s-%s.tar", strings.ReplaceAll(image, ":", "-"), key))
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	img, err := make()
	if err != nil {
		return "", fmt.Errorf("make image %s: %w", image, err)
	}
	tag, err := name.NewTag(image)
	if err != nil {
		return "", err
	}
	tmp := path + ".tmp"
	if err := tarball.WriteToFile(tmp, tag, img); err != nil {
		return "", fmt.Errorf("write image %s: %w", image, errors.Join(err, os.Remove(tmp)))
	}
	if err := os.Rename(tmp, path); err != nil {
		return "", fmt.Errorf("write image %s: %w", image, err)
	}
	return path, nil
}

// Fill makes all images, so that they are there for who has no network later.
func (c *Cache) Fill(ctx context.Context) error {
	for _, image := range All {
		if _, err := c.Archive(ctx, image); err != nil {
			return err
		}
	}
	return nil
}

// Image gives one image; its layers are read from the cache when they are asked for.
func (c *Cache) Image(ctx context.Context, image string) (v1.Image, error) {
	path, err := c.Archive(ctx, image)
	if err != nil {
		return nil, err
	}
	return tarball.ImageFromPath(path, nil)
}

// WriteArchive writes several images into one docker archive.
func (c *Cache) WriteArchive(ctx context.Context, path string, images ...string) error {
	all := map[name.Reference]v1.Image{}
	for _, image := range images {
		img, err := c.Image(ctx, image)
		if err != nil {
			return err
		}
		tag, err := name.NewTag(image)
		if err != nil {
			return err
		}
		all[tag] = img
	}
	if err := tarball.MultiRefWriteToFile(path, all); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// WriteLayout writes several images into an OCI layout, as a directory.
func (c *Cache) WriteLayout(ctx context.Context, dir string, images ...string) error {
	to, err := layout.Write(dir, empty.Index)
	if err != nil {
		return fmt.Errorf("write %s: %w", dir, err)
	}
	for _, image := range images {
		img, err := c.Image(ctx, image)
		if err != nil {
			return err
		}
		name := layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": image})
		if err := to.ReplaceImage(img, match.Name(image), name); err != nil {
			return fmt.Errorf("write %s: %w", dir, err)
		}
	}
	return nil
}

// plan says what an image is made of, as a key, and how.
func (c *Cache) plan(ctx context.Context, image string) (key string, make func() (v1.Image, error), err error) {
	switch image {
	case Nginx, Nginx110, Nginx111:
		debs, err := c.debs(ctx, "nginx", "busybox-static")
		return c.key(debs), func() (v1.Image, error) { return nginxImage(debs, strings.TrimPrefix(image, "nginx:")) }, err
	case Busybox:
		debs, err := c.debs(ctx, "busybox-static")
		return c.key(debs), func() (v1.Image, error) { return busyboxImage(debs) }, err
	case Testprog:
		program, err := buildTestprog(ctx)
		return digest(program), func() (v1.Image, error) { return testprogImage(program) }, err
	}
	return "", nil, fmt.Errorf("there is none of that name, only %s", strings.Join(All, ", "))
}

// key names a set of packages by their file names, which hold their versions.
func (c *Cache) key(debs []string) string {
	var files []string
	for _, d := range debs {
		files = append(files, filepath.Base(d))
	}
	slices.Sort(files)
	return digest([]byte(recipe + strings.Join(files, "\n")))
}

// lock keeps test processes that run at once from making the same thing.
func (c *Cache) lock() (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(c.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock image cache: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock image cache: %w", err)
	}
	return func() { _ = f.Close() }, nil
}
