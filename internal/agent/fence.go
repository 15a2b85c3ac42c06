package agent

import (
	"context"
	"math"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
)

// FencesAnnotation on a Node says that its agent ends pods by itself when it has reached no server for as long as they tolerate that. The control plane may then make
// a pod again elsewhere, under the same name, without anybody's word that the old one is dead. Both sides of the rule are told in internal/controller/tainteviction.
const FencesAnnotation = "sampan.dev/fences"

// NoServer is what Config.Unserved says where no server runs.
const NoServer = time.Duration(math.MaxInt64)

// fenceKill is how many seconds, at the most, a pod's containers have to end once the agent fences itself.
const fenceKill = 10

// fence counts for how long no server has been reached, by a clock that goes on while the machine sleeps and that nobody sets.
type fence struct {
	grace   time.Duration         // that the control plane waits before it calls a node unreachable; zero: this agent does not fence itself
	contact time.Duration         // when the last request was sent that a server is known to have heard, or that no server was there for; later by what was spared since; zero: never
	settled time.Duration         // up to when it is known which time counts
	stopped map[types.UID]*fenced // pods that were stopped, until it is known that they are still meant to run here
}

// fenced is a pod that was stopped.
type fenced struct{ namespace, name string }

// sinceBoot is the fence's clock.
func sinceBoot() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("agent: this kernel has no CLOCK_BOOTTIME: " + err.Error())
	}
	return time.Duration(ts.Nano())
}

// due says when a pod that tolerates an unreachable node for so long has to be stopped, if nobody is reached until then; false: never.
func (f *fence) due(tolerates time.Duration, forever bool) (at time.Duration, ever bool) {
	if f.grace == 0 || f.contact == 0 || forever {
		return 0, false
	}
	return f.contact + f.grace + tolerates, true
}

// toleratesUnreachable is for how long a pod tolerates that its node is not reached: the first toleration that matches counts, as for the control plane.
func toleratesUnreachable(pod *corev1.Pod) (d time.Duration, forever bool) {
	const longest = 100 * 365 * 24 * time.Hour
	taint := corev1.Taint{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute}
	for i := range pod.Spec.Tolerations {
		t := &pod.Spec.Tolerations[i]
		switch {
		case !t.ToleratesTaint(klog.Background(), &taint, true):
		case t.TolerationSeconds == nil:
			return 0, true
		case *t.TolerationSeconds >= int64(longest/time.Second):
			return longest, false
		default:
			return time.Duration(max(*t.TolerationSeconds, 0)) * time.Second, false
		}
	}
	return 0, false
}

// heard notes that a server has heard of this node, or that there was none to miss it, by a request that was sent at that time. Pods that were stopped for
// want of it run again once it is known that they still are to: what the view shows may be what was before.
func (a *Agent) heard(ctx context.Context, at time.Duration) {
	a.mu.Lock()
	a.fence.contact, a.fence.settled = at, at
	pods := make(map[types.UID]*fenced, len(a.fence.stopped))
	for uid, p := range a.fence.stopped {
		pods[uid] = p
	}
	a.mu.Unlock()
	a.noteContact(at)
	for uid, p := range pods {
		pod, err := a.cfg.API.CurrentPod(ctx, p.namespace, p.name)
		switch {
		case apierrors.IsNotFound(err) || apierrors.IsForbidden(err) || err == nil && pod.UID != uid: // the view will say so, and the worker ends
		case err != nil:
			return // asked again with the next renewal
		default: // there, and this node has been heard of since: nobody may make it again elsewhere without asking
			a.mu.Lock()
			delete(a.fence.stopped, uid)
			a.mu.Unlock()
			a.log.Warn("a server is reached again, and the pod is still meant to run here", "pod", p.namespace+"/"+p.name)
			a.mark(key{p.namespace, p.name, uid})
		}
	}
}

// unheard finds out whether the time counts in which nothing comes through to a server.
func (a *Agent) unheard(ctx context.Context) {
	if a.cfg.Unserved == nil {
		return
	}
	began := a.clock()
	switch still := a.cfg.Unserved(ctx); still {
	case 0:
	case NoServer:
		a.heard(ctx, began)
	default: // up to some moment since it began; the machine may have slept meanwhile
		a.spare(a.clock()-still, began)
	}
}

// spare takes a time off that in which no server was reached: nobody counted it elsewhere. It does not make up for what had passed before, nor let a pod that was stopped
// run again, since nothing was heard of this node.
func (a *Agent) spare(from, to time.Duration) {
	a.mu.Lock()
	f := &a.fence
	from = max(from, f.settled)
	if f.contact == 0 || from >= to {
		a.mu.Unlock()
		return
	}
	f.contact += to - from
	f.settled = to
	contact := f.contact
	a.mu.Unlock()
	a.noteContact(contact)
}

// enforce stops what is due, and says how long it is until the next one; zero: none is.
func (a *Agent) enforce() (left time.Duration) {
	now := a.clock()
	var stop []key
	a.mu.Lock()
	since, grace := now-a.fence.contact, a.fence.grace
	a.mu.Unlock()
	if grace == 0 || since < grace {
		return 0
	}
	for _, pod := range a.cfg.View.Pods() {
		d, forever := toleratesUnreachable(pod)
		a.mu.Lock()
		at, ever := a.fence.due(d, forever)
		_, already := a.fence.stopped[pod.UID]
		switch {
		case !ever || already:
		case now >= at:
			if a.fence.stopped == nil {
				a.fence.stopped = map[types.UID]*fenced{}
			}
			a.fence.stopped[pod.UID] = &fenced{pod.Namespace, pod.Name}
			stop = append(stop, key{pod.Namespace, pod.Name, pod.UID})
		case left == 0 || at-now < left:
			left = at - now
		}
		a.mu.Unlock()
	}
	for _, k := range stop {
		a.log.Error("no server has been reached for so long that the pod may be made again elsewhere; it is stopped here", "pod", k.namespace+"/"+k.name, "silent", since.Round(time.Second))
		a.mark(k)
	}
	return left
}

// isFenced says whether the pod is stopped because no server was reached.
func (a *Agent) isFenced(uid types.UID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, is := a.fence.stopped[uid]
	return is
}

// announceFence says on the Node whether this agent fences itself.
func (a *Agent) announceFence(node *corev1.Node) {
	if a.fence.grace == 0 {
		delete(node.Annotations, FencesAnnotation)
		return
	}
	metav1.SetMetaDataAnnotation(&node.ObjectMeta, FencesAnnotation, "true")
}
