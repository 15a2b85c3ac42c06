//lint:file-ignore SA1019 Endpoints are deprecated, and still served and read

package endpoint

import (
	"cmp"
	"crypto/md5"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// addressKey tells addresses of Endpoints apart: two pods of one host's network have the same IP.
type addressKey struct {
	ip  string
	uid types.UID
}

func keyOfAddress(a *corev1.EndpointAddress) addressKey {
	k := addressKey{ip: a.IP}
	if a.TargetRef != nil {
		k.uid = a.TargetRef.UID
	}
	return k
}

// portKey is a port with all that it points to; none stands for the ports of a subset without any.
type portKey struct {
	name, protocol, app string
	hasApp, none        bool
	number              int32
}

// Repack brings subsets into their canonical form: each port of an address is told once, ports that the same addresses have are told together, and
// all is sorted as upstream sorts it. An address that is both ready and not ready at a port is not ready.
func Repack(subsets []corev1.EndpointSubset) []corev1.EndpointSubset {
	addresses := map[addressKey]*corev1.EndpointAddress{} // the first of a key stands for all
	ports := map[portKey]corev1.EndpointPort{}
	ready := map[portKey]map[addressKey]bool{}
	for i := range subsets {
		s := &subsets[i]
		note := func(key portKey) {
			if ready[key] == nil {
				ready[key] = map[addressKey]bool{}
			}
			for j, list := range [][]corev1.EndpointAddress{s.Addresses, s.NotReadyAddresses} {
				for k := range list {
					a := keyOfAddress(&list[k])
					if addresses[a] == nil {
						addresses[a] = &list[k]
					}
					if was, known := ready[key][a]; !known || was {
						ready[key][a] = j == 0
					}
				}
			}
		}
		for _, p := range s.Ports {
			key := portKey{name: p.Name, protocol: string(p.Protocol), number: p.Port}
			if p.AppProtocol != nil {
				key.app, key.hasApp = *p.AppProtocol, true
			}
			ports[key] = p
			note(key)
		}
		if len(s.Ports) == 0 {
			note(portKey{none: true})
		}
	}
	return pack(addresses, ports, ready)
}

// pack makes a subset of each set of addresses, with all ports that they have.
func pack(addresses map[addressKey]*corev1.EndpointAddress, ports map[portKey]corev1.EndpointPort, ready map[portKey]map[addressKey]bool) []corev1.EndpointSubset {
	packed := map[string]*corev1.EndpointSubset{}
	for port, hosts := range ready {
		sorted := make([]addressKey, 0, len(hosts))
		for a := range hosts {
			sorted = append(sorted, a)
		}
		slices.SortFunc(sorted, func(a, b addressKey) int { return cmp.Or(cmp.Compare(a.ip, b.ip), cmp.Compare(a.uid, b.uid)) })
		var name strings.Builder
		for _, a := range sorted {
			for _, word := range []string{a.ip, " ", string(a.uid), " ", strconv.FormatBool(hosts[a]), "\n"} {
				name.WriteString(word)
			}
		}
		s := packed[name.String()]
		if s == nil {
			s = &corev1.EndpointSubset{}
			for _, a := range sorted {
				if hosts[a] {
					s.Addresses = append(s.Addresses, *addresses[a])
				} else {
					s.NotReadyAddresses = append(s.NotReadyAddresses, *addresses[a])
				}
			}
			packed[name.String()] = s
		}
		if !port.none {
			s.Ports = append(s.Ports, ports[port])
		}
	}
	all := make([]corev1.EndpointSubset, 0, len(packed))
	for _, s := range packed {
		sortByHash(s.Ports, md5.New())
		all = append(all, *s)
	}
	sortByHash(all, md5.New())
	return all
}
