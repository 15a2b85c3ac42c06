package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"sampan.dev/internal/client"
)

const (
	streamMode = "SAMPAN_BENCH_STREAM" // set: this process sends or receives, and does nothing else
	streamPort = 5201
)

// route compares the throughput of one connection between pods on two nodes with that by the same links without sampan: two namespaces, each behind a router with a bridge, the
// routers on a bridge.
func (b *bench) route(ctx context.Context) (err error) {
	ms, err := b.newMachines()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ms.end()) }()
	c, err := ms.cluster(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	ends := map[string]*corev1.Pod{}
	for _, node := range []string{"two", "three"} {
		p := pod("at-"+node, "sampan.dev/hello:1")
		p.Namespace, p.Spec.NodeName, p.Labels = "default", node, map[string]string{"app": "web"}
		if _, err := client.Create(ctx, c, p); err != nil {
			return err
		}
	}
	if err := untilPods(ctx, c, 2, func(p *corev1.Pod) bool {
		ends[p.Spec.NodeName] = p
		return p.Status.Phase == corev1.PodRunning
	}); err != nil {
		return err
	}
	var at []int
	for _, m := range ms.all[1:] {
		pids := m.pods()
		if len(pids) == 0 {
			return fmt.Errorf("no process of a pod runs on %s", m.name)
		}
		at = append(at, pids[0])
	}
	bare, err := ms.bare()
	if err != nil {
		return err
	}
	var ratios, rates []float64
	for range 7 { // by turns, so that what else the machine does is shared
		plain, err := stream(ctx, bare[0].holder.Process.Pid, bare[1].holder.Process.Pid, "10.77.2.2")
		if err != nil {
			return err
		}
		ours, err := stream(ctx, at[0], at[1], ends["three"].Status.PodIP)
		if err != nil {
			return err
		}
		ratios, rates = append(ratios, ours/plain), append(rates, ours)
	}
	line("pod to pod on another node by route, one connection", fmt.Sprintf("%.1f Gbit/s", median(rates)*8/1e9), "", "")
	line("  to the same path without sampan, median of 7 turns", fmt.Sprintf("%.2f", median(ratios)), "0.95", "")
	return nil
}

// bare makes the path by hand: end, router with a bridge, router with a bridge, end.
func (ms *machines) bare() (ends []*machine, err error) {
	var errs []error
	for i := range 2 {
		r, err := ms.add(fmt.Sprintf("router-%d", i), "bench-bare", fmt.Sprintf("192.168.91.%d", 10+i))
		if err != nil {
			return nil, err
		}
		e, err := ms.add(fmt.Sprintf("end-%d", i), "", "")
		if err != nil {
			return nil, err
		}
		net, pid := fmt.Sprintf("10.77.%d", i+1), strconv.Itoa(e.holder.Process.Pid)
		other := fmt.Sprintf("10.77.%d.0/24", 2-i)
		errs = append(errs,
			r.command(context.Background(), "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward").Run(),
			r.ip("link", "add", "pods", "type", "bridge"), r.ip("addr", "add", net+".1/24", "dev", "pods"), r.ip("link", "set", "pods", "up"),
			r.ip("link", "add", "port", "type", "veth", "peer", "name", "eth0", "netns", pid), r.ip("link", "set", "port", "master", "pods", "up"),
			e.ip("addr", "add", net+".2/24", "dev", "eth0"), e.ip("link", "set", "eth0", "up"), e.ip("route", "add", "default", "via", net+".1"),
			r.ip("route", "add", other, "via", fmt.Sprintf("192.168.91.%d", 11-i)))
		ends = append(ends, e)
	}
	return ends, errors.Join(errs...)
}

// stream sends for two seconds from one process's network to an address of another's, and gives the bytes a second that arrived.
func stream(ctx context.Context, from, to int, address string) (float64, error) {
	at := func(pid int, mode string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, "nsenter", "--target="+strconv.Itoa(pid), "--net", "--", "/proc/self/fd/3")
		self, err := os.Open("/proc/self/exe")
		if err == nil {
			cmd.ExtraFiles = []*os.File{self}
		}
		cmd.Env = append(os.Environ(), streamMode+"="+mode)
		cmd.Stderr = os.Stderr
		return cmd
	}
	receiver := at(to, "receive")
	out, err := receiver.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := receiver.Start(); err != nil {
		return 0, err
	}
	defer func() {
		_ = receiver.Process.Kill()
		_ = receiver.Wait()
	}()
	if _, err := io.ReadFull(out, make([]byte, 1)); err != nil { // it listens
		return 0, fmt.Errorf("receive: %w", err)
	}
	if err := at(from, "send "+address).Run(); err != nil {
		return 0, fmt.Errorf("send to %s: %w", address, err)
	}
	text, err := io.ReadAll(out)
	if err != nil {
		return 0, err
	}
	return strconv.ParseFloat(strings.TrimSpace(string(text)), 64)
}

// streamEnd is what a process does that was started by stream.
func streamEnd(mode string) error {
	const sending = 2 * time.Second
	buffer := make([]byte, 128<<10)
	if address, ok := strings.CutPrefix(mode, "send "); ok {
		conn, err := net.Dial("tcp", net.JoinHostPort(address, strconv.Itoa(streamPort)))
		if err != nil {
			return err
		}
		defer conn.Close()
		for end := time.Now().Add(sending); time.Now().Before(end); {
			if _, err := conn.Write(buffer); err != nil {
				return err
			}
		}
		return nil
	}
	listener, err := net.Listen("tcp", fmt.Sprintf(":%d", streamPort))
	if err != nil {
		return err
	}
	defer listener.Close()
	fmt.Print("\n")
	conn, err := listener.Accept()
	if err != nil {
		return err
	}
	defer conn.Close()
	begin, sum := time.Now(), 0
	for {
		n, err := conn.Read(buffer)
		sum += n
		if err != nil {
			break
		}
	}
	fmt.Printf("%f\n", float64(sum)/time.Since(begin).Seconds())
	return nil
}
