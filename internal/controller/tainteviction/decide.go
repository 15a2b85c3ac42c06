package tainteviction

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
)

// Since is a taint with NoExecute, and when the time of those that tolerate it began.
type Since struct {
	corev1.Taint
	At time.Time
}

// Facts are what a decision about a pod rests on, besides the pod and its node's taints.
type Facts struct {
	Now    time.Time
	Fences bool          // the node promises to end its pods by itself
	Silent time.Duration // for how long nothing was seen of the node; asked only of pods that are being deleted
	Grace  time.Duration // of the node, before it is unreachable
	Margin time.Duration
}

// Plan is what one pass would do.
type Plan struct {
	Evict  bool          // delete the pod with its grace
	Evicts bool          // the pod will be evicted: its time runs
	Fence  bool          // delete the pod for good
	Again  time.Duration // until there is something to do
}

// Decide says what is to be done about a pod.
func Decide(pod *corev1.Pod, taints []Since, f Facts) Plan {
	if pod.DeletionTimestamp != nil {
		return decideFence(pod, taints, f)
	}
	var due time.Time
	for _, t := range taints {
		seconds, forever := Tolerates(pod.Spec.Tolerations, t.Taint)
		if forever {
			continue
		}
		at := t.At.Add(seconds)
		if seconds == 0 {
			at = f.Now // at once, whatever clock says when the taint was added
		}
		if due.IsZero() || at.Before(due) {
			due = at
		}
	}
	switch {
	case due.IsZero():
		return Plan{}
	case !due.After(f.Now):
		return Plan{Evict: true}
	}
	return Plan{Evicts: true, Again: due.Sub(f.Now)}
}

// decideFence says when a pod that is being deleted may go without its node's word.
func decideFence(pod *corev1.Pod, taints []Since, f Facts) Plan {
	if !f.Fences {
		return Plan{}
	}
	for _, t := range taints {
		if t.Key != corev1.TaintNodeUnreachable {
			continue
		}
		seconds, forever := Tolerates(pod.Spec.Tolerations, t.Taint)
		if forever {
			return Plan{}
		}
		if left := FencedAfter(f.Grace, seconds, pod.Spec.TerminationGracePeriodSeconds, f.Margin) - f.Silent; left > 0 {
			return Plan{Again: left}
		}
		return Plan{Fence: true}
	}
	return Plan{}
}

// FencedAfter is how long a node must have been silent for no process to be left of a pod: the package says why.
func FencedAfter(grace, tolerates time.Duration, termination *int64, margin time.Duration) time.Duration {
	kill := Kill
	if termination != nil {
		kill = min(kill, time.Duration(max(*termination, 0))*time.Second)
	}
	ends := grace + tolerates + kill
	return ends + ends/100 + margin
}

// longest bounds what tolerations say, so that no sum overflows.
const longest = 100 * 365 * 24 * time.Hour

// Tolerates is for how long the taint is tolerated: the first toleration that matches counts.
func Tolerates(tolerations []corev1.Toleration, taint corev1.Taint) (d time.Duration, forever bool) {
	for i := range tolerations {
		if !tolerations[i].ToleratesTaint(klog.Background(), &taint, true) {
			continue
		}
		s := tolerations[i].TolerationSeconds
		if s == nil {
			return 0, true
		}
		if *s >= int64(longest/time.Second) {
			return longest, false
		}
		return time.Duration(max(*s, 0)) * time.Second, false
	}
	return 0, false
}

// executing are the node's taints that evict.
func executing(node *corev1.Node) (taints []corev1.Taint) {
	for _, t := range node.Spec.Taints {
		if t.Effect == corev1.TaintEffectNoExecute {
			taints = append(taints, t)
		}
	}
	return taints
}

// fences says that the node's agent promises to end the pods itself.
func fences(node *corev1.Node) bool { return node.Annotations[Fences] == "true" }
