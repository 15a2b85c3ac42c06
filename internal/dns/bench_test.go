package dns

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// thousands is a server that knows many Services.
func thousands(b testing.TB, n int) *Server {
	s := New(Config{})
	s.SetNamespace("default", true)
	for i := range n {
		s.SetService(service4(fmt.Sprint("svc-", i), fmt.Sprintf("10.96.%d.%d", i>>8, i&0xff), corev1.ServicePort{Name: "http", Port: 80}))
	}
	return s
}

func BenchmarkHandle(b *testing.B) {
	s := thousands(b, 5000)
	crowd(b, s, 10)
	for name, asks := range map[string]struct{ name, kind string }{
		"service":  {"svc-4711.default.svc.cluster.local", "A"},
		"other":    {"svc-4711.default.svc.cluster.local", "AAAA"},
		"nothing":  {"example.com.default.svc.cluster.local", "A"},
		"headless": {"crowd.default.svc.cluster.local", "A"},
	} {
		b.Run(name, func(b *testing.B) {
			packet, _ := question(asks.name, asks.kind).SetEdns0(1232, false).Pack()
			var q query
			out := make([]byte, 0, maxUDP+optSize)
			work := &flights{ctx: context.Background()}
			b.ReportAllocs()
			for b.Loop() {
				if s.handle(&q, packet, out, false, work, nil) == nil {
					b.Fatal("no answer")
				}
			}
		})
	}
}

func TestAClustersNameAllocatesNothing(t *testing.T) {
	s := cluster(t, nil)
	for _, asks := range [][2]string{
		{"web.default.svc.cluster.local", "A"},
		{"web.default.svc.cluster.local", "AAAA"},
		{"pets.default.svc.cluster.local", "A"},
		{"pet-0.pets.default.svc.cluster.local", "A"},
		{"example.com.default.svc.cluster.local", "A"},
		{"1.0.96.10.in-addr.arpa", "PTR"},
		{"9.0.96.10.in-addr.arpa", "PTR"},
		{"inner.default.svc.cluster.local", "A"},
	} {
		packet, _ := question(asks[0], asks[1]).SetEdns0(1232, false).Pack()
		var q query
		out := make([]byte, 0, maxUDP+optSize)
		work := &flights{ctx: t.Context()}
		if n := testing.AllocsPerRun(100, func() { s.handle(&q, packet, out, false, work, nil) }); n != 0 {
			t.Errorf("%v: %v allocations", asks, n)
		}
	}
}

// BenchmarkUDP asks over loopback from one goroutine that keeps 32 questions on their way.
func BenchmarkUDP(b *testing.B) {
	s := thousands(b, 5000)
	udp, _, _ := serving(b, s)
	conn, err := net.Dial("udp", udp)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	packet, _ := question("svc-4711.default.svc.cluster.local", "A").SetEdns0(1232, false).Pack()
	buf := make([]byte, 1500)
	var sent [32]time.Time // of what is on its way, in a ring: answers come in the order of the questions
	took := make([]time.Duration, 0, 1<<20)
	at := 0
	for at = range sent {
		sent[at] = time.Now()
		if _, err := conn.Write(packet); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := conn.Read(buf); err != nil {
			b.Fatal(err)
		}
		at = (at + 1) % len(sent)
		now := time.Now()
		if len(took) < cap(took) {
			took = append(took, now.Sub(sent[at]))
		}
		sent[at] = now
		if _, err := conn.Write(packet); err != nil {
			b.Fatal(err)
		}
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "µs-p99")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "answers/s")
}

// BenchmarkMemory tells what a Service with a port and a slice of two endpoints takes.
func BenchmarkMemory(b *testing.B) {
	for b.Loop() {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		s := thousands(b, 5000)
		for i := range 5000 {
			name := fmt.Sprint("svc-", i)
			s.SetSlice(slice4(name+"-x7x7x", name, endpointOf("10.244.0.1", "", nil), endpointOf("10.244.0.2", "", nil)))
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/5000, "B/Service")
		runtime.KeepAlive(s)
	}
}
