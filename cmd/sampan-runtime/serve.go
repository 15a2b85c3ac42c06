package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sampan.dev/internal/runtime/cri"
	"sampan.dev/internal/runtime/image"
)

// goodbye is how long calls under way may go on after a signal.
const goodbye = 500 * time.Millisecond

// serve serves until ctx ends. Containers run on.
func serve(ctx context.Context, o options, log *slog.Logger) (err error) {
	for _, dir := range []string{o.root, o.state, filepath.Dir(o.socket)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
	}
	lock, err := single(filepath.Join(o.root, "runtime.lock"))
	if err != nil {
		return err
	}
	defer lock.Close()
	service, err := cri.Open(ctx, cri.Config{
		Root: o.root, RunDir: o.state, CgroupRoot: o.cgroupRoot, CgroupParent: o.cgroupParent, Bridge: o.bridge, Version: version, Log: log,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, service.Close()) }()

	admin, err := listen(strings.TrimSuffix(o.socket, ".sock") + "-admin.sock")
	if err != nil {
		return err
	}
	socket, err := listen(o.socket) // last: an answer there means that all is up
	if err != nil {
		return errors.Join(err, admin.Close())
	}
	server := grpc.NewServer(grpc.MaxRecvMsgSize(16<<20), grpc.MaxSendMsgSize(64<<20))
	runtimeapi.RegisterRuntimeServiceServer(server, service)
	runtimeapi.RegisterImageServiceServer(server, image.NewService(service.Images()))
	web := &http.Server{Handler: image.NewAdminHandler(service.Images()), ReadHeaderTimeout: 10 * time.Second}

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return service.Run(ctx) })
	g.Go(func() error {
		if err := server.Serve(socket); err != nil {
			return fmt.Errorf("serve CRI on %s: %w", o.socket, err)
		}
		return nil
	})
	g.Go(func() error {
		if err := web.Serve(admin); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve archives: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		end := time.AfterFunc(goodbye, server.Stop)
		defer end.Stop()
		server.GracefulStop()
		return web.Close()
	})
	log.Info("serving", "version", version, "socket", o.socket)
	debug.FreeOSMemory() // what starting took
	return g.Wait()
}

// single makes sure that nobody else works on the directory, as long as the file is open.
func single(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("another sampan-runtime works in %s", filepath.Dir(path))
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

// listen opens a unix socket that only the owner may use. The lock says that nobody serves on one that is there.
func listen(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove stale socket: %w", err)
	}
	old := unix.Umask(0o177) // so that it is closed from the first moment
	l, err := net.Listen("unix", path)
	unix.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	return l, nil
}
