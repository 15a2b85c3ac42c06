package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/client"
)

// writes measures durable creates of 1 KB ConfigMaps by 64 clients, each with a connection of its own, for ten seconds at most.
func (b *bench) writes(ctx context.Context) error {
	const clients, each = 64, 200
	data := strings.Repeat("x", 1000)
	var done atomic.Int64
	var all sync.WaitGroup
	errs := make(chan error, clients)
	all.Add(clients)
	begin := time.Now()
	for i := range clients {
		go func() {
			defer all.Done()
			c, err := client.New(b.config)
			if err != nil {
				errs <- err
				return
			}
			defer c.Close()
			for j := range each {
				if time.Since(begin) > 10*time.Second {
					return
				}
				m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("bench-%d-%d", i, j), Namespace: "default"}, Data: map[string]string{"data": data}}
				if _, err := client.Create(ctx, c, m); err != nil {
					errs <- err
					return
				}
				done.Add(1)
			}
		}()
	}
	all.Wait()
	took := time.Since(begin)
	select {
	case err := <-errs:
		return err
	default:
	}
	line("durable creates of 1 KB by 64 clients", fmt.Sprintf("%.0f/s", float64(done.Load())/took.Seconds()), "3000/s", "1430/s")
	return nil
}

// list measures a list of 10,000 pods in protobuf, from the request to the last byte. The pods wait for a scheduler that does not exist.
func (b *bench) list(ctx context.Context) error {
	const count, clients = 10_000, 32
	var all sync.WaitGroup
	errs := make(chan error, clients)
	all.Add(clients)
	for i := range clients {
		go func() {
			defer all.Done()
			for j := i; j < count; j += clients {
				p := pod(fmt.Sprintf("listed-%d", j), "nginx:latest")
				p.Spec.SchedulerName = "nobody"
				p.Labels = map[string]string{"app": "bench", "number": fmt.Sprint(j)}
				if _, err := client.Create(ctx, b.client, p); err != nil {
					errs <- err
					return
				}
			}
		}()
	}
	all.Wait()
	select {
	case err := <-errs:
		return err
	default:
	}
	h := &http.Client{Transport: &http.Transport{TLSClientConfig: b.config.TLS.Clone(), ForceAttemptHTTP2: true, DisableCompression: true}}
	h.Transport.(*http.Transport).TLSClientConfig.MinVersion = tls.VersionTLS12
	for _, f := range []struct{ name, accept, wanted, upstream string }{
		{"protobuf", "application/vnd.kubernetes.protobuf", "50 ms", "157 ms"}, {"JSON", "application/json", "", "314 ms"},
	} {
		var times []time.Duration
		var size int64
		for range 10 {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.config.Server+"/api/v1/pods", nil)
			if err != nil {
				return err
			}
			req.Header.Set("Accept", f.accept)
			begin := time.Now()
			resp, err := h.Do(req)
			if err != nil {
				return err
			}
			size, err = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if err != nil || resp.StatusCode != http.StatusOK {
				return fmt.Errorf("list: %s, %w", resp.Status, err)
			}
			times = append(times, time.Since(begin))
		}
		line(fmt.Sprintf("list of 10,000 pods in %s (%.1f MB), median of 10", f.name, float64(size)/1e6), ms(median(times)), f.wanted, f.upstream)
	}
	return nil
}
