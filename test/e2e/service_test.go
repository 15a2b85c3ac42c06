package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"sampan.dev/internal/instance"
	"sampan.dev/test/images"
)

// webserver is pods that answer with their host name, and a pod to look at things from, which serves, too.
const webserver = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: webserver}
spec:
  replicas: 4
  selector: {matchLabels: {app: webserver}}
  template:
    metadata: {labels: {app: webserver}}
    spec:
      containers:
      - name: web
        image: sampan.dev/hello:1
        ports: [{containerPort: 80}]
        readinessProbe: {httpGet: {path: /healthz, port: 80}}
---
apiVersion: v1
kind: Pod
metadata: {name: box, labels: {app: box}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: box, image: "busybox:latest", imagePullPolicy: Never, command: [sh, -c, "mkdir /www; hostname > /www/index.html; httpd -f -p 8080 -h /www"]}
---
apiVersion: v1
kind: Service
metadata: {name: own}
spec: {selector: {app: box}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: headless}
spec: {clusterIP: None, selector: {app: webserver}, ports: [{name: web, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec: {selector: {app: nobody}, ports: [{port: 80}]}
`

// Addresses of this machine and of that beside it.
const (
	outsideNode, outsideClient   = "192.0.2.10", "192.0.2.20"
	outsideNode6, outsideClient6 = "2001:db8::10", "2001:db8::20"
)

// outside makes a machine beside this one, joined to it by a link, and returns how to begin a command on it.
func outside(t *testing.T) []string {
	t.Helper()
	machine := exec.Command("sleep", "600")
	machine.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	if err := machine.Start(); err != nil {
		t.Fatal(err)
	}
	pid := strconv.Itoa(machine.Process.Pid)
	at := []string{"nsenter", "--net", "--target", pid}
	t.Cleanup(func() {
		_ = machine.Process.Kill()
		_ = machine.Wait()
		_ = exec.Command("ip", "link", "delete", "outside").Run() // goes with its other end, sooner or later
	})
	run(t, "ip", "link", "add", "outside", "type", "veth", "peer", "name", "eth0", "netns", pid)
	run(t, "ip", "addr", "add", outsideNode+"/24", "dev", "outside")
	run(t, "ip", "addr", "add", outsideNode6+"/64", "dev", "outside", "nodad")
	run(t, "ip", "link", "set", "outside", "up")
	for _, args := range [][]string{
		{"link", "set", "lo", "up"},
		{"addr", "add", outsideClient + "/24", "dev", "eth0"},
		{"addr", "add", outsideClient6 + "/64", "dev", "eth0", "nodad"},
		{"link", "set", "eth0", "up"},
	} {
		run(t, at[0], slices.Concat(at[1:], []string{"ip"}, args)...)
	}
	return at
}

// service reads one field of a Service by JSONPath.
func (c *cluster) service(name, path string) string {
	c.t.Helper()
	return c.kubectl("get", "service", name, "-o", "jsonpath={"+path+"}")
}

var hostLine = regexp.MustCompile(`(?m)^host: (\S+)$`)

// hosts asks as often as it takes to have heard all pods, 200 times at most, and returns who has answered.
func hosts(t *testing.T, n int, ask func() (string, error)) []string {
	t.Helper()
	seen := map[string]bool{}
	for range 200 {
		text, err := ask()
		if err != nil {
			t.Error(err)
			return nil
		}
		m := hostLine.FindStringSubmatch(text)
		if m == nil {
			t.Errorf("the answer is %q", text)
			return nil
		}
		if seen[m[1]] = true; len(seen) == n {
			break
		}
	}
	var all []string
	for host := range seen {
		all = append(all, host)
	}
	slices.Sort(all)
	return all
}

// askOnce asks by a connection of its own.
func askOnce(url string) (string, error) {
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return string(body), err
}

func TestServices(t *testing.T) {
	away := outside(t)
	c := newCluster(t, 0)
	c.load(images.Archive(t, images.Busybox))
	c.apply(webserver)
	for _, name := range []string{"clusterip", "nodeport", "lb"} {
		c.kubectl("apply", "-f", filepath.Join(manifests, "hostname-svc-"+name+".yaml"))
	}
	c.kubectl("rollout", "status", "deployment/webserver", "--timeout=60s")
	c.waitReady("box")
	pods := strings.Fields(c.kubectl("get", "pods", "-l", "app=webserver", "-o", "jsonpath={.items[*].metadata.name}"))
	slices.Sort(pods)
	c.kubectl("wait", "--for=jsonpath={.status.loadBalancer.ingress[0].ip}="+outsideNode, "service/hostname-svc-lb", "--timeout=60s")
	ip, port := c.service("hostname-svc-clusterip", ".spec.clusterIP"), c.service("hostname-svc-nodeport", ".spec.ports[0].nodePort")
	in := func(script string) func() (string, error) {
		return func() (string, error) { return c.try("kubectl", "exec", "box", "--", "sh", "-c", script) }
	}
	fromOutside := func(url string) func() (string, error) {
		return func() (string, error) {
			out, err := exec.Command(away[0], slices.Concat(away[1:], []string{"curl", "-sS", "--noproxy", "*", "--max-time", "10", url})...).CombinedOutput()
			return string(out), err
		}
	}
	get := func(url string) func() (string, error) { return func() (string, error) { return askOnce(url) } }

	for name, ask := range map[string]func() (string, error){
		"by its address, from the node":         get("http://" + ip + ":8080/"),
		"by its address, from a pod":            in("wget -qO- http://" + ip + ":8080/"),
		"by its name, from a pod":               in("wget -qO- http://hostname-svc-clusterip:8080/"),
		"by its whole name, from a pod":         in("wget -qO- http://hostname-svc-clusterip.default.svc.cluster.local:8080/"),
		"by a variable, from a pod":             in("wget -qO- http://$HOSTNAME_SVC_CLUSTERIP_SERVICE_HOST:$HOSTNAME_SVC_CLUSTERIP_SERVICE_PORT/"),
		"headless, from a pod":                  in("wget -qO- http://headless/"),
		"the node port by localhost":            get("http://localhost:" + port + "/"),
		"the node port by the node's address":   get("http://" + outsideNode + ":" + port + "/"),
		"the node port from outside":            fromOutside("http://" + outsideNode + ":" + port + "/"),
		"the node port from a pod":              in("wget -qO- http://" + outsideNode + ":" + port + "/"),
		"the node port's Service by cluster IP": get("http://" + c.service("hostname-svc-nodeport", ".spec.clusterIP") + ":8080/"),
		"the load balancer's, from outside":     fromOutside("http://" + outsideNode + "/"),
		"the load balancer's, from the node":    get("http://" + outsideNode + "/"),
		"the load balancer's, from a pod":       in("wget -qO- http://" + outsideNode + "/"),
		"the load balancer's, by its node port": fromOutside("http://" + outsideNode + ":" + c.service("hostname-svc-lb", ".spec.ports[0].nodePort") + "/"),
	} {
		t.Run(name, func(t *testing.T) {
			if name == "by a variable, from a pod" { // it was made before the Service, so that it does not know it
				c.kubectl("delete", "pod", "box")
				c.apply(webserver)
				c.waitReady("box")
			}
			if got := hosts(t, len(pods), ask); !slices.Equal(got, pods) {
				t.Errorf("%v answered, the pods are %v", got, pods)
			}
		})
	}
	t.Run("a pod reaches itself by its own Service", func(t *testing.T) {
		if got, err := in("wget -qO- http://own/")(); err != nil || got != "box\n" {
			t.Errorf("it answers %q, %v", got, err)
		}
	})
	t.Run("what nobody serves is refused", func(t *testing.T) {
		for _, address := range []string{c.service("nobody", ".spec.clusterIP") + ":80", ip + ":8081", "10.96.250.250:80"} {
			if _, err := askOnce("http://" + address + "/"); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("%s from the node: %v", address, err)
			}
			if out, err := in("wget -qO- http://" + address + "/")(); err == nil || !strings.Contains(err.Error(), "Connection refused") {
				t.Errorf("%s from a pod: %s %v", address, out, err)
			}
		}
	})
	t.Run("another range of addresses", func(t *testing.T) {
		c.apply(`{apiVersion: networking.k8s.io/v1, kind: ServiceCIDR, metadata: {name: more}, spec: {cidrs: [10.97.0.0/24]}}`)
		c.kubectl("wait", "--for=condition=Ready", "servicecidr/more", "--timeout=60s")
		c.apply(`{apiVersion: v1, kind: Service, metadata: {name: further}, spec: {clusterIP: 10.97.0.5, selector: {app: webserver}, ports: [{port: 80}]}}`)
		if got := hosts(t, len(pods), in("wget -qO- http://further/")); !slices.Equal(got, pods) {
			t.Errorf("%v answered, the pods are %v", got, pods)
		}
		if _, err := askOnce("http://10.97.0.6/"); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("an address that no Service owns: %v", err)
		}
	})
	t.Run("names", func(t *testing.T) {
		out, err := in("nslookup headless.default.svc.cluster.local; nslookup kubernetes.default.svc.cluster.local; nslookup nothing.default.svc.cluster.local; cat /etc/resolv.conf")()
		if err != nil {
			t.Error(err)
		}
		for _, pod := range pods {
			contains(t, "the headless Service", out, "Address: "+c.field(pod, ".status.podIP"))
		}
		contains(t, "the API's", out, "Address: 10.96.0.1\n")
		contains(t, "a name that is none", out, "can't find nothing.default.svc.cluster.local: NXDOMAIN")
		contains(t, "resolv.conf", out, "search default.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.96.0.10\noptions ndots:5")
	})
	t.Run("through the API", func(t *testing.T) {
		for _, path := range []string{"services/hostname-svc-clusterip:web-port", "services/hostname-svc-clusterip:8080", "services/http:hostname-svc-clusterip:web-port", "pods/" + pods[0] + ":80", "pods/" + pods[0]} {
			if out := c.kubectl("get", "--raw", "/api/v1/namespaces/default/"+path+"/proxy/"); hostLine.FindString(out) == "" {
				t.Errorf("%s answers %s", path, out)
			}
		}
		contains(t, "the node", c.kubectl("get", "--raw", "/api/v1/nodes/node/proxy/pods"), `"kind":"PodList"`)
	})
	t.Run("port-forward", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		cmd := c.command(ctx, "kubectl", "port-forward", "service/hostname-svc-clusterip", ":8080")
		lines, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(lines).ReadString('\n')
		var local, remote int
		if _, scanned := fmt.Sscanf(line, "Forwarding from 127.0.0.1:%d -> %d", &local, &remote); err != nil || scanned != nil || remote != 80 {
			t.Fatalf("it says %q, %v", line, err)
		}
		text, err := askOnce(fmt.Sprintf("http://127.0.0.1:%d/", local))
		if err != nil || hostLine.FindString(text) == "" {
			t.Errorf("the answer is %q, %v", text, err)
		}
		cancel()
		_ = cmd.Wait()
	})
	t.Run("a restart drops no connection", func(t *testing.T) {
		conn, err := net.Dial("tcp", ip+":8080")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		r := bufio.NewReader(conn)
		ask := func(when string) {
			t.Helper()
			if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: web\r\n\r\n"); err != nil {
				t.Fatalf("%s: %v", when, err)
			}
			response, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatalf("%s: %v", when, err)
			}
			_, _ = io.Copy(io.Discard, response.Body)
		}
		ask("before")
		kill(t, c.pid("sampan"))
		ask("while it is away")
		if _, err := askOnce("http://" + ip + ":8080/"); err != nil {
			t.Errorf("a new connection while it is away: %v", err)
		}
		c.up()
		ask("after it")
	})
	t.Run("rules that somebody deletes come back", func(t *testing.T) {
		inst, err := instance.At(c.dir)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := nftables.New()
		if err != nil {
			t.Fatal(err)
		}
		table := "sampan-" + inst.ID + "-services"
		conn.DelTable(&nftables.Table{Name: table, Family: nftables.TableFamilyINet})
		if err := conn.Flush(); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(20 * time.Second); ; pause() {
			if _, err := askOnce("http://" + ip + ":8080/"); err == nil {
				break
			} else if time.Now().After(end) {
				t.Fatalf("they do not: %v", err)
			}
		}
	})
}

func TestServicesOfBothFamilies(t *testing.T) {
	away := outside(t)
	c := newCluster(t, 0, "--pod-range=10.244.0.0/16,fd00:10:244::/56", "--service-range=10.96.0.0/16,fd00:10:96::/112")
	c.load(images.Archive(t, images.Busybox))
	c.apply(webserver)
	c.apply(`{apiVersion: v1, kind: Service, metadata: {name: both}, spec: {type: NodePort, ipFamilyPolicy: RequireDualStack, selector: {app: webserver}, ports: [{port: 8080, targetPort: 80}]}}`)
	c.apply(`{apiVersion: v1, kind: Service, metadata: {name: six}, spec: {ipFamilies: [IPv6], selector: {app: box}, ports: [{port: 80, targetPort: 8080}]}}`)
	c.kubectl("rollout", "status", "deployment/webserver", "--timeout=60s")
	c.waitReady("box")
	pods := strings.Fields(c.kubectl("get", "pods", "-l", "app=webserver", "-o", "jsonpath={.items[*].metadata.name}"))
	slices.Sort(pods)
	ips := strings.Fields(c.kubectl("get", "service", "both", "-o", "jsonpath={.spec.clusterIPs[*]}"))
	if len(ips) != 2 || !strings.HasPrefix(ips[1], "fd00:10:96::") {
		t.Fatalf("the cluster IPs are %v", ips)
	}
	if got := c.field("box", ".status.podIPs[1].ip"); !strings.HasPrefix(got, "fd00:10:244::") {
		t.Errorf("the pod's second address is %q", got)
	}
	if got := c.kubectl("get", "node", "node", "-o", "jsonpath={.status.addresses[*].address} {.spec.podCIDRs}"); got != outsideNode+" "+outsideNode6+` node ["10.244.0.0/24","fd00:10:244::/64"]` {
		t.Errorf("the node says %s", got)
	}
	port := c.service("both", ".spec.ports[0].nodePort")
	in := func(script string) func() (string, error) {
		return func() (string, error) { return c.try("kubectl", "exec", "box", "--", "sh", "-c", script) }
	}
	for name, ask := range map[string]func() (string, error){
		"IPv4 from the node":      func() (string, error) { return askOnce("http://" + ips[0] + ":8080/") },
		"IPv6 from the node":      func() (string, error) { return askOnce("http://[" + ips[1] + "]:8080/") },
		"IPv4 from a pod":         in("wget -qO- http://" + ips[0] + ":8080/"),
		"IPv6 from a pod":         in("wget -qO- 'http://[" + ips[1] + "]:8080/'"),
		"the node port from here": func() (string, error) { return askOnce("http://[" + outsideNode6 + "]:" + port + "/") },
		"the node port from outside": func() (string, error) {
			out, err := exec.Command(away[0], slices.Concat(away[1:], []string{"curl", "-sS", "-g", "--noproxy", "*", "--max-time", "10", "http://[" + outsideNode6 + "]:" + port + "/"})...).CombinedOutput()
			return string(out), err
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got := hosts(t, len(pods), ask); !slices.Equal(got, pods) {
				t.Errorf("%v answered, the pods are %v", got, pods)
			}
		})
	}
	if got, err := in("wget -qO- http://six/")(); err != nil || got != "box\n" {
		t.Errorf("a pod reaches itself by its own Service, which has IPv6 alone: %q, %v", got, err)
	}
	if _, err := askOnce("http://[fd00:10:96::ffff]/"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("an address that no Service owns: %v", err)
	}
	out, err := in("nslookup both.default.svc.cluster.local")()
	if err != nil {
		t.Error(err)
	}
	contains(t, "the name", out, "Address: "+ips[0])
	contains(t, "the name", out, "Address: "+ips[1])
}

// TestAnAddressOfAPool asks a load balancer's address that no machine has: this one answers for it on the link.
func TestAnAddressOfAPool(t *testing.T) {
	away := outside(t)
	c := newCluster(t, 0, "--load-balancer-pool=192.0.2.100-192.0.2.101")
	c.apply(webserver)
	c.kubectl("apply", "-f", filepath.Join(manifests, "hostname-svc-lb.yaml"))
	c.kubectl("rollout", "status", "deployment/webserver", "--timeout=60s")
	c.kubectl("wait", "--for=jsonpath={.status.loadBalancer.ingress[0].ip}=192.0.2.100", "service/hostname-svc-lb", "--timeout=60s")
	ask := func() (string, error) {
		out, err := exec.Command(away[0], slices.Concat(away[1:], []string{"curl", "-sS", "--noproxy", "*", "--max-time", "20", "http://192.0.2.100/"})...).CombinedOutput()
		return string(out), err
	}
	if got := hosts(t, 4, ask); len(got) != 4 {
		t.Errorf("from outside %v answered", got)
	}
	out, err := exec.Command(away[0], slices.Concat(away[1:], []string{"curl", "-sS", "--noproxy", "*", "--max-time", "20", "http://192.0.2.100:81/"})...).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "Failed to connect") || strings.Contains(string(out), "timed out") {
		t.Errorf("another port of the address: %v\n%s", err, out)
	}
	if got := hosts(t, 4, func() (string, error) { return askOnce("http://192.0.2.100/") }); len(got) != 4 {
		t.Errorf("from the node %v answered", got)
	}
}

// TestAnUpdateBehindServicesLosesNothing asks by cluster IP and by node port, by one connection a request, while the pods are replaced again and again.
func TestAnUpdateBehindServicesLosesNothing(t *testing.T) {
	c := newCluster(t, 0)
	c.apply(webserver)
	c.kubectl("set", "resources", "deployment/webserver", "--requests=cpu=100m") // pods without wait their turn for as long as others keep the processors busy
	c.kubectl("apply", "-f", filepath.Join(manifests, "hostname-svc-clusterip.yaml"), "-f", filepath.Join(manifests, "hostname-svc-nodeport.yaml"))
	c.kubectl("rollout", "status", "deployment/webserver", "--timeout=60s")
	urls := []string{
		"http://" + c.service("hostname-svc-clusterip", ".spec.clusterIP") + ":8080/",
		"http://127.0.0.1:" + c.service("hostname-svc-nodeport", ".spec.ports[0].nodePort") + "/",
	}
	const wanted = 10_000
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var mu sync.Mutex
	asked, failures := map[string]int{}, []string(nil)
	var askers sync.WaitGroup
	for i := range 4 {
		url := urls[i%2]
		askers.Go(func() {
			for ctx.Err() == nil {
				_, err := askOnce(url)
				mu.Lock()
				asked[url]++
				if err != nil {
					failures = append(failures, fmt.Sprintf("%s: %v", time.Now().Format("15:04:05.000"), err))
				}
				mu.Unlock()
			}
		})
	}
	enough := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return asked[urls[0]] >= wanted && asked[urls[1]] >= wanted
	}
	updates := 0
	for ; updates < 2 || !enough(); updates++ {
		c.kubectl("set", "image", "deployment/webserver", fmt.Sprintf("web=sampan.dev/hello:%d", 2-updates%2))
		c.kubectl("rollout", "status", "deployment/webserver", "--timeout=60s")
	}
	stop()
	askers.Wait()
	t.Logf("%d updates, requests: %v", updates, asked)
	if len(failures) > 0 {
		t.Errorf("%d requests failed: %s", len(failures), strings.Join(failures[:min(10, len(failures))], "\n"))
	}
}
