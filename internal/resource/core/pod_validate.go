package core

import (
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/resource"
	"sampan.dev/internal/resource/validate"
)

// podCheck checks one spec of a pod. It carries what parts need to know of other parts.
type podCheck struct {
	validate.List
	spec    *corev1.PodSpec
	pod     *corev1.Pod                     // nil where the spec is a template's
	volumes map[string]*corev1.VolumeSource // by name, those without errors of their own
	claims  validate.Seen                   // names of spec.resourceClaims
}

// validatePod checks a pod to be created, or as it would be after an update.
func validatePod(p *corev1.Pod) field.ErrorList {
	c := &podCheck{spec: &p.Spec, pod: p}
	at := root("spec")
	c.annotations(p.Annotations, root("metadata", "annotations"))
	c.all(at)
	if p.Spec.ServiceAccountName == "" {
		c.noTokens(at.Child("volumes"))
	}
	eachContainer(&p.Spec, at, func(ctr *corev1.Container, at *field.Path, kind containerKind) {
		if kind != ephemeral && strings.TrimSpace(ctr.Image) != ctr.Image {
			c.Invalid(at.Child("image"), ctr.Image, "must not have leading or trailing whitespace")
		}
	})
	if !resource.IsNew(p) {
		return c.Errs
	}
	if len(p.Spec.EphemeralContainers) > 0 {
		c.Forbidden(at.Child("ephemeralContainers"), "cannot be set on create")
	}
	if p.Spec.NodeName != "" && len(p.Spec.SchedulingGates) > 0 {
		c.Forbidden(at.Child("nodeName"), "cannot be set until all schedulingGates have been cleared")
	}
	c.profilesMatch(p.Annotations, at)
	return c.Errs
}

// ValidatePodTemplateSpec checks a template that pods will be made from.
func ValidatePodTemplateSpec(tpl *corev1.PodTemplateSpec, at *field.Path) field.ErrorList {
	c := &podCheck{spec: &tpl.Spec}
	c.Add(metavalidation.ValidateLabels(tpl.Labels, at.Child("labels"))...)
	c.Add(apivalidation.ValidateAnnotations(tpl.Annotations, at.Child("annotations"))...)
	c.annotations(tpl.Annotations, at.Child("annotations"))
	c.all(at.Child("spec"))
	c.profilesMatch(tpl.Annotations, at.Child("spec"))
	if len(tpl.Spec.EphemeralContainers) > 0 {
		c.Forbidden(at.Child("spec", "ephemeralContainers"), "ephemeral containers not allowed in pod template")
	}
	return c.Errs
}

// all checks the spec, in the order in which upstream reports.
func (c *podCheck) all(at *field.Path) {
	s := c.spec
	if s.TerminationGracePeriodSeconds == nil {
		c.Required(at.Child("terminationGracePeriodSeconds"), "")
	}
	c.checkVolumes(at.Child("volumes"))
	c.checkResourceClaims(at.Child("resourceClaims"))
	c.containers(at.Child("containers"))
	c.initContainers(at.Child("initContainers"))
	c.ephemeralContainers(at.Child("ephemeralContainers"))
	c.podResources(at.Child("resources"))
	c.hostPorts(at.Child("containers"))
	validate.OneOfRequired(&c.List, at.Child("restartPolicy"), s.RestartPolicy,
		corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever)
	validate.OneOfRequired(&c.List, at.Child("dnsPolicy"), s.DNSPolicy,
		corev1.DNSClusterFirstWithHostNet, corev1.DNSClusterFirst, corev1.DNSDefault, corev1.DNSNone)
	c.Add(metavalidation.ValidateLabels(s.NodeSelector, at.Child("nodeSelector"))...)
	c.podSecurity(at.Child("securityContext"))
	c.affinity(at.Child("affinity"))
	c.dns(at.Child("dnsConfig"))
	for i, gate := range s.ReadinessGates {
		c.QualifiedName(at.Child("readinessGates").Index(i).Child("conditionType"), string(gate.ConditionType))
	}
	c.schedulingGates(at.Child("schedulingGates"))
	c.spread(at.Child("topologySpreadConstraints"))
	c.windowsHostProcess(at)
	c.hostUsers(at)
	c.names(at)
	c.Add(tolerations(s.Tolerations, at.Child("tolerations"))...)
	c.hostAliases(at.Child("hostAliases"))
	c.classes(at)
	c.os(at)
}

