package why

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// noImage explains a container whose image is not there.
func (l *look) noImage(p *corev1.Pod, c corev1.ContainerStatus, what string, w *corev1.ContainerStateWaiting) state {
	image := c.Image
	if spec := containerOf(p, c.Name); spec != nil {
		image = spec.Image
	}
	s := ill("cannot start %s %s: there is no image %s", what, c.Name, image)
	words := registryWords(w.Message)
	if e := l.lastEvent(p, func(e *corev1.Event) bool {
		return aboutContainer(c.Name)(e) && strings.HasPrefix(e.Message, "Failed to pull image")
	}, "Failed"); e != nil && w.Reason != "ErrImageNeverPull" && w.Reason != "InvalidImageName" {
		words = registryWords(e.Message)
		s.because("it was tried %s", l.times(e))
	}
	if words != "" {
		s.because("%s: %s", whoSays(w.Reason, p.Spec.NodeName), oneLine(words))
	}
	lower := strings.ToLower(words)
	says := func(list ...string) bool {
		return slices.ContainsFunc(list, func(word string) bool { return strings.Contains(lower, word) })
	}
	switch {
	case w.Reason == "ErrImageNeverPull":
		s.advise("To mend it: put the image on the node with `sampan image load FILE`, or let it be pulled (imagePullPolicy is Never)")
	case w.Reason == "InvalidImageName":
		s.advise("To mend it: write the image as [HOST[:PORT]/]PATH[:TAG], in small letters")
	case says("unauthorized", "authentication required", "denied", "forbidden", "401", "403"):
		c := s.because("the pod has %s", pullSecrets(p))
		s.advise("To mend it: see that the name is right; if the image is private, %s, and name it in the pod's imagePullSecrets", kubectl(p.Namespace, "create secret docker-registry NAME --docker-server=HOST --docker-username=USER --docker-password=…"))
		l.secretsThere(c, p)
	case says("manifest unknown", "not found", "name unknown", "404"):
		s.advise("To mend it: see that name and tag are right (%s); a registry may also answer so for an image that is private", image)
	case says("no such host", "connection refused", "i/o timeout", "no route", "unreachable", "timeout", "deadline exceeded", "server misbehaving"):
		s.advise("To mend it: node %s does not reach the registry: see its network, DNS and proxy; or put the image there with `sampan image load FILE`", p.Spec.NodeName)
	case says("x509", "certificate", "http response to https"):
		s.advise("To mend it: the registry's certificate is not trusted by node %s", p.Spec.NodeName)
	default:
		s.advise("To mend it: see that name and tag are right (%s)", image)
	}
	return s
}

func whoSays(reason, node string) string {
	switch reason {
	case "ErrImageNeverPull", "InvalidImageName", "ImageInspectError":
		return "node " + node + " says"
	}
	return "the registry, or the way to it, says"
}

// registryWords takes off what the node has put before the registry's own words.
func registryWords(message string) string {
	for _, cut := range []*regexp.Regexp{pulling, failedPull, errPull, rpc} {
		message = cut.ReplaceAllString(message, "")
	}
	return strings.TrimSpace(message)
}

var (
	pulling    = regexp.MustCompile(`^Back-off pulling image "[^"]*"(: )?`)
	failedPull = regexp.MustCompile(`^Failed to pull image "[^"]*": `)
	errPull    = regexp.MustCompile(`^(ErrImagePull|ErrImageNeverPull|RegistryUnavailable): `)
	rpc        = regexp.MustCompile(`^rpc error: code = \w+ desc = `)
)

func pullSecrets(p *corev1.Pod) string {
	var names []string
	for _, s := range p.Spec.ImagePullSecrets {
		names = append(names, s.Name)
	}
	if len(names) == 0 {
		return "no imagePullSecrets"
	}
	return "the imagePullSecrets " + strings.Join(names, ", ")
}

// secretsThere says which of the pull secrets do not exist.
func (l *look) secretsThere(c *Cause, p *corev1.Pod) {
	for _, s := range p.Spec.ImagePullSecrets {
		if len(l.unread) == 0 && one[*corev1.Secret](l, "secrets", p.Namespace, s.Name) == nil {
			c.because("secret %s does not exist in namespace %s", s.Name, p.Namespace)
		}
	}
}

var (
	notFound = regexp.MustCompile(`(?i)\b(configmap|secret)s? "([^"]+)" not found`)
	noKey    = regexp.MustCompile(`couldn't find key (\S+) in (ConfigMap|Secret) ([^/\s]+)/(\S+)`)
	badKey   = regexp.MustCompile(`references non-existent (?:config|secret) key: (\S+)`)
)

// missing says which ConfigMap, Secret or key a message is about, what there is instead, and what to do.
func (l *look) missing(s, below *Cause, p *corev1.Pod, message string) {
	if m := notFound.FindStringSubmatch(message); m != nil {
		kind, name := strings.ToLower(m[1]), m[2]
		switch there := l.names(kind, p.Namespace); len(there) {
		case 0:
			below.because("namespace %s has no %ss of its own", p.Namespace, kind)
		case 1:
			below.because("namespace %s has only the %s %s", p.Namespace, kind, there[0])
		default:
			below.because("namespace %s has the %ss %s", p.Namespace, kind, some(there))
		}
		create := "create configmap " + name
		if kind == "secret" {
			create = "create secret generic " + name
		}
		s.advise("To mend it: create it, such as with %s; the pod then starts by itself", kubectl(p.Namespace, create+" --from-literal=KEY=VALUE"))
		return
	}
	if m := noKey.FindStringSubmatch(message); m != nil {
		kind, name := strings.ToLower(m[2]), strings.TrimRight(m[4], ".,;:")
		below.because("%s %s has %s", kind, name, keysText(l.keys(kind, p.Namespace, name)))
		s.advise("To mend it: put the key %s into it (%s), or have the pod ask for one that is there", m[1], kubectl(p.Namespace, "edit "+kind+" "+name))
		return
	}
	if m := badKey.FindStringSubmatch(message); m != nil {
		s.advise("To mend it: put the key %s into what the volume is made of, or take it off the volume's items", m[1])
	}
}

func (l *look) names(kind, namespace string) (names []string) {
	if kind == "secret" {
		for _, o := range all[*corev1.Secret](l, "secrets", namespace) {
			names = append(names, o.Name)
		}
		return names
	}
	for _, o := range all[*corev1.ConfigMap](l, "configmaps", namespace) {
		if o.Name != "kube-root-ca.crt" { // every namespace has that one
			names = append(names, o.Name)
		}
	}
	return names
}

func (l *look) keys(kind, namespace, name string) []string {
	if kind == "secret" {
		if o := one[*corev1.Secret](l, "secrets", namespace, name); o != nil {
			return slices.Sorted(maps.Keys(o.Data))
		}
		return nil
	}
	o := one[*corev1.ConfigMap](l, "configmaps", namespace, name)
	if o == nil {
		return nil
	}
	return slices.Sorted(func(yield func(string) bool) {
		for k := range o.Data {
			if !yield(k) {
				return
			}
		}
		for k := range o.BinaryData {
			if !yield(k) {
				return
			}
		}
	})
}

func keysText(keys []string) string {
	switch len(keys) {
	case 0:
		return "no keys"
	case 1:
		return "only the key " + keys[0]
	}
	return fmt.Sprintf("the keys %s", some(keys))
}
