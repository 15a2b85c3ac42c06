package apiserver_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/auth"
	"sampan.dev/internal/client"
)

// BenchmarkCreate makes 1 KB config maps durably, by 64 clients at once over TLS and HTTP/2.
func BenchmarkCreate(b *testing.B) {
	c := start(b)
	data := strings.Repeat("x", 1000)
	for _, format := range []string{"json", "protobuf"} {
		b.Run(format, func(b *testing.B) {
			var next atomic.Int64
			var group sync.WaitGroup
			base := fmt.Sprintf("%s-%d-", format, b.N)
			for range 64 {
				group.Go(func() {
					own := c.HTTPClient("admin", auth.Masters)
					mine, err := client.New(client.Config{Server: c.URL, TLS: c.PKI.ClientTLS("admin", []string{auth.Masters}), Table: c.Table})
					if err != nil {
						b.Error(err)
						return
					}
					defer mine.Close()
					for {
						i := next.Add(1)
						if i > int64(b.N) {
							return
						}
						name := base + fmt.Sprint(i)
						if format == "protobuf" {
							o := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Data: map[string]string{"k": data}}
							if _, err := client.Create(context.Background(), mine, o); err != nil {
								b.Error(err)
								return
							}
							continue
						}
						body := `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"` + name + `"},"data":{"k":"` + data + `"}}`
						response, err := own.Post(c.URL+mapsPath, "application/json", strings.NewReader(body))
						if err != nil {
							b.Error(err)
							return
						}
						_, _ = io.Copy(io.Discard, response.Body)
						response.Body.Close()
						if response.StatusCode != http.StatusCreated {
							b.Error(response.Status)
							return
						}
					}
				})
			}
			group.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "creates/s")
		})
	}
}

// BenchmarkList lists 10,000 pods.
func BenchmarkList(b *testing.B) {
	c := start(b)
	inside := auth.WithUser(context.Background(), auth.System("test"))
	kind, _ := c.Table.ByResource(corev1.SchemeGroupVersion.WithResource("pods"))
	var group sync.WaitGroup
	for part := range 64 {
		group.Go(func() {
			for i := part; i < 10000; i += 64 {
				p := pod(fmt.Sprintf("pod-%05d", i))
				p.Namespace = "default"
				if _, err := c.Registry.Create(inside, kind, p, metav1.CreateOptions{}); err != nil {
					b.Error(err)
				}
			}
		})
	}
	group.Wait()
	own := c.HTTPClient("admin", auth.Masters)
	for name, accept := range map[string]string{"protobuf": protobuf, "json": "application/json", "table": "application/json;as=Table;v=v1;g=meta.k8s.io"} {
		b.Run(name, func(b *testing.B) {
			size := int64(0)
			for b.Loop() {
				r, err := http.NewRequest("GET", c.URL+"/api/v1/pods", nil)
				if err != nil {
					b.Fatal(err)
				}
				r.Header.Set("Accept", accept)
				response, err := own.Do(r)
				if err != nil {
					b.Fatal(err)
				}
				size, _ = io.Copy(io.Discard, response.Body)
				response.Body.Close()
			}
			b.ReportMetric(float64(size)/1e6, "MB")
		})
	}
}
