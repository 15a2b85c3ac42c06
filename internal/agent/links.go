package agent

import (
	"net"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// serviceLinks are the variables by which a container finds Services: those of its namespace, unless the pod wants none, and always the API server. Their names are
// Kubernetes' and, older still, those of container links (https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables).
func serviceLinks(v View, pod *corev1.Pod) map[string]string {
	vars := map[string]string{}
	const first, api = "default", "kubernetes"
	if pod.Spec.EnableServiceLinks == nil || *pod.Spec.EnableServiceLinks {
		for _, s := range v.Services(pod.Namespace) {
			link(vars, s)
		}
	}
	for _, s := range v.Services(first) {
		if s.Name == api && (pod.Namespace == first || vars["KUBERNETES_SERVICE_HOST"] == "") {
			link(vars, s)
		}
	}
	return vars
}

func link(vars map[string]string, s *corev1.Service) {
	if s.Spec.ClusterIP == "" || s.Spec.ClusterIP == corev1.ClusterIPNone || len(s.Spec.Ports) == 0 {
		return
	}
	ip := s.Spec.ClusterIP
	prefix := variable(s.Name)
	vars[prefix+"_SERVICE_HOST"] = ip
	vars[prefix+"_SERVICE_PORT"] = strconv.Itoa(int(s.Spec.Ports[0].Port))
	for i, p := range s.Spec.Ports {
		number := strconv.Itoa(int(p.Port))
		if p.Name != "" {
			vars[prefix+"_SERVICE_PORT_"+variable(p.Name)] = number
		}
		protocol := p.Protocol
		if protocol == "" {
			protocol = corev1.ProtocolTCP
		}
		url := strings.ToLower(string(protocol)) + "://" + net.JoinHostPort(ip, number)
		if i == 0 {
			vars[prefix+"_PORT"] = url
		}
		one := prefix + "_PORT_" + number + "_" + strings.ToUpper(string(protocol))
		vars[one], vars[one+"_PROTO"], vars[one+"_PORT"], vars[one+"_ADDR"] = url, strings.ToLower(string(protocol)), number, ip
	}
}

// variable makes a name of a Service or a port one of a variable.
func variable(name string) string { return strings.ToUpper(strings.ReplaceAll(name, "-", "_")) }
