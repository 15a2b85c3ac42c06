package core

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	podresources "k8s.io/component-helpers/resource"

	"sampan.dev/internal/resource/validate"
)

type quantity = apiresource.Quantity

var (
	containerResources = []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage}
	// knownResources are the plain names that mean something somewhere, be it in a quota.
	knownResources = []corev1.ResourceName{
		corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage, corev1.ResourceStorage,
		corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory, corev1.ResourceRequestsEphemeralStorage,
		corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory, corev1.ResourceLimitsEphemeralStorage,
		corev1.ResourcePods, corev1.ResourceQuotas, corev1.ResourceServices, corev1.ResourceReplicationControllers,
		corev1.ResourceSecrets, corev1.ResourceConfigMaps, corev1.ResourcePersistentVolumeClaims,
		corev1.ResourceRequestsStorage, corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers,
	}
	wholeResources = []corev1.ResourceName{
		corev1.ResourcePods, corev1.ResourceQuotas, corev1.ResourceServices, corev1.ResourceReplicationControllers,
		corev1.ResourceSecrets, corev1.ResourceConfigMaps, corev1.ResourcePersistentVolumeClaims,
		corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers,
	}
)

// isExtended says that the name is one a device plugin or an administrator may give.
func isExtended(name corev1.ResourceName) bool {
	return !isNative(name) && !strings.HasPrefix(string(name), corev1.DefaultResourceRequestsPrefix) &&
		len(validation.IsQualifiedName(corev1.DefaultResourceRequestsPrefix+string(name))) == 0
}

// wholeResource says that the resource is counted, not measured.
func wholeResource(name corev1.ResourceName) bool {
	return slices.Contains(wholeResources, name) || isExtended(name)
}

type nameCheck func(name corev1.ResourceName, at *field.Path) field.ErrorList

func resourceName(name corev1.ResourceName, at *field.Path) field.ErrorList {
	var l validate.List
	l.Messages(at, name, validation.IsQualifiedName(string(name)))
	if len(l.Errs) == 0 && !strings.Contains(string(name), "/") && !slices.Contains(knownResources, name) && !isHugePages(name) {
		l.Invalid(at, name, "must be a standard resource type or fully qualified")
	}
	return l.Errs
}

func containerResource(name corev1.ResourceName, at *field.Path) field.ErrorList {
	errs := resourceName(name, at)
	if !strings.Contains(string(name), "/") {
		if !slices.Contains(containerResources, name) && !isHugePages(name) {
			errs = append(errs, field.Invalid(at, name, "must be a standard resource for containers"))
		}
	} else if !isNative(name) && !isExtended(name) {
		errs = append(errs, field.Invalid(at, name, "doesn't follow extended resource name standard"))
	}
	return errs
}

func podResource(name corev1.ResourceName, at *field.Path) field.ErrorList {
	errs := resourceName(name, at)
	if len(errs) == 0 && !podresources.IsSupportedPodLevelResource(name) {
		allowed := []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceHugePagesPrefix, corev1.ResourceMemory}
		errs = append(errs, field.NotSupported(at, name, allowed))
	}
	return errs
}

// requirements checks requests and limits: names, amounts, and that nothing asks for more than its limit.
func (c *podCheck) requirements(r *corev1.ResourceRequirements, name nameCheck, at *field.Path) {
	limits, requests := at.Child("limits"), at.Child("requests")
	computes, huge := false, false
	amount := func(n corev1.ResourceName, q quantity, at *field.Path) {
		c.Add(name(n, at)...)
		c.Quantity(at, q, wholeResource(n))
		computes = computes || slices.Contains(qosResources, n)
	}
	pages := func(n corev1.ResourceName, q quantity, at *field.Path) {
		if isHugePages(n) {
			huge = true
			if !wholePages(n, q) {
				c.Invalid(at, q.String(), fmt.Sprintf("%s is not positive integer multiple of %s", q.String(), n))
			}
		}
	}
	for n, q := range validate.InOrder(r.Limits) {
		amount(n, q, limits.Key(string(n)))
		pages(n, q, limits.Key(string(n)))
	}
	for n, q := range validate.InOrder(r.Requests) {
		amount(n, q, requests.Key(string(n)))
		limit, limited := r.Limits[n]
		switch {
		case !limited:
			if !overcommittable(n) {
				c.Required(limits, "Limit must be set for non overcommitable resources")
			}
		case !overcommittable(n) && q.Cmp(limit) != 0:
			c.Invalid(requests, q.String(), fmt.Sprintf("must be equal to %s limit of %s", n, limit.String()))
		case q.Cmp(limit) > 0:
			c.Invalid(requests, q.String(), fmt.Sprintf("must be less than or equal to %s limit of %s", n, limit.String()))
		}
		pages(n, q, requests.Key(string(n)))
	}
	if huge && !computes {
		c.Forbidden(at, "HugePages require cpu or memory")
	}
	c.claimNames(r.Claims, at.Child("claims"))
}

