// Package remote speaks WebSocket with whoever runs a command in a container, and SPDY with the container runtime.
//
// kubectl's newest protocol, v5.channel.k8s.io, can say that standard input has ended (KEP-4006); no runtime's streaming server speaks it. This package
// watches and writes nothing of its own. Always: what the runtime says last, the command's status, reaches the client after all of the command's output.
package remote

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

const (
	webSocketProtocol = "v5.channel.k8s.io"
	spdyProtocol      = "v4.channel.k8s.io"
)

// The channels of a WebSocket, by number.
const (
	stdin = iota
	stdout
	stderr
	status
	resize
)

// Streams says which of a command's streams are wanted.
type Streams struct{ Stdin, Stdout, Stderr, TTY bool }

// Wanted says whether a request asks for the protocol that this package translates.
func Wanted(r *http.Request) bool { return wsstream.IsWebSocketRequestWithStreamCloseProtocol(r) }

// Serve answers a request that is Wanted with the streams of the runtime's server at target. An error before the upgrade is told to the client.
func Serve(w http.ResponseWriter, r *http.Request, target *url.URL, s Streams) error {
	back, err := dial(r.Context(), target)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return err
	}
	defer back.Close()
	streams, err := open(back, s)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return err
	}
	front := wsstream.NewConn(map[string]wsstream.ChannelProtocolConfig{webSocketProtocol: {Binary: true, Channels: channels(s)}})
	_, ends, err := front.Open(w, r)
	if err != nil {
		return fmt.Errorf("upgrade to WebSocket: %w", err)
	}
	defer front.Close()
	stop := context.AfterFunc(r.Context(), func() { back.Close() })
	defer stop()
	join(ends, streams)
	return nil
}

func channels(s Streams) []wsstream.ChannelType {
	kind := func(wanted bool, t wsstream.ChannelType) wsstream.ChannelType {
		if wanted {
			return t
		}
		return wsstream.IgnoreChannel
	}
	return []wsstream.ChannelType{
		stdin:  kind(s.Stdin, wsstream.ReadChannel),
		stdout: kind(s.Stdout, wsstream.WriteChannel),
		stderr: kind(s.Stderr && !s.TTY, wsstream.WriteChannel),
		status: wsstream.WriteChannel,
		resize: wsstream.ReadChannel,
	}
}

// dial connects with the runtime's server.
func dial(ctx context.Context, target *url.URL) (httpstream.Connection, error) {
	transport, err := spdy.NewRoundTripper(nil)
	if err != nil {
		return nil, fmt.Errorf("connect with the container runtime: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("connect with the container runtime: %w", err)
	}
	req.Header.Set(httpstream.HeaderProtocolVersion, spdyProtocol)
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("connect with the container runtime: %w", err)
	}
	defer resp.Body.Close()
	conn, err := transport.NewConnection(resp)
	if err != nil {
		return nil, fmt.Errorf("connect with the container runtime: %w", err)
	}
	if got := resp.Header.Values(httpstream.HeaderProtocolVersion); !slices.Contains(got, spdyProtocol) {
		conn.Close()
		return nil, fmt.Errorf("connect with the container runtime: it speaks %s, not %s", strings.Join(got, ", "), spdyProtocol)
	}
	return conn, nil
}

// open asks for the streams in the order in which remotecommand servers await them.
func open(back httpstream.Connection, s Streams) ([]httpstream.Stream, error) {
	streams := make([]httpstream.Stream, resize+1)
	for _, want := range []struct {
		number int
		name   string
		wanted bool
	}{{status, "error", true}, {stdin, "stdin", s.Stdin}, {stdout, "stdout", s.Stdout}, {stderr, "stderr", s.Stderr && !s.TTY}, {resize, "resize", s.TTY}} {
		if !want.wanted {
			continue
		}
		stream, err := back.CreateStream(http.Header{"streamType": {want.name}})
		if err != nil {
			return nil, fmt.Errorf("open stream %s: %w", want.name, err)
		}
		streams[want.number] = stream
	}
	// Nothing is ever sent on this one; its other half stays open.
	if err := streams[status].Close(); err != nil {
		return nil, fmt.Errorf("open stream error: %w", err)
	}
	return streams, nil
}

// join copies until the command has ended and all it wrote has been passed on.
func join(front []io.ReadWriteCloser, back []httpstream.Stream) {
	for _, number := range []int{stdin, resize} {
		if back[number] != nil {
			go func() {
				_, _ = io.Copy(back[number], front[number])
				_ = back[number].Close() // the end of standard input reaches the command
			}()
		}
	}
	var outputs sync.WaitGroup
	for _, number := range []int{stdout, stderr} {
		if back[number] != nil {
			outputs.Go(func() { _, _ = io.Copy(front[number], back[number]) })
		}
	}
	said, err := io.ReadAll(back[status])
	outputs.Wait()
	if err == nil && len(said) > 0 {
		_, _ = front[status].Write(said)
	}
}
