package core

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/resource/validate"
)

func (c *podCheck) containers(at *field.Path) {
	if len(c.spec.Containers) == 0 {
		c.Required(at, "")
		return
	}
	names, ports := validate.Seen{}, validate.Seen{}
	for i := range c.spec.Containers {
		ctr, at := &c.spec.Containers[i], at.Index(i)
		c.container(ctr, at)
		if names.Again(ctr.Name) {
			c.Add(field.Duplicate(at.Child("name"), ctr.Name))
		}
		c.lifecycle(ctr.Lifecycle, at.Child("lifecycle"))
		c.probes(ctr, at)
		c.restartRules(ctr, at)
	}
	for i := range c.spec.Containers {
		c.uniqueHostPorts(&c.spec.Containers[i], at.Index(i), ports)
	}
}

func (c *podCheck) initContainers(at *field.Path) {
	names := validate.Seen{}
	for i := range c.spec.Containers {
		names.Again(c.spec.Containers[i].Name)
	}
	for i := range c.spec.InitContainers {
		ctr, all, at := &c.spec.InitContainers[i], at, at.Index(i)
		c.container(ctr, at)
		c.restartRules(ctr, at)
		if ctr.Name != "" && names.Again(ctr.Name) {
			c.Add(field.Duplicate(at.Child("name"), ctr.Name))
		}
		c.uniqueHostPorts(ctr, all.Index(0), validate.Seen{}) // they run one after the other, so each counts alone
		if IsSidecar(ctr) {
			c.lifecycle(ctr.Lifecycle, at.Child("lifecycle"))
			c.probes(ctr, at)
			continue
		}
		for _, no := range []struct {
			name string
			set  bool
		}{
			{"lifecycle", ctr.Lifecycle != nil},
			{"livenessProbe", ctr.LivenessProbe != nil},
			{"readinessProbe", ctr.ReadinessProbe != nil},
			{"startupProbe", ctr.StartupProbe != nil},
		} {
			if no.set {
				c.Forbidden(at.Child(no.name), "may not be set for init containers without restartPolicy=Always")
			}
		}
		if len(ctr.ResizePolicy) > 0 {
			c.Invalid(at.Child("resizePolicy"), ctr.ResizePolicy, "must not be set for init containers")
		}
	}
}

func (c *podCheck) ephemeralContainers(at *field.Path) {
	others, names := validate.Seen{}, validate.Seen{}
	eachContainer(c.spec, at, func(ctr *corev1.Container, _ *field.Path, kind containerKind) {
		if kind != ephemeral {
			others[ctr.Name], names[ctr.Name] = true, true
		}
	})
	const no = "cannot be set for an Ephemeral Container"
	for i := range c.spec.EphemeralContainers {
		e, at := &c.spec.EphemeralContainers[i], at.Index(i)
		ctr := (*corev1.Container)(&e.EphemeralContainerCommon)
		c.container(ctr, at)
		if strings.TrimSpace(ctr.Image) != ctr.Image {
			c.Invalid(at.Child("image"), ctr.Image, "must not have leading or trailing whitespace")
		}
		if names.Again(e.Name) {
			c.Add(field.Duplicate(at.Child("name"), e.Name))
		}
		if e.TargetContainerName != "" && !others[e.TargetContainerName] {
			c.Add(field.NotFound(at.Child("targetContainerName"), e.TargetContainerName))
		}
		for _, f := range []struct {
			name string
			set  bool
		}{
			{"ports", len(e.Ports) > 0},
			{"resources", len(e.Resources.Limits)+len(e.Resources.Requests)+len(e.Resources.Claims) > 0},
			{"resizePolicy", len(e.ResizePolicy) > 0},
			{"restartPolicy", e.RestartPolicy != nil},
			{"restartPolicyRules", len(e.RestartPolicyRules) > 0},
			{"livenessProbe", e.LivenessProbe != nil},
			{"readinessProbe", e.ReadinessProbe != nil},
			{"startupProbe", e.StartupProbe != nil},
			{"lifecycle", e.Lifecycle != nil},
		} {
			if f.set {
				c.Forbidden(at.Child(f.name), no)
			}
		}
		for j, m := range e.VolumeMounts {
			if m.SubPath != "" {
				c.Forbidden(at.Child("volumeMounts").Index(j).Child("subPath"), no)
			}
			if m.SubPathExpr != "" {
				c.Forbidden(at.Child("volumeMounts").Index(j).Child("subPathExpr"), no)
			}
		}
	}
}

