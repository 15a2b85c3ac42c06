package e2e

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sampan.dev/internal/store/etcd"
)

// datastore is an etcd of several members, each a process on a machine of its own, that demands certificates.
type datastore struct {
	t       testing.TB
	dir     string
	bridge  string // that its members, and the second links of servers, are on
	members []*member
	ca      *x509.Certificate
	caKey   *ecdsa.PrivateKey
}

// member is one of them.
type member struct {
	on   *machine
	args []string
	cmd  *exec.Cmd
}

func (m *member) url() string { return "https://" + m.on.addr + ":2379" }

// newDatastore starts n members at PREFIX.11, PREFIX.12 and so on.
func newDatastore(t testing.TB, bridge, prefix string, n int) *datastore {
	t.Helper()
	d := &datastore{t: t, dir: t.TempDir(), bridge: bridge}
	program := d.file("etcd")
	run(t, "go", "build", "-o", program, "sampan.dev/test/etcd")
	d.authority()
	var cluster []string
	for i := range n {
		cluster = append(cluster, fmt.Sprintf("m%d=http://%s.%d:2380", i, prefix, 11+i))
	}
	for i := range n {
		m := &member{on: newMachine(t, "etcd"+bridge+strconv.Itoa(i), bridge, fmt.Sprintf("%s.%d", prefix, 11+i))}
		d.certificate(fmt.Sprintf("m%d", i), net.ParseIP(m.on.addr), time.Now().Add(time.Hour))
		m.args = m.on.words(program, "-name", fmt.Sprintf("m%d", i), "-data-dir", filepath.Join(d.dir, "data", strconv.Itoa(i)),
			"-listen-client", m.url(), "-listen-peer", "http://"+m.on.addr+":2380", "-initial-cluster", strings.Join(cluster, ","),
			"-trusted-ca-file", d.file("ca.crt"), "-cert-file", d.file(fmt.Sprintf("m%d.crt", i)), "-key-file", d.file(fmt.Sprintf("m%d.key", i)))
		d.members = append(d.members, m)
	}
	reachable(t, bridge, prefix+".1")
	d.certificate("client", nil, time.Now().Add(time.Hour))
	d.certificate("expired", nil, time.Now().Add(-time.Minute))
	t.Cleanup(func() {
		for _, m := range d.members {
			_ = m.cmd.Process.Signal(unix.SIGCONT)
			_ = m.cmd.Process.Kill()
			_ = m.cmd.Wait()
		}
	})
	var ready sync.WaitGroup
	for _, m := range d.members {
		ready.Add(1)
		d.start(m, ready.Done)
	}
	ready.Wait()
	return d
}

// start runs a member, and calls ready when it takes part or has ended.
func (d *datastore) start(m *member, ready func()) {
	d.t.Helper()
	m.cmd = exec.Command(m.args[0], m.args[1:]...)
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	m.cmd.Stderr = os.Stderr
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		d.t.Fatal(err)
	}
	if err := m.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	go func() {
		bufio.NewScanner(out).Scan()
		ready()
	}()
}

func (m *member) signal(t testing.TB, sig syscall.Signal) {
	t.Helper()
	if err := m.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
	if sig == unix.SIGKILL {
		_ = m.cmd.Wait()
	}
}

// leads is the member that leads, as the members say.
func (d *datastore) leads() *member {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), time.Minute)
	defer cancel()
	s, err := etcd.Open(ctx, etcd.Config{Endpoints: d.urls(), CA: d.file("ca.crt"), Cert: d.file("client.crt"), Key: d.file("client.key"), CompactEvery: -1, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		d.t.Fatal(err)
	}
	defer s.Close()
	for ctx.Err() == nil {
		for _, is := range s.Members(ctx) {
			for _, m := range d.members {
				if is.Err == nil && is.ID == is.Leads && m.url() == is.Endpoint {
					return m
				}
			}
		}
	}
	d.t.Fatal("no member of etcd leads")
	return nil
}

func (d *datastore) urls() (all []string) {
	for _, m := range d.members {
		all = append(all, m.url())
	}
	return all
}

// flags are those of a server that shares it.
func (d *datastore) flags() []string {
	return []string{"--datastore=" + strings.Join(d.urls(), ","), "--datastore-ca=" + d.file("ca.crt"), "--datastore-cert=" + d.file("client.crt"), "--datastore-key=" + d.file("client.key")}
}

func (d *datastore) file(name string) string { return filepath.Join(d.dir, name) }

func (d *datastore) authority() {
	d.t.Helper()
	var err error
	if d.caKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		d.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "etcd-ca"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, d.caKey.Public(), d.caKey)
	if err != nil {
		d.t.Fatal(err)
	}
	if d.ca, err = x509.ParseCertificate(der); err != nil {
		d.t.Fatal(err)
	}
	d.write("ca.crt", "CERTIFICATE", der)
}

// certificate writes NAME.crt and NAME.key, for a server at an address or for a client.
func (d *datastore) certificate(name string, at net.IP, until time.Time) {
	d.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		d.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if at != nil { // a member is a client of itself as well, for its gateway
		template.IPAddresses, template.ExtKeyUsage = []net.IP{at}, append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, d.ca, key.Public(), d.caKey)
	if err != nil {
		d.t.Fatal(err)
	}
	d.write(name+".crt", "CERTIFICATE", der)
	if der, err = x509.MarshalECPrivateKey(key); err != nil {
		d.t.Fatal(err)
	}
	d.write(name+".key", "EC PRIVATE KEY", der)
}

func (d *datastore) write(name, kind string, der []byte) {
	d.t.Helper()
	if err := os.WriteFile(d.file(name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		d.t.Fatal(err)
	}
}

// reachesStore gives a machine a second link, on the datastore's switch.
func (m *machine) reachesStore(d *datastore, addr string) {
	d.t.Helper()
	port := m.storePort()
	run(d.t, "ip", "link", "add", port, "type", "veth", "peer", "name", "eth1", "netns", strconv.Itoa(m.pid))
	d.t.Cleanup(func() { _ = exec.Command("ip", "link", "del", port).Run() })
	run(d.t, "ip", "link", "set", port, "master", d.bridge, "up")
	m.run("ip", "addr", "add", addr+"/24", "dev", "eth1")
	m.run("ip", "link", "set", "eth1", "up")
}

func (m *machine) storePort() string { return "db-" + m.name }

// loseStore has what the machine sends to the datastore, and what comes from there, vanish without a word.
func (m *machine) loseStore(d *datastore) {
	run(m.t, "ip", "link", "set", m.storePort(), "nomaster")
	m.t.Cleanup(func() { m.findStore(d) }) // so that what is looked at after a failure answers
}

func (m *machine) findStore(d *datastore) {
	run(m.t, "ip", "link", "set", m.storePort(), "master", d.bridge)
}

// reachable gives this process an address on a switch.
func reachable(t testing.TB, bridge, addr string) {
	t.Helper()
	run(t, "ip", "addr", "add", addr+"/24", "dev", bridge)
}
