package pressure

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestThresholdsAreReadAsTheKubeletReadsThem(t *testing.T) {
	for name, c := range map[string]struct{ text, want, err string }{
		"the defaults: memory first":                  {text: Default, want: "memory.available<100Mi nodefs.available<10% nodefs.inodesFree<5% imagefs.available<15% imagefs.inodesFree<5%"},
		"none is none":                                {text: "", want: ""},
		"spaces and empty pairs do not matter":        {text: " pid.available < 1k,,memory.available<1Gi", want: "memory.available<1Gi pid.available<1k"},
		"the last of a signal counts":                 {text: "memory.available<1Gi,memory.available<2Gi", want: "memory.available<2Gi"},
		"nothing and all of it switch a signal off":   {text: "nodefs.available<0%,imagefs.available<100%", want: ""},
		"a file system that we do not have":           {text: "containerfs.available<5%", want: "containerfs.available<5%"},
		"a signal that nobody knows":                  {text: "disk.available<1Gi", err: "unsupported eviction signal disk.available"},
		"no sign":                                     {text: "memory.available=1Gi", err: "malformed pair, expect string<string"},
		"less than nothing":                           {text: "memory.available<-1", err: "eviction threshold memory.available must be positive: -1"},
		"nothing":                                     {text: "memory.available<0", err: "eviction threshold memory.available must be positive: 0"},
		"more than all of it":                         {text: "nodefs.available<101%", err: "eviction percentage threshold nodefs.available must be <= 100%: 101%"},
		"a share less than nothing":                   {text: "nodefs.available<-5%", err: "eviction percentage threshold nodefs.available must be >= 0%: -5%"},
		"a share that is no number":                   {text: "nodefs.available<ten%", err: `strconv.ParseFloat: parsing "ten": invalid syntax`},
		"an amount that is no quantity, in its words": {text: "memory.available<lots", err: "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"},
	} {
		t.Run(name, func(t *testing.T) {
			all, err := Parse(c.text)
			if got := fmt.Sprint(err); c.err != "" && got != c.err || c.err == "" && err != nil {
				t.Fatalf("error %q, want %q", got, c.err)
			}
			var words []string
			for _, th := range all {
				amount := th.Quantity.String()
				if th.Share != 0 {
					amount = fmt.Sprintf("%.3g%%", th.Share*100)
				}
				words = append(words, string(th.Signal)+"<"+amount)
			}
			if got := strings.Join(words, " "); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

const (
	mi = 1 << 20
	gi = 1 << 30
)

// defaults are a node's own, and what a node has that is short of nothing.
func defaults(t testing.TB) ([]Threshold, Seen) {
	all, err := Parse(Default + ",pid.available<10%")
	if err != nil {
		t.Fatal(err)
	}
	return all, Seen{
		MemoryAvailable: {1 * gi, 4 * gi}, NodeFsAvailable: {50 * gi, 100 * gi}, NodeFsInodes: {500, 1000},
		ImageFsAvailable: {50 * gi, 100 * gi}, ImageFsInodes: {500, 1000}, PIDAvailable: {500, 1000},
	}
}

func TestDecide(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	const hold = 5 * time.Minute
	for name, c := range map[string]struct {
		seen  Seen // beside what is enough
		state State
		short string // signals
		has   string // conditions
	}{
		"enough of everything":                                   {},
		"memory at the threshold is enough":                      {seen: Seen{MemoryAvailable: {100 * mi, 4 * gi}}},
		"memory below it is not":                                 {seen: Seen{MemoryAvailable: {100*mi - 1, 4 * gi}}, short: "[memory.available]", has: "[MemoryPressure]"},
		"a share is of all there is":                             {seen: Seen{NodeFsAvailable: {10*gi - 1, 100 * gi}}, short: "[nodefs.available]", has: "[DiskPressure]"},
		"images on a disk that is nearly full":                   {seen: Seen{ImageFsAvailable: {14 * gi, 100 * gi}}, short: "[imagefs.available]", has: "[DiskPressure]"},
		"no inodes are disk pressure too":                        {seen: Seen{NodeFsInodes: {49, 1000}}, short: "[nodefs.inodesFree]", has: "[DiskPressure]"},
		"process ids":                                            {seen: Seen{PIDAvailable: {99, 1000}}, short: "[pid.available]", has: "[PIDPressure]"},
		"memory is more urgent than disk":                        {seen: Seen{NodeFsAvailable: {0, 100 * gi}, MemoryAvailable: {0, 4 * gi}}, short: "[memory.available nodefs.available]", has: "[MemoryPressure DiskPressure]"},
		"a pressure that has just gone is still told":            {state: State{corev1.NodeDiskPressure: now.Add(-hold + 1)}, has: "[DiskPressure]"},
		"and not after the hold":                                 {state: State{corev1.NodeDiskPressure: now.Add(-hold)}},
		"a pressure that goes on is told beyond the hold":        {seen: Seen{MemoryAvailable: {0, 4 * gi}}, state: State{corev1.NodeMemoryPressure: now.Add(-2 * hold)}, short: "[memory.available]", has: "[MemoryPressure]"},
		"what was not measured is not short":                     {seen: Seen{MemoryAvailable: {-1, -1}}},
		"a file system without a number of inodes has no bound ": {seen: Seen{NodeFsInodes: {-1, -1}}},
	} {
		t.Run(name, func(t *testing.T) {
			thresholds, seen := defaults(t)
			for s, l := range c.seen {
				if l.Capacity < 0 {
					delete(seen, s)
				} else {
					seen[s] = l
				}
			}
			p := Decide(thresholds, seen, c.state, hold, now)
			var short []Signal
			for _, th := range p.Short {
				short = append(short, th.Signal)
			}
			if got := fmt.Sprint(short); got != or(c.short, "[]") {
				t.Errorf("short of %s, want %s", got, or(c.short, "[]"))
			}
			if got := fmt.Sprint(p.Conditions); got != or(c.has, "[]") {
				t.Errorf("conditions %s, want %s", got, or(c.has, "[]"))
			}
		})
	}
}

func or(a, b string) string {
	if a == "" {
		return b
	}
	return a
}

// From whatever measurements came before: what is short now has its condition, and a node that is short of nothing for the hold has none; the state stays small.
func TestConditionsFollowMeasurements(t *testing.T) {
	thresholds, calm := defaults(t)
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		now, hold := time.Unix(0, 0), time.Duration(r.Int64N(int64(10*time.Minute)))
		var state State
		for range 50 {
			now = now.Add(time.Duration(r.Int64N(int64(2 * time.Minute))))
			seen := Seen{}
			for s, l := range calm {
				seen[s] = Level{r.Int64N(l.Capacity), l.Capacity}
			}
			p := Decide(thresholds, seen, state, hold, now)
			for _, th := range p.Short {
				if !slices.Contains(p.Conditions, th.Signal.Condition()) {
					t.Fatalf("seed %d: short of %s, but the node's conditions are %v", seed, th.Signal, p.Conditions)
				}
			}
			if again := Decide(thresholds, seen, p.State, hold, now); fmt.Sprint(again) != fmt.Sprint(p) {
				t.Fatalf("seed %d: the same again gives %v, and before %v", seed, again, p)
			}
			state = p.State
		}
		if p := Decide(thresholds, calm, state, hold, now.Add(hold)); len(p.Conditions)+len(p.Short)+len(p.State) != 0 && hold > 0 {
			t.Fatalf("seed %d: after the hold %+v", seed, p)
		}
	}
}

// a pod of one container, for tables.
func pod(name string, change ...func(*Pod)) Pod {
	p := Pod{Pod: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}}}, Usage: &Usage{Containers: []Container{{Name: "c"}}}}
	for _, c := range change {
		c(&p)
	}
	return p
}

