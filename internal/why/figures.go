package why

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/duration"

	"sampan.dev/internal/loop"
	"sampan.dev/internal/scheduler"
)

// nounOf is what people call a resource.
func nounOf(name corev1.ResourceName) string {
	switch name {
	case corev1.ResourceCPU:
		return "CPU"
	case corev1.ResourceEphemeralStorage:
		return "ephemeral storage"
	}
	return string(name)
}

// amount writes a quantity as in a manifest. Bytes that are no round number are cut to whole Mi, or filled up to one, so that whoever follows
// an advice does not ask for too much.
func amount(name corev1.ResourceName, n int64, up bool) string {
	switch {
	case name == corev1.ResourceCPU:
		return resource.NewMilliQuantity(n, resource.DecimalSI).String()
	case name != corev1.ResourceMemory && name != corev1.ResourceEphemeralStorage && !strings.HasPrefix(string(name), "hugepages-"):
		return fmt.Sprint(n)
	}
	const mi = 1 << 20
	if n > mi && n%mi != 0 {
		if n -= n % mi; up {
			n += mi
		}
	}
	return resource.NewQuantity(n, resource.BinarySI).String()
}

// free is "800m of 1 CPU free".
func free(s scheduler.Shortage) string {
	if s.Free() <= 0 {
		return fmt.Sprintf("none of its %s %s is free", amount(s.Resource, s.All, false), nounOf(s.Resource))
	}
	return fmt.Sprintf("%s of %s %s is free", amount(s.Resource, s.Free(), false), amount(s.Resource, s.All, false), nounOf(s.Resource))
}

func keyText(k loop.Key) string { return k.Namespace + "/" + k.Name }

func keyTexts(keys []loop.Key) []string {
	texts := make([]string, len(keys))
	for i, k := range keys {
		texts[i] = keyText(k)
	}
	return texts
}

func taintText(t *corev1.Taint) string {
	if t.Value == "" {
		return t.Key + ":" + string(t.Effect)
	}
	return t.Key + "=" + t.Value + ":" + string(t.Effect)
}

// ago and left are times as distances; a time that is unknown is none.
func (l *look) ago(t time.Time) string {
	if t.IsZero() {
		return "at an unknown time"
	}
	return duration.HumanDuration(max(l.now.Sub(t), 0)) + " ago"
}

func (l *look) since(t time.Time) string {
	if t.IsZero() {
		return "for an unknown time"
	}
	return "for " + duration.HumanDuration(max(l.now.Sub(t), 0))
}

func (l *look) in(t time.Time) string {
	return "in " + duration.HumanDuration(max(t.Sub(l.now), 0))
}
