package client

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"sigs.k8s.io/yaml"
)

// kubeconfig is what is read of such a file: clusters and users that are known by certificates.
type kubeconfig struct {
	Current  string `json:"current-context"`
	Clusters []struct {
		Name    string `json:"name"`
		Cluster struct {
			Server     string `json:"server"`
			CA         string `json:"certificate-authority"`
			CAData     string `json:"certificate-authority-data"`
			ServerName string `json:"tls-server-name"`
		} `json:"cluster"`
	} `json:"clusters"`
	Users []struct {
		Name string `json:"name"`
		User struct {
			Cert     string `json:"client-certificate"`
			CertData string `json:"client-certificate-data"`
			Key      string `json:"client-key"`
			KeyData  string `json:"client-key-data"`
		} `json:"user"`
	} `json:"users"`
	Contexts []struct {
		Name    string `json:"name"`
		Context struct {
			Cluster   string `json:"cluster"`
			User      string `json:"user"`
			Namespace string `json:"namespace"`
		} `json:"context"`
	} `json:"contexts"`
}

// FromKubeconfig reads from a file where the server of a context is and who calls; an empty context is the current one. Users are known by
// certificates only. The table is left to the caller to fill in.
func FromKubeconfig(path, context string) (Config, error) {
	cfg, err := readKubeconfig(path, context)
	if err != nil {
		return Config{}, fmt.Errorf("read kubeconfig %s: %w", path, err)
	}
	return cfg, nil
}

func readKubeconfig(path, context string) (cfg Config, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return cfg, err
	}
	var k kubeconfig
	if err := yaml.Unmarshal(data, &k); err != nil {
		return cfg, err
	}
	if context == "" {
		context = k.Current
	}
	if context == "" {
		return cfg, errors.New("it has no current context")
	}
	var cluster, user string
	found := false
	for _, c := range k.Contexts {
		if c.Name == context {
			cluster, user, cfg.Namespace, found = c.Context.Cluster, c.Context.User, c.Context.Namespace, true
		}
	}
	if !found {
		return cfg, fmt.Errorf("it has no context %q", context)
	}
	dir := filepath.Dir(path)
	cfg.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	for _, c := range k.Clusters {
		if c.Name != cluster {
			continue
		}
		cfg.Server, cfg.TLS.ServerName = c.Cluster.Server, c.Cluster.ServerName
		ca, err := either(dir, c.Cluster.CA, c.Cluster.CAData)
		if err != nil {
			return cfg, fmt.Errorf("cluster %q: %w", cluster, err)
		}
		if ca != nil {
			cfg.TLS.RootCAs = x509.NewCertPool()
			if !cfg.TLS.RootCAs.AppendCertsFromPEM(ca) {
				return cfg, fmt.Errorf("cluster %q: its authority is no certificate", cluster)
			}
		}
	}
	if cfg.Server == "" {
		return cfg, fmt.Errorf("it has no cluster %q", cluster)
	}
	for _, u := range k.Users {
		if u.Name != user {
			continue
		}
		cert, err := either(dir, u.User.Cert, u.User.CertData)
		if err != nil {
			return cfg, fmt.Errorf("user %q: %w", user, err)
		}
		key, err := either(dir, u.User.Key, u.User.KeyData)
		if err != nil {
			return cfg, fmt.Errorf("user %q: %w", user, err)
		}
		if cert == nil {
			return cfg, fmt.Errorf("user %q has no certificate", user)
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return cfg, fmt.Errorf("user %q: %w", user, err)
		}
		cfg.TLS.Certificates = []tls.Certificate{pair}
		return cfg, nil
	}
	return cfg, fmt.Errorf("it has no user %q", user)
}

// either gives what the file says itself, or what is in the file that it names.
func either(dir, file, data string) ([]byte, error) {
	if data != "" {
		return base64.StdEncoding.DecodeString(data)
	}
	if file == "" {
		return nil, nil
	}
	if !filepath.IsAbs(file) {
		file = filepath.Join(dir, file)
	}
	return os.ReadFile(file)
}
