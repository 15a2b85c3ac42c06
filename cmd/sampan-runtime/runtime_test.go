package main

import (
	"bytes"
	"io"
	"net/url"
	"os"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const forever = "trap 'exit 7' TERM; while :; do sleep 0.1; done"

func TestContainersOfAPodShareAndOutliveTheRuntime(t *testing.T) {
	w := newWorld(t)
	config := w.config("web")
	pod := w.pod(config)
	a := w.run(pod, config, shell("a", "echo hello > /shared; mkdir /www; echo page > /www/index.html; httpd -p 80 -h /www; touch /dev/shm/seen; "+forever))
	b := w.run(pod, config, shell("b", forever))

	if got := w.sh(b, "hostname; cat /etc/hostname; cat /etc/resolv.conf"); got != "web\nweb\nnameserver 10.96.0.10\n" {
		t.Errorf("names: %q", got)
	}
	w.sh(b, "while ! wget -qO- http://127.0.0.1/; do sleep 0.05; done | grep page")
	w.sh(b, "while ! test -e /dev/shm/seen; do sleep 0.05; done")
	w.sh(b, "test ! -e /shared")
	same := []string{"net", "ipc", "uts"}
	for _, ns := range same {
		if x, y := w.sh(a, "readlink /proc/self/ns/"+ns), w.sh(b, "readlink /proc/self/ns/"+ns); x != y {
			t.Errorf("%s: %s and %s", ns, x, y)
		}
	}
	before, err := w.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: pod})
	if err != nil || before.Status.Network.Ip != "10.8.0.2" || before.Status.State != runtimeapi.PodSandboxState_SANDBOX_READY {
		t.Fatalf("pod: %+v, %v", before, err)
	}
	_, pid := w.status(a)

	w.stop(syscall.SIGKILL)
	w.start()

	after, err := w.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: pod})
	if err != nil || after.Status.Network.Ip != "10.8.0.2" || after.Status.State != runtimeapi.PodSandboxState_SANDBOX_READY || len(after.ContainersStatuses) != 2 {
		t.Fatalf("pod after a restart: %+v, %v", after, err)
	}
	if st, again := w.status(a); again != pid || st.State != runtimeapi.ContainerState_CONTAINER_RUNNING || st.Metadata.Name != "a" {
		t.Errorf("container after a restart: pid %d was %d, %+v", again, pid, st)
	}
	w.sh(b, "wget -qO- http://10.8.0.2/ | grep page")
	if _, err := w.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: b, Timeout: 10}); err != nil {
		t.Error(err)
	}
	if st, _ := w.status(b); st.State != runtimeapi.ContainerState_CONTAINER_EXITED || st.FinishedAt < st.StartedAt {
		t.Errorf("after its stop: %+v", st)
	}
}

func TestExecByStream(t *testing.T) {
	w := newWorld(t)
	config := w.config("p")
	pod := w.pod(config)
	id := w.run(pod, config, shell("a", forever))
	for name, factory := range map[string]func(*rest.Config, *url.URL) (remotecommand.Executor, error){
		"SPDY": func(c *rest.Config, u *url.URL) (remotecommand.Executor, error) {
			return remotecommand.NewSPDYExecutor(c, "POST", u)
		},
		"WebSocket": func(c *rest.Config, u *url.URL) (remotecommand.Executor, error) {
			return remotecommand.NewWebSocketExecutorForProtocols(c, "GET", u.String(), "v4.channel.k8s.io")
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := w.Exec(t.Context(), &runtimeapi.ExecRequest{ContainerId: id, Cmd: []string{"sh", "-c", "head -c 10; echo bad >&2; exit 3"}, Stdin: true, Stdout: true, Stderr: true})
			if err != nil {
				t.Fatal(err)
			}
			u, err := url.Parse(r.Url)
			if err != nil {
				t.Fatal(err)
			}
			e, err := factory(&rest.Config{}, u)
			if err != nil {
				t.Fatal(err)
			}
			var out, bad bytes.Buffer
			err = e.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: strings.NewReader("in and out"), Stdout: &out, Stderr: &bad})
			if err == nil || !strings.Contains(err.Error(), "3") || out.String() != "in and out" || bad.String() != "bad\n" {
				t.Errorf("out %q, err %q, %v", out.String(), bad.String(), err)
			}
			if e, err = factory(&rest.Config{}, u); err != nil {
				t.Fatal(err)
			}
			if err := e.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: io.Discard}); err == nil {
				t.Error("a token was good twice")
			}
		})
	}
	if _, err := w.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"sleep", "100"}, Timeout: 1}); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("a command that takes too long: %v", err)
	}
}

