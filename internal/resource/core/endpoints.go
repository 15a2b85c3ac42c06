package core

import (
	"fmt"

	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"sampan.dev/internal/resource/validate"
)

// EndpointIP refuses addresses that mean something else on each machine: no traffic may be led there.
func EndpointIP(address string, at *field.Path) field.ErrorList {
	var l validate.List
	ip := netutils.ParseIPSloppy(address)
	if ip == nil {
		l.Invalid(at, address, "must be a valid IP address")
		return l.Errs
	}
	if ip.IsUnspecified() {
		l.Invalid(at, address, fmt.Sprintf("may not be unspecified (%v)", address))
	}
	if ip.IsLoopback() {
		l.Invalid(at, address, "may not be in the loopback range (127.0.0.0/8, ::1/128)")
	}
	if ip.IsLinkLocalUnicast() {
		l.Invalid(at, address, "may not be in the link-local range (169.254.0.0/16, fe80::/10)")
	}
	if ip.IsLinkLocalMulticast() {
		l.Invalid(at, address, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")
	}
	return l.Errs
}
