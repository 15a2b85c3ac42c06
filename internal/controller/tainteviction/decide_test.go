package tainteviction

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// tolerates is a toleration of a key for so many seconds; less than none is for ever.
func tolerates(key string, seconds int64) corev1.Toleration {
	t := corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}
	if seconds >= 0 {
		t.TolerationSeconds = &seconds
	}
	return t
}

func TestDecide(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	taint := func(key string, ago time.Duration) Since {
		return Since{Taint: corev1.Taint{Key: key, Effect: corev1.TaintEffectNoExecute}, At: now.Add(-ago)}
	}
	const lost, mine = corev1.TaintNodeUnreachable, "mine"
	facts := func(silent time.Duration) Facts {
		return Facts{Fences: true, Silent: silent, Grace: 8 * time.Second, Margin: Margin}
	}
	after := FencedAfter(8*time.Second, 30*time.Second, new(int64(30)), Margin)
	for name, c := range map[string]struct {
		tolerations []corev1.Toleration
		taints      []Since
		deleted     bool
		facts       Facts
		want        Plan
	}{
		"no taint: it stays":                                 {},
		"it does not tolerate the taint: it goes":            {taints: []Since{taint(mine, 0)}, want: Plan{Evict: true}},
		"not even if the taint is from the future":           {taints: []Since{taint(mine, -time.Hour)}, want: Plan{Evict: true}},
		"it tolerates another taint: it goes":                {tolerations: []corev1.Toleration{tolerates(lost, -1)}, taints: []Since{taint(mine, 0)}, want: Plan{Evict: true}},
		"it tolerates the taint for ever: it stays":          {tolerations: []corev1.Toleration{tolerates(mine, -1)}, taints: []Since{taint(mine, time.Hour)}},
		"it tolerates everything: it stays":                  {tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}}, taints: []Since{taint(mine, 0), taint(lost, 0)}},
		"it tolerates the taint for a while: it waits":       {tolerations: []corev1.Toleration{tolerates(mine, 30)}, taints: []Since{taint(mine, 10*time.Second)}, want: Plan{Evicts: true, Again: 20 * time.Second}},
		"the while is over: it goes":                         {tolerations: []corev1.Toleration{tolerates(mine, 30)}, taints: []Since{taint(mine, 30*time.Second)}, want: Plan{Evict: true}},
		"two taints: the one that ends first counts":         {tolerations: []corev1.Toleration{tolerates(mine, 30), tolerates(lost, 60)}, taints: []Since{taint(mine, 0), taint(lost, 50*time.Second)}, want: Plan{Evicts: true, Again: 10 * time.Second}},
		"two taints, one for ever: the other counts":         {tolerations: []corev1.Toleration{tolerates(mine, -1), tolerates(lost, 60)}, taints: []Since{taint(mine, 0), taint(lost, 0)}, want: Plan{Evicts: true, Again: time.Minute}},
		"two tolerations of one taint: the first counts":     {tolerations: []corev1.Toleration{tolerates(mine, 60), tolerates(mine, 30)}, taints: []Since{taint(mine, 0)}, want: Plan{Evicts: true, Again: time.Minute}},
		"a toleration longer than time itself":               {tolerations: []corev1.Toleration{tolerates(mine, 1<<62)}, taints: []Since{taint(mine, 0)}, want: Plan{Evicts: true, Again: longest}},
		"seconds below none are none":                        {tolerations: []corev1.Toleration{{Key: mine, Operator: corev1.TolerationOpExists, TolerationSeconds: new(int64(-5))}}, taints: []Since{taint(mine, 0)}, want: Plan{Evict: true}},
		"deleted, its node does not fence: it stays":         {deleted: true, taints: []Since{taint(lost, time.Hour)}, facts: Facts{Silent: time.Hour}},
		"deleted, its node is reached: it stays":             {deleted: true, taints: []Since{taint(corev1.TaintNodeNotReady, time.Hour)}, facts: facts(time.Hour)},
		"deleted, tolerates its node's silence for ever":     {deleted: true, tolerations: []corev1.Toleration{tolerates(lost, -1)}, taints: []Since{taint(lost, time.Hour)}, facts: facts(time.Hour)},
		"deleted, and its node may have processes: it waits": {deleted: true, tolerations: []corev1.Toleration{tolerates(lost, 30)}, taints: []Since{taint(lost, time.Hour)}, facts: facts(after - time.Second), want: Plan{Again: time.Second}},
		"deleted, and its node has none: it goes for good":   {deleted: true, tolerations: []corev1.Toleration{tolerates(lost, 30)}, taints: []Since{taint(lost, time.Second)}, facts: facts(after), want: Plan{Fence: true}},
	} {
		t.Run(name, func(t *testing.T) {
			pod := &corev1.Pod{Spec: corev1.PodSpec{Tolerations: c.tolerations, TerminationGracePeriodSeconds: new(int64(30))}}
			if c.deleted {
				pod.DeletionTimestamp = &metav1.Time{Time: now}
			}
			c.facts.Now = now
			if got := Decide(pod, c.taints, c.facts); got != c.want {
				t.Errorf("the plan is %+v, want %+v", got, c.want)
			}
		})
	}
}

// TestNoTwoOfOnePod plays both sides of the agreement, with clocks that run unlike: the agent's is slow, ours is fast.
func TestNoTwoOfOnePod(t *testing.T) {
	for _, tolerates := range []time.Duration{0, time.Second, 30 * time.Second, 300 * time.Second} {
		for _, termination := range []int64{0, 1, 10, 30, 3600} {
			for _, grace := range []time.Duration{8 * time.Second, 40 * time.Second} {
				name := fmt.Sprintf("grace %v, tolerates %v, has %d s to end", grace, tolerates, termination)
				kill := min(Kill, time.Duration(termination)*time.Second)
				// In true time, counted from when the agent sent its last renewal, which we saw in that moment at the earliest.
				dead := float64(grace+tolerates+kill) * 1.005
				ours := float64(FencedAfter(grace, tolerates, &termination, Margin)) * 0.995
				if spare := time.Duration(ours - dead); spare < Margin*9/10 {
					t.Errorf("%s: only %v are left for the last process to die", name, spare)
				}
				if late := FencedAfter(grace, tolerates, &termination, Margin) - grace - tolerates; late > 18*time.Second && grace == 8*time.Second {
					t.Errorf("%s: it is gone %v after its toleration has ended, and has to run elsewhere 20 s after", name, late)
				}
			}
		}
	}
}
