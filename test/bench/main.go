// Command bench measures what docs/performance.md keeps, on a cluster that it starts, in a network namespace of its own, and removes again.
//
// It prints a line a figure: what was measured, what is wanted, and what upstream with containerd takes on such a machine. Figures of shared
// machines drift: compare ratios of one run. It needs root and bin/sampan.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sampan.dev/internal/client"
	"sampan.dev/internal/resource/kinds"
	"sampan.dev/test/images"
)

const inside = "SAMPAN_BENCH_INSIDE"

func main() {
	only := flag.String("only", "", "comma-separated figures to measure: start,pods,memory,idle,rollout,services,traffic,writes,list,simulated,route,lost,fleet,huge (default: all)")
	idle := flag.Duration("idle", time.Minute, "how long to look at the idle cluster")
	flag.Parse()
	if mode := os.Getenv(streamMode); mode != "" {
		if err := streamEnd(mode); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	if os.Getenv(inside) == "" {
		os.Exit(enter())
	}
	if err := run(context.Background(), *only, *idle); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// enter runs this program again in network and mount namespaces of its own. What comes from the network is fetched before.
func enter() int {
	store, err := images.Open("")
	if err == nil {
		err = store.Fill(context.Background())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "bench: containers need root: use sudo")
		return 1
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread()
	var exit *exec.ExitError
	if err := cmd.Run(); errors.As(err, &exit) {
		return exit.ExitCode()
	} else if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	return 0
}

func run(ctx context.Context, only string, idle time.Duration) (err error) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		return fmt.Errorf("ip link set lo up: %w: %s", err, out)
	}
	want := func(name string) bool { return only == "" || slices.Contains(strings.Split(only, ","), name) }
	b, err := newBench()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.sampan(context.Background(), "reset"), os.RemoveAll(b.dir)) }()
	fmt.Printf("%-58s %12s %12s %12s\n", "", "measured", "wanted", "upstream")
	if err := b.start(ctx, want("start")); err != nil {
		return err
	}
	for _, part := range []struct {
		name string
		f    func(context.Context) error
	}{
		{"pods", b.pods},
		{"memory", b.memory},
		{"idle", func(ctx context.Context) error { return b.idle(ctx, idle) }},
		{"rollout", b.rollout},
		{"services", b.services},
		{"traffic", b.traffic},
		{"writes", b.writes},
		{"list", b.list},
		{"simulated", b.simulated},
		{"route", b.route},
		{"lost", b.lost},
		{"fleet", func(ctx context.Context) error { return b.fleets(ctx, fleets) }},
		{"huge", func(ctx context.Context) error { return b.fleets(ctx, huge) }},
	} {
		if want(part.name) {
			if err := part.f(ctx); err != nil {
				return fmt.Errorf("%s: %w", part.name, err)
			}
		}
	}
	return nil
}

var (
	fleets = []fleetSize{
		{nodes: 500, pods: 3000, late: true, bind: [2]string{"2000/s", "290/s"}},
		{nodes: 1000, pods: 30_000, steady: true, memory: "400 MB", cpu: "5 %", one: "20 ms"},
	}
	huge = []fleetSize{{nodes: 5000, pods: 150_000, steady: true}}
)

// bench is one cluster and a client of it.
type bench struct {
	bin, dir string
	client   *client.Client
	config   client.Config
}

func newBench() (*bench, error) {
	bin, err := filepath.Abs("bin/sampan")
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(bin); err != nil {
		return nil, fmt.Errorf("%w: run make build first", err)
	}
	dir, err := os.MkdirTemp("", "sampan-bench-")
	if err != nil {
		return nil, err
	}
	return &bench{bin: bin, dir: dir}, nil
}

func (b *bench) data() string { return filepath.Join(b.dir, "data") }

func (b *bench) sampan(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, b.bin, append(args, "--data-dir="+b.data())...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("sampan %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// start measures a first start, and the starts after it, until `up --detach` returns: the node is Ready then.
func (b *bench) start(ctx context.Context, measure bool) error {
	up := func() (time.Duration, error) {
		begin := time.Now()
		err := b.sampan(ctx, "up", "--detach", "--merge-kubeconfig=false", "--node-name=bench")
		return time.Since(begin), err
	}
	first, err := up()
	if err != nil {
		return err
	}
	if measure {
		var again []time.Duration
		for range 5 {
			if err := b.sampan(ctx, "down"); err != nil {
				return err
			}
			d, err := up()
			if err != nil {
				return err
			}
			again = append(again, d)
		}
		line("first start until the node is Ready (programs unpacked)", ms(first), "1 s", "4.1 s")
		line("start until the node is Ready, median of 5", ms(median(again)), "1 s", "4.1 s")
	}
	if b.config, err = client.FromKubeconfig(filepath.Join(b.data(), "kubeconfig"), ""); err != nil {
		return err
	}
	b.config.Table = kinds.Table()
	if b.client, err = client.New(b.config); err != nil {
		return err
	}
	cache, err := images.Open("")
	if err != nil {
		return err
	}
	for _, name := range []string{images.Nginx, images.Busybox} {
		archive, err := cache.Archive(ctx, name)
		if err != nil {
			return err
		}
		if err := b.sampan(ctx, "image", "load", archive); err != nil {
			return err
		}
	}
	return nil
}

func line(what, measured, wanted, upstream string) {
	fmt.Printf("%-58s %12s %12s %12s\n", what, measured, wanted, upstream)
}

func ms(d time.Duration) string { return fmt.Sprintf("%d ms", d.Milliseconds()) }

func median[T int64 | float64 | time.Duration](list []T) T {
	sorted := slices.Sorted(slices.Values(list))
	return sorted[len(sorted)/2]
}
