package instance

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"

	"sampan.dev/internal/allocate"
)

// Settings are what a person may choose for a one-node cluster. They are remembered in the data directory, so that a later start, stop
// or reset needs only --data-dir.
type Settings struct {
	NodeName    string       `json:"nodeName"`
	NodeIP      netip.Addr   `json:"nodeIP"`      // the node's own address; invalid means the one that the default route leaves by
	Bind        netip.Addr   `json:"bind"`        // where the API and the node's server listen
	APIPort     uint16       `json:"apiPort"`     // the API over TLS
	NodePort    uint16       `json:"nodePort"`    // logs, exec and metrics of the node over TLS
	PodRange    netip.Prefix `json:"podRange"`    // all pods of the cluster; each node takes a /24 of it
	ServiceCIDR netip.Prefix `json:"serviceCIDR"` // all Services of the cluster
	// ServicePorts is where the node ports of Services are from.
	ServicePorts allocate.PortRange `json:"servicePorts"`
	// LoadBalancerPool is the addresses that Services of type LoadBalancer may have; empty: the nodes' own. They are announced on the link unless Unannounced.
	LoadBalancerPool string           `json:"loadBalancerPool,omitempty"`
	Unannounced      bool             `json:"unannounced,omitempty"`
	Upstreams        []netip.AddrPort `json:"dnsUpstreams,omitempty"` // who is asked for names outside the cluster; none: those of /etc/resolv.conf
	// PodRange6 and ServiceCIDR6 are the same of IPv6, for pods and Services with two addresses. Both are set, or neither.
	PodRange6    netip.Prefix `json:"podRange6,omitzero"`
	ServiceCIDR6 netip.Prefix `json:"serviceCIDR6,omitzero"`
	// Servers are those that an agent was told to work for; none: this is a server itself. Told are those that the cluster has besides. NodePart and NodePart6 are the
	// parts of the pods' ranges that the cluster gave this node.
	Servers   []string     `json:"servers,omitempty"`
	Told      []string     `json:"told,omitempty"`
	NodePart  netip.Prefix `json:"nodePart,omitzero"`
	NodePart6 netip.Prefix `json:"nodePart6,omitzero"`
	// Datastore is the etcd that several servers share; none: the server has a store of its own. ServerID tells this server from another of its name.
	Datastore Datastore `json:"datastore,omitzero"`
	ServerID  string    `json:"serverID,omitempty"`
	// Labels and Taints are those that the node has from its first start, as in KEY=VALUE and KEY=VALUE:EFFECT.
	Labels []string `json:"labels,omitempty"`
	Taints []string `json:"taints,omitempty"`
	// EvictionHard is below what the node evicts pods, as in memory.available<100Mi; empty: as Kubernetes does. PressureHold is how long it says that it is short after it was;
	// 0: five minutes.
	EvictionHard string        `json:"evictionHard,omitempty"`
	PressureHold time.Duration `json:"evictionPressureTransitionPeriod,omitempty"`
	// NoAgent is of a server that is no node itself.
	NoAgent bool `json:"noAgent,omitempty"`
	// TolerationSeconds is how long pods that say nothing else stay on a node that is lost or not ready; nil: 30.
	TolerationSeconds *int64 `json:"defaultTolerationSeconds,omitempty"`
	// SchedulerConfig is the path, from the root, of the scheduler's configuration, which is read at each start.
	SchedulerConfig string `json:"schedulerConfig,omitempty"`
	CRI             string `json:"cri,omitempty"`        // an endpoint to use in place of sampan-runtime
	Kubeconfig      string `json:"kubeconfig,omitempty"` // the file that the context was merged into, besides DIR/kubeconfig
	Context         string `json:"context"`              // the name of that context
}

// Datastore says which etcd, and by which files it is reached: paths from the root.
type Datastore struct {
	Endpoints []string `json:"endpoints,omitempty"` // https://HOST:PORT each
	CA        string   `json:"ca,omitempty"`        // certificates that etcd's are checked by; empty: the system's
	Cert      string   `json:"cert,omitempty"`      // the client certificate
	Key       string   `json:"key,omitempty"`
}

