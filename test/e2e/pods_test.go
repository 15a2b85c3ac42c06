package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"sampan.dev/internal/instance"
	"sampan.dev/test/images"
)

// once is a pod that runs one shell command to its end.
func once(name, command, more string) string {
	quoted, _ := json.Marshal(command)
	return fmt.Sprintf(`{apiVersion: v1, kind: Pod, metadata: {name: %s}, spec: {restartPolicy: Never, terminationGracePeriodSeconds: 1, containers: [{name: c, image: "busybox:latest",
  imagePullPolicy: Never, command: [sh, -c, %s]%s}]}}`, name, quoted, more)
}

func TestWhatAContainerSees(t *testing.T) {
	c := newCluster(t, 0)
	c.load(images.Archive(t, images.Busybox))
	cases := []struct {
		name, command, more string
		want                []string
	}{
		{
			"env", `echo $GREETING; pwd; echo $POD_NAME $POD_IP`, `, workingDir: /tmp, env: [{name: WHO, value: world}, {name: GREETING, value: "hello $(WHO) $$(WHO)"},
			{name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}, {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]`,
			[]string{"hello world $(WHO)\n", "/tmp\n", "env 10.244.0."},
		},
		{"user", `id`, `, securityContext: {runAsUser: 1234, runAsGroup: 5678}`, []string{"uid=1234", "gid=5678"}},
		{"caps", `grep CapEff /proc/self/status`, `, securityContext: {capabilities: {drop: [ALL], add: [NET_BIND_SERVICE]}}`, []string{"0000000000000400"}},
		{"seccomp", `grep Seccomp: /proc/self/status; unshare -U true && echo unshared; true`, ``, []string{"Seccomp:\t2"}},
		{"unconfined", `grep Seccomp: /proc/self/status`, `, securityContext: {seccompProfile: {type: Unconfined}}`, []string{"Seccomp:\t0"}},
		{"privileged", `grep Seccomp: /proc/self/status; ls /dev/null /dev/kmsg`, `, securityContext: {privileged: true}`, []string{"Seccomp:\t0", "/dev/kmsg"}},
		{"readonly", `touch /x 2>&1; touch /tmp/x 2>&1; true`, `, securityContext: {readOnlyRootFilesystem: true}`, []string{"/x: Read-only file system"}},
		{"limits", `cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null; true`, `, resources: {limits: {memory: 64Mi, cpu: 500m}}`, []string{"67108864"}},
		{"names", `hostname; cat /etc/hosts; cat /etc/resolv.conf`, ``, []string{"names\n", "# Kubernetes-managed hosts file.", "127.0.0.1\tlocalhost"}},
	}
	for _, tc := range cases {
		c.apply(once(tc.name, tc.command, tc.more))
	}
	for _, tc := range cases {
		c.eventually(tc.name, ".status.phase", "Succeeded")
		log := c.kubectl("logs", tc.name)
		for _, want := range tc.want {
			contains(t, tc.name, log, want)
		}
		if tc.name == "seccomp" && strings.Contains(log, "unshared") {
			t.Errorf("a user namespace could be made under RuntimeDefault:\n%s", log)
		}
	}
}

func TestContainersOfAPodShareItsNamespaces(t *testing.T) {
	c := newCluster(t, 0)
	c.load(images.Archive(t, images.Nginx))
	c.load(images.Archive(t, images.Busybox))
	c.apply(`{apiVersion: v1, kind: Pod, metadata: {name: two}, spec: {terminationGracePeriodSeconds: 1, volumes: [{name: v, emptyDir: {}}], containers: [
  {name: web, image: "nginx:latest", imagePullPolicy: IfNotPresent, volumeMounts: [{name: v, mountPath: /shared}]},
  {name: side, image: "busybox:latest", imagePullPolicy: Never, command: [sleep, "1000"], volumeMounts: [{name: v, mountPath: /mine}]}]}}`)
	c.waitReady("two")
	contains(t, "localhost:80 from the second container", c.kubectl("exec", "two", "-c", "side", "--", "wget", "-qO-", "http://localhost:80/"), "Welcome to nginx!")
	c.kubectl("exec", "two", "-c", "side", "--", "sh", "-c", "echo found > /mine/file")
	contains(t, "the emptyDir", c.kubectl("exec", "two", "-c", "web", "--", "cat", "/shared/file"), "found")
	for _, ns := range []string{"net", "ipc", "uts"} {
		a := c.kubectl("exec", "two", "-c", "web", "--", "readlink", "/proc/self/ns/"+ns)
		b := c.kubectl("exec", "two", "-c", "side", "--", "readlink", "/proc/self/ns/"+ns)
		if a != b {
			t.Errorf("%s namespaces differ: %s and %s", ns, a, b)
		}
	}
	if _, err := c.try("kubectl", "logs", "two"); err != nil {
		t.Logf("logs without -c: %v", err) // kubectl takes the first container and says so
	}
}

