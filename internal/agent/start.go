package agent

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sampan.dev/internal/events"
	"sampan.dev/internal/loop"
	"sampan.dev/internal/volume"
)

// sandboxConfig is what the runtime is told of a pod.
func (a *Agent) sandboxConfig(pod *corev1.Pod, attempt uint32) (*cri.PodSandboxConfig, error) {
	if pod.Spec.HostUsers != nil && !*pod.Spec.HostUsers {
		return nil, errUserNamespaces
	}
	hostname, domain := names(pod, a.cfg.ClusterDomain)
	if pod.Spec.SetHostnameAsFQDN != nil && *pod.Spec.SetHostnameAsFQDN && domain != "" {
		hostname += "." + domain
	}
	if pod.Spec.HostNetwork && pod.Spec.HostnameOverride == nil {
		hostname, _ = os.Hostname()
	}
	labels := maps.Clone(pod.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[labelPodName], labels[labelPodNamespace], labels[labelPodUID] = pod.Name, pod.Namespace, string(pod.UID)
	notes := maps.Clone(pod.Annotations)
	if notes == nil {
		notes = map[string]string{}
	}
	notes[noteSource] = "api"
	notes[notePodGrace] = strconv.FormatInt(graceSeconds(pod), 10)
	sum := resourcesOf(pod)
	config := &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: pod.Name, Namespace: pod.Namespace, Uid: string(pod.UID), Attempt: attempt},
		Hostname: hostname, LogDirectory: a.logDir(pod.Namespace, pod.Name, pod.UID), Labels: labels, Annotations: notes,
		DnsConfig: resolverOf(pod, a.cfg.ClusterDNS, a.cfg.ClusterDomain, readResolver(a.cfg.ResolvConf)).config(),
		Linux: &cri.LinuxPodSandboxConfig{
			CgroupParent: filepath.Join(a.cgroups.Parent(), groupOf(pod)),
			SecurityContext: &cri.LinuxSandboxSecurityContext{
				NamespaceOptions: namespaces(pod), SupplementalGroups: groupsOf(pod), SupplementalGroupsPolicy: groupsPolicy(pod),
				Seccomp: &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault},
			},
			Resources: &cri.LinuxContainerResources{
				CpuShares: int64(sum.limits.Shares), CpuQuota: sum.limits.Quota, CpuPeriod: 100_000, MemoryLimitInBytes: sum.limits.Memory,
			},
			Sysctls: map[string]string{},
		},
	}
	if a.cgroups.Parent() == "" {
		config.Linux.CgroupParent = ""
	}
	if p := pod.Spec.SecurityContext; p != nil {
		config.Linux.SecurityContext.RunAsUser, config.Linux.SecurityContext.RunAsGroup = int64Value(p.RunAsUser), int64Value(p.RunAsGroup)
		config.Linux.SecurityContext.SelinuxOptions = selinuxOf(p.SELinuxOptions)
		for _, s := range p.Sysctls {
			config.Linux.Sysctls[s.Name] = s.Value
		}
	}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if s := list[i].SecurityContext; s != nil && s.Privileged != nil && *s.Privileged {
				config.Linux.SecurityContext.Privileged = true
			}
			for _, p := range list[i].Ports {
				config.PortMappings = append(config.PortMappings, &cri.PortMapping{
					Protocol: protocolOf(p.Protocol), ContainerPort: p.ContainerPort, HostPort: p.HostPort, HostIp: p.HostIP,
				})
			}
		}
	}
	return config, nil
}

func graceSeconds(pod *corev1.Pod) int64 {
	if pod.Spec.TerminationGracePeriodSeconds != nil {
		return *pod.Spec.TerminationGracePeriodSeconds
	}
	return corev1.DefaultTerminationGracePeriodSeconds
}

func protocolOf(p corev1.Protocol) cri.Protocol {
	switch p {
	case corev1.ProtocolUDP:
		return cri.Protocol_UDP
	case corev1.ProtocolSCTP:
		return cri.Protocol_SCTP
	}
	return cri.Protocol_TCP
}

// start creates and starts one container. What goes wrong is noted as its state, and told as an event.
func (w *worker) start(ctx context.Context, in Input, s Start) error {
	a := w.agent
	pod := withAddresses(in.Pod, in.Seen, a.address().String())
	c := containerOf(pod, s.Name)
	say := func(kind, reason, message string) {
		a.cfg.Events.Record(events.Container(pod, s.Name), kind, reason, message)
	}
	reason, err := w.startOne(ctx, in, pod, c, s, say)
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.work.Images, s.Name) // the next start looks for it again
	delete(w.work.Failed, s.Name)
	if err == nil || ctx.Err() != nil {
		return nil
	}
	words := plain(err)
	now := time.Now()
	if w.work.Failed == nil {
		w.work.Failed = map[string]Failure{}
	}
	w.work.Failed[s.Name] = Failure{Reason: reason, Message: words, At: now, Retry: now.Add(retryAfter)}
	if reason != "PostStartHookError" {
		say(corev1.EventTypeWarning, "Failed", "Error: "+words)
	}
	return nil
}

