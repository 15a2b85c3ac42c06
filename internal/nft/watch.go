package nft

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Watch implements Kernel.
func (c *Conn) Watch(ctx context.Context, table string, began, changed func()) error {
	own, err := c.ownPort()
	if err != nil {
		return fmt.Errorf("watch nft table %s: %w", table, err)
	}
	l, err := listen(own)
	if err != nil {
		return fmt.Errorf("watch nft table %s: %w", table, err)
	}
	began()
	return l.follow(ctx, table, changed)
}

// listener hears of all changes but those made through one socket.
type listener struct{ conn *netlink.Conn }

func listen(own uint32) (listener, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return listener{}, fmt.Errorf("open a netlink socket: %w", err)
	}
	if err := errors.Join(conn.SetBPF(notFrom(own)), conn.JoinGroup(unix.NFNLGRP_NFTABLES)); err != nil {
		return listener{}, errors.Join(err, conn.Close())
	}
	return listener{conn}, nil
}

func (l listener) follow(ctx context.Context, table string, changed func()) error {
	defer l.conn.Close()
	defer context.AfterFunc(ctx, func() { _ = l.conn.Close() })()
	for {
		news, err := l.conn.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			changed()
			continue
		case err != nil:
			return fmt.Errorf("watch nft table %s: %w", table, err)
		}
		if slices.ContainsFunc(news, func(m netlink.Message) bool { return concerns(m, table) }) {
			changed()
		}
	}
}

// ownPort is the address of the socket that this Conn writes with. A socket that is opened anew after an error has another one, so that its changes
// look like somebody else's: they are told, and cost one more Set.
func (c *Conn) ownPort() (uint32, error) {
	c.socket.Lock()
	defer c.socket.Unlock()
	if c.nl == nil {
		if err := c.open(); err != nil {
			return 0, err
		}
	}
	return c.port, nil
}

// concerns reports whether a message is about the table or something in it: all of them have the table's name as attribute 1.
func concerns(m netlink.Message, table string) bool {
	const header = 4 // nfgenmsg
	if uint16(m.Header.Type)>>8 != unix.NFNL_SUBSYS_NFTABLES || uint16(m.Header.Type)&0xff == unix.NFT_MSG_NEWGEN || len(m.Data) < header {
		return false
	}
	attrs, err := netlink.UnmarshalAttributes(m.Data[header:])
	if err != nil {
		return false
	}
	for _, a := range attrs {
		if a.Type&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER) == 1 {
			return string(bytes.TrimRight(a.Data, "\x00")) == table
		}
	}
	return false
}

// notFrom lets a socket see only what others have caused: the fourth word of a netlink message's header says whose it is. What this
// process has changed it knows, and waking up for each of thousands of elements would be dear.
func notFrom(port uint32) []bpf.RawInstruction {
	if binary.NativeEndian.Uint16([]byte{0, 1}) != 1 { // a filter loads words in network order
		port = bits.ReverseBytes32(port)
	}
	filter, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: 12, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: port, SkipTrue: 1},
		bpf.RetConstant{Val: 1 << 18},
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		panic(err) // it is always the same program
	}
	return filter
}
