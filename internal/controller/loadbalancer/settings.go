package loadbalancer

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"sampan.dev/internal/auth"
)

// Config is what the command line says, and what holds where no ConfigMap says otherwise.
type Config struct {
	Pools    Pools // none: the nodes' own addresses
	Announce bool  // by ARP and neighbour advertisements; the nodes do it
	// ReservedPorts are TCP ports that nodes answer on by themselves, and what does there: "the API server". No Service can have them at the nodes' addresses.
	ReservedPorts map[uint16]string
}

// Namespace and Name are those of the ConfigMap that changes the settings of a running cluster.
const (
	Namespace = "kube-system"
	Name      = auth.BalancerName
)

// Keys of the ConfigMap, and what may be there.
const (
	keyPools    = "pools"
	keyAnnounce = "announce"

	announceARP  = "arp"
	announceNone = "none"
)

// WithMap is the settings with what the ConfigMap says instead, if there is one. Keys that it does not have stay as they are.
func (c Config) WithMap(m *corev1.ConfigMap) (Config, error) {
	if m == nil {
		return c, nil
	}
	for key := range m.Data {
		if key != keyPools && key != keyAnnounce {
			return c, fmt.Errorf("key %q: there are only %q and %q", key, keyPools, keyAnnounce)
		}
	}
	if text, there := m.Data[keyPools]; there {
		pools, err := ParsePools(text)
		if err != nil {
			return c, fmt.Errorf("key %q: %w", keyPools, err)
		}
		c.Pools = pools
	}
	if text, there := m.Data[keyAnnounce]; there {
		text = strings.TrimSpace(text)
		if !slices.Contains([]string{announceARP, announceNone}, text) {
			return c, fmt.Errorf("key %q: %q is neither %q nor %q", keyAnnounce, text, announceARP, announceNone)
		}
		c.Announce = text == announceARP
	}
	return c, nil
}