func wholePages(name corev1.ResourceName, q quantity) bool {
	size, err := apiresource.ParseQuantity(strings.TrimPrefix(string(name), corev1.ResourceHugePagesPrefix))
	if err != nil || size.Sign() <= 0 || size.MilliValue()%1000 != 0 || q.MilliValue()%1000 != 0 {
		return false
	}
	return q.Value()%size.Value() == 0
}

// claimNames checks a container's references to the pod's resource claims.
func (c *podCheck) claimNames(claims []corev1.ResourceClaim, at *field.Path) {
	whole, parts := validate.Seen{}, validate.Seen{}
	for i, claim := range claims {
		at, key := at.Index(i), claim.Name
		if claim.Name == "" {
			c.Required(at, "")
			continue
		}
		if claim.Request != "" {
			key += "/" + claim.Request
		}
		switch {
		case whole[claim.Name]:
			c.Add(field.Duplicate(at, claim.Name))
		case claim.Request != "":
			c.Label(at.Child("request"), claim.Request)
			if parts.Again(key) {
				c.Add(field.Duplicate(at, key))
			}
		default:
			for part := range parts {
				if strings.HasPrefix(part, key+"/") {
					c.Add(field.Duplicate(at, claim.Name))
				}
			}
			whole[key] = true
		}
		if !c.claims[claim.Name] {
			unknown := field.NotFound(at, claim.Name)
			unknown.Detail = "must be one of the names in pod.spec.resourceClaims"
			if names := sortedKeys(c.claims); len(names) == 0 {
				unknown.Detail += " which is empty"
			} else {
				unknown.Detail += ": " + strings.Join(names, ", ")
			}
			c.Add(unknown)
		}
	}
}

func sortedKeys(set validate.Seen) (keys []string) {
	for key := range validate.InOrder(set) {
		keys = append(keys, key)
	}
	return keys
}

func (c *podCheck) checkResourceClaims(at *field.Path) {
	c.claims = validate.Seen{}
	for i, claim := range c.spec.ResourceClaims {
		at := at.Index(i)
		if claim.Name == "" {
			c.Required(at.Child("name"), "")
		} else if c.claims.Again(claim.Name) {
			c.Add(field.Duplicate(at.Child("name"), claim.Name))
		} else {
			c.Label(at.Child("name"), claim.Name)
		}
		direct, template := claim.ResourceClaimName, claim.ResourceClaimTemplateName
		if direct != nil && template != nil {
			c.Invalid(at, claim, "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified")
		}
		if direct == nil && template == nil {
			c.Invalid(at, claim, "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`")
		}
		if direct != nil {
			c.Subdomain(at.Child("resourceClaimName"), *direct)
		}
		if template != nil {
			c.Subdomain(at.Child("resourceClaimTemplateName"), *template)
		}
	}
}

// podResources checks what the pod as a whole states against what its containers state.
func (c *podCheck) podResources(at *field.Path) {
	r := c.spec.Resources
	if r == nil {
		return
	}
	if r.Claims != nil {
		c.Forbidden(at.Child("claims"), "claims cannot be set for Resources at pod-level")
	}
	c.requirements(r, podResource, at)
	sum := podresources.AggregateContainerRequests(&corev1.Pod{Spec: *c.spec}, podresources.PodResourcesOptions{})
	for name, asked := range validate.InOrder(sum) {
		if !podresources.IsSupportedPodLevelResource(name) {
			continue
		}
		if whole := r.Requests[name]; asked.Cmp(whole) > 0 {
			c.Invalid(at.Child("requests").Key(string(name)), whole.String(),
				"must be greater than or equal to aggregate container requests of "+asked.String())
		}
	}
	for i := range c.spec.Containers {
		for name, limit := range validate.InOrder(c.spec.Containers[i].Resources.Limits) {
			if whole, ok := r.Limits[name]; ok && limit.Cmp(whole) > 0 {
				c.Invalid(at.Child("containers").Index(i).Key(string(name)).Child("limits"), limit.String(),
					"must be less than or equal to pod limits of "+whole.String())
			}
		}
	}
}
