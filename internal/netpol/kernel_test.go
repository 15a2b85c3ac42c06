package netpol

import (
	"context"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"sampan.dev/internal/nft"
)

// inKernel puts the test into a network namespace of its own, and says whether that was possible.
func inKernel(t *testing.T) bool {
	t.Helper()
	if os.Geteuid() != 0 {
		return false
	}
	runtime.LockOSThread() // never unlocked: the thread dies with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	return true
}

// both sets the same in the fake and in the kernel.
type both struct {
	*nft.Fake
	conn *nft.Conn
}

func (b both) Replace(ctx context.Context, table nft.Table) error {
	if err := b.Fake.Replace(ctx, table); err != nil {
		return err
	}
	return b.conn.Replace(ctx, table)
}

func (b both) Change(ctx context.Context, change nft.Change) error {
	if err := b.Fake.Change(ctx, change); err != nil {
		return err
	}
	return b.conn.Change(ctx, change)
}
