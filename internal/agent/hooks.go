package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sampan.dev/internal/probe"
)

// hook runs a lifecycle handler of a container to its end.
func (a *Agent) hook(ctx context.Context, pod *corev1.Pod, c *corev1.Container, h *corev1.LifecycleHandler, id string) error {
	switch {
	case h.Exec != nil:
		request := &cri.ExecSyncRequest{ContainerId: id, Cmd: h.Exec.Command}
		if deadline, ok := ctx.Deadline(); ok {
			request.Timeout = max(int64(time.Until(deadline).Seconds()), 1)
		}
		r, err := a.runtime.ExecSync(ctx, request)
		if err != nil {
			return err
		}
		if r.ExitCode != 0 {
			return fmt.Errorf("command '%s' exited with %d: %s%s", strings.Join(h.Exec.Command, " "), r.ExitCode, r.Stderr, r.Stdout)
		}
		return nil
	case h.HTTPGet != nil:
		return a.httpHook(ctx, pod, c, h.HTTPGet)
	case h.Sleep != nil:
		select {
		case <-time.After(time.Duration(h.Sleep.Seconds) * time.Second):
		case <-ctx.Done():
		}
		return nil
	}
	return errors.New("invalid handler: the kind of handler is not known")
}

func (a *Agent) httpHook(ctx context.Context, pod *corev1.Pod, c *corev1.Container, get *corev1.HTTPGetAction) error {
	host := get.Host
	if host == "" {
		host = pod.Status.PodIP
	}
	port, err := probe.Port(get.Port, c)
	if err != nil {
		return err
	}
	path, query, _ := strings.Cut(get.Path, "?")
	target := url.URL{Scheme: strings.ToLower(string(get.Scheme)), Host: net.JoinHostPort(host, strconv.Itoa(port)), Path: path, RawQuery: query}
	if target.Scheme == "" {
		target.Scheme = "http"
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return err
	}
	request.Header.Set("User-Agent", "kube-lifecycle/1.37")
	for _, h := range get.HTTPHeaders {
		if strings.EqualFold(h.Name, "Host") {
			request.Host = h.Value
		}
		request.Header.Add(h.Name, h.Value)
	}
	response, err := hookClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 10<<10))
	if response.StatusCode < 200 || response.StatusCode >= 400 {
		return fmt.Errorf("HTTP request to %s: %s", target.String(), response.Status)
	}
	return nil
}

// hookClient trusts any certificate, as Kubernetes does: a hook asks a pod, and pods have no names that certificates could hold.
var hookClient = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true, Proxy: nil}}
