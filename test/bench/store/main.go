// Command store measures engines for the embedded store against each other: the figures of docs/decisions/0001.
//
// It writes only below a directory of its own, which it removes. Every engine gets the same writes and the same
// committer in front; each measurement is a process of its own, and the engines take turns, so that all of them meet the same machine.
//
//	go run . [-dir DIR] [-rounds 5]
package main

import (
	"debug/buildinfo"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// engine is what an engine does for the committer: it keeps a batch, durably when write returns, in a form that both the
// records and the events since some revision can be read from.
type engine interface {
	write(batch []write) error
	// each calls f for every record, to fill the index that the committer checks against.
	each(f func(key string, revision, created int64)) error
	close() error
}

type write struct {
	key               string
	value             []byte
	revision, created int64
}

// database takes durable creates from many goroutines.
type database interface {
	create(key string, value []byte) error
	close() error
}

// engines are those in this build; each file adds its own where it is not left out by a build tag.
var engines = map[string]func(dir string) (database, error){}

const (
	objects = 50_000
	alone   = 2_000
	writers = 64
)

// value is 1 KB that compresses no better than it must: what compression saves is not what is asked here.
func value(i int) []byte {
	b := make([]byte, 1024)
	random := rand.NewChaCha8([32]byte{byte(i), byte(i >> 8), byte(i >> 16)})
	random.Read(b)
	return b
}

func main() {
	dir := flag.String("dir", ".", "where to write")
	rounds := flag.Int("rounds", 5, "how often each measurement is made; the median is shown")
	phase := flag.String("phase", "", "fill or open: one measurement, in this process")
	name := flag.String("engine", "", "the engine of that measurement")
	flag.Parse()
	var err error
	switch *phase {
	case "fill":
		err = fill(*name, *dir)
	case "open":
		err = reopen(*name, *dir)
	default:
		err = compare(*dir, *rounds)
	}
	if err != nil {
		log.Fatal(err)
	}
}

// fill measures one durable create after another, then many at once, up to all objects.
func fill(name, dir string) error {
	before := rss()
	db, err := engines[name](dir)
	if err != nil {
		return err
	}
	figures := map[string]float64{}
	var took []time.Duration
	for i := range alone {
		v := value(i)
		start := time.Now()
		if err := db.create(key(i), v); err != nil {
			return err
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	figures["one create, p50, µs"] = micros(took[len(took)/2])
	figures["one create, p99, µs"] = micros(took[len(took)*99/100])

	var next atomic.Int64
	next.Store(alone)
	var group sync.WaitGroup
	var failed atomic.Pointer[error]
	start := time.Now()
	for range writers {
		group.Go(func() {
			for i := next.Add(1) - 1; i < objects; i = next.Add(1) - 1 {
				if err := db.create(key(int(i)), value(int(i))); err != nil {
					failed.Store(&err)
					return
				}
			}
		})
	}
	group.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	figures["64 writers, creates/s"] = (objects - alone) / time.Since(start).Seconds()
	figures["RSS added by the writes, MB"] = rss() - before
	if err := db.close(); err != nil {
		return err
	}
	figures["on disk, MB"] = float64(size(dir)) / 1e6
	return json.NewEncoder(os.Stdout).Encode(figures)
}

// reopen measures how long it takes until writes are accepted again.
func reopen(name, dir string) error {
	before := rss()
	start := time.Now()
	db, err := engines[name](dir)
	if err != nil {
		return err
	}
	took := time.Since(start)
	figures := map[string]float64{"open, ms": micros(took) / 1000, "RSS added by opening, MB": rss() - before}
	if err := db.close(); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(figures)
}

func key(i int) string { return fmt.Sprintf("/registry/configmaps/namespace-%d/object-%d", i%50, i) }

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// rss is the resident memory of this process once all that is free has been given back.
func rss() float64 {
	debug.FreeOSMemory()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		log.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			if err != nil {
				log.Fatal(err)
			}
			return kb * 1024 / 1e6
		}
	}
	log.Fatal("no VmRSS in /proc/self/status")
	return 0
}

func size(dir string) (n int64) {
	names, err := os.ReadDir(dir)
	if err != nil {
		log.Fatal(err)
	}
	for _, name := range names {
		if info, err := name.Info(); err == nil && !info.IsDir() {
			n += info.Size()
		}
	}
	return n
}

// compare makes all measurements and prints the table.
func compare(parent string, rounds int) error {
	dir, err := os.MkdirTemp(parent, "measured-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	names := slices.Sorted(func(yield func(string) bool) {
		for name := range engines {
			if !yield(name) {
				return
			}
		}
	})
	figures := map[string]map[string][]float64{} // by what, by engine
	for range rounds {
		for _, name := range names {
			at := filepath.Join(dir, name)
			if err := os.Mkdir(at, 0o700); err != nil {
				return err
			}
			for _, phase := range []string{"fill", "open"} {
				if err := measure(figures, name, phase, at); err != nil {
					return err
				}
			}
			if err := os.RemoveAll(at); err != nil {
				return err
			}
		}
	}
	if err := binarySizes(figures, names, dir); err != nil {
		return err
	}
	fmt.Printf("%s, %d CPUs, median of %d rounds; %d objects of 1 KB\n\n", runtime.Version(), runtime.NumCPU(), rounds, objects)
	fmt.Printf("| | %s |\n| --- |%s\n", strings.Join(names, " | "), strings.Repeat(" ---: |", len(names)))
	for _, what := range []string{
		"one create, p50, µs", "one create, p99, µs", "64 writers, creates/s", "RSS added by the writes, MB",
		"RSS added by opening, MB", "open, ms", "on disk, MB", "binary, added MB", "modules, added",
	} {
		fmt.Printf("| %s |", what)
		for _, name := range names {
			f := figures[what][name]
			slices.Sort(f)
			fmt.Printf(" %.*f |", map[bool]int{true: 0, false: 1}[f[len(f)/2] >= 100], f[len(f)/2])
		}
		fmt.Println()
	}
	return nil
}

func measure(figures map[string]map[string][]float64, name, phase, dir string) error {
	out, err := exec.Command(os.Args[0], "-engine", name, "-phase", phase, "-dir", dir).Output()
	if err != nil {
		return fmt.Errorf("%s %s: %w\n%s", phase, name, err, out)
	}
	var got map[string]float64
	if err := json.Unmarshal(out, &got); err != nil {
		return err
	}
	for what, figure := range got {
		note(figures, what, name, figure)
	}
	return nil
}

func note(figures map[string]map[string][]float64, what, name string, figure float64) {
	if figures[what] == nil {
		figures[what] = map[string][]float64{}
	}
	figures[what][name] = append(figures[what][name], figure)
}

// binarySizes builds this program with no engine, and with each alone.
func binarySizes(figures map[string]map[string][]float64, names []string, dir string) error {
	built := func(tags string) (size, modules float64, err error) {
		path := filepath.Join(dir, "binary")
		build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-tags", tags, "-o", path, ".")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return 0, 0, fmt.Errorf("build with %s: %w\n%s", tags, err, out)
		}
		info, err := os.Stat(path)
		if err != nil {
			return 0, 0, err
		}
		built, err := buildinfo.ReadFile(path)
		if err != nil {
			return 0, 0, err
		}
		return float64(info.Size()) / 1e6, float64(len(built.Deps)), nil
	}
	bare, none, err := built("bare")
	if err != nil {
		return err
	}
	for _, name := range names {
		with, modules, err := built("bare," + name)
		if err != nil {
			return err
		}
		note(figures, "binary, added MB", name, with-bare)
		note(figures, "modules, added", name, modules-none)
	}
	return nil
}
