package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ResolvConf is the file that containers get as /etc/resolv.conf; empty if the pod has no DNS of its own.
func (m *Manager) ResolvConf(s Sandbox) string {
	if s.Config.GetDnsConfig() == nil {
		return ""
	}
	return filepath.Join(m.cfg.Dir, s.ID, "resolv.conf")
}

// HostnameFile is the file that containers get as /etc/hostname.
func (m *Manager) HostnameFile(s Sandbox) string { return filepath.Join(m.cfg.Dir, s.ID, "hostname") }

// Hostname is what the pod's containers call their machine.
func Hostname(s Sandbox) string {
	if name := s.Config.GetHostname(); name != "" && !s.HostNetwork() {
		return name
	}
	name, err := os.Hostname()
	if err != nil {
		return s.Config.GetHostname()
	}
	return name
}

func (m *Manager) writeFiles(s Sandbox) error {
	// Containers of any user read these, by their mount only: the directory above is closed.
	if err := os.WriteFile(m.HostnameFile(s), []byte(Hostname(s)+"\n"), 0o644); err != nil {
		return fmt.Errorf("write host name: %w", err)
	}
	if path := m.ResolvConf(s); path != "" {
		if err := os.WriteFile(path, []byte(resolvConf(s.Config.GetDnsConfig())), 0o644); err != nil {
			return fmt.Errorf("write resolv.conf: %w", err)
		}
	}
	if dir := s.Config.GetLogDirectory(); dir != "" {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make log directory: %w", err)
		}
	}
	return nil
}

func resolvConf(dns *runtimeapi.DNSConfig) string {
	var b strings.Builder
	if len(dns.GetSearches()) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(dns.GetSearches(), " "))
	}
	for _, server := range dns.GetServers() {
		fmt.Fprintf(&b, "nameserver %s\n", server)
	}
	if len(dns.GetOptions()) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(dns.GetOptions(), " "))
	}
	return b.String()
}

// defaults of a pod's own network namespace, each if the kernel has it: any user may bind low ports and ping, and links make no
// addresses by themselves.
var defaults = [][2]string{
	{"net/ipv4/ip_unprivileged_port_start", "0"},
	{"net/ipv4/ping_group_range", "0 2147483647"},
	{"net/ipv6/conf/default/accept_dad", "0"},
	{"net/ipv6/conf/default/accept_ra", "0"},
	{"net/ipv6/conf/all/accept_ra", "0"},
}

// setSysctls is called on a thread that is in the pod's namespaces.
func (m *Manager) setSysctls(s Sandbox) error {
	if m.own(s, "net") {
		for _, d := range defaults {
			_ = os.WriteFile("/proc/sys/"+d[0], []byte(d[1]), 0)
		}
	}
	for name, value := range s.Config.GetLinux().GetSysctls() {
		path, err := m.sysctlPath(s, name)
		if err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(value), 0); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("set sysctl %q: the kernel has none of that name", name)
			}
			return fmt.Errorf("set sysctl %q to %q: %w", name, value, err)
		}
	}
	return nil
}

// sysctlPath refuses what would change more than the pod.
func (m *Manager) sysctlPath(s Sandbox, name string) (string, error) {
	rel := name
	if first := strings.IndexAny(name, "./"); first >= 0 && name[first] == '.' {
		rel = strings.NewReplacer(".", "/", "/", ".").Replace(name)
	}
	if !filepath.IsLocal(rel) {
		return "", fmt.Errorf("sysctl %q: not a name", name)
	}
	dotted := strings.NewReplacer("/", ".", ".", "/").Replace(rel)
	ipc := strings.HasPrefix(dotted, "kernel.shm") || strings.HasPrefix(dotted, "kernel.msg") || dotted == "kernel.sem" || strings.HasPrefix(dotted, "fs.mqueue.")
	switch {
	case strings.HasPrefix(dotted, "net.") && m.own(s, "net"), ipc && m.own(s, "ipc"):
		return filepath.Join("/proc/sys", rel), nil
	case strings.HasPrefix(dotted, "net."):
		return "", fmt.Errorf("sysctl %q can't be set: the pod has the node's network", name)
	case ipc:
		return "", fmt.Errorf("sysctl %q can't be set: the pod has the node's IPC", name)
	}
	return "", fmt.Errorf("sysctl %q can't be set: it is not a pod's own", name)
}
