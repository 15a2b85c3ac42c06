package endpoint

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	netutils "k8s.io/utils/net"
)

// Address is an IP in its canonical form, and its family. It reads what Kubernetes has ever let into its objects, leading zeros too.
func Address(ip string) (canonical string, kind discovery.AddressType, ok bool) {
	a, err := netip.ParseAddr(ip)
	if err != nil || a.Zone() != "" {
		sloppy := netutils.ParseIPSloppy(ip)
		if a, ok = netip.AddrFromSlice(sloppy); !ok {
			return "", "", false
		}
	}
	if a = a.Unmap(); a.Is4() {
		return a.String(), discovery.AddressTypeIPv4, true
	}
	return a.String(), discovery.AddressTypeIPv6, true
}

// Addresses are the pod's addresses of one family.
func Addresses(pod *corev1.Pod, kind discovery.AddressType) (ips []string) {
	for i := range pod.Status.PodIPs {
		if ip, of, ok := Address(pod.Status.PodIPs[i].IP); ok && of == kind {
			ips = append(ips, ip)
		}
	}
	return ips
}

// Families are those of the Service, the first first. A Service that does not tell has the one of its address, or both if it is headless.
func Families(service *corev1.Service) (kinds []discovery.AddressType) {
	for _, f := range service.Spec.IPFamilies {
		switch f {
		case corev1.IPv4Protocol:
			kinds = append(kinds, discovery.AddressTypeIPv4)
		case corev1.IPv6Protocol:
			kinds = append(kinds, discovery.AddressTypeIPv6)
		}
	}
	switch {
	case len(kinds) > 0:
		return kinds
	case Headless(service):
		return []discovery.AddressType{discovery.AddressTypeIPv4, discovery.AddressTypeIPv6}
	case netutils.IsIPv6String(service.Spec.ClusterIP):
		return []discovery.AddressType{discovery.AddressTypeIPv6}
	}
	return []discovery.AddressType{discovery.AddressTypeIPv4}
}
