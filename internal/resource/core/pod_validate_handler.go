package core

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/resource/validate"
)

func (c *podCheck) lifecycle(l *corev1.Lifecycle, at *field.Path) {
	if l == nil {
		return
	}
	c.hook(l.PostStart, at.Child("postStart"))
	c.hook(l.PreStop, at.Child("preStop"))
	if l.StopSignal != nil {
		c.stopSignal(*l.StopSignal, at.Child("stopSignal"))
	}
}

var windowsSignals = []corev1.Signal{corev1.SIGKILL, corev1.SIGTERM}

func (c *podCheck) stopSignal(s corev1.Signal, at *field.Path) {
	switch {
	case c.spec.OS == nil:
		c.Forbidden(at, "may not be set for containers with empty `spec.os.name`")
	case c.spec.OS.Name == corev1.Windows:
		validate.OneOf(&c.List, at, s, windowsSignals...)
	default:
		if signals := linuxSignals(); !slices.Contains(signals, s) {
			c.Add(field.NotSupported(at, s, signals))
		}
	}
}

func (c *podCheck) hook(h *corev1.LifecycleHandler, at *field.Path) {
	if h != nil {
		c.handler(at, h.Exec, h.HTTPGet, h.TCPSocket, nil, h.Sleep)
	}
}

func (c *podCheck) probes(ctr *corev1.Container, at *field.Path) {
	if p := ctr.LivenessProbe; p != nil {
		c.probe(p, at.Child("livenessProbe"))
		c.once(p, at.Child("livenessProbe"))
	}
	if p := ctr.ReadinessProbe; p != nil {
		at := at.Child("readinessProbe")
		c.probe(p, at)
		if p.TerminationGracePeriodSeconds != nil {
			c.Invalid(at.Child("terminationGracePeriodSeconds"), *p.TerminationGracePeriodSeconds, "must not be set for readinessProbes")
		}
	}
	if p := ctr.StartupProbe; p != nil {
		c.probe(p, at.Child("startupProbe"))
		c.once(p, at.Child("startupProbe"))
	}
}

// once holds those probes to one success that end at the first.
func (c *podCheck) once(p *corev1.Probe, at *field.Path) {
	if p.SuccessThreshold != 1 {
		c.Invalid(at.Child("successThreshold"), p.SuccessThreshold, "must be 1")
	}
}

func (c *podCheck) probe(p *corev1.Probe, at *field.Path) {
	c.handler(at, p.Exec, p.HTTPGet, p.TCPSocket, p.GRPC, nil)
	c.NonNegative(at.Child("initialDelaySeconds"), int64(p.InitialDelaySeconds))
	c.NonNegative(at.Child("timeoutSeconds"), int64(p.TimeoutSeconds))
	c.NonNegative(at.Child("periodSeconds"), int64(p.PeriodSeconds))
	c.NonNegative(at.Child("successThreshold"), int64(p.SuccessThreshold))
	c.NonNegative(at.Child("failureThreshold"), int64(p.FailureThreshold))
	if s := p.TerminationGracePeriodSeconds; s != nil && *s <= 0 {
		c.Invalid(at.Child("terminationGracePeriodSeconds"), *s, "must be greater than 0")
	}
}

// handler demands exactly one of the ways to act; the first one found is checked, any other is refused.
func (c *podCheck) handler(at *field.Path, exec *corev1.ExecAction, get *corev1.HTTPGetAction,
	tcp *corev1.TCPSocketAction, grpc *corev1.GRPCAction, sleep *corev1.SleepAction,
) {
	found := false
	one := func(name string, set bool, check func(at *field.Path)) {
		switch {
		case !set:
		case found:
			c.Forbidden(at.Child(name), "may not specify more than 1 handler type")
		default:
			found = true
			check(at.Child(name))
		}
	}
	one("exec", exec != nil, func(at *field.Path) {
		if len(exec.Command) == 0 {
			c.Required(at.Child("command"), "")
		}
	})
	one("httpGet", get != nil, func(at *field.Path) { c.httpGet(get, at) })
	one("tcpSocket", tcp != nil, func(at *field.Path) { c.portOrName(tcp.Port, at.Child("port")) })
	one("grpc", grpc != nil, func(at *field.Path) { c.portOrName(intstr.FromInt32(grpc.Port), at.Child("port")) })
	one("sleep", sleep != nil, func(at *field.Path) {
		if grace := c.spec.TerminationGracePeriodSeconds; grace != nil && (sleep.Seconds < 0 || sleep.Seconds > *grace) {
			c.Invalid(at, sleep.Seconds, fmt.Sprintf("must be non-negative and less than terminationGracePeriodSeconds (%d)", *grace))
		}
	})
	if !found {
		c.Required(at, "must specify a handler type")
	}
}

func (c *podCheck) httpGet(get *corev1.HTTPGetAction, at *field.Path) {
	if get.Path == "" {
		c.Required(at.Child("path"), "")
	}
	c.portOrName(get.Port, at.Child("port"))
	validate.OneOf(&c.List, at.Child("scheme"), get.Scheme, corev1.URISchemeHTTP, corev1.URISchemeHTTPS)
	for _, h := range get.HTTPHeaders {
		c.Messages(at.Child("httpHeaders"), h.Name, validation.IsHTTPHeaderName(h.Name))
	}
}

func (c *podCheck) portOrName(port intstr.IntOrString, at *field.Path) {
	if port.Type == intstr.String {
		c.Messages(at, port.StrVal, validation.IsValidPortName(port.StrVal))
	} else {
		c.Messages(at, port.IntValue(), validation.IsValidPortNum(port.IntValue()))
	}
}

// linuxSignals are the names that a stop signal may have, sorted.
func linuxSignals() []corev1.Signal {
	signals := []corev1.Signal{
		"SIGABRT", "SIGALRM", "SIGBUS", "SIGCHLD", "SIGCLD", "SIGCONT", "SIGFPE", "SIGHUP", "SIGILL", "SIGINT", "SIGIO",
		"SIGIOT", "SIGKILL", "SIGPIPE", "SIGPOLL", "SIGPROF", "SIGPWR", "SIGQUIT", "SIGSEGV", "SIGSTKFLT", "SIGSTOP",
		"SIGSYS", "SIGTERM", "SIGTRAP", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGURG", "SIGUSR1", "SIGUSR2", "SIGVTALRM",
		"SIGWINCH", "SIGXCPU", "SIGXFSZ", "SIGRTMIN", "SIGRTMAX",
	}
	for i := 1; i <= 15; i++ {
		signals = append(signals, corev1.Signal(fmt.Sprintf("SIGRTMIN+%d", i)))
	}
	for i := 1; i <= 14; i++ {
		signals = append(signals, corev1.Signal(fmt.Sprintf("SIGRTMAX-%d", i)))
	}
	slices.Sort(signals)
	return signals
}
