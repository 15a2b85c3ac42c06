package agent

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sampan.dev/internal/events"
)

// puller pulls images for all pods, as many at a time as are asked for; the runtime joins pulls of the same layers.
type puller struct{ agent *Agent }

func newPuller(a *Agent) *puller { return &puller{agent: a} }

// Delays between tries to pull an image.
const (
	pullDelay    = 10 * time.Second
	maxPullDelay = 5 * time.Minute
)

// findImage looks for a container's image, and begins to pull it if need be. The worker looks again once that has ended.
func (w *worker) findImage(ctx context.Context, pod *corev1.Pod, name string) error {
	a, c := w.agent, containerOf(pod, name)
	say := func(kind, reason, message string) {
		a.cfg.Events.Record(events.Container(pod, name), kind, reason, message)
	}
	image, err := withTag(c.Image)
	if err != nil {
		message := fmt.Sprintf("Failed to apply default image tag %q: %v", c.Image, err)
		say(corev1.EventTypeWarning, "InspectFailed", message)
		w.imageFailed(pod, c, "InvalidImageName", message)
		return nil
	}
	if c.ImagePullPolicy != corev1.PullAlways {
		r, err := a.images.ImageStatus(ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: image, UserSpecifiedImage: image}})
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			message := fmt.Sprintf("Failed to inspect image %q: %v", c.Image, plain(err))
			say(corev1.EventTypeWarning, "InspectFailed", message)
			w.imageFailed(pod, c, "ImageInspectError", message)
			return nil
		case r.Image != nil:
			say(corev1.EventTypeNormal, "Pulled", fmt.Sprintf("Container image %q already present on machine and can be accessed by the pod", c.Image))
			w.setImage(name, Image{Ref: r.Image.Id})
			return nil
		case c.ImagePullPolicy == corev1.PullNever:
			message := fmt.Sprintf("Container image %q is not present with pull policy of Never", c.Image)
			say(corev1.EventTypeWarning, "ErrImageNeverPull", message)
			w.imageFailed(pod, c, "ErrImageNeverPull", message)
			return nil
		}
	}
	say(corev1.EventTypeNormal, "Pulling", fmt.Sprintf("Pulling image %q", c.Image))
	w.mu.Lock()
	old := w.work.Images[name]
	w.mu.Unlock()
	old.Pulling = true
	w.setImage(name, old)
	began := time.Now()
	life := w.agent.life()
	a.idle.Add(1)
	go func() {
		defer a.idle.Done()
		defer w.again()
		config, err := a.sandboxConfig(pod, 0)
		if err != nil {
			w.imageFailed(pod, c, reasonPull, err.Error())
			return
		}
		ref, took, err := a.pulls.pull(life, pod, image, config)
		if life.Err() != nil {
			return
		}
		if err != nil {
			words := plain(err)
			say(corev1.EventTypeWarning, "Failed", fmt.Sprintf("Failed to pull image %q: %v", c.Image, words))
			w.imageFailed(pod, c, reasonPull, words)
			return
		}
		say(corev1.EventTypeNormal, "Pulled", fmt.Sprintf("Successfully pulled image %q in %v (%v including waiting). Image size: %v bytes.",
			c.Image, took.Truncate(time.Millisecond), time.Since(began).Truncate(time.Millisecond), a.imageSize(life, ref)))
		w.setImage(name, Image{Ref: ref})
		a.relief.again() // the node has another image
	}()
	return nil
}

func (w *worker) setImage(name string, image Image) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.work.Images == nil {
		w.work.Images = map[string]Image{}
	}
	w.work.Images[name] = image
}

// imageFailed notes that there is no image, and when to try again: later with each failure.
func (w *worker) imageFailed(pod *corev1.Pod, c *corev1.Container, reason, message string) {
	now := time.Now()
	w.mu.Lock()
	delay := pullDelay
	if last := w.work.Images[c.Name].Failure; last != nil && now.Sub(last.Retry) < 2*maxPullDelay {
		delay = min(2*last.Retry.Sub(last.At), maxPullDelay)
	}
	w.mu.Unlock()
	w.setImage(c.Name, Image{Failure: &Failure{Reason: reason, Message: message, At: now, Retry: now.Add(delay)}})
	w.agent.cfg.Events.Record(events.Container(pod, c.Name), corev1.EventTypeWarning, "Failed", "Error: "+reason)
}