func TestEventsTellAContainersWholeLife(t *testing.T) {
	w := newWorld(t)
	stream, err := w.GetContainerEvents(t.Context(), &runtimeapi.GetEventsRequest{})
	if err == nil {
		_, err = stream.Header() // from now on nothing is missed
	}
	if err != nil {
		t.Fatal(err)
	}
	config := w.config("p")
	pod := w.pod(config)
	id := w.run(pod, config, shell("a", "echo out; echo err >&2; exit 5"))
	next := func(who string, kind runtimeapi.ContainerEventType) *runtimeapi.ContainerEventResponse {
		t.Helper()
		e, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if e.ContainerId != who || e.ContainerEventType != kind || e.PodSandboxStatus.GetId() != pod {
			t.Fatalf("got %v, want %v of %s", e, kind, who)
		}
		return e
	}
	next(pod, runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT)
	next(pod, runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT)
	next(id, runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT)
	next(id, runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT)
	e := next(id, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT)
	if st := e.ContainersStatuses[0]; st.ExitCode != 5 || st.Reason != "Error" || st.State != runtimeapi.ContainerState_CONTAINER_EXITED {
		t.Errorf("how it ended: %v", st)
	}
	log, err := os.ReadFile(w.path("logs/p/a.log"))
	if err != nil || !strings.Contains(string(log), " stdout F out\n") || !strings.Contains(string(log), " stderr F err\n") {
		t.Errorf("log: %q, %v", log, err)
	}
	if _, err := w.RemovePodSandbox(t.Context(), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Fatal(err)
	}
	next(pod, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT)
	next(id, runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT)
	next(pod, runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT)
	if _, err := w.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id}); status.Code(err) != codes.NotFound {
		t.Errorf("status of a container that is gone: %v", err)
	}
	for range 2 {
		if _, err := w.RemoveContainer(t.Context(), &runtimeapi.RemoveContainerRequest{ContainerId: id}); err != nil {
			t.Error(err)
		}
	}
}

func TestUsersCapabilitiesAndMounts(t *testing.T) {
	w := newWorld(t)
	config := w.config("p")
	config.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
	pod := w.pod(config)
	if err := os.WriteFile(w.path("data"), []byte("data\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	c := shell("a", forever)
	sc := c.Linux.SecurityContext
	sc.NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
	sc.RunAsUser, sc.RunAsGroup, sc.SupplementalGroups = &runtimeapi.Int64Value{Value: 1000}, &runtimeapi.Int64Value{Value: 2000}, []int64{3000}
	sc.Capabilities = &runtimeapi.Capability{DropCapabilities: []string{"ALL"}, AddCapabilities: []string{"NET_BIND_SERVICE"}}
	sc.NoNewPrivs = true
	c.Mounts = []*runtimeapi.Mount{{HostPath: w.path("data"), ContainerPath: "/in/data", Readonly: true}}
	c.Envs = []*runtimeapi.KeyValue{{Key: "WORD", Value: []byte("boat")}}
	id := w.run(pod, config, c)
	if got := w.sh(id, "id -u; id -g; id -G; cat /in/data; echo $WORD"); got != "1000\n2000\n2000 3000\ndata\nboat\n" {
		t.Errorf("got %q", got)
	}
	if got := w.sh(id, "grep -E 'CapBnd|NoNewPrivs|Seccomp:' /proc/self/status"); !strings.Contains(got, "CapBnd:\t0000000000000400") || !strings.Contains(got, "NoNewPrivs:\t1") || !strings.Contains(got, "Seccomp:\t2") {
		t.Errorf("got %s", got)
	}
	if r, err := w.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", "echo x > /in/data"}}); err != nil || r.ExitCode == 0 {
		t.Errorf("a read-only mount was written: %v, %v", r, err)
	}
	b := shell("b", forever)
	b.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
	other := w.run(pod, config, b)
	if x, y := w.sh(id, "readlink /proc/self/ns/pid"), w.sh(other, "readlink /proc/self/ns/pid"); x != y {
		t.Errorf("process namespaces: %s and %s", x, y)
	}
	missing := shell("c", forever)
	missing.Mounts = []*runtimeapi.Mount{{HostPath: w.path("nothing"), ContainerPath: "/x"}}
	_, err := w.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: pod, Config: missing, SandboxConfig: config})
	if err == nil || !strings.Contains(err.Error(), "failed to stat host path") {
		t.Errorf("a mount of nothing: %v", err)
	}
	stats, err := w.ContainerStats(t.Context(), &runtimeapi.ContainerStatsRequest{ContainerId: id})
	if err != nil || stats.Stats.Memory.WorkingSetBytes.Value == 0 || stats.Stats.Cpu.UsageCoreNanoSeconds.Value == 0 {
		t.Errorf("stats: %v, %v", stats, err)
	}
	podStats, err := w.PodSandboxStats(t.Context(), &runtimeapi.PodSandboxStatsRequest{PodSandboxId: pod})
	if err != nil || len(podStats.Stats.Linux.Containers) != 2 || podStats.Stats.Linux.Memory.GetUsageBytes().GetValue() == 0 || podStats.Stats.Linux.Network.GetDefaultInterface().GetName() != "eth0" {
		t.Errorf("stats of the pod: %v, %v", podStats, err)
	}
}
