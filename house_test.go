// Package sampan holds no code: its test keeps the rules of the house that docs/architecture.md describes.
package sampan

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "sampan.dev/"

// floors lists the rooms from the top of the house down. A package may import only from floors below its own; what is on one floor does
// not know its neighbours. A room means a package and everything below it, except where a longer name is listed.
var floors = [][]string{
	{"cmd/sampan", "cmd/sampan-runtime", "internal/bundle/pack", "hack", "test"},
	{"internal/clustertest"},
	{"internal/server", "internal/agent", "internal/simulate", "internal/why"},
	{"internal/apiserver", "internal/scheduler", "internal/controller", "internal/podnet", "internal/proxy", "internal/netpol", "internal/dns", "internal/announce", "internal/volume", "internal/probe", "internal/sweep", "internal/preflight", "internal/runtimeproc", "internal/kubeconfig", "internal/bundle", "internal/instance", "internal/runtime", "internal/mirror", "internal/join"},
	{"internal/registry", "internal/client", "internal/events", "internal/usage"},
	{"internal/admission", "internal/allocate", "internal/keyring"},
	{"internal/cache"},
	{"internal/endpoint"},
	{"internal/loop", "internal/leader", "internal/nft", "internal/store/local", "internal/store/etcd", "internal/store/snapshot", "internal/store/storetest", "internal/resource/kinds", "internal/pki", "internal/workload", "internal/claim", "internal/revision"},
	{"internal/resource/apps", "internal/resource/batch", "internal/resource/node", "internal/resource/discovery", "internal/resource/networking"},
	{"internal/resource/core", "internal/resource/autoscaling", "internal/resource/certificates", "internal/resource/coordination", "internal/resource/policy", "internal/resource/scheduling", "internal/resource/storage", "internal/auth"},
	{"internal/resource", "internal/store", "internal/version", "internal/token"},
}

// owners lists libraries that only one room may know.
var owners = map[string]string{
	"github.com/opencontainers/runc":             "internal/runtime",
	"github.com/opencontainers/cgroups":          "internal/runtime",
	"github.com/google/go-containerregistry":     "internal/runtime test",
	"github.com/google/nftables":                 "internal/nft test",
	"go.etcd.io/etcd":                            "internal/store/etcd test/etcd",
	"go.etcd.io/bbolt":                           "internal/store/local test/bench",
	"github.com/cockroachdb/pebble":              "internal/store/local test/bench",
	"k8s.io/kubectl":                             "",
	"k8s.io/kubernetes":                          "",
	"k8s.io/apiserver":                           "",
	"k8s.io/client-go/kubernetes":                "test internal/clustertest",
	"k8s.io/client-go/informers":                 "test internal/clustertest",
	"github.com/prometheus/client_golang":        "internal cmd/sampan",
	"k8s.io/cri-api":                             "internal/runtime internal/agent cmd/sampan cmd/sampan-runtime",
	"github.com/tidwall/btree":                   "internal/cache internal/store",
	"github.com/vishvananda/netlink":             "internal/podnet internal/proxy internal/announce internal/runtime internal/agent cmd/sampan test",
	"github.com/miekg/dns":                       "internal/dns",
	"github.com/robfig/cron":                     "internal/resource/batch",
	"github.com/rogpeppe/go-internal/testscript": "internal/clustertest test",
}

type pkg struct {
	ImportPath, Doc, Name string
	Imports               []string
	GoFiles, CgoFiles     []string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Doc,Name,Imports,GoFiles,CgoFiles", "./...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v: %s", err, stderr.String())
	}
	var all []pkg
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(p.GoFiles)+len(p.CgoFiles) > 0 {
			all = append(all, p)
		}
	}
}

// within says whether path is the room or lies in it.
func within(path, room string) bool { return path == room || strings.HasPrefix(path, room+"/") }

// floor returns the floor of a package, and the room it belongs to: the longest name that fits.
func floor(path string) (n int, room string) {
	n = -1
	for i, rooms := range floors {
		for _, r := range rooms {
			if within(path, r) && len(r) > len(room) {
				n, room = i, r
			}
		}
	}
	return n, room
}

func TestImportsPointOneWay(t *testing.T) {
	for _, p := range packages(t) {
		path := strings.TrimPrefix(p.ImportPath, module)
		from, room := floor(path)
		if from < 0 {
			t.Errorf("%s is in no room: give it its floor in house_test.go and in docs/architecture.md", path)
			continue
		}
		for _, imp := range p.Imports {
			target, own := strings.CutPrefix(imp, module)
			if !own {
				continue
			}
			to, other := floor(target)
			if other != room && to <= from {
				t.Errorf("%s imports %s, which is not on a floor below it", path, target)
			}
			// Controllers know neither each other nor the agent.
			if room == "internal/controller" && within(target, "internal/controller") && target != path {
				t.Errorf("controller %s imports controller %s", path, target)
			}
			if within(path, "internal/runtime") && !within(target, "internal/runtime") {
				t.Errorf("%s imports %s: the runtime knows nothing of the rest", path, target)
			}
		}
		if within(path, "internal/runtime") {
			for _, imp := range p.Imports {
				if strings.HasPrefix(imp, "k8s.io/") && !strings.HasPrefix(imp, "k8s.io/cri-api/") && !strings.HasPrefix(imp, "k8s.io/cri-streaming/") && !strings.HasPrefix(imp, "k8s.io/streaming/") && imp != "k8s.io/utils/exec" { // the last is how the streaming library is told an exit code
					t.Errorf("%s imports %s: the runtime knows of Kubernetes only the CRI", path, imp)
				}
			}
		}
	}
}

func TestLibrariesStayInTheirRooms(t *testing.T) {
	for _, p := range packages(t) {
		path := strings.TrimPrefix(p.ImportPath, module)
		for _, imp := range p.Imports {
			for library, rooms := range owners {
				if within(imp, library) && !slices.ContainsFunc(strings.Fields(rooms), func(room string) bool { return within(path, room) }) {
					t.Errorf("%s imports %s, which only %q may", path, imp, rooms)
				}
			}
		}
	}
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	for _, p := range packages(t) {
		if p.Doc == "" {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}
