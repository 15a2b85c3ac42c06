// Package join makes a machine a node of a cluster, and keeps it one.
//
// It writes the node's key, its certificate and the cluster's authority into one directory, and CertificateSigningRequests in the cluster; it watches these
// requests until they are answered. What it does is described at https://kubernetes.io/docs/reference/access-authn-authz/kubelet-tls-bootstrapping/.
// Always: nothing secret is sent to a server before it has proved that it is the cluster's, by the authority that the token names; the key never leaves the
// machine, and is on disk before anything is asked for with it; a node is known by its key, whatever its address is; certificates are renewed when a third of
// their life is left, and as soon as the node's addresses change.
package join

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/yaml"

	"sampan.dev/internal/auth"
	"sampan.dev/internal/client"
	"sampan.dev/internal/resource"
	"sampan.dev/internal/version"
)

// Token is what a machine joins with: ID.SECRET@sha256:HEX, where HEX is of the public key of the cluster's authority (RFC 7469, 2.4).
type Token struct {
	ID, Secret string
	Authority  [sha256.Size]byte
}

var tokenForm = regexp.MustCompile(`^([a-z0-9]{6})\.([a-z0-9]{16})@sha256:([0-9a-f]{64})$`)

// ParseToken reads a token. Its errors do not repeat what is secret.
func ParseToken(text string) (t Token, err error) {
	m := tokenForm.FindStringSubmatch(strings.TrimSpace(text))
	if m == nil {
		return t, errors.New("this is no join token, which looks like abcdef.0123456789abcdef@sha256:… : take the last line of `sampan token create`, whole")
	}
	t.ID, t.Secret = m[1], m[2]
	_, err = hex.Decode(t.Authority[:], []byte(m[3]))
	return t, err
}

// Config says which cluster, and as whom.
type Config struct {
	Servers []string // https://HOST:PORT, tried in turn
	Node    string   // its name
	Dir     string   // where key and certificates are
	Table   *resource.Table
	Ping    time.Duration // see client.Config
	Say     func(string)  // told what is waited for; may be nil
}

func (c Config) say(format string, args ...any) {
	if c.Say != nil {
		c.Say(fmt.Sprintf(format, args...))
	}
}

// CheckServer says what is wrong with a server's address, and gives it whole: https and port 6443 are what is meant where nothing is said.
func CheckServer(text string) (string, error) {
	full := text
	if !strings.Contains(full, "://") {
		full = "https://" + full
	}
	u, err := url.Parse(full)
	switch {
	case err != nil || u.Hostname() == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "":
		return "", fmt.Errorf("%q is not a server's address, such as https://192.0.2.1:6443", text)
	case u.Scheme != "https":
		return "", fmt.Errorf("%q: a server is reached by https", text)
	case u.Port() == "":
		host := u.Hostname()
		if a, err := netip.ParseAddr(host); err == nil && a.Is6() {
			host = "[" + host + "]"
		}
		return "https://" + host + ":6443", nil
	}
	return "https://" + u.Host, nil
}

// maxSkew is how far this machine's clock may be from a server's. Certificates are good from five minutes before they are made.
const maxSkew = 4 * time.Minute