func memory(n int64) func(*Pod) {
	return func(p *Pod) { p.Usage.Memory, p.Usage.Containers[0].Memory = n, n }
}

func requests(name corev1.ResourceName, amount string) func(*Pod) {
	return func(p *Pod) {
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{name: resource.MustParse(amount)}
	}
}

func limits(amount string) func(*Pod) {
	return func(p *Pod) {
		p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceEphemeralStorage: resource.MustParse(amount)}
	}
}

func wrote(root, logs, volume int64) func(*Pod) {
	return func(p *Pod) {
		p.Usage.Containers[0].Root, p.Usage.Containers[0].Logs = Disk{root, root / mi}, Disk{logs, logs / mi}
		p.Usage.Volumes = map[string]Disk{"v": {volume, volume / mi}}
	}
}

func empty(limit string) func(*Pod) {
	return func(p *Pod) {
		q := resource.MustParse(limit)
		p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: &q}}}}
	}
}

func priority(n int32) func(*Pod) { return func(p *Pod) { p.Spec.Priority = &n } }
func unmeasured(p *Pod)           { p.Usage = nil }
func mirrored(p *Pod)             { p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"} }

func TestVictims(t *testing.T) {
	for name, c := range map[string]struct {
		pods   []Pod
		signal Signal
		own    bool
		want   string
	}{
		"who uses most memory goes first": {
			signal: MemoryAvailable, pods: []Pod{pod("a", memory(1*mi)), pod("b", memory(2*mi))}, want: "b a",
		},
		"what was asked for does not count": {
			signal: MemoryAvailable, pods: []Pod{pod("a", memory(9*mi), requests("memory", "8Mi")), pod("b", memory(2*mi))}, want: "b a",
		},
		"who keeps to what it asked for comes last, whatever the priorities": {
			signal: MemoryAvailable, pods: []Pod{pod("a", memory(9*mi), requests("memory", "10Mi")), pod("b", memory(1*mi), priority(100))}, want: "b a",
		},
		"priority comes before the amount": {
			signal: MemoryAvailable, pods: []Pod{pod("a", memory(9*mi), priority(1)), pod("b", memory(1*mi))}, want: "b a",
		},
		"of who is not measured the worst is assumed": {
			signal: MemoryAvailable, pods: []Pod{pod("a", memory(9*mi)), pod("b", unmeasured, priority(5))}, want: "b a",
		},
		"what the cluster cannot do without stays": {
			signal: MemoryAvailable, pods: []Pod{pod("a", memory(9*mi), priority(critical)), pod("b", memory(8*mi), mirrored), pod("c", memory(1))}, want: "c",
		},
		"a disk that images share counts all that a pod wrote": {
			signal: NodeFsAvailable, pods: []Pod{pod("a", wrote(0, 2*mi, 3*mi)), pod("b", wrote(6*mi, 0, 0))}, want: "b a",
		},
		"a disk of their own has only what containers wrote": {
			signal: ImageFsAvailable, own: true, pods: []Pod{pod("a", wrote(1*mi, 20*mi, 30*mi)), pod("b", wrote(6*mi, 0, 0))}, want: "b a",
		},
		"and the node's only logs and volumes": {
			signal: NodeFsAvailable, own: true, pods: []Pod{pod("a", wrote(1*mi, 2*mi, 3*mi)), pod("b", wrote(60*mi, 0, 0))}, want: "a b",
		},
		"files are counted where inodes are short": {
			signal: NodeFsInodes, pods: []Pod{pod("a", wrote(1*mi, 0, 0)), pod("b", wrote(0, 0, 3*mi))}, want: "b a",
		},
		"process ids: priority, then the number": {
			signal: PIDAvailable, pods: []Pod{pod("a", func(p *Pod) { p.Usage.Processes = 9 }, priority(1)), pod("b"), pod("c", func(p *Pod) { p.Usage.Processes = 5 })}, want: "c b a",
		},
	} {
		t.Run(name, func(t *testing.T) {
			for range 5 { // in whatever order they come
				rand.Shuffle(len(c.pods), func(i, j int) { c.pods[i], c.pods[j] = c.pods[j], c.pods[i] })
				var names []string
				for _, p := range Victims(c.pods, Threshold{Signal: c.signal}, c.own) {
					names = append(names, p.Name)
				}
				if got := strings.Join(names, " "); got != c.want {
					t.Fatalf("%q, want %q", got, c.want)
				}
			}
		})
	}
}

func TestWhyAPodIsEvicted(t *testing.T) {
	thresholds, seen := defaults(t)
	seen[MemoryAvailable], seen[NodeFsAvailable], seen[NodeFsInodes] = Level{80 * mi, 4 * gi}, Level{1 * gi, 100 * gi}, Level{40, 1000}
	plan := Decide(thresholds, seen, nil, 0, time.Unix(0, 0))
	for name, c := range map[string]struct {
		pod  Pod
		at   int // in plan.Short
		want string
	}{
		"memory": {
			pod:  pod("p", memory(300*mi), requests("memory", "64Mi")),
			want: "The node was low on resource: memory. Threshold quantity: 100Mi, available: 80Mi. Container c was using 300Mi, request is 64Mi, has larger consumption of memory. ",
		},
		"memory of a pod that asked for none": {
			pod:  pod("p", memory(300*mi)),
			want: "The node was low on resource: memory. Threshold quantity: 100Mi, available: 80Mi. Container c was using 300Mi, request is 0, has larger consumption of memory. ",
		},
		"a pod that keeps to its request is not blamed": {
			pod:  pod("p", memory(3*mi), requests("memory", "64Mi")),
			want: "The node was low on resource: memory. Threshold quantity: 100Mi, available: 80Mi. ",
		},
		"disk: volumes are not a container's": {
			pod: pod("p", wrote(2*mi, 1*mi, 500*mi)), at: 1,
			want: "The node was low on resource: ephemeral-storage. Threshold quantity: 10737418400, available: 1Gi. Container c was using 3Mi, request is 0, has larger consumption of ephemeral-storage. ",
		},
		"inodes": {pod: pod("p", wrote(2*mi, 1*mi, 500*mi)), at: 2, want: "The node was low on resource: inodes. Threshold quantity: 50, available: 40. "},
		"a pod that was not measured": {
			pod: pod("p", unmeasured), want: "The node was low on resource: memory. Threshold quantity: 100Mi, available: 80Mi. ",
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Why(c.pod, plan.Short[c.at], plan.Short, seen); got != c.want {
				t.Errorf("%q\nwant %q", got, c.want)
			}
		})
	}
}

