// Command sampan-runtime runs the pods and containers of one node, and is told what to do by CRI on a unix socket.
//
// It is also what it runs other programs' first steps with: "init" sets a container up from inside, "hold" keeps its terminal while
// there is no runtime, "pause" keeps a pod's process namespace, "hello" and "ask" are the programs in the built-in images. Always: containers run on when it ends, however it ends.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"syscall"

	"sampan.dev/internal/runtime/container"
	"sampan.dev/internal/runtime/hello"
	"sampan.dev/internal/runtime/hold"
	"sampan.dev/internal/runtime/sandbox"
)

var version = "dev" // set by the build: -X main.version=…

func main() {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "init":
			container.Init()
			return
		case "hold":
			os.Exit(hold.Main(os.Args[2:]))
		case "pause":
			os.Exit(sandbox.Pause())
		case "ask":
			os.Exit(hello.Ask(context.Background(), os.Args[2:], os.Stdout, os.Stderr))
		case "hello":
			os.Exit(hello.Main(context.Background(), os.Args[2:]))
		}
	}
	os.Exit(run())
}

// options are the command's flags.
type options struct {
	root, state, socket, cgroupParent, cgroupRoot, bridge string
}

func run() int {
	var o options
	var level slog.Level
	var showVersion bool
	flag.StringVar(&o.root, "root", "/var/lib/sampan/runtime", "`directory` of images, snapshots and records")
	flag.StringVar(&o.state, "state", "/run/sampan", "`directory` of what does not outlive a boot")
	flag.StringVar(&o.socket, "socket", "", "`path` of the unix socket that serves CRI (default STATE/runtime.sock)")
	flag.StringVar(&o.cgroupParent, "cgroup-parent", "/sampan", "control group, as a `path`, of pods that name none")
	flag.StringVar(&o.cgroupRoot, "cgroup-root", "/sys/fs/cgroup", "`directory` where the control group hierarchies are")
	flag.StringVar(&o.bridge, "bridge", "sampan", "`name` of the link that pods hang on; made if it is not there")
	flag.TextVar(&level, "log-level", slog.LevelInfo, "least `level` that is logged: debug, info, warn or error")
	flag.BoolVar(&showVersion, "version", false, "print the version and leave")
	flag.Parse()
	if showVersion {
		fmt.Println("sampan-runtime", version)
		return 0
	}
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "sampan-runtime: unexpected argument %q\n", flag.Arg(0))
		return 2
	}
	for _, path := range []*string{&o.root, &o.state, &o.socket} {
		if *path == "" {
			*path = filepath.Join(o.state, "runtime.sock")
		}
		abs, err := filepath.Abs(*path)
		if err != nil {
			fmt.Fprintln(os.Stderr, "sampan-runtime:", err)
			return 1
		}
		*path = abs
	}
	// Memory at rest counts for more than the time that collecting takes.
	debug.SetGCPercent(25)
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := serve(ctx, o, log); err != nil && !errors.Is(err, context.Canceled) {
		log.Error("sampan-runtime has failed", "error", err)
		return 1
	}
	return 0
}