func TestRestartsAndTheirReasons(t *testing.T) {
	c := newCluster(t, 0)
	c.load(images.Archive(t, images.Busybox))
	c.apply(strings.Replace(once("crash", "echo before the crash; exit 3", ""), "restartPolicy: Never", "restartPolicy: Always", 1))
	c.apply(once("fails", "exit 5", ""))
	c.apply(once("oom", "x=a; while true; do x=$x$x; done", ", resources: {limits: {memory: 32Mi}}"))
	c.apply(`{apiVersion: v1, kind: Pod, metadata: {name: nocommand}, spec: {restartPolicy: Never, containers: [{name: c, image: "busybox:latest", imagePullPolicy: Never, command: [/does/not/exist]}]}}`)
	c.apply(`{apiVersion: v1, kind: Pod, metadata: {name: absent}, spec: {containers: [{name: c, image: "absent:1", imagePullPolicy: Never}]}}`)
	c.eventually("crash", ".status.containerStatuses[0].state.waiting.reason", "CrashLoopBackOff")
	if code := c.field("crash", ".status.containerStatuses[0].lastState.terminated.exitCode"); code != "3" {
		t.Errorf("the crash's exit code is %q", code)
	}
	contains(t, "logs --previous", c.kubectl("logs", "crash", "--previous"), "before the crash")
	contains(t, "get", c.kubectl("get", "pod", "crash"), "CrashLoopBackOff")
	c.eventually("fails", ".status.phase", "Failed")
	if got := c.field("fails", ".status.containerStatuses[0].state.terminated.exitCode} {.status.containerStatuses[0].state.terminated.reason"); got != "5 Error" {
		t.Errorf("a failed container says %q, want 5 Error", got)
	}
	c.eventually("oom", ".status.phase", "Failed")
	if got := c.field("oom", ".status.containerStatuses[0].state.terminated.exitCode} {.status.containerStatuses[0].state.terminated.reason"); got != "137 OOMKilled" {
		t.Errorf("a container out of memory says %q, want 137 OOMKilled", got)
	}
	c.eventually("nocommand", ".status.phase", "Failed")
	contains(t, "describe", c.kubectl("describe", "pod", "nocommand"), "no such file or directory")
	c.eventually("absent", ".status.containerStatuses[0].state.waiting.reason", "ErrImageNeverPull")
}

func TestTermination(t *testing.T) {
	c := newCluster(t, 0)
	c.load(images.Archive(t, images.Busybox))
	c.apply(strings.Replace(once("polite", `trap 'echo bye; exit 0' TERM; while true; do sleep 0.01; done`, ""), "GracePeriodSeconds: 1", "GracePeriodSeconds: 60", 1))
	c.apply(once("deaf", `trap '' TERM; while true; do sleep 1; done`, ""))
	c.waitReady("polite", "deaf")
	// With 60 s of grace this returns early only if SIGTERM is answered.
	c.kubectl("delete", "pod", "polite", "--timeout=30s")
	c.kubectl("delete", "pod", "deaf", "--timeout=30s")
	c.apply(strings.Replace(once("forced", `trap '' TERM; while true; do sleep 1; done`, ""), "GracePeriodSeconds: 1", "GracePeriodSeconds: 600", 1))
	c.waitReady("forced")
	c.kubectl("delete", "pod", "forced", "--force", "--timeout=30s")
	for range 200 {
		if len(c.containers()) == 0 {
			return
		}
		pause()
	}
	t.Errorf("after every pod was deleted there run %v", c.containers())
}

func TestAHostNetworkPodAndAHostPath(t *testing.T) {
	c := newCluster(t, 0)
	c.load(images.Archive(t, images.Busybox))
	dir := t.TempDir()
	c.apply(fmt.Sprintf(`{apiVersion: v1, kind: Pod, metadata: {name: host}, spec: {hostNetwork: true, restartPolicy: Never, volumes: [{name: v, hostPath: {path: %s, type: Directory}}],
  containers: [{name: c, image: "busybox:latest", imagePullPolicy: Never, command: [sh, -c, "ip -o link; echo written > /host/file"], volumeMounts: [{name: v, mountPath: /host}]}]}}`, dir))
	c.eventually("host", ".status.phase", "Succeeded")
	contains(t, "the node's links", c.kubectl("logs", "host"), "sampan-")
	contains(t, "the host's file", run(t, "cat", dir+"/file"), "written")
	c.apply(`{apiVersion: v1, kind: Pod, metadata: {name: lost}, spec: {volumes: [{name: v, hostPath: {path: /does/not/exist, type: Directory}}],
  containers: [{name: c, image: "busybox:latest", imagePullPolicy: Never, volumeMounts: [{name: v, mountPath: /v}]}]}}`)
	for range 200 {
		if strings.Contains(c.kubectl("events", "--for", "pod/lost"), "FailedMount") {
			return
		}
		pause()
	}
	t.Errorf("no event says that the volume is missing:\n%s", c.kubectl("events", "--for", "pod/lost"))
}