func (w *worker) startOne(ctx context.Context, in Input, pod *corev1.Pod, c *corev1.Container, s Start, say func(kind, reason, message string)) (reason string, err error) {
	a := w.agent
	config, err := w.containerConfig(ctx, in, pod, c, s)
	if err != nil {
		return "CreateContainerConfigError", err
	}
	sandbox := in.Seen.Current()
	sandboxConfig, err := a.sandboxConfig(in.Pod, sandbox.Attempt)
	if err != nil {
		return "CreateContainerConfigError", err
	}
	made, err := a.runtime.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: sandbox.ID, Config: config, SandboxConfig: sandboxConfig})
	if err != nil {
		return "CreateContainerError", err
	}
	say(corev1.EventTypeNormal, "Created", "Container created")
	if err := w.guard(ctx, pod, sandbox); err != nil {
		return "RunContainerError", err
	}
	if _, err := a.runtime.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: made.ContainerId}); err != nil {
		return "RunContainerError", err
	}
	say(corev1.EventTypeNormal, "Started", "Container started")
	if c.Lifecycle == nil || c.Lifecycle.PostStart == nil {
		return "", nil
	}
	if err := a.hook(ctx, pod, c, c.Lifecycle.PostStart, made.ContainerId); err != nil {
		a.log.Info("postStart hook failed", "pod", w.namespace+"/"+w.name, "container", c.Name, "error", err)
		say(corev1.EventTypeWarning, "FailedPostStartHook", "PostStartHook failed")
		_, _ = a.runtime.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: made.ContainerId, Timeout: graceSeconds(pod)})
		return "PostStartHookError", err
	}
	return "", nil
}

// guardTimeout bounds how long a start waits for network policies before it is tried again, with words for the person who waits.
const guardTimeout = 30 * time.Second

// guard waits until network policies are in force for a sandbox: none of its containers runs before.
func (w *worker) guard(ctx context.Context, pod *corev1.Pod, sandbox *Sandbox) error {
	a := w.agent
	if a.cfg.Policies == nil || pod.Spec.HostNetwork {
		return nil
	}
	w.mu.Lock()
	known := w.guarded == sandbox.ID
	w.mu.Unlock()
	var addrs []netip.Addr
	for _, text := range sandbox.IPs {
		if addr, err := netip.ParseAddr(text); err == nil {
			addrs = append(addrs, addr.Unmap())
		}
	}
	if known || len(addrs) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, guardTimeout)
	defer cancel()
	if err := a.cfg.Policies.Ready(ctx, loop.Key{Namespace: pod.Namespace, Name: pod.Name}, addrs); err != nil {
		return err
	}
	w.mu.Lock()
	w.guarded = sandbox.ID
	w.mu.Unlock()
	return nil
}

// containerConfig is what the runtime is told of one container.
func (w *worker) containerConfig(ctx context.Context, in Input, pod *corev1.Pod, c *corev1.Container, s Start) (*cri.ContainerConfig, error) {
	a := w.agent
	env, err := environmentOf(ctx, a.cfg.View, pod, c, a.node.allocatable())
	if err != nil {
		return nil, err
	}
	volumes, err := a.volumes.Setup(ctx, pod) // up to date with the API at the container's start
	if err != nil {
		return nil, err
	}
	mounts, err := w.mounts(pod, c, s, volumes, env.value, in.Seen)
	if err != nil {
		return nil, err
	}
	security, err := containerSecurity(pod, c, filepath.Join(a.cfg.DataDir, "seccomp"), func() (*int64, string, error) { return a.imageUser(ctx, s.Image) })
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(a.logDir(pod.Namespace, pod.Name, pod.UID), c.Name), 0o755); err != nil {
		return nil, fmt.Errorf("make the log directory: %w", err)
	}
	config := &cri.ContainerConfig{
		Metadata:   &cri.ContainerMetadata{Name: c.Name, Attempt: s.Attempt},
		Image:      &cri.ImageSpec{Image: s.Image, UserSpecifiedImage: c.Image},
		Command:    expandAll(c.Command, env.value),
		Args:       expandAll(c.Args, env.value),
		WorkingDir: c.WorkingDir,
		Envs:       env.list(),
		Mounts:     mounts,
		Labels: map[string]string{
			labelPodName: pod.Name, labelPodNamespace: pod.Namespace, labelPodUID: string(pod.UID), labelContainerName: c.Name,
		},
		Annotations: map[string]string{
			noteHash: hashOf(c), noteRestarts: strconv.FormatUint(uint64(s.Attempt), 10), noteLastWords: lastWordsPath(c),
			notePolicy: string(c.TerminationMessagePolicy), notePodGrace: strconv.FormatInt(graceSeconds(pod), 10),
			noteDelay: s.Delay.String(), noteImage: c.Image,
		},
		LogPath: logFile(c.Name, s.Attempt),
		Stdin:   c.Stdin, StdinOnce: c.StdinOnce, Tty: c.TTY,
		Linux: &cri.LinuxContainerConfig{
			Resources: containerResources(pod, c, a.node.memory(), a.cgroups.Unified()), SecurityContext: security,
		},
	}
	if c.Lifecycle != nil && c.Lifecycle.StopSignal != nil {
		config.StopSignal = cri.Signal(cri.Signal_value[string(*c.Lifecycle.StopSignal)])
	}
	return config, nil
}