// authority asks the servers, one after another, for the cluster's authority, and believes the first whose answer fits the token. Nothing secret is sent.
func authority(ctx context.Context, cfg Config, t Token) (ca []byte, err error) {
	var errs []error
	for _, server := range cfg.Servers {
		ca, err := authorityOf(ctx, server, t)
		if err == nil {
			return ca, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

func authorityOf(ctx context.Context, server string, t Token) ([]byte, error) {
	// Whom this is from is found out from what it says: the token names the authority, which must also have signed what the server shows.
	unverified := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, TLSHandshakeTimeout: 10 * time.Second}
	defer unverified.CloseIdleConnections()
	var info struct {
		Data map[string]string `json:"data"`
	}
	answer, err := ask(ctx, unverified, server+"/api/v1/namespaces/kube-public/configmaps/cluster-info", &info)
	if err != nil {
		return nil, fmt.Errorf("ask %s which cluster it is of: %w", server, err)
	}
	var file struct {
		Clusters []struct {
			Cluster struct {
				CA []byte `json:"certificate-authority-data"`
			} `json:"cluster"`
		} `json:"clusters"`
	}
	if err := yaml.Unmarshal([]byte(info.Data["kubeconfig"]), &file); err != nil || len(file.Clusters) == 0 {
		return nil, fmt.Errorf("ask %s which cluster it is of: it does not say", server)
	}
	text := file.Clusters[0].Cluster.CA
	ca, err := parse(text)
	if err != nil {
		return nil, fmt.Errorf("ask %s which cluster it is of: %w", server, err)
	}
	if sum := sha256.Sum256(ca.RawSubjectPublicKeyInfo); sum != t.Authority {
		return nil, fmt.Errorf("the server at %s is not of the cluster that the token is for: its authority is sha256:%x, and the token names sha256:%x. Is it the right address? If it is, make a new token there with `sampan token create`", server, sum, t.Authority)
	}
	if skew := answer.at.Sub(answer.date); !answer.date.IsZero() && skew.Abs() > maxSkew {
		return nil, skewError(server, skew)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	verified := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, TLSHandshakeTimeout: 10 * time.Second}
	defer verified.CloseIdleConnections()
	var v struct {
		GitVersion string `json:"gitVersion"`
		Minor      string `json:"minor"`
	}
	if _, err := ask(ctx, verified, server+"/version", &v); err != nil {
		return nil, fmt.Errorf("the server at %s shows the cluster's authority but cannot prove that it is of it: %w", server, err)
	}
	return text, checkVersion(server, v.GitVersion, v.Minor)
}

func skewError(server string, skew time.Duration) error {
	way := "ahead of"
	if skew < 0 {
		way = "behind"
	}
	return fmt.Errorf("this machine's clock is %s %s that of the server at %s, which makes certificates invalid: set it (timedatectl set-ntp true) and try again", skew.Abs().Round(time.Minute), way, server)
}

// checkVersion holds Kubernetes' rule: a node is not newer than the server, and at most three minor versions older (https://kubernetes.io/releases/version-skew-policy/).
func checkVersion(server, full, minor string) error {
	theirs, err := strconv.Atoi(strings.TrimRight(minor, "+"))
	own, _ := strconv.Atoi(version.Minor)
	const oldest = 3
	switch {
	case err != nil:
		return fmt.Errorf("the server at %s does not say which version it is", server)
	case own > theirs:
		return fmt.Errorf("this sampan speaks Kubernetes %s, and the server at %s only %s: a node must not be newer than its server; update the server first", version.Kubernetes, server, full)
	case theirs-own > oldest:
		return fmt.Errorf("this sampan speaks Kubernetes %s, which is too old for the server at %s with %s: update this one", version.Kubernetes, server, full)
	}
	return nil
}

// answered is when an answer came, by this machine's clock and by the server's.
type answered struct{ at, date time.Time }

func ask(ctx context.Context, by http.RoundTripper, at string, into any) (a answered, err error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return a, err
	}
	r.Header.Set("Accept", "application/json")
	response, err := by.RoundTrip(r)
	if err != nil {
		return a, err
	}
	defer response.Body.Close()
	const most = 1 << 20
	data, err := io.ReadAll(io.LimitReader(response.Body, most))
	if err != nil {
		return a, err
	}
	if response.StatusCode != http.StatusOK {
		return a, fmt.Errorf("it answers %q", response.Status)
	}
	a.at = time.Now()
	if a.date, err = http.ParseTime(response.Header.Get("Date")); err != nil {
		a.date = time.Time{}
	}
	return a, json.Unmarshal(data, into)
}

func parse(text []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("there is no certificate")
	}
	return x509.ParseCertificate(block.Bytes)
}