func TestLogsAndExec(t *testing.T) {
	c := newCluster(t, 0)
	c.load(images.Archive(t, images.Busybox))
	c.apply(once("count", "for i in 1 2 3 4 5; do echo line $i; done; sleep 1000", ""))
	c.waitReady("count")
	for range 200 {
		if strings.Contains(c.kubectl("logs", "count"), "line 5") {
			break
		}
		pause()
	}
	if got := c.kubectl("logs", "count", "--tail=2"); got != "line 4\nline 5\n" {
		t.Errorf("--tail=2 gives %q", got)
	}
	if got := c.kubectl("logs", "count", "--since=1h", "--limit-bytes=7"); got != "line 1\n" {
		t.Errorf("--limit-bytes=7 gives %q", got)
	}
	contains(t, "--timestamps", c.kubectl("logs", "count", "--timestamps", "--tail=1"), "Z line 5")
	for _, websockets := range []string{"true", "false"} {
		t.Setenv("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websockets)
		if got := c.kubectl("exec", "count", "--", "echo", "out"); got != "out\n" {
			t.Errorf("exec (WebSocket %s) gives %q", websockets, got)
		}
		cmd := c.command(t.Context(), "kubectl", "exec", "-i", "count", "--", "sh", "-c", "cat; echo err >&2; exit 9")
		cmd.Stdin = strings.NewReader("through stdin")
		out, err := cmd.CombinedOutput()
		if err == nil || cmd.ProcessState.ExitCode() != 9 || !strings.Contains(string(out), "through stdin") || !strings.Contains(string(out), "err") {
			t.Errorf("exec -i (WebSocket %s): code %d, %v\n%s", websockets, cmd.ProcessState.ExitCode(), err, out)
		}
	}
	if _, err := c.try("kubectl", "exec", "count", "--", "nothing-of-the-kind"); err == nil || !strings.Contains(err.Error(), "executable file not found") {
		t.Errorf("exec of a missing program says %v", err)
	}
	if _, err := c.try("kubectl", "logs", "count", "-c", "nobody"); err == nil || !strings.Contains(err.Error(), "container nobody is not valid for pod count") {
		t.Errorf("logs of a missing container says %v", err)
	}
	out := c.kubectl("run", "quick", "--image=busybox:latest", "--image-pull-policy=Never", "--restart=Never", "--rm", "-i", "--", "echo", "ran")
	contains(t, "run --rm -i", out, "ran")
}

// TestSharesOfTheProcessor looks at the weights of the control groups: all pods together weigh as much as the node's cores, so that a busy machine does not
// starve them, and the burstable ones as much as they ask for.
func TestSharesOfTheProcessor(t *testing.T) {
	c := newCluster(t, 0)
	inst, err := instance.At(c.dir)
	if err != nil {
		t.Fatal(err)
	}
	shares := func(group string) string {
		data, err := os.ReadFile(filepath.Join("/sys/fs/cgroup/cpu", inst.CgroupParent(), group, "cpu.shares"))
		if err != nil {
			t.Skipf("the cpu controller is not on a v1 hierarchy here: %v", err)
		}
		return strings.TrimSpace(string(data))
	}
	c.apply(`{apiVersion: v1, kind: Pod, metadata: {name: asks}, spec: {terminationGracePeriodSeconds: 0, containers: [{name: c, image: "sampan.dev/hello:1", resources: {requests: {cpu: 250m}}}]}}`)
	c.waitReady("asks")
	if got, want := shares(""), strconv.Itoa(1024*runtime.NumCPU()); got != want {
		t.Errorf("all pods: %s shares, want %s", got, want)
	}
	if got := shares("burstable"); got != "256" {
		t.Errorf("burstable pods: %s shares, want 256", got)
	}
	c.kubectl("delete", "pod", "asks")
	c.apply(`{apiVersion: v1, kind: Pod, metadata: {name: more}, spec: {terminationGracePeriodSeconds: 0, containers: [{name: c, image: "sampan.dev/hello:1", resources: {requests: {cpu: 500m}}}]}}`)
	c.waitReady("more")
	if got := shares("burstable"); got != "512" {
		t.Errorf("burstable pods after another: %s shares, want 512", got)
	}
}
