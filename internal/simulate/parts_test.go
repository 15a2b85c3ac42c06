package simulate

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"sampan.dev/internal/loop"
)

func TestProfilesChooseByLabelsAndImage(t *testing.T) {
	p, err := ParseProfiles([]byte(`
defaults: {start: {min: 1s, max: 2s}, fail: 0.1}
profiles:
- {name: both, selector: {app: db}, image: "*/postgres:*", ready: {min: 5s}}
- {name: label, selector: {app: db}, fail: 0}
- {name: expression, selector: {matchExpressions: [{key: tier, operator: Exists}]}}
- {name: image, image: busybox}
`))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		labels map[string]string
		image  string
		want   string
	}{
		"labels and image fit":                      {map[string]string{"app": "db"}, "example.com/postgres:17", "both 1s 5s 0.1"},
		"only the labels fit":                       {map[string]string{"app": "db"}, "example.com/mysql:8", "label 1s 0s 0"},
		"a label is there":                          {map[string]string{"tier": "front"}, "web", "expression 1s 0s 0.1"},
		"a pattern without a star is all of a name": {nil, "busybox", "image 1s 0s 0.1"},
		"and not a part of one":                     {nil, "busybox:1", "default 1s 0s 0.1"},
		"what nothing fits is as the defaults say":  {nil, "web", "default 1s 0s 0.1"},
	} {
		t.Run(name, func(t *testing.T) {
			got := p.For(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Labels: c.labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Image: c.image}}}})
			if text := fmt.Sprint(got.Name, " ", got.Start.Min.Duration, " ", got.Ready.Min.Duration, " ", *got.Fail); text != c.want {
				t.Errorf("it is %s, wanted %s", text, c.want)
			}
		})
	}
}

func TestProfilesThatMakeNoSenseAreRefused(t *testing.T) {
	for text, want := range map[string]string{
		"defaults: {fail: 2}":                            "defaults: fail: 2 is no share from 0 to 1",
		"profiles: [{name: x, run: {min: 2s, max: 1s}}]": "profile x: run: max 1s is less than min 2s",
		"profiles: [{stop: {min: -2s}}]":                 "profile number 1: stop: a time is not less than nothing",
		"profiles: [{strat: {min: 2s}}]":                 `unknown field "strat"`,
		"profile: []":                                    `unknown field "profile"`,
		"profiles: [{name: near, selector: {matchExpressions: [{operator: Near}]}}]": `profile near: "Near" is not a valid label selector operator`,
	} {
		if _, err := ParseProfiles([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: it says %v, wanted %s", text, err, want)
		}
	}
}

func TestDrawsAreEvenAndAlwaysTheSame(t *testing.T) {
	sum, low := 0.0, 0
	const n = 10_000
	for i := range n {
		x := lot(7, "default", fmt.Sprintf("web-%d", i), "start")
		if x < 0 || x >= 1 || x != lot(7, "default", fmt.Sprintf("web-%d", i), "start") {
			t.Fatalf("%v is drawn for %d", x, i)
		}
		sum += x
		if x < 0.1 {
			low++
		}
	}
	if mean := sum / n; mean < 0.48 || mean > 0.52 || low < n/12 || low > n/8 {
		t.Errorf("the mean is %v, and %d of %d are below a tenth", mean, low, n)
	}
	if lot(1, "a", "bc") == lot(1, "ab", "c") || lot(1, "a") == lot(2, "a") {
		t.Error("other words or seeds draw the same")
	}
}

func TestEachNodeHasOneTurnInAPeriod(t *testing.T) {
	const nodes, period = 7, 2500 * time.Millisecond
	w := wheel{nodes: nodes, period: period}
	turns := make([]int, nodes)
	for at := time.Duration(0); at < 10*period; at += 50 * time.Millisecond {
		from, count := w.next(at)
		if count > 1 {
			t.Errorf("at %v there are %d turns at once", at, count)
		}
		for i := range count {
			turns[(from+i)%nodes]++
		}
	}
	for i, n := range turns {
		if n < 9 || n > 10 {
			t.Errorf("node %d has had %d turns in 10 periods", i, n)
		}
	}
	// It is held up for long: everybody has one turn, and then it goes on as before.
	if _, count := w.next(100 * period); count != nodes {
		t.Errorf("after a long time there are %d turns", count)
	}
	if _, count := w.next(100 * period); count != 0 {
		t.Errorf("there are %d turns more at the same time", count)
	}
}

func TestNoAddressIsGivenTwice(t *testing.T) {
	book := addressBook{nodes: map[string]*used{}, given: map[loop.Key]grant{}}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "sim-0"}, Spec: corev1.NodeSpec{PodCIDRs: []string{"10.42.3.0/24", "fd00:0:0:3::/64"}}}
	give := func(i int) string {
		ips, err := book.give(node, loop.Key{Name: fmt.Sprint(i)}, types.UID(fmt.Sprint(i)))
		if err != nil {
			return err.Error()
		}
		return ips[0].IP + " " + ips[1].IP
	}
	if got := give(0); got != "10.42.3.2 fd00:0:0:3::2" {
		t.Errorf("the first is %s", got)
	}
	seen := map[string]bool{}
	for i := range 253 {
		seen[give(i)] = true
		seen[give(i)] = true // asked again, it is the same
	}
	if len(seen) != 253 {
		t.Errorf("253 pods have %d addresses", len(seen))
	}
	if got := give(253); got != "no address of 10.42.3.0/24 is free on node sim-0" {
		t.Errorf("one too many has %s", got)
	}
	if ips, err := book.give(&corev1.Node{}, loop.Key{Name: "early"}, "early"); ips != nil || err != nil {
		t.Errorf("without a range it is %v, %v", ips, err)
	}
}