func (c *podCheck) names(at *field.Path) {
	s := c.spec
	if s.ServiceAccountName != "" {
		c.Messages(at.Child("serviceAccountName"), s.ServiceAccountName, apivalidation.ValidateServiceAccountName(s.ServiceAccountName, false))
	}
	if s.NodeName != "" {
		c.Subdomain(at.Child("nodeName"), s.NodeName)
	}
	if s.ActiveDeadlineSeconds != nil {
		c.Seconds(at.Child("activeDeadlineSeconds"), *s.ActiveDeadlineSeconds, 1)
	}
	if s.Hostname != "" {
		c.Label(at.Child("hostname"), s.Hostname)
	}
	if s.HostnameOverride != nil {
		c.hostnameOverride(at.Child("hostnameOverride"), *s.HostnameOverride)
	}
	if s.Subdomain != "" {
		c.Label(at.Child("subdomain"), s.Subdomain)
	}
}

// maxHostname is the longest host name that Linux knows, in bytes.
const maxHostname = 64

func (c *podCheck) hostnameOverride(at *field.Path, name string) {
	if c.spec.HostNetwork {
		c.Forbidden(at, "when `pod.Spec.HostNetwork` is true")
	}
	if isTrue(c.spec.SetHostnameAsFQDN) {
		c.Forbidden(at, "when `pod.Spec.SetHostnameAsFQDN` is true")
	}
	c.Subdomain(at, name)
	c.Size(at, len(name), maxHostname)
}

func (c *podCheck) classes(at *field.Path) {
	s := c.spec
	if s.PriorityClassName != "" {
		c.Subdomain(at.Child("priorityClassName"), s.PriorityClassName)
	}
	if s.RuntimeClassName != nil {
		c.Subdomain(at.Child("runtimeClassName"), *s.RuntimeClassName)
	}
	if s.PreemptionPolicy != nil {
		validate.OneOfRequired(&c.List, at.Child("preemptionPolicy"), *s.PreemptionPolicy,
			corev1.PreemptLowerPriority, corev1.PreemptNever)
	}
	if s.Overhead != nil {
		c.requirements(&corev1.ResourceRequirements{Limits: s.Overhead}, containerResource, at.Child("overhead"))
	}
}

const (
	maxNameservers = 3    // libc asks no more
	maxSearches    = 32   // domains
	maxSearchBytes = 2048 // with the spaces between them
)

func (c *podCheck) dns(at *field.Path) {
	config := c.spec.DNSConfig
	if c.spec.DNSPolicy == corev1.DNSNone {
		if config == nil {
			c.Required(at, "must provide `dnsConfig` when `dnsPolicy` is None")
			return
		}
		if len(config.Nameservers) == 0 {
			c.Required(at.Child("nameservers"), "must provide at least one DNS nameserver when `dnsPolicy` is None")
			return
		}
	}
	if config == nil {
		return
	}
	servers, searches := at.Child("nameservers"), at.Child("searches")
	if len(config.Nameservers) > maxNameservers {
		c.Invalid(servers, config.Nameservers, "must not have more than "+strconv.Itoa(maxNameservers)+" nameservers")
	}
	for i, ip := range config.Nameservers {
		c.Add(validation.IsValidIP(servers.Index(i), ip)...)
	}
	if len(config.Searches) > maxSearches {
		c.Invalid(searches, config.Searches, "must not have more than "+strconv.Itoa(maxSearches)+" search paths")
	}
	if len(strings.Join(config.Searches, " ")) > maxSearchBytes {
		c.Invalid(searches, config.Searches,
			"must not have more than "+strconv.Itoa(maxSearchBytes)+" characters (including spaces) in the search list")
	}
	for i, domain := range config.Searches {
		if domain == "." {
			continue
		}
		domain = strings.TrimSuffix(domain, ".")
		c.Messages(searches.Index(i), domain, validation.IsDNS1123SubdomainWithUnderscore(domain))
	}
	for i, option := range config.Options {
		if option.Name == "" {
			c.Required(at.Child("options").Index(i), "must not be empty")
		}
	}
}

func (c *podCheck) hostAliases(at *field.Path) {
	for i, alias := range c.spec.HostAliases {
		c.Add(validation.IsValidIP(at.Index(i).Child("ip"), alias.IP)...)
		for j, name := range alias.Hostnames {
			c.Subdomain(at.Index(i).Child("hostnames").Index(j), name)
		}
	}
}

// hostPorts holds a pod in the host's network to the host's port of each container port. A template may leave them out.
func (c *podCheck) hostPorts(at *field.Path) {
	if !c.spec.HostNetwork {
		return
	}
	for i := range c.spec.Containers {
		for j, p := range c.spec.Containers[i].Ports {
			if (c.pod != nil || p.HostPort != 0) && p.HostPort != p.ContainerPort {
				c.Invalid(at.Index(i).Child("ports").Index(j).Child("hostPort"), p.HostPort,
					"must match `containerPort` when `hostNetwork` is true")
			}
		}
	}
}