// container checks what all three sorts of containers have in common.
func (c *podCheck) container(ctr *corev1.Container, at *field.Path) {
	if ctr.Name == "" {
		c.Required(at.Child("name"), "")
	} else {
		c.Label(at.Child("name"), ctr.Name)
	}
	if ctr.Image == "" {
		c.Required(at.Child("image"), "")
	}
	validate.OneOfRequired(&c.List, at.Child("terminationMessagePolicy"), ctr.TerminationMessagePolicy,
		corev1.TerminationMessageReadFile, corev1.TerminationMessageFallbackToLogsOnError)
	c.ports(ctr.Ports, at.Child("ports"))
	c.env(ctr.Env, at.Child("env"))
	c.envFrom(ctr.EnvFrom, at.Child("envFrom"))
	c.mounts(ctr, at.Child("volumeMounts"))
	c.devices(ctr, at.Child("volumeDevices"))
	c.pullPolicy(ctr.ImagePullPolicy, at.Child("imagePullPolicy"))
	c.requirements(&ctr.Resources, containerResource, at.Child("resources"))
	c.resizePolicy(ctr.ResizePolicy, at.Child("resizePolicy"))
	c.security(ctr.SecurityContext, at.Child("securityContext"))
}

func (c *podCheck) pullPolicy(policy corev1.PullPolicy, at *field.Path) {
	validate.OneOfRequired(&c.List, at, policy, corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)
}

func (c *podCheck) ports(ports []corev1.ContainerPort, at *field.Path) {
	names := validate.Seen{}
	for i, p := range ports {
		at := at.Index(i)
		if p.Name != "" {
			if msgs := validation.IsValidPortName(p.Name); len(msgs) > 0 {
				c.Messages(at.Child("name"), p.Name, msgs)
			} else if names.Again(p.Name) {
				c.Add(field.Duplicate(at.Child("name"), p.Name))
			}
		}
		if p.ContainerPort == 0 {
			c.Required(at.Child("containerPort"), "")
		} else {
			c.Messages(at.Child("containerPort"), p.ContainerPort, validation.IsValidPortNum(int(p.ContainerPort)))
		}
		if p.HostPort != 0 {
			c.Messages(at.Child("hostPort"), p.HostPort, validation.IsValidPortNum(int(p.HostPort)))
		}
		validate.OneOfRequired(&c.List, at.Child("protocol"), p.Protocol,
			corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)
	}
}

func (c *podCheck) uniqueHostPorts(ctr *corev1.Container, at *field.Path, taken validate.Seen) {
	for i, p := range ctr.Ports {
		if p.HostPort == 0 {
			continue
		}
		if port := fmt.Sprintf("%s/%s/%d", p.Protocol, p.HostIP, p.HostPort); taken.Again(port) {
			c.Add(field.Duplicate(at.Child("ports").Index(i).Child("hostPort"), port))
		}
	}
}

// resizePolicy has errors at the list and not at the entry, as upstream has them.
func (c *podCheck) resizePolicy(policies []corev1.ContainerResizePolicy, at *field.Path) {
	seen := validate.Seen{}
	for i, p := range policies {
		if seen.Again(string(p.ResourceName)) {
			c.Add(field.Duplicate(at.Index(i), p.ResourceName))
		}
		validate.OneOfRequired(&c.List, at, p.ResourceName, corev1.ResourceCPU, corev1.ResourceMemory)
		validate.OneOfRequired(&c.List, at, p.RestartPolicy, corev1.NotRequired, corev1.RestartContainer)
		if c.spec.RestartPolicy == corev1.RestartPolicyNever && p.RestartPolicy != corev1.NotRequired {
			c.Invalid(at, p.RestartPolicy, "must be 'NotRequired' when `restartPolicy` is 'Never'")
		}
	}
}

const (
	maxRestartRules = 20
	maxExitCodes    = 255
)

func (c *podCheck) restartRules(ctr *corev1.Container, at *field.Path) {
	rules := at.Child("restartPolicyRules")
	if ctr.RestartPolicy == nil {
		if len(ctr.RestartPolicyRules) > 0 {
			c.Required(at.Child("restartPolicy"), "must specify restartPolicy when restart rules are used")
		}
		return
	}
	validate.OneOf(&c.List, at.Child("restartPolicy"), *ctr.RestartPolicy, corev1.ContainerRestartPolicyAlways,
		corev1.ContainerRestartPolicyNever, corev1.ContainerRestartPolicyOnFailure)
	c.TooMany(rules, len(ctr.RestartPolicyRules), maxRestartRules)
	for i, r := range ctr.RestartPolicyRules {
		at := rules.Index(i)
		validate.OneOf(&c.List, at.Child("action"), r.Action,
			corev1.ContainerRestartRuleActionRestart, corev1.ContainerRestartRuleActionRestartAllContainers)
		if r.ExitCodes == nil {
			c.Required(at.Child("exitCodes"), "must be specified")
			continue
		}
		validate.OneOf(&c.List, at.Child("exitCodes", "operator"), r.ExitCodes.Operator,
			corev1.ContainerRestartRuleOnExitCodesOpIn, corev1.ContainerRestartRuleOnExitCodesOpNotIn)
		c.TooMany(at.Child("exitCodes", "values"), len(r.ExitCodes.Values), maxExitCodes)
	}
}
