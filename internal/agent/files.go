package agent

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// hostsFile is what a pod's containers see as /etc/hosts.
func hostsFile(pod *corev1.Pod, ips []string, hostname, domain string, node []byte) []byte {
	var b bytes.Buffer
	if pod.Spec.HostNetwork {
		b.WriteString("# Kubernetes-managed hosts file (host network).\n")
		b.Write(node)
	} else {
		b.WriteString("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" +
			"fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n")
		for _, ip := range ips {
			if domain != "" {
				fmt.Fprintf(&b, "%s\t%s.%s\t%s\n", ip, hostname, domain, hostname)
			} else {
				fmt.Fprintf(&b, "%s\t%s\n", ip, hostname)
			}
		}
	}
	if len(pod.Spec.HostAliases) > 0 {
		b.WriteString("\n# Entries added by HostAliases.\n")
		for _, alias := range pod.Spec.HostAliases {
			fmt.Fprintf(&b, "%s\t%s\n", alias.IP, strings.Join(alias.Hostnames, "\t"))
		}
	}
	return b.Bytes()
}

// names are the pod's host name, cut to what the kernel takes, and the domain it has by its subdomain.
func names(pod *corev1.Pod, clusterDomain string) (hostname, domain string) {
	hostname = pod.Name
	if pod.Spec.Hostname != "" {
		hostname = pod.Spec.Hostname
	}
	if pod.Spec.HostnameOverride != nil {
		return *pod.Spec.HostnameOverride, ""
	}
	if len(hostname) > 63 {
		hostname = strings.TrimRight(hostname[:63], "-.")
	}
	if pod.Spec.Subdomain != "" {
		domain = fmt.Sprintf("%s.%s.svc.%s", pod.Spec.Subdomain, pod.Namespace, clusterDomain)
	}
	return hostname, domain
}

// resolver is what resolv.conf says.
type resolver struct{ servers, searches, options []string }

// maxServers is as many nameservers as resolvers take.
const maxServers = 3

// resolverOf follows the pod's policy. Without a cluster DNS the node's own servers take its place.
func resolverOf(pod *corev1.Pod, cluster []netip.Addr, clusterDomain string, node resolver) resolver {
	r := resolver{servers: slices.Clone(node.servers), searches: slices.Clone(node.searches), options: slices.Clone(node.options)}
	switch policy := pod.Spec.DNSPolicy; {
	case policy == corev1.DNSNone:
		r = resolver{}
	case policy == corev1.DNSDefault, policy == corev1.DNSClusterFirst && pod.Spec.HostNetwork, len(cluster) == 0:
	default:
		r.servers = nil
		for _, a := range cluster {
			r.servers = append(r.servers, a.String())
		}
		r.searches = append([]string{pod.Namespace + ".svc." + clusterDomain, "svc." + clusterDomain, clusterDomain}, r.searches...)
		r.options = []string{"ndots:5"}
	}
	if c := pod.Spec.DNSConfig; c != nil {
		r.servers = append(r.servers, c.Nameservers...)
		r.searches = append(r.searches, c.Searches...)
		for _, o := range c.Options {
			r.options = slices.DeleteFunc(r.options, func(have string) bool {
				name, _, _ := strings.Cut(have, ":")
				return name == o.Name
			})
			if o.Value != nil && *o.Value != "" {
				r.options = append(r.options, o.Name+":"+*o.Value)
			} else {
				r.options = append(r.options, o.Name)
			}
		}
	}
	r.servers, r.searches = unique(r.servers), unique(r.searches)
	r.servers = r.servers[:min(len(r.servers), maxServers)]
	return r
}

func unique(list []string) []string {
	var out []string
	for _, s := range list {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// readResolver reads the node's resolv.conf. A stub on the loopback answers nobody in a pod: the real list beside it is taken.
func readResolver(path string) resolver {
	r := parseResolver(path)
	if len(r.servers) > 0 && !slices.ContainsFunc(r.servers, func(s string) bool { return !isLoopback(s) }) {
		if real := parseResolver("/run/systemd/resolve/resolv.conf"); len(real.servers) > 0 {
			return real
		}
	}
	return r
}

func isLoopback(s string) bool {
	a, err := netip.ParseAddr(s)
	return err == nil && a.IsLoopback()
}

func parseResolver(path string) resolver {
	var r resolver
	f, err := os.Open(path)
	if err != nil {
		return r // a node without DNS
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		part := strings.Fields(lines.Text())
		if len(part) < 2 {
			continue
		}
		switch part[0] {
		case "nameserver":
			r.servers = append(r.servers, part[1])
		case "search":
			r.searches = nil
			for _, s := range part[1:] {
				if s != "." {
					r.searches = append(r.searches, strings.TrimSuffix(s, "."))
				}
			}
		case "options":
			r.options = part[1:]
		}
	}
	return r
}

func (r resolver) config() *cri.DNSConfig {
	return &cri.DNSConfig{Servers: r.servers, Searches: r.searches, Options: r.options}
}

// writeHosts writes the pod's hosts file and returns its path. It is written in place: running containers have it mounted.
func (a *Agent) writeHosts(pod *corev1.Pod, ips []string) (string, error) {
	var node []byte
	if pod.Spec.HostNetwork {
		node, _ = os.ReadFile(a.cfg.EtcHosts)
	}
	hostname, domain := names(pod, a.cfg.ClusterDomain)
	path := filepath.Join(a.volumes.Dir(pod.UID), "etc-hosts")
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return "", fmt.Errorf("write hosts file: %w", err)
	}
	want := hostsFile(pod, ips, hostname, domain, node)
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, want) {
		return path, nil
	}
	if err := os.WriteFile(path, want, 0o644); err != nil {
		return "", fmt.Errorf("write hosts file: %w", err)
	}
	return path, os.Chmod(path, 0o644)
}

// readUpTo reads the end of a file that a container wrote.
func readUpTo(path string, limit int64) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s is not a file", path)
	}
	if size := info.Size(); size > limit {
		if _, err := f.Seek(size-limit, io.SeekStart); err != nil {
			return "", err
		}
	}
	b, err := io.ReadAll(io.LimitReader(f, limit))
	return strings.ToValidUTF8(string(b), "\uFFFD"), err
}
