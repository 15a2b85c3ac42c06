package e2e

import (
	"bufio"
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sampan.dev/internal/instance"
)

// TestRuntimeClasses has pods of two: one whose overhead the pod's group gets besides its container, and one of a handler that is not here. A profile of
// the scheduler's, from a file, puts the first one where it is.
func TestRuntimeClasses(t *testing.T) {
	config := filepath.Join(t.TempDir(), "scheduler.yaml")
	if err := os.WriteFile(config, []byte("apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\nprofiles: [{schedulerName: packer}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := newCluster(t, 0, "--scheduler-config="+config)
	inst, err := instance.At(c.dir)
	if err != nil {
		t.Fatal(err)
	}
	c.apply(`{apiVersion: v1, kind: List, items: [
  {apiVersion: node.k8s.io/v1, kind: RuntimeClass, metadata: {name: heavy}, handler: runc, overhead: {podFixed: {memory: 16Mi}}},
  {apiVersion: node.k8s.io/v1, kind: RuntimeClass, metadata: {name: odd}, handler: gvisor},
  {apiVersion: v1, kind: Pod, metadata: {name: heavy}, spec: {schedulerName: packer, runtimeClassName: heavy, terminationGracePeriodSeconds: 0, containers: [{name: c, image: "sampan.dev/hello:1", resources: {limits: {memory: 64Mi}}}]}},
  {apiVersion: v1, kind: Pod, metadata: {name: odd}, spec: {schedulerName: packer, runtimeClassName: odd, terminationGracePeriodSeconds: 0, containers: [{name: c, image: "sampan.dev/hello:1"}]}}]}`)
	c.waitReady("heavy")
	if limits := memoryLimits(inst.CgroupParent()); !slices.Contains(limits, "83886080") || !slices.Contains(limits, "67108864") {
		t.Errorf("no group has 80 MiB, of the pod, and one 64 MiB, of its container: %v", limits)
	}
	want := `Failed to create pod sandbox: rpc error: code = Unknown desc = failed to get sandbox runtime: no runtime for "gvisor" is configured`
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	watch := c.command(ctx, "kubectl", "get", "events", "--watch", "--request-timeout=90s", "--field-selector=involvedObject.name=odd,reason=FailedCreatePodSandBox", `-o=jsonpath={.message}{"\n"}`)
	out, err := watch.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := watch.Start(); err != nil {
		t.Fatal(err)
	}
	said, _ := bufio.NewReader(out).ReadString('\n')
	if strings.TrimSpace(said) != want {
		t.Errorf("of the other pod is said %q, wanted %q", said, want)
	}
	cancel()
	_ = watch.Wait() // it was stopped
	if phase := c.field("odd", ".status.phase"); phase != "Pending" {
		t.Errorf("the other pod is %s", phase)
	}
}

// memoryLimits are those of all control groups below one, whichever sort the machine has.
func memoryLimits(parent string) (limits []string) {
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/memory"} {
		_ = filepath.WalkDir(filepath.Join(root, parent), func(path string, d fs.DirEntry, err error) error {
			if err == nil && (d.Name() == "memory.max" || d.Name() == "memory.limit_in_bytes") {
				data, _ := os.ReadFile(path)
				limits = append(limits, strings.TrimSpace(string(data)))
			}
			return nil
		})
	}
	return limits
}