// Shared says that the server shares its datastore with others, or may.
func (s Settings) Shared() bool { return len(s.Datastore.Endpoints) > 0 }

// AllServers are those that an agent may ask.
func (s Settings) AllServers() []string {
	all := slices.Clone(s.Servers)
	for _, t := range s.Told {
		if !slices.Contains(all, t) {
			all = append(all, t)
		}
	}
	return all
}

// Defaults are the settings of a first start without flags.
func Defaults() Settings {
	return Settings{
		NodeName:     hostName(),
		Bind:         netip.IPv4Unspecified(),
		APIPort:      6443,
		NodePort:     10250,
		PodRange:     netip.MustParsePrefix("10.244.0.0/16"),
		ServiceCIDR:  netip.MustParsePrefix("10.96.0.0/16"),
		ServicePorts: allocate.DefaultPorts,
		Context:      "sampan",
	}
}

// hostName is the machine's name in the form that a node's name must have: a DNS subdomain, in small letters (RFC 1123).
func hostName() string {
	name, err := os.Hostname()
	name = strings.ToLower(strings.TrimSpace(name))
	if err != nil || len(validation.IsDNS1123Subdomain(name)) > 0 {
		return "sampan"
	}
	return name
}

// Validate returns everything that is wrong with the settings, each a sentence that names the flag.
func (s Settings) Validate() error {
	var errs []error
	bad := func(flag, format string, args ...any) {
		errs = append(errs, fmt.Errorf("--%s: "+format, append([]any{flag}, args...)...))
	}
	for _, msg := range validation.IsDNS1123Subdomain(s.NodeName) {
		bad("node-name", "%q: %s", s.NodeName, msg)
	}
	if s.APIPort == 0 {
		bad("api-port", "0 is not a port to serve on")
	}
	if s.NodePort == 0 {
		bad("node-port", "0 is not a port to serve on")
	}
	if s.APIPort == s.NodePort {
		bad("node-port", "%d is the API's port as well (--api-port)", s.NodePort)
	}
	for flag, port := range map[string]uint16{"api-port": s.APIPort, "node-port": s.NodePort} {
		if s.ServicePorts.First <= int32(port) && int32(port) <= s.ServicePorts.Last {
			bad(flag, "%d is one of the node ports of Services (--service-node-port-range %v)", port, s.ServicePorts)
		}
	}
	for flag, p := range map[string]netip.Prefix{"pod-range": s.PodRange, "service-range": s.ServiceCIDR} {
		if !p.IsValid() || !p.Addr().Is4() || p != p.Masked() {
			bad(flag, "%v is not an IPv4 range such as 10.244.0.0/16", p)
		}
	}
	if s.PodRange.IsValid() && s.PodRange.Bits() > 24 {
		bad("pod-range", "%v is too small: a node alone takes a /24", s.PodRange)
	}
	if s.ServiceCIDR.IsValid() && s.ServiceCIDR.Bits() > 27 {
		bad("service-range", "%v is too small: it takes a /27 at the least", s.ServiceCIDR)
	}
	if s.PodRange6.IsValid() != s.ServiceCIDR6.IsValid() {
		flags := []string{"pod-range", "service-range"}
		if s.ServiceCIDR6.IsValid() {
			slices.Reverse(flags)
		}
		bad(flags[1], "it has no IPv6 range, but --%s has: give both two ranges, such as 10.244.0.0/16,fd00:10:244::/56 and 10.96.0.0/16,fd00:10:96::/112", flags[0])
	}
	if s.PodRange6.IsValid() && s.PodRange6.Bits() > 64 {
		bad("pod-range", "%v is too small: a node alone takes a /64", s.PodRange6)
	}
	if s.ServiceCIDR6.IsValid() && (s.ServiceCIDR6.Bits() > 123 || s.ServiceCIDR6.Bits() < 64) {
		bad("service-range", "%v has not from 64 to 123 bits", s.ServiceCIDR6)
	}
	if s.PodRange6.Overlaps(s.ServiceCIDR6) {
		bad("service-range", "%v overlaps the pods' range %v", s.ServiceCIDR6, s.PodRange6)
	}
	if s.PodRange.Overlaps(s.ServiceCIDR) {
		bad("service-range", "%v overlaps the pods' range %v", s.ServiceCIDR, s.PodRange)
	}
	return errors.Join(errs...)
}

