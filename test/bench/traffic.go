package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/client"
)

// traffic measures what packets to a Service cost beside packets straight to the pod, how evenly they are spread, and answers to questions for names.
func (b *bench) traffic(ctx context.Context) error {
	ips, err := b.webPods(ctx, "spread", 4)
	if err != nil {
		return err
	}
	to := map[string]netip.AddrPort{"straight": netip.AddrPortFrom(ips[0], 80)}
	for _, name := range []string{"one", "spread"} {
		app := name
		if name == "one" {
			app = "alone"
		}
		s, err := client.Create(ctx, b.client, service(name, app))
		if err != nil {
			return err
		}
		if to[name], err = frontOf(s); err != nil {
			return err
		}
	}
	if _, err := b.webPods(ctx, "alone", 1); err != nil { // not the one that is asked straight, which remembers connections of the same client and port
		return err
	}
	for _, name := range []string{"one", "spread"} {
		if err := untilAnswers(ctx, to[name], true); err != nil {
			return err
		}
	}
	if err := connections(ctx, to["straight"], to["one"]); err != nil {
		return err
	}
	if err := evenness(to["spread"]); err != nil {
		return err
	}
	if err := names(); err != nil {
		return err
	}
	for _, name := range []string{"one", "spread"} {
		if err := client.Delete[*corev1.Service](ctx, b.client, "default", name, metav1.DeleteOptions{}); err != nil {
			return err
		}
	}
	for _, name := range []string{"alone-0", "spread-0", "spread-1", "spread-2", "spread-3"} {
		if _, err := b.deleteNow(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// connections compares new connections a second, with a request each, straight and through the Service, in turns.
func connections(ctx context.Context, straight, through netip.AddrPort) error {
	const clients, turns, turn = 8, 5, 1500 * time.Millisecond
	rate := func(to netip.AddrPort) (float64, error) {
		var done, failed atomic.Int64
		begin := time.Now()
		var all sync.WaitGroup
		for range clients {
			all.Go(func() {
				d := net.Dialer{Timeout: 5 * time.Second}
				for time.Since(begin) < turn {
					c, err := d.DialContext(ctx, "tcp4", to.String())
					if err != nil {
						failed.Add(1)
						continue
					}
					// The server ends the connection, so that the ports of those that are over are its own, and not used up here.
					_, err = io.WriteString(c, "GET /healthz HTTP/1.0\r\n\r\n")
					n, err2 := io.Copy(io.Discard, c)
					c.Close()
					if err != nil || err2 != nil || n == 0 {
						failed.Add(1)
						continue
					}
					done.Add(1)
				}
			})
		}
		all.Wait()
		if n := failed.Load(); n > 0 {
			return 0, fmt.Errorf("%d connections to %v failed", n, to)
		}
		return float64(done.Load()) / time.Since(begin).Seconds(), nil
	}
	var direct, service, ratio []float64
	for range turns {
		a, err := rate(straight)
		if err != nil {
			return err
		}
		s, err := rate(through)
		if err != nil {
			return err
		}
		direct, service, ratio = append(direct, a), append(service, s), append(ratio, s/a)
	}
	line("new connections a second, straight to the pod", fmt.Sprintf("%.0f/s", median(direct)), "", "15300/s")
	line("  the same through a cluster IP", fmt.Sprintf("%.0f/s", median(service)), "", "5400/s")
	line("  ratio, median of 5 turns", fmt.Sprintf("%.2f", median(ratio)), "0.90", "0.35")
	return nil
}

var hostLine = regexp.MustCompile(`(?m)^host: (\S+)$`)

// evenness sends 10,000 requests over four pods, each by a connection of its own.
func evenness(to netip.AddrPort) error {
	const requests = 10_000
	var mu sync.Mutex
	got := map[string]int{}
	h := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	err := each(requests, func(int) error {
		response, err := h.Get("http://" + to.String() + "/")
		if err != nil {
			return err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		m := hostLine.FindSubmatch(body)
		if err != nil || m == nil {
			return fmt.Errorf("an answer says %q, %w", body, err)
		}
		mu.Lock()
		got[string(m[1])]++
		mu.Unlock()
		return nil
	})
	if err != nil {
		return err
	}
	worst := 0.0
	for _, n := range got {
		worst = max(worst, math.Abs(float64(n)*4/requests-1))
	}
	if len(got) != 4 {
		return fmt.Errorf("%d pods answered, not four", len(got))
	}
	line("10,000 requests over 4 pods: most off a quarter", fmt.Sprintf("%.1f %%", worst*100), "5 %", "")
	return nil
}

// kept compares requests by connections that stay, straight and through a Service, in turns.
func (b *bench) kept(ctx context.Context, when string) error {
	pod, err := client.Get[*corev1.Pod](ctx, b.client, "default", "web-0")
	if err != nil {
		return err
	}
	s := service("kept", "web")
	s.Spec.Selector = map[string]string{"number": "0"} // that one alone, in both turns
	s, err = client.Create(ctx, b.client, s)
	if err != nil {
		return err
	}
	through, err := frontOf(s)
	if err != nil {
		return err
	}
	if err := untilAnswers(ctx, through, true); err != nil {
		return err
	}
	ip, err := netip.ParseAddr(pod.Status.PodIP)
	if err != nil {
		return err
	}
	rate := func(to netip.AddrPort) (float64, error) {
		const clients, turn = 4, 1500 * time.Millisecond
		var done atomic.Int64
		begin := time.Now()
		errs := make([]error, clients)
		var all sync.WaitGroup
		for i := range clients {
			all.Go(func() {
				c, err := net.Dial("tcp4", to.String())
				if err != nil {
					errs[i] = err
					return
				}
				defer c.Close()
				r := bufio.NewReader(c)
				for time.Since(begin) < turn {
					if _, err := io.WriteString(c, "GET /healthz HTTP/1.1\r\nHost: web\r\n\r\n"); err != nil {
						errs[i] = err
						return
					}
					response, err := http.ReadResponse(r, nil)
					if err != nil {
						errs[i] = err
						return
					}
					_, _ = io.Copy(io.Discard, response.Body)
					done.Add(1)
				}
			})
		}
		all.Wait()
		return float64(done.Load()) / time.Since(begin).Seconds(), errors.Join(errs...)
	}
	var ratio []float64
	for range 5 {
		a, err := rate(netip.AddrPortFrom(ip, 80))
		if err != nil {
			return err
		}
		s, err := rate(through)
		if err != nil {
			return err
		}
		ratio = append(ratio, s/a)
	}
	line("requests by kept connections, Service to straight, "+when, fmt.Sprintf("%.2f", median(ratio)), "1.00", "")
	return client.Delete[*corev1.Service](ctx, b.client, "default", s.Name, metav1.DeleteOptions{})
}

// names asks the cluster's DNS server for Services by UDP, from 8 sockets that each have 2 questions under way.
func names() error {
	const sockets, window, turn = 8, 2, 3 * time.Second
	question := func(id uint16, name string) []byte {
		q := binary.BigEndian.AppendUint16(nil, id)
		q = append(q, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0)
		for label := range strings.SplitSeq(name, ".") {
			q = append(append(q, byte(len(label))), label...)
		}
		return append(q, 0, 0, 1, 0, 1)
	}
	var mu sync.Mutex
	var took []time.Duration
	errs := make([]error, sockets)
	begin := time.Now()
	var all sync.WaitGroup
	for k := range sockets {
		all.Go(func() {
			c, err := net.Dial("udp", "10.96.0.10:53")
			if err != nil {
				errs[k] = err
				return
			}
			defer c.Close()
			var own []time.Duration
			sent := map[uint16]time.Time{}
			buf := make([]byte, 512)
			for id := uint16(0); time.Since(begin) < turn; {
				for ; len(sent) < window; id++ {
					sent[id] = time.Now()
					if _, err := c.Write(question(id, "kubernetes.default.svc.cluster.local")); err != nil {
						errs[k] = err
						return
					}
				}
				_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
				n, err := c.Read(buf)
				if err != nil || n < 12 || buf[3]&15 != 0 || binary.BigEndian.Uint16(buf[6:]) != 1 {
					errs[k] = fmt.Errorf("an answer of %d bytes is not right: %w", n, err)
					return
				}
				answered := binary.BigEndian.Uint16(buf)
				own = append(own, time.Since(sent[answered]))
				delete(sent, answered)
			}
			mu.Lock()
			took = append(took, own...)
			mu.Unlock()
		})
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("ask for names: %w", err)
	}
	slices.Sort(took)
	line("answers for names of Services, by UDP", fmt.Sprintf("%.0f/s", float64(len(took))/time.Since(begin).Seconds()), "60000/s", "42000/s")
	line("  the same, 99th percentile", fine(took[len(took)*99/100]), "2 ms", "")
	return nil
}