// pull tries the pod's own credentials for the registry, each in turn, or none if it has none.
func (p *puller) pull(ctx context.Context, pod *corev1.Pod, image string, sandbox *cri.PodSandboxConfig) (ref string, took time.Duration, err error) {
	creds := p.credentials(ctx, pod, image)
	if len(creds) == 0 {
		creds = []*cri.AuthConfig{nil}
	}
	began := time.Now()
	for _, auth := range creds {
		var r *cri.PullImageResponse
		r, err = p.agent.images.PullImage(ctx, &cri.PullImageRequest{
			Image: &cri.ImageSpec{Image: image, UserSpecifiedImage: image}, Auth: auth, SandboxConfig: sandbox,
		})
		if err == nil {
			return r.ImageRef, time.Since(began), nil
		}
	}
	return "", 0, err
}

// credentials are those of the pod's imagePullSecrets that are for the image's registry.
func (p *puller) credentials(ctx context.Context, pod *corev1.Pod, image string) []*cri.AuthConfig {
	var all []*cri.AuthConfig
	for _, name := range pod.Spec.ImagePullSecrets {
		secret, err := p.agent.cfg.View.Secret(ctx, pod.Namespace, name.Name)
		if err != nil {
			continue // the registry will say what is missing
		}
		all = append(all, credentialsIn(secret, image)...)
	}
	return all
}

type dockerAuth struct {
	Username, Password, Auth, IdentityToken, RegistryToken string
}

func credentialsIn(secret *corev1.Secret, image string) []*cri.AuthConfig {
	var auths map[string]dockerAuth
	switch {
	case len(secret.Data[corev1.DockerConfigJsonKey]) > 0:
		var file struct{ Auths map[string]dockerAuth }
		if json.Unmarshal(secret.Data[corev1.DockerConfigJsonKey], &file) != nil {
			return nil
		}
		auths = file.Auths
	case len(secret.Data[corev1.DockerConfigKey]) > 0:
		if json.Unmarshal(secret.Data[corev1.DockerConfigKey], &auths) != nil {
			return nil
		}
	}
	repository := repositoryOf(image)
	var places []string
	for place := range auths {
		trimmed := strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(place, "https://"), "http://"), "/")
		trimmed = strings.TrimSuffix(strings.TrimSuffix(trimmed, "/v1"), "/v2")
		if trimmed == "index.docker.io" {
			trimmed = "docker.io"
		}
		if repository == trimmed || strings.HasPrefix(repository, trimmed+"/") {
			places = append(places, place)
		}
	}
	slices.SortFunc(places, func(a, b string) int { return len(b) - len(a) }) // the closest first
	var found []*cri.AuthConfig
	for _, place := range places {
		a := auths[place]
		if a.Auth != "" {
			if plain, err := base64.StdEncoding.DecodeString(a.Auth); err == nil {
				a.Username, a.Password, _ = strings.Cut(string(plain), ":")
			}
		}
		found = append(found, &cri.AuthConfig{
			Username: a.Username, Password: a.Password, IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken, ServerAddress: place,
		})
	}
	return found
}

// repositoryOf is registry and name of an image, with the registry that short names stand for.
func repositoryOf(image string) string {
	name, _, _ := strings.Cut(image, "@")
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		name = name[:i]
	}
	first, rest, several := strings.Cut(name, "/")
	if !several {
		return "docker.io/library/" + name
	}
	if !strings.ContainsAny(first, ".:") && first != "localhost" {
		return "docker.io/" + name
	}
	return first + "/" + rest
}

func (a *Agent) imageSize(ctx context.Context, ref string) uint64 {
	r, err := a.images.ImageStatus(ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: ref}})
	if err != nil {
		return 0
	}
	return r.GetImage().GetSize()
}

// plain is what the runtime said. Upstream shows gRPC's own frame around it, which no reader misses.
func plain(err error) string {
	if s, ok := status.FromError(err); ok {
		return s.Message()
	}
	return err.Error()
}
