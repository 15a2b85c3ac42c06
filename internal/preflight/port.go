package preflight

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// heldBy says who listens on a TCP port in this network namespace, in the words `nginx (pid 12)`.
func heldBy(root string, want netip.AddrPort) (holder string, taken bool) {
	var inode string
	for _, file := range []string{"proc/net/tcp", "proc/net/tcp6"} {
		f, err := os.Open(filepath.Join(root, file))
		if err != nil {
			continue
		}
		in := bufio.NewScanner(f)
		for in.Scan() {
			if addr, ino, ok := listening(in.Text()); ok && collide(addr, want) {
				inode, taken = ino, true
			}
		}
		f.Close()
	}
	if !taken {
		return "", false
	}
	return owner(root, inode), true
}

// listening reads a line of /proc/net/tcp: "sl local_address rem_address st ... inode". State 0A is LISTEN.
func listening(line string) (addr netip.AddrPort, inode string, ok bool) {
	f := strings.Fields(line)
	if len(f) < 10 || f[3] != "0A" {
		return netip.AddrPort{}, "", false
	}
	host, port, found := strings.Cut(f[1], ":")
	raw, err := hex.DecodeString(host)
	n, err2 := strconv.ParseUint(port, 16, 16)
	if !found || err != nil || err2 != nil || len(raw)%4 != 0 {
		return netip.AddrPort{}, "", false
	}
	for i := 0; i < len(raw); i += 4 { // each 32-bit word is in the machine's order, here little-endian
		raw[i], raw[i+1], raw[i+2], raw[i+3] = raw[i+3], raw[i+2], raw[i+1], raw[i]
	}
	ip, found := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(ip.Unmap(), uint16(n)), f[9], found
}

// collide says whether two listeners could not both be: the same port, on the same address or with one of them on all.
func collide(a, b netip.AddrPort) bool {
	return a.Port() == b.Port() && (a.Addr() == b.Addr() || a.Addr().IsUnspecified() || b.Addr().IsUnspecified())
}

// owner finds the process that holds a socket, by the inode that its descriptors name.
func owner(root, inode string) string {
	want := "socket:[" + inode + "]"
	fds, _ := filepath.Glob(filepath.Join(root, "proc/[0-9]*/fd/*"))
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err == nil && target == want {
			dir := filepath.Dir(filepath.Dir(fd))
			comm, _ := os.ReadFile(filepath.Join(dir, "comm"))
			return fmt.Sprintf("%s (pid %s)", strings.TrimSpace(string(comm)), filepath.Base(dir))
		}
	}
	return "another program"
}
