package dns

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"

	upstream "github.com/miekg/dns"
)

var (
	errMismatch = errors.New("answer to another question")
	errLoops    = errors.New("leads back here")
)

// exchange asks a server: by UDP, by TCP if the answer was cut, and without extension if it does not know that.
func (u *server) exchange(ctx context.Context, m *upstream.Msg) (*upstream.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	defer context.AfterFunc(u.ctx, cancel)()
	got, err := u.over(ctx, "udp", m)
	if err == nil && len(m.Extra) > 0 && (got.Rcode == upstream.RcodeFormatError || got.Rcode == upstream.RcodeNotImplemented || got.Rcode > 15) {
		plain := *m
		plain.Extra = nil
		m = &plain
		got, err = u.over(ctx, "udp", m)
	}
	if err == nil && got.Truncated {
		got, err = u.over(ctx, "tcp", m)
	}
	if err == nil && (got.Truncated || got.Rcode > 15) {
		err = errors.New("no whole answer")
	}
	if u.ctx.Err() != nil {
		err = errLoops
	}
	if err != nil {
		return nil, fmt.Errorf("ask DNS server %v: %w", u.addr, err)
	}
	return got, nil
}

// over sends the question from a port of its own under a number of its own, and takes only its answer.
func (u *server) over(ctx context.Context, network string, m *upstream.Msg) (*upstream.Msg, error) {
	conn, err := u.dial(ctx, network, u.addr.String())
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	var id [2]byte
	rand.Read(id[:]) // never fails
	own := *m
	own.Id = binary.BigEndian.Uint16(id[:])
	out, err := own.Pack()
	if err != nil {
		return nil, err
	}
	stream := network == "tcp"
	if stream {
		out = append(binary.BigEndian.AppendUint16(nil, uint16(len(out))), out...)
	}
	if _, err := conn.Write(out); err != nil {
		return nil, err
	}
	var buf []byte
	if !stream {
		buf = make([]byte, 4096)
	}
	for {
		in, err := receive(conn, buf, stream)
		if err != nil {
			return nil, err
		}
		got := new(upstream.Msg)
		if got.Unpack(in) == nil && answers(got, &own) {
			return got, nil
		}
		if stream {
			return nil, errMismatch
		} // by UDP the right one may still come
	}
}

func receive(conn net.Conn, buf []byte, stream bool) ([]byte, error) {
	if !stream {
		n, err := conn.Read(buf)
		return buf[:n], err
	}
	var size [2]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return nil, err
	}
	in := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(conn, in)
	return in, err
}

// answers says whether a message is the answer to a question.
func answers(got, asked *upstream.Msg) bool {
	if got.Id != asked.Id || !got.Response || got.Opcode != upstream.OpcodeQuery {
		return false
	}
	if len(got.Question) != 1 { // a refusal may come without it; nothing else may
		return len(got.Question) == 0 && got.Rcode != upstream.RcodeSuccess && got.Rcode != upstream.RcodeNameError && withQuestion(got, asked)
	}
	g, a := got.Question[0], asked.Question[0]
	return g.Qtype == a.Qtype && g.Qclass == a.Qclass && strings.EqualFold(g.Name, a.Name)
}

// withQuestion gives a refusal the question it lacks.
func withQuestion(got, asked *upstream.Msg) bool {
	got.Question = slices.Clone(asked.Question)
	return true
}