// Join makes this machine the node cfg.Node of the token's cluster, or finds that it is already; the token is then not used. Without a token it must be.
func Join(ctx context.Context, cfg Config, token *Token) (*Identity, error) {
	id, err := load(cfg)
	if err == nil && token != nil && sha256.Sum256(id.ca.RawSubjectPublicKeyInfo) != token.Authority {
		return nil, fmt.Errorf("this machine is a node of another cluster: `sampan reset --data-dir` makes it forget that, or choose another data directory")
	}
	var gone *expiredError
	switch {
	case err == nil:
		return id, nil
	case token == nil && errors.As(err, &gone):
		return nil, err
	case token == nil:
		return nil, errors.Join(errors.New("this machine is no node of a cluster yet: give the last line of `sampan token create` by --token"), ignoreMissing(err))
	}
	ca, err := authority(ctx, cfg, *token)
	if err != nil {
		return nil, err
	}
	key, err := ownKey(cfg)
	if err != nil {
		return nil, err
	}
	parsed, err := parse(ca)
	if err != nil {
		return nil, err
	}
	id = &Identity{cfg: cfg, ca: parsed, caPEM: ca, key: key}
	c, err := client.New(client.Config{
		Server: cfg.Servers[0], Others: cfg.Servers[1:], TLS: &tls.Config{RootCAs: id.pool(), MinVersion: tls.VersionTLS12}, Table: cfg.Table,
		Bearer: token.ID + "." + token.Secret, Agent: "sampan-agent", Ping: cfg.Ping,
	})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	cfg.say("asking for a certificate for node %s", cfg.Node)
	chain, err := id.request(ctx, c, clientCertificate, nil)
	if apierrors.IsUnauthorized(err) {
		return nil, fmt.Errorf("the cluster does not know the token %s.…, or its time is over: make another with `sampan token create`", token.ID)
	}
	if err != nil {
		return nil, fmt.Errorf("join as node %s: %w", cfg.Node, err)
	}
	if err := id.save(chain); err != nil {
		return nil, fmt.Errorf("join as node %s: %w", cfg.Node, err)
	}
	return id, nil
}

// Network is what a cluster tells its nodes.
type Network struct {
	Pods, Services []netip.Prefix `json:",omitempty"` // one range of each family
	DNS            netip.Addr     // of the DNS server; not valid: there is none
	Servers        []string       `json:",omitempty"` // URLs of all servers; none: nothing is said of them
}

// NetworkOf reads it.
func NetworkOf(ctx context.Context, c *client.Client) (n Network, err error) {
	m, err := client.Get[*corev1.ConfigMap](ctx, c, "kube-system", auth.NetworkName)
	if err != nil {
		return n, fmt.Errorf("ask for the cluster's address ranges: %w", err)
	}
	return NetworkIn(m)
}

// FollowServers tells which servers the cluster has, now and whenever that changes, until ctx ends.
func FollowServers(ctx context.Context, c *client.Client, tell func(servers []string)) error {
	one := client.Selection{Namespace: "kube-system", Fields: "metadata.name=" + auth.NetworkName}
	return client.Watch(ctx, c, one, func(e client.Event[*corev1.ConfigMap]) error {
		if e.Object == nil {
			return nil
		}
		if n, err := NetworkIn(e.Object); err == nil && len(n.Servers) > 0 {
			tell(n.Servers)
		}
		return nil
	}, nil)
}

// NetworkIn reads it from the ConfigMap that says it.
func NetworkIn(m *corev1.ConfigMap) (n Network, err error) {
	if n.Pods, err = ranges(m.Data["podRanges"]); err == nil {
		n.Services, err = ranges(m.Data["serviceRanges"])
	}
	if text := m.Data["dns"]; err == nil && text != "" && text != "invalid IP" {
		n.DNS, err = netip.ParseAddr(text)
	}
	for s := range strings.SplitSeq(m.Data["servers"], ",") {
		if full, bad := CheckServer(strings.TrimSpace(s)); bad == nil {
			n.Servers = append(n.Servers, full)
		}
	}
	if err == nil && (len(n.Pods) == 0 || len(n.Services) == 0) {
		err = errors.New("there are none")
	}
	if err != nil {
		return n, fmt.Errorf("ask for the cluster's address ranges: ConfigMap %s/%s: %w", m.Namespace, m.Name, err)
	}
	return n, nil
}

func ranges(text string) (all []netip.Prefix, err error) {
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		p, err := netip.ParsePrefix(part)
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return all, nil
}
