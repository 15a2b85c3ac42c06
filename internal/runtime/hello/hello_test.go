package hello

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

type running struct {
	t    *testing.T
	url  string
	out  *output
	stop context.CancelFunc
	code chan int
}

func start(t *testing.T) *running {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	r := &running{t: t, url: "http://" + l.Addr().String(), out: &output{}, stop: stop, code: make(chan int, 1)}
	s := &server{host: "pod-1", version: "2", podIP: "10.0.0.9", out: r.out}
	go func() { r.code <- s.run(ctx, l) }()
	t.Cleanup(func() { stop(); http.DefaultClient.CloseIdleConnections() })
	return r
}

func (r *running) get(path, accept string) (int, string, http.Header) {
	r.t.Helper()
	req, err := http.NewRequest(http.MethodGet, r.url+path, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Accept", accept)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, string(body), resp.Header
}

func TestPage(t *testing.T) {
	r := start(t)
	_, text, _ := r.get("/", "*/*")
	if text != "Hello from sampan!\nhost: pod-1\nversion: 2\npod ip: 10.0.0.9\n" {
		t.Errorf("curl gets %q", text)
	}
	_, page, header := r.get("/", "text/html,application/xhtml+xml")
	for _, want := range []string{"<!doctype html>", "<dd>pod-1</dd>", ">2</span>", "<dd>10.0.0.9</dd>", accents["2"]} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %s", want)
		}
	}
	if strings.Contains(page, "{host}") || header.Get("Content-Type") != "text/html; charset=utf-8" || header.Get("Cache-Control") != "no-store" {
		t.Errorf("the page comes as %v", header)
	}
	for path, want := range map[string]int{
		"/healthz": 200, "/slow?ms=1": 200, "/slow": 400, "/slow?ms=-1": 400, "/slow?ms=60001": 400, "/slow?ms=9999999999": 400, "/nothing": 404,
	} {
		if got, body, _ := r.get(path, "*/*"); got != want {
			t.Errorf("%s answers %d %q, want %d", path, got, body, want)
		}
	}
}

func TestPageEscapesWhatItShows(t *testing.T) {
	var out bytes.Buffer
	(&server{host: "<script>", version: `"{host}`, podIP: "&"}).writeHTML(&out)
	if strings.Contains(out.String(), "<script>") || !strings.Contains(out.String(), "&lt;script&gt;") || !strings.Contains(out.String(), "&#34;{host}") {
		t.Error(out.String())
	}
}

func TestStopsAtOnceBesideIdleConnections(t *testing.T) {
	r := start(t)
	r.get("/", "*/*") // stays open, idle
	fresh, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer fresh.Close()
	r.get("/healthz", "*/*") // by now the other one is accepted
	r.stop()
	if code := <-r.code; code != 0 {
		t.Errorf("ended with %d", code)
	}
	if !strings.HasSuffix(r.out.String(), "stopping\n") || strings.Contains(r.out.String(), "healthz") {
		t.Errorf("said %q", r.out)
	}
}

func TestAnswersWhoHadConnectedBeforeTheEnd(t *testing.T) {
	r := start(t)
	fresh, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer fresh.Close()
	r.stop()
	for !strings.HasSuffix(r.out.String(), "stopping\n") {
		time.Sleep(time.Millisecond)
	}
	for { // until nobody else is accepted
		late, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
		if err != nil {
			break
		}
		_ = late.Close()
	}
	fmt.Fprint(fresh, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	answer, err := io.ReadAll(fresh)
	if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 200") {
		t.Errorf("it says %q, %v", answer, err)
	}
	if code := <-r.code; code != 0 {
		t.Errorf("ended with %d", code)
	}
}

func TestStopsWithinTheGraceOfSlowRequests(t *testing.T) {
	r := start(t)
	answered := make(chan string, 1)
	go func() {
		resp, err := http.Get(r.url + "/slow?ms=60000")
		if err != nil {
			answered <- err.Error()
			return
		}
		_ = resp.Body.Close()
		answered <- resp.Status
	}()
	for { // until the request is there
		if _, _, _ = r.get("/healthz", "*/*"); strings.Contains(r.out.String(), "/slow?ms=60000") {
			break
		}
	}
	r.stop()
	if code := <-r.code; code != 0 {
		t.Errorf("ended with %d", code)
	}
	<-answered
}

// output can be read while the server writes to it.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

func TestCrashAnswersFirst(t *testing.T) {
	r := start(t)
	status, body, _ := r.get("/crash", "*/*")
	if status != 200 || body != "crashing\n" {
		t.Errorf("answered %d %q", status, body)
	}
	if code := <-r.code; code != 1 {
		t.Errorf("ended with %d", code)
	}
}

// The program as it runs in a container: a process that gets SIGTERM.
func TestMainEndsAtSIGTERM(t *testing.T) {
	if os.Getenv("HELLO_TEST_MAIN") != "" {
		os.Exit(Main(context.Background(), nil))
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestMainEndsAtSIGTERM$")
	cmd.Env = append(os.Environ(), "HELLO_TEST_MAIN=1", "PORT=0", "HELLO_VERSION=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	first := make([]byte, 200)
	n, err := out.Read(first)
	if err != nil || !strings.HasPrefix(string(first[:n]), "hello version 1 listens on ") {
		t.Errorf("said %q, %v", first[:n], err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	rest, _ := io.ReadAll(out)
	if err := cmd.Wait(); err != nil || string(rest) != "stopping\n" {
		var exit *exec.ExitError
		t.Errorf("ended with %v (%v), said %q", err, errors.As(err, &exit), rest)
	}
}

func TestMainSaysWhatIsWrong(t *testing.T) {
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	t.Setenv("PORT", port)
	if code := Main(t.Context(), nil); code != 1 {
		t.Errorf("a taken port ends with %d", code)
	}
	if code := Main(t.Context(), []string{"x"}); code != 2 {
		t.Errorf("an argument ends with %d", code)
	}
}
