package why

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"sampan.dev/internal/resource"
	"sampan.dev/internal/resource/kinds"
	"sampan.dev/internal/scheduler/profile"
)

var update = flag.Bool("update", false, "write what is said now into testdata: read it before it is committed")

// atNoon is the time in all cases.
var atNoon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// hand is a world of hand-made objects.
type hand struct {
	table   *resource.Table
	objects []resource.Object
	logs    map[string]string // by "POD CONTAINER", with " previous" for the run before
	broken  map[string]error  // by plural: lists that cannot be read

	profiles profile.Config
}

func (h *hand) Now() time.Time { return atNoon }

func (h *hand) Scheduling() profile.Config { return h.profiles }

func (h *hand) plural(o Object) string {
	for _, k := range h.table.All() {
		if reflect.TypeOf(k.New()) == reflect.TypeOf(o) {
			return k.Plural
		}
	}
	return ""
}

func (h *hand) List(plural, namespace string) (list []Object, err error) {
	if err := h.broken[plural]; err != nil {
		return nil, err
	}
	for _, o := range h.objects {
		if h.plural(o) == plural && (namespace == "" || o.GetNamespace() == namespace) {
			list = append(list, o)
		}
	}
	return list, nil
}

func (h *hand) Events(about Object) (list []*corev1.Event, err error) {
	for _, o := range h.objects {
		if e, is := o.(*corev1.Event); is && e.InvolvedObject.Name == about.GetName() && strings.ToLower(e.InvolvedObject.Kind)+"s" == h.plural(about) {
			list = append(list, e)
		}
	}
	return list, nil
}

func (h *hand) Log(_, pod, container string, previous bool, lines int) ([]string, error) {
	name := pod + " " + container
	if previous {
		name += " previous"
	}
	text, there := h.logs[name]
	if !there {
		return nil, fmt.Errorf("previous terminated container %q in pod %q not found", container, pod)
	}
	list := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	return list[max(0, len(list)-lines):], nil
}

func (h *hand) Left(namespace string) (left []Leftover, err error) {
	for _, o := range h.objects {
		if o.GetNamespace() == namespace {
			left = append(left, Leftover{Resource: h.plural(o), Name: o.GetName(), Finalizers: o.GetFinalizers(), Deleted: o.GetDeletionTimestamp() != nil})
		}
	}
	return left, nil
}

// handOf reads a case: objects.yaml, and logs as "log POD CONTAINER [previous]". The object in question is the first.
func handOf(t *testing.T, table *resource.Table, a *txtar.Archive) (*hand, string) {
	t.Helper()
	h := &hand{table: table, logs: map[string]string{}, broken: map[string]error{}, profiles: profile.Default()}
	want := ""
	for _, f := range a.Files {
		kind, rest, _ := strings.Cut(f.Name, " ")
		switch kind {
		case "want":
			want = string(f.Data)
		case "log":
			h.logs[rest] = string(f.Data)
		case "scheduler.yaml":
			var err error
			if h.profiles, err = profile.Parse(f.Data); err != nil {
				t.Fatal(err)
			}
		case "broken":
			h.broken[rest] = errors.New(strings.TrimSpace(string(f.Data)))
		case "objects.yaml":
			for doc := range strings.SplitSeq(string(f.Data), "\n---\n") {
				h.objects = append(h.objects, many(t, table, doc)...)
			}
		}
	}
	return h, want
}

// many reads one document; one with a line "# times N" is N objects, in whose text every $ is the number.
func many(t *testing.T, table *resource.Table, doc string) (list []resource.Object) {
	n := 0
	if _, err := fmt.Sscanf(doc, "# times %d", &n); err != nil {
		return []resource.Object{objectOf(t, table, doc)}
	}
	for i := range n {
		list = append(list, objectOf(t, table, strings.ReplaceAll(doc, "$", fmt.Sprintf("%03d", i))))
	}
	return list
}

func objectOf(t *testing.T, table *resource.Table, doc string) resource.Object {
	t.Helper()
	data, err := yaml.YAMLToJSON([]byte(doc))
	if err != nil {
		t.Fatalf("%v in\n%s", err, doc)
	}
	var meta metav1.TypeMeta
	if err := json.Unmarshal(data, &meta); err != nil {
		t.Fatal(err)
	}
	k, _ := table.ByKind(meta.GroupVersionKind())
	if k == nil {
		t.Fatalf("there is no kind %s in\n%s", meta.GroupVersionKind(), doc)
	}
	o := k.New()
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(o); err != nil {
		t.Fatalf("%v in\n%s", err, doc)
	}
	if k.Namespaced && o.GetNamespace() == "" {
		o.SetNamespace("default")
	}
	if o.GetUID() == "" {
		o.SetUID(types.UID("uid-" + k.Singular + "-" + o.GetName()))
	}
	return o
}

// Each file of testdata is a case, whose first line is a sentence: objects, logs, and what is to be said of the first object.
func TestWhatIsSaid(t *testing.T) {
	table := kinds.Table()
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) < 40 {
		t.Fatalf("%d cases: %v", len(files), err)
	}
	for _, file := range files {
		a, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		sentence, _, _ := strings.Cut(string(a.Comment), "\n")
		t.Run(filepath.Base(file)+": "+sentence, func(t *testing.T) {
			h, want := handOf(t, table, a)
			answer, err := Explain(h, h.objects[0])
			if err != nil {
				t.Fatal(err)
			}
			var got strings.Builder
			answer.Print(&got)
			if *update {
				a.Files = slices.DeleteFunc(a.Files, func(f txtar.File) bool { return f.Name == "want" })
				a.Files = append(a.Files, txtar.File{Name: "want", Data: []byte(got.String())})
				if err := os.WriteFile(file, txtar.Format(a), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got.String() != want {
				t.Errorf("it says\n%s\nand should say\n%s", got.String(), want)
			}
		})
	}
}
