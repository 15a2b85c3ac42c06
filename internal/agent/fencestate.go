package agent

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// What an agent that is started anew, and finds no server, has to know to fence itself all the same: when a server was last reached, and the pods with what they
// tolerate. It is kept where nothing outlives a boot, as the clock does not.
const (
	contactFile = "fence-contact" // eight bytes: the time since boot in nanoseconds
	podsFile    = "fence-pods"    // JSON: guarded by UID
)

// guarded is what is kept of a pod.
type guarded struct {
	Namespace string
	Name      string
	Tolerates time.Duration
	Grace     int64 // seconds
}

func (a *Agent) noteContact(at time.Duration) {
	if a.fence.grace == 0 || a.cfg.StateDir == "" {
		return
	}
	path := filepath.Join(a.cfg.StateDir, contactFile)
	if err := replaceFile(path, binary.NativeEndian.AppendUint64(nil, uint64(at))); err != nil {
		a.log.Warn("remember when a server was reached", "error", err)
	}
}

// noteGuarded keeps which pods are on this node, when that has changed. Of pods that tolerate an unreachable node for ever nothing is kept.
func (a *Agent) noteGuarded() {
	if a.fence.grace == 0 || a.cfg.StateDir == "" || !a.unnoted.Swap(false) {
		return
	}
	pods := map[types.UID]guarded{}
	for _, pod := range a.cfg.View.Pods() {
		if d, forever := toleratesUnreachable(pod); !forever {
			pods[pod.UID] = guarded{pod.Namespace, pod.Name, d, fenceGrace(pod)}
		}
	}
	data, err := json.Marshal(pods)
	if err == nil && string(data) != string(a.kept) {
		if err = replaceFile(filepath.Join(a.cfg.StateDir, podsFile), data); err == nil {
			a.kept = data
		}
	}
	if err != nil {
		a.unnoted.Store(true)
		a.log.Warn("remember which pods are on this node", "error", err)
	}
}

func fenceGrace(pod *corev1.Pod) int64 {
	if g := pod.Spec.TerminationGracePeriodSeconds; g != nil {
		return min(max(*g, 0), fenceKill)
	}
	return fenceKill
}

func replaceFile(path string, data []byte) error {
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// remembered reads what the last agent of this boot has left; nothing is no error.
func (a *Agent) remembered() (contact time.Duration, pods map[types.UID]guarded, err error) {
	data, err := os.ReadFile(filepath.Join(a.cfg.StateDir, contactFile))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil, nil
	}
	if err == nil && len(data) != 8 {
		err = fmt.Errorf("%s has %d bytes", contactFile, len(data))
	}
	if err != nil {
		return 0, nil, err
	}
	contact = time.Duration(binary.NativeEndian.Uint64(data))
	data, err = os.ReadFile(filepath.Join(a.cfg.StateDir, podsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return contact, nil, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &pods)
	}
	return contact, pods, err
}

// guard enforces what was remembered until the view shows this node's pods, from when on workers do.
func (a *Agent) guard(ctx context.Context) error {
	if a.fence.grace == 0 || a.cfg.StateDir == "" {
		return nil
	}
	contact, pods, err := a.remembered()
	if err != nil {
		a.log.Warn("it is not known when a server was last reached; pods run on", "error", err)
		return nil
	}
	if contact > a.clock() {
		return nil // another boot's: its pods are gone
	}
	a.mu.Lock()
	if a.fence.contact == 0 {
		a.fence.contact, a.fence.settled = contact, a.clock() // of the time before, what was to be spared has been
	}
	a.mu.Unlock()
	for {
		a.mu.Lock()
		var wait time.Duration
		due := map[types.UID]guarded{}
		for uid, p := range pods {
			at, ever := a.fence.due(p.Tolerates, false)
			if left := at - a.clock(); ever && left <= 0 {
				due[uid] = p
			} else if ever && (wait == 0 || left < wait) {
				wait = left
			}
		}
		if a.fence.stopped == nil {
			a.fence.stopped = map[types.UID]*fenced{}
		}
		for uid, p := range due {
			a.fence.stopped[uid] = &fenced{p.Namespace, p.Name}
			delete(pods, uid)
		}
		a.mu.Unlock()
		for uid, p := range due {
			if err := a.halt(ctx, uid, p); err != nil && ctx.Err() == nil {
				a.log.Error("stop a pod that may be made again elsewhere", "pod", p.Namespace+"/"+p.Name, "again", time.Second, "error", err)
				pods[uid], wait = p, time.Second
			}
		}
		if len(pods) == 0 {
			return nil
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-a.cfg.View.Ready():
			timer.Stop()
			return nil
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
	}
}

// halt ends a pod of which no more is known than what runs of it.
func (a *Agent) halt(ctx context.Context, uid types.UID, p guarded) error {
	a.log.Error("no server has been reached for so long that the pod may be made again elsewhere; it is stopped here", "pod", p.Namespace+"/"+p.Name)
	of := map[string]string{labelPodUID: string(uid)}
	containers, err := a.runtime.ListContainers(ctx, &cri.ListContainersRequest{Filter: &cri.ContainerFilter{
		LabelSelector: of, State: &cri.ContainerStateValue{State: cri.ContainerState_CONTAINER_RUNNING},
	}})
	if err != nil {
		return err
	}
	results := make(chan error, len(containers.Containers))
	for _, c := range containers.Containers {
		go func() {
			_, err := a.runtime.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: c.Id, Timeout: p.Grace})
			results <- err
		}()
	}
	var errs []error
	for range containers.Containers {
		errs = append(errs, <-results)
	}
	sandboxes, err := a.runtime.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{Filter: &cri.PodSandboxFilter{LabelSelector: of}})
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	for _, s := range sandboxes.Items {
		_, err := a.runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: s.Id})
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
