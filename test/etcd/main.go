// Command etcd is one member of an etcd cluster, for tests and for trying several servers by hand: etcd itself, from its Go module.
//
// Its arguments are those of the program of that name, as far as they are here. It runs until SIGTERM, and prints "ready" when it takes part.
package main

import (
	"flag"
	"fmt"
	"net/url"
	"os"
	"os/signal"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "etcd:", err)
		os.Exit(1)
	}
}

func run() error {
	cfg := embed.NewConfig()
	var client, peer string
	flag.StringVar(&cfg.Name, "name", "m0", "of this member")
	flag.StringVar(&cfg.Dir, "data-dir", "", "where its data is")
	flag.StringVar(&client, "listen-client", "", "the address for clients, as a URL")
	flag.StringVar(&peer, "listen-peer", "", "the address for other members, as a URL")
	flag.StringVar(&cfg.InitialCluster, "initial-cluster", "", "NAME=URL of each member, by commas")
	flag.StringVar(&cfg.ClientTLSInfo.CertFile, "cert-file", "", "its certificate")
	flag.StringVar(&cfg.ClientTLSInfo.KeyFile, "key-file", "", "and its key")
	flag.StringVar(&cfg.ClientTLSInfo.TrustedCAFile, "trusted-ca-file", "", "by which clients' certificates are checked")
	flag.Parse()
	c, err := url.Parse(client)
	if err != nil {
		return err
	}
	p, err := url.Parse(peer)
	if err != nil {
		return err
	}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{*c}, []url.URL{*c}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{*p}, []url.URL{*p}
	cfg.ClientTLSInfo.ClientCertAuth = cfg.ClientTLSInfo.TrustedCAFile != ""
	cfg.MaxRequestBytes = 2 << 20
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, unix.SIGTERM, os.Interrupt)
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		return err
	}
	select {
	case <-e.Server.ReadyNotify():
		fmt.Println("ready")
	case <-stop:
		e.Close()
		return nil
	}
	select {
	case <-stop:
		e.Close()
		return nil
	case err := <-e.Err():
		return err
	}
}