func TestLimitsOfDisk(t *testing.T) {
	for name, c := range map[string]struct {
		pod  Pod
		own  bool
		want string
	}{
		"a volume below its limit":             {pod: pod("p", empty("10Mi"), wrote(0, 0, 10*mi))},
		"a volume above it":                    {pod: pod("p", empty("10Mi"), wrote(0, 0, 10*mi+1)), want: `Usage of EmptyDir volume "v" exceeds the limit "10Mi". `},
		"a limit of zero is none":              {pod: pod("p", empty("0"), wrote(0, 0, 10*mi))},
		"containers, logs and volumes count":   {pod: pod("p", limits("10Mi"), wrote(5*mi, 5*mi, 1*mi)), want: "Pod ephemeral local storage usage exceeds the total limit of containers 10Mi. "},
		"all of them below the limit":          {pod: pod("p", limits("12Mi"), wrote(5*mi, 5*mi, 1*mi))},
		"a pod without limits may fill a disk": {pod: pod("p", wrote(5*gi, 5*gi, 5*gi))},
		"one container above its own": {
			pod: pod("p", limits("4Mi"), wrote(5*mi, 0, 0), func(p *Pod) {
				p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "d", Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{"ephemeral-storage": resource.MustParse("90Mi")}}})
			}), want: `Container c exceeded its local ephemeral storage limit "4Mi". `,
		},
		"what it wrote to a file system of images is not the node's": {
			own: true, pod: pod("p", limits("4Mi"), wrote(5*mi, 0, 0), func(p *Pod) {
				p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "d", Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{"ephemeral-storage": resource.MustParse("90Mi")}}})
			}),
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Exceeds(c.pod, c.own); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
			volumes, containers := Limited(c.pod.Pod)
			if c.want != "" && !volumes && !containers {
				t.Error("a pod that exceeds a limit counts as without limits")
			}
		})
	}
}

