package probe

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
)

const (
	userAgent     = "kube-probe/1.37"
	mostRedirects = 10
)

// transport opens a connection for each probe, which must say whether one can be opened.
var transport = &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true, DisableCompression: true, Proxy: nil}

func httpGet(ctx context.Context, get *corev1.HTTPGetAction, t Target, timeout time.Duration) (Result, string, error) {
	port, err := Port(get.Port, t.Container)
	if err != nil {
		return Unknown, "", err
	}
	host := get.Host
	if host == "" {
		host = t.IP
	}
	target, err := url.Parse(get.Path) // which may hold a query
	if err != nil {
		target = &url.URL{Path: get.Path}
	}
	target.Scheme, target.Host = strings.ToLower(string(get.Scheme)), net.JoinHostPort(host, strconv.Itoa(port))
	if target.Scheme == "" {
		target.Scheme = "http"
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return Unknown, "", err
	}
	for _, h := range get.HTTPHeaders {
		if strings.EqualFold(h.Name, "Host") {
			request.Host = h.Value
		}
		request.Header.Add(h.Name, h.Value)
	}
	for name, value := range map[string]string{"User-Agent": userAgent, "Accept": "*/*"} {
		if _, given := request.Header[name]; !given {
			request.Header.Set(name, value)
		}
	}
	client := &http.Client{Transport: transport, Timeout: timeout, CheckRedirect: redirected}
	response, err := client.Do(request)
	if err != nil {
		return Failure, err.Error(), nil
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, mostOutput))
	switch code := response.StatusCode; {
	case err != nil && !errors.Is(err, io.ErrUnexpectedEOF):
		return Failure, err.Error(), nil
	case code < http.StatusOK || code >= http.StatusBadRequest:
		return Failure, fmt.Sprintf("HTTP probe failed with statuscode: %d", code), nil
	case code >= http.StatusMultipleChoices: // a redirect elsewhere that was not followed
		return Warning, fmt.Sprintf("Probe terminated redirects, Response body: %v", string(body)), nil
	}
	return Success, string(body), nil
}

// redirected follows redirects within the host that was asked.
func redirected(request *http.Request, via []*http.Request) error {
	if request.URL.Hostname() != via[0].URL.Hostname() {
		return http.ErrUseLastResponse
	}
	if len(via) >= mostRedirects {
		return fmt.Errorf("stopped after %d redirects", mostRedirects)
	}
	return nil
}