func (a *Agent) imageUser(ctx context.Context, ref string) (*int64, string, error) {
	r, err := a.images.ImageStatus(ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: ref}})
	if err != nil {
		return nil, "", fmt.Errorf("inspect image %q: %w", ref, err)
	}
	if r.Image == nil {
		return nil, "", fmt.Errorf("image %q not found", ref)
	}
	if r.Image.Uid != nil {
		return &r.Image.Uid.Value, r.Image.Username, nil
	}
	return nil, r.Image.Username, nil
}

func lastWordsPath(c *corev1.Container) string {
	if c.TerminationMessagePath != "" {
		return c.TerminationMessagePath
	}
	return corev1.TerminationMessagePathDefault
}

// mounts are the container's volumes, its hosts file and the file for its last words.
func (w *worker) mounts(pod *corev1.Pod, c *corev1.Container, s Start, volumes map[string]volume.Volume, env map[string]string, seen Observed) ([]*cri.Mount, error) {
	a := w.agent
	var mounts []*cri.Mount
	hosts := true
	for i, m := range c.VolumeMounts {
		v, ok := volumes[m.Name]
		if !ok {
			return nil, fmt.Errorf("cannot find volume %q to mount into container %q", m.Name, c.Name)
		}
		subPath := m.SubPath
		if m.SubPathExpr != "" {
			var missing string
			subPath = expandBy(m.SubPathExpr, func(name string) string {
				value, ok := env[name]
				if !ok {
					missing = name
				}
				return value
			})
			if missing != "" {
				return nil, fmt.Errorf("missing value for %q", missing)
			}
		}
		source := v.Path
		if subPath != "" {
			var err error
			if source, err = a.volumes.SubPath(pod.UID, m.Name, v, subPath, c.Name, i); err != nil {
				a.log.Info("prepare subPath", "pod", w.namespace+"/"+w.name, "container", c.Name, "error", err)
				return nil, fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q", m.Name, c.Name)
			}
		}
		mount := &cri.Mount{ContainerPath: m.MountPath, HostPath: source, Readonly: m.ReadOnly || v.ReadOnly, Propagation: propagationOf(m.MountPropagation)}
		if m.ReadOnly && m.RecursiveReadOnly != nil && *m.RecursiveReadOnly != corev1.RecursiveReadOnlyDisabled {
			mount.RecursiveReadOnly = true
		}
		if !filepath.IsAbs(mount.ContainerPath) {
			mount.ContainerPath = "/" + mount.ContainerPath
		}
		hosts = hosts && mount.ContainerPath != "/etc/hosts"
		mounts = append(mounts, mount)
	}
	if hosts {
		var ips []string
		for _, ip := range pod.Status.PodIPs {
			ips = append(ips, ip.IP)
		}
		path, err := a.writeHosts(pod, ips)
		if err != nil {
			return nil, err
		}
		mounts = append(mounts, &cri.Mount{ContainerPath: "/etc/hosts", HostPath: path})
	}
	words := a.lastWordsFile(pod.UID, c.Name, s.Attempt)
	if err := os.MkdirAll(filepath.Dir(words), 0o750); err != nil {
		return nil, fmt.Errorf("make the file for last words: %w", err)
	}
	if err := os.WriteFile(words, nil, 0o666); err != nil {
		return nil, fmt.Errorf("make the file for last words: %w", err)
	}
	if err := os.Chmod(words, 0o666); err != nil { // any user of the container may write it, whatever the umask
		return nil, fmt.Errorf("make the file for last words: %w", err)
	}
	return append(mounts, &cri.Mount{ContainerPath: lastWordsPath(c), HostPath: words}), nil
}

func propagationOf(p *corev1.MountPropagationMode) cri.MountPropagation {
	switch {
	case p == nil:
	case *p == corev1.MountPropagationHostToContainer:
		return cri.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
	case *p == corev1.MountPropagationBidirectional:
		return cri.MountPropagation_PROPAGATION_BIDIRECTIONAL
	}
	return cri.MountPropagation_PROPAGATION_PRIVATE
}