func TestAdmissionUnderPressure(t *testing.T) {
	tolerates := func(p *Pod) {
		p.Spec.Tolerations = []corev1.Toleration{{Key: corev1.TaintNodeMemoryPressure, Operator: corev1.TolerationOpExists}}
	}
	memory, disk := corev1.NodeMemoryPressure, corev1.NodeDiskPressure
	for name, c := range map[string]struct {
		has   []corev1.NodeConditionType
		pod   Pod
		class corev1.PodQOSClass
		want  string
	}{
		"no pressure":                                {pod: pod("p"), class: corev1.PodQOSBestEffort},
		"memory: a pod that asks for nothing":        {has: []corev1.NodeConditionType{memory}, pod: pod("p"), class: corev1.PodQOSBestEffort, want: "The node had condition: [MemoryPressure]. "},
		"memory: one that asks for some":             {has: []corev1.NodeConditionType{memory}, pod: pod("p"), class: corev1.PodQOSBurstable},
		"memory: one that tolerates it":              {has: []corev1.NodeConditionType{memory}, pod: pod("p", tolerates), class: corev1.PodQOSBestEffort},
		"disk: nobody, not even who tolerates it":    {has: []corev1.NodeConditionType{disk}, pod: pod("p", tolerates), class: corev1.PodQOSGuaranteed, want: "The node had condition: [DiskPressure]. "},
		"both: nobody":                               {has: []corev1.NodeConditionType{memory, disk}, pod: pod("p"), class: corev1.PodQOSBurstable, want: "The node had condition: [MemoryPressure DiskPressure]. "},
		"what the cluster cannot do without: always": {has: []corev1.NodeConditionType{disk}, pod: pod("p", priority(critical)), class: corev1.PodQOSBestEffort},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Refuses(c.has, c.pod.Pod, c.class); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}
