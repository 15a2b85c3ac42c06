package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sampan.dev/test/images"
)

const manifests = "../manifests/"

// TestTheManifestBecomesAServingNginx is the main job, from an image archive.
func TestTheManifestBecomesAServingNginx(t *testing.T) {
	before := leftBehind(t)
	t.Cleanup(func() { // after the cluster's own clean-up, since that is registered later
		if after := leftBehind(t); after != before {
			t.Errorf("reset left something behind:\nbefore:\n%s\nafter:\n%s", before, after)
		}
	})
	c := newCluster(t, 0)
	c.load(images.Archive(t, images.Nginx))
	c.load(images.Archive(t, images.Busybox))
	contains(t, "image ls", c.sampan("image", "ls"), "docker.io/library/nginx")

	// imagePullPolicy of :latest is Always, which asks a registry even for an image that is here: the manifest as it stands must work
	// from a loaded archive, so the node falls back on what it has where no registry can be reached.
	c.kubectl("apply", "-f", manifests+"nginx-pod.yaml")
	c.waitReady("my-nginx-pod")
	ip := c.field("my-nginx-pod", ".status.podIP")
	contains(t, "the page, from the node,", get(t, "http://"+ip+"/"), "Welcome to nginx!")

	c.apply(`{apiVersion: v1, kind: Pod, metadata: {name: client}, spec: {containers: [{name: c, image: "busybox:latest", imagePullPolicy: Never, command: [sleep, "1000"]}]}}`)
	c.waitReady("client")
	contains(t, "the page, from another pod,", c.kubectl("exec", "client", "--", "wget", "-qO-", "http://"+ip+"/"), "Welcome to nginx!")

	contains(t, "get", c.kubectl("get", "pods", "-o", "wide"), ip)
	describe := c.kubectl("describe", "pod", "my-nginx-pod")
	for _, want := range []string{"Status:", "Running", "nginx:latest", "Ready", "Scheduled", "Started", "QoS Class:", "BestEffort"} {
		contains(t, "describe", describe, want)
	}
	contains(t, "logs", c.kubectl("logs", "my-nginx-pod"), "GET / HTTP/1.1")
	if out := c.kubectl("exec", "my-nginx-pod", "--", "cat", "/etc/hostname"); strings.TrimSpace(out) != "my-nginx-pod" {
		t.Errorf("the pod's host name is %q", out)
	}
	if _, err := c.try("kubectl", "exec", "client", "--", "sh", "-c", "exit 7"); err == nil || !strings.Contains(err.Error(), "exit status 7") {
		t.Errorf("exec's exit code is lost: %v", err)
	}
	c.kubectl("delete", "pod", "my-nginx-pod", "client", "--grace-period=1")
	if out := c.kubectl("get", "pods", "-o", "name"); out != "" {
		t.Errorf("after delete there is %s", out)
	}
}

func TestTheManifestFromARegistry(t *testing.T) {
	c := newCluster(t, 0)
	registry := images.Serve(t, images.Nginx)
	manifest, err := os.ReadFile(manifests + "nginx-pod.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c.apply(strings.ReplaceAll(string(manifest), "nginx:latest", registry+"/nginx:latest"))
	c.waitReady("my-nginx-pod")
	contains(t, "the page", get(t, "http://"+c.field("my-nginx-pod", ".status.podIP")+"/"), "Welcome to nginx!")
	events := c.kubectl("events", "--for", "pod/my-nginx-pod")
	for _, want := range []string{"Pulling", "Successfully pulled image", "Created", "Started", "Scheduled"} {
		contains(t, "events", events, want)
	}
	c.apply(`{apiVersion: v1, kind: Pod, metadata: {name: absent}, spec: {containers: [{name: c, image: "` + registry + `/nothing:1"}]}}`)
	c.eventually("absent", ".status.containerStatuses[0].state.waiting.reason", "ImagePullBackOff")
	contains(t, "describe", c.kubectl("describe", "pod", "absent"), "NAME_UNKNOWN")
}

// leftBehind lists what this run's clusters could leave behind: links, routes, rules, mounts, control groups, files in /run. Others on the machine are left out.
func leftBehind(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for _, pattern := range []string{"/sys/fs/cgroup/sampan-*", "/sys/fs/cgroup/*/sampan-*", "/run/sampan/*"} {
		found, _ := filepath.Glob(pattern)
		for _, path := range found {
			if slices.ContainsFunc(ids, func(id string) bool { return strings.Contains(path, id) }) {
				b.WriteString(path + "\n")
			}
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, "sampan") || strings.Contains(line, "/data/") {
			b.WriteString(line)
		}
	}
	for _, args := range [][]string{{"-o", "link"}, {"route"}, {"route", "show", "table", "all", "type", "unreachable"}} {
		b.WriteString(run(t, "ip", args...))
	}
	return b.String() + rules(t)
}
