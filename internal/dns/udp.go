package dns

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// batch is how many datagrams are read and written by one call to the kernel, at most.
const batch = 16

// udpSocket reads and writes datagrams in batches. An address goes back to the kernel as it came from it, so none is read or allocated.
type udpSocket struct {
	raw  syscall.RawConn
	in   [batch]unixMessage
	out  [batch]unixMessage
	from [batch]unix.RawSockaddrInet6 // the larger of the two kinds
	vec  [2 * batch]unix.Iovec
	bufs [batch][maxUDP + 1]byte // a question is smaller than an answer may be
	outs [batch][maxUDP + optSize]byte
}

// unixMessage is the kernel's struct mmsghdr.
type unixMessage struct {
	header unix.Msghdr
	size   uint32
}

func newUDP(conn net.PacketConn) (*udpSocket, error) {
	c, ok := conn.(syscall.Conn)
	if !ok {
		return nil, fmt.Errorf("serve DNS at %s: not a socket of the kernel", conn.LocalAddr())
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("serve DNS at %s: %w", conn.LocalAddr(), err)
	}
	s := &udpSocket{raw: raw}
	for i := range batch {
		s.vec[i].Base = &s.bufs[i][0]
		s.vec[i].SetLen(len(s.bufs[i]))
		s.in[i].header.Iov = &s.vec[i]
		s.in[i].header.SetIovlen(1)
		s.in[i].header.Name = (*byte)(unsafe.Pointer(&s.from[i]))
		s.out[i].header.Iov = &s.vec[batch+i]
		s.out[i].header.SetIovlen(1)
	}
	return s, nil
}

// serveUDP answers datagrams until the socket is closed.
func (s *Server) serveUDP(sock *udpSocket, work *flights) error {
	var q query
	var n, current, ready int
	var failure error
	read := func(fd uintptr) bool {
		got, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&sock.in[0])), batch, unix.MSG_DONTWAIT, 0, 0)
		n, failure = int(got), nil
		if errno != 0 {
			n = 0
			if errno == unix.EAGAIN {
				return false
			}
			failure = errno
		}
		return true
	}
	done := 0
	write := func(fd uintptr) bool {
		for done < ready {
			sent, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&sock.out[done])), uintptr(ready-done), unix.MSG_DONTWAIT, 0, 0)
			switch {
			case errno == unix.EAGAIN:
				return false
			case errno == unix.EINTR:
			case errno != 0:
				done++ // this one cannot be sent; a socket that is gone shows when it is read
			default:
				done += int(sent)
			}
		}
		return true
	}
	later := func(*query) func([]byte) { return sock.later(current) }
	for {
		for i := range sock.in {
			sock.in[i].header.Namelen = uint32(unsafe.Sizeof(sock.from[i]))
		}
		if err := sock.raw.Read(read); err != nil {
			return err
		}
		if failure != nil {
			if transient(failure) {
				continue
			}
			return os.NewSyscallError("recvmmsg", failure)
		}
		ready, done = 0, 0
		for i := range n {
			current = i
			m := &sock.in[i]
			answer := s.handle(&q, sock.bufs[i][:m.size], sock.outs[i][:0], false, work, later)
			if len(answer) == 0 {
				continue
			}
			o := &sock.out[ready]
			o.header.Name, o.header.Namelen = m.header.Name, m.header.Namelen
			v := &sock.vec[batch+ready]
			v.Base = &answer[0]
			v.SetLen(len(answer))
			ready++
		}
		if ready > 0 {
			if err := sock.raw.Write(write); err != nil {
				return err
			}
		}
	}
}

// transient says that an error tells of one datagram, or of this moment, and not of the socket.
func transient(err error) bool {
	return errors.Is(err, unix.EINTR) || errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.ENETUNREACH) ||
		errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.ENOMEM)
}

// later gives the way to answer a datagram after its batch is gone.
func (u *udpSocket) later(i int) func([]byte) {
	to, size := u.from[i], u.in[i].header.Namelen
	return func(answer []byte) {
		if len(answer) == 0 {
			return
		}
		_ = u.raw.Write(func(fd uintptr) bool { // an answer that cannot be sent is lost, as datagrams are
			_, _, errno := unix.Syscall6(unix.SYS_SENDTO, fd, uintptr(unsafe.Pointer(&answer[0])), uintptr(len(answer)), unix.MSG_DONTWAIT, uintptr(unsafe.Pointer(&to)), uintptr(size))
			return errno != unix.EAGAIN
		})
	}
}