// NodeRange is this node's part of the pods' range: what an agent was given, and for a server the first.
func (s Settings) NodeRange() netip.Prefix {
	if s.NodePart.IsValid() {
		return s.NodePart
	}
	return netip.PrefixFrom(s.PodRange.Addr(), 24)
}

// NodeRange6 is the same of IPv6; not valid where there is none.
func (s Settings) NodeRange6() netip.Prefix {
	if !s.PodRange6.IsValid() || s.NodePart6.IsValid() {
		return s.NodePart6
	}
	return netip.PrefixFrom(s.PodRange6.Addr(), 64)
}

// Command is the subcommand that starts what the settings are of.
func (s Settings) Command() string {
	switch {
	case len(s.Servers) > 0:
		return "agent"
	case s.NoAgent || s.Shared():
		return "server"
	}
	return "up"
}

// Pods, Node and Services are the ranges of each family that there is, IPv4 first.
func (s Settings) Pods() []netip.Prefix     { return both(s.PodRange, s.PodRange6) }
func (s Settings) Node() []netip.Prefix     { return both(s.NodeRange(), s.NodeRange6()) }
func (s Settings) Services() []netip.Prefix { return both(s.ServiceCIDR, s.ServiceCIDR6) }

func both(v4, v6 netip.Prefix) []netip.Prefix {
	if v6.IsValid() {
		return []netip.Prefix{v4, v6}
	}
	return []netip.Prefix{v4}
}

// DNS is the address of the cluster's DNS server: the tenth of the Services' range, as Kubernetes' installers have it.
func (s Settings) DNS() netip.Addr {
	a := s.ServiceCIDR.Masked().Addr()
	for range 10 {
		a = a.Next()
	}
	return a
}

// Load returns the settings of the last start; fs.ErrNotExist where there was none.
func (i Instance) Load() (Settings, error) {
	data, err := os.ReadFile(i.settingsPath())
	if err != nil {
		return Settings{}, fmt.Errorf("read settings of %s: %w", i.Dir, err)
	}
	s := Defaults()
	if err := json.Unmarshal(data, &s); err != nil {
		return Settings{}, fmt.Errorf("read settings of %s: %w", i.Dir, err)
	}
	return s, nil
}

// LoadOrDefaults returns the settings of the last start, or the defaults before the first.
func (i Instance) LoadOrDefaults() (Settings, error) {
	s, err := i.Load()
	if errors.Is(err, fs.ErrNotExist) {
		return Defaults(), nil
	}
	return s, err
}

// Save remembers the settings, in one step: a kill leaves the old ones or the new ones.
func (i Instance) Save(s Settings) error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("save settings: %w", err)
	}
	if err := os.MkdirAll(i.Dir, 0o755); err != nil {
		return fmt.Errorf("save settings: %w", err)
	}
	tmp := i.settingsPath() + ".new"
	if err := os.WriteFile(tmp, append(data, '\n'), 0o644); err != nil {
		return fmt.Errorf("save settings: %w", err)
	}
	if err := os.Rename(tmp, i.settingsPath()); err != nil {
		return fmt.Errorf("save settings: %w", err)
	}
	return nil
}

// Known returns the instances of this machine that run or were left behind in /run, by what they wrote there.
func Known() []Instance {
	links, _ := filepath.Glob("/run/sampan/*/data-dir")
	var found []Instance
	for _, link := range links {
		dir, err := os.ReadFile(link)
		if err != nil {
			continue
		}
		if i, err := At(strings.TrimSpace(string(dir))); err == nil {
			found = append(found, i)
		}
	}
	return found
}
