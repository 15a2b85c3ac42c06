package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sampan.dev/test/images"
)

// localVolume is a directory of a node as a volume.
func localVolume(name, path, node string) string {
	return `
apiVersion: v1
kind: PersistentVolume
metadata: {name: ` + name + `}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  storageClassName: local
  local: {path: ` + path + `}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [` + node + `]}]}]}}
---`
}

const localClass = `
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: local}
provisioner: kubernetes.io/no-provisioner
volumeBindingMode: WaitForFirstConsumer
---`

// diary is a set whose pods write down each of their starts.
const diary = `
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: diary}
spec:
  serviceName: diary
  selector: {matchLabels: {app: diary}}
  template:
    metadata: {labels: {app: diary}}
    spec:
      terminationGracePeriodSeconds: 0
      securityContext: {fsGroup: 4321, runAsUser: 1000}
      containers:
      - name: c
        image: busybox:latest
        imagePullPolicy: Never
        command: [sh, -c, "hostname >> /data/pages; touch /deep/inside; ! touch /shown/x; cat /shown/pages; exec sleep 1000"]
        readinessProbe: {exec: {command: [test, -s, /data/pages]}, periodSeconds: 1}
        volumeMounts: [{name: data, mountPath: /data}, {name: data, mountPath: /deep, subPath: a/b}, {name: data, mountPath: /shown, readOnly: true}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], storageClassName: local, resources: {requests: {storage: 1Gi}}}
`

// mounted says whether anything of that directory is mounted anywhere but where it is.
func mounted(t *testing.T, dir string) []string {
	t.Helper()
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for line := range strings.SplitSeq(string(data), "\n") {
		if strings.Contains(line, filepath.Base(dir)) && !strings.Contains(line, "overlay") {
			found = append(found, line)
		}
	}
	return found
}

func TestASetFindsWhatItHasWritten(t *testing.T) {
	c := newCluster(t, 0)
	c.load(images.Archive(t, images.Busybox))
	disk := filepath.Join(t.TempDir(), "disk-of-diary")
	c.apply(localClass + localVolume("disk", disk, "node"))
	c.apply(diary)
	// Its directory is not there yet.
	c.kubectl("wait", "--for=condition=PodScheduled", "pod/diary-0", "--timeout=60s")
	for out := ""; !strings.Contains(out, `MountVolume.NewMounter initialization failed for volume "disk" : path "`+disk+`" does not exist`); pause() {
		out, _ = c.try("kubectl", "get", "events", "--field-selector=involvedObject.name=diary-0,reason=FailedMount", "-o", "jsonpath={.items[*].message}")
	}
	if err := os.Mkdir(disk, 0o750); err != nil {
		t.Fatal(err)
	}
	c.waitReady("diary-0")
	contains(t, "the claim", c.kubectl("get", "pvc", "data-diary-0"), "Bound")
	contains(t, "the volume", c.kubectl("get", "pv", "disk"), "default/data-diary-0")
	contains(t, "what is shown", c.kubectl("logs", "diary-0"), "diary-0")
	contains(t, "what may not be written", c.kubectl("logs", "diary-0"), "Read-only file system")
	if _, err := os.Stat(filepath.Join(disk, "a", "b", "inside")); err != nil {
		t.Error(err)
	}

	c.kubectl("delete", "statefulset", "diary")
	c.kubectl("wait", "--for=delete", "pod/diary-0", "--timeout=60s")
	if left := mounted(t, disk); len(left) > 0 {
		t.Errorf("still mounted:\n%s", strings.Join(left, "\n"))
	}
	c.apply(diary)
	c.waitReady("diary-0")
	if pages, err := os.ReadFile(filepath.Join(disk, "pages")); err != nil || string(pages) != "diary-0\ndiary-0\n" {
		t.Errorf("the pages are %q: %v", pages, err)
	}

	// What a pod uses stays, through a restart of everything; and goes once the pod has gone. What is on the disk stays.
	c.kubectl("delete", "pvc", "data-diary-0", "--wait=false")
	contains(t, "a claim in use", c.kubectl("get", "pvc", "data-diary-0"), "Terminating")
	kill(t, c.pid("sampan"))
	c.up()
	c.kubectl("exec", "diary-0", "--", "cat", "/data/pages")
	c.kubectl("delete", "statefulset", "diary")
	c.kubectl("wait", "--for=delete", "pvc/data-diary-0", "--timeout=60s")
	c.kubectl("wait", "--for=jsonpath={.status.phase}=Released", "pv/disk", "--timeout=60s")
	if _, err := os.Stat(filepath.Join(disk, "pages")); err != nil {
		t.Error(err)
	}
	if left := mounted(t, disk); len(left) > 0 {
		t.Errorf("still mounted:\n%s", strings.Join(left, "\n"))
	}
}

// Volumes are on two machines: each pod of a set goes to one of them, and a machine reads the claims of its own pods, and no others.
func TestVolumesOfOtherMachines(t *testing.T) {
	one, two := newMachine(t, "one", "sw9", "192.168.89.10"), newMachine(t, "two", "sw9", "192.168.89.11")
	c := one.serve(t)
	n := two.join(t, c)
	for _, node := range []*cluster{c, n} {
		node.load(images.Archive(t, images.Busybox))
	}
	disks := t.TempDir()
	manifest := localClass
	for _, name := range []string{"one", "two"} {
		if err := os.Mkdir(filepath.Join(disks, name), 0o750); err != nil {
			t.Fatal(err)
		}
		manifest += localVolume(name, filepath.Join(disks, name), name)
	}
	c.apply(manifest)
	c.apply(strings.Replace(diary, "serviceName: diary", "serviceName: diary\n  replicas: 2\n  podManagementPolicy: Parallel", 1))
	c.kubectl("rollout", "status", "statefulset/diary", "--timeout=60s")
	for _, pod := range []string{"diary-0", "diary-1"} {
		node := c.field(pod, ".spec.nodeName")
		if volume := c.kubectl("get", "pvc", "data-"+pod, "-o", "jsonpath={.spec.volumeName}"); volume != node {
			t.Errorf("%s is on %s, its volume on %s", pod, node, volume)
		}
		if pages, err := os.ReadFile(filepath.Join(disks, node, "pages")); err != nil || string(pages) != pod+"\n" {
			t.Errorf("on %s is %q: %v", node, pages, err)
		}
	}
	here, there := "diary-0", "diary-1"
	if c.field(here, ".spec.nodeName") != "two" {
		here, there = there, here
	}
	ask := func(path string) string {
		pki := filepath.Join(n.dir, "pki")
		words := two.words("curl", "-s", "-k", "--cert", filepath.Join(pki, "node.crt"), "--key", filepath.Join(pki, "node.key"), "https://192.168.89.10:6443"+path)
		return run(t, words[0], words[1:]...)
	}
	contains(t, "its own pod's claim", ask("/api/v1/namespaces/default/persistentvolumeclaims/data-"+here), `"volumeName": "two"`)
	contains(t, "its own pod's volume", ask("/api/v1/persistentvolumes/two"), `"name": "two"`)
	contains(t, "another's claim", ask("/api/v1/namespaces/default/persistentvolumeclaims/data-"+there), "no relationship found between node 'two' and this object")
	contains(t, "another's volume", ask("/api/v1/persistentvolumes/one"), "no relationship found between node 'two' and this object")
	contains(t, "all claims", ask("/api/v1/persistentvolumeclaims"), "can only get individual resources of this type")
}
