package images

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

const arch = runtime.GOARCH

const searchPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// nginxSite is what nginx's own image has, too: its own page from the directory that manifests mount over.
const nginxSite = `server {
    listen       80;
    server_name  localhost;
    location / {
        root   /usr/share/nginx/html;
        index  index.html index.htm;
    }
}
`

// nginxImage is Debian's nginx with its libraries, configured as the usual nginx image is, and a shell to look around.
func nginxImage(debs []string, version string) (v1.Image, error) {
	var nginx, shell []string
	for _, d := range debs {
		if strings.HasPrefix(filepath.Base(d), "busybox") {
			shell = append(shell, d)
		} else {
			nginx = append(nginx, d)
		}
	}
	base := newArchive()
	system(base)
	if err := addDebs(base, nginx); err != nil {
		return nil, err
	}
	config := newArchive()
	config.file("etc/nginx/conf.d/default.conf", 0o644, []byte(nginxSite))
	config.dir("var/lib/nginx", 0o755)
	config.dir("var/log/nginx", 0o755)
	config.link("var/log/nginx/access.log", "/dev/stdout")
	config.link("var/log/nginx/error.log", "/dev/stderr")
	tools := newArchive()
	if err := addShell(tools, shell); err != nil {
		return nil, err
	}
	return assemble(v1.Config{
		Cmd:          []string{"nginx", "-g", "daemon off;"},
		Env:          []string{searchPath},
		ExposedPorts: map[string]struct{}{"80/tcp": {}},
		Labels:       map[string]string{"org.opencontainers.image.version": version},
		StopSignal:   "SIGQUIT",
	}, base, config, tools)
}

// busyboxImage is one static program under many names.
func busyboxImage(debs []string) (v1.Image, error) {
	base := newArchive()
	system(base)
	if err := addShell(base, debs); err != nil {
		return nil, err
	}
	return assemble(v1.Config{Cmd: []string{"sh"}, Env: []string{searchPath}}, base)
}

// system is what every image has of a Unix.
func system(a *archive) {
	for _, d := range []string{".", "bin", "dev", "etc", "home", "proc", "root", "run", "sys", "tmp", "usr", "usr/bin", "usr/sbin", "var", "var/log", "var/tmp"} {
		mode := int64(0o755)
		switch d {
		case "root":
			mode = 0o700
		case "tmp", "var/tmp":
			mode = 0o1777
		}
		a.dir(d, mode)
	}
	a.link("var/run", "/run")
	a.file("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\nwww-data:x:33:33:www-data:/var/www:/bin/false\nnobody:x:65534:65534:nobody:/home:/bin/false\n"))
	a.file("etc/group", 0o644, []byte("root:x:0:\ndaemon:x:1:\nwww-data:x:33:\nusers:x:100:nobody\nnogroup:x:65534:\n"))
	a.file("etc/nsswitch.conf", 0o644, []byte("passwd: files\ngroup: files\nhosts: files dns\n"))
}

// addShell adds busybox and a link for each thing that it can be.
func addShell(a *archive, debs []string) error {
	if err := addDebs(a, debs); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "busybox-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for _, d := range debs {
		if out, err := exec.Command("dpkg-deb", "-x", d, dir).CombinedOutput(); err != nil {
			return fmt.Errorf("unpack %s: %w: %s", d, err, out)
		}
	}
	list, err := exec.Command(filepath.Join(dir, "bin", "busybox"), "--list").Output()
	if err != nil {
		return fmt.Errorf("ask busybox what it can be: %w", err)
	}
	for applet := range strings.FieldsSeq(string(list)) {
		if applet != "busybox" {
			a.link("bin/"+applet, "busybox")
		}
	}
	a.link("usr/bin/env", "/bin/busybox")
	return nil
}

// buildTestprog compiles the program beside this package.
func buildTestprog(ctx context.Context) ([]byte, error) {
	dir, err := os.MkdirTemp("", "testprog-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "testprog")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", file, "sampan.dev/test/images/testprog")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("compile testprog: %w: %s", err, errs.String())
	}
	return os.ReadFile(file)
}

func testprogImage(program []byte) (v1.Image, error) {
	base := newArchive()
	system(base)
	base.file("testprog", 0o755, program)
	return assemble(v1.Config{Entrypoint: []string{"/testprog"}, Env: []string{searchPath}, WorkingDir: "/"}, base)
}
