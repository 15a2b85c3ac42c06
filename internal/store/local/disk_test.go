package local

import (
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
)

// disk stands between a store and its files. It can fail at any call, and it can lose power: then each sector written
// since the last sync of its file is on disk or is not, whatever came before or after it.
type disk struct {
	t  *testing.T
	mu sync.Mutex

	files  []*diskFile
	cached bool // what is in the files at first is not durable yet
	off    bool // no power: every call fails, but reads

	onWrite func(path string, b []byte) (int, error) // decides about a write: how much of it is done, and the error
	onSync  func(path string) error
}

type diskFile struct {
	disk    *disk
	path    string
	real    *os.File
	durable []byte

	readOnly, closed bool
}

var errPower = errors.New("power is off")

const sector = 512

func (d *disk) options(o Options) Options {
	o.open = d.open
	return o
}

func (d *disk) open(path string, flag int) (file, int64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.off {
		return nil, 0, errPower
	}
	f, err := os.OpenFile(path, flag, 0o600)
	if err != nil {
		return nil, 0, err
	}
	b, err := os.ReadFile(path)
	if err != nil {
		d.t.Error(err)
	}
	size := int64(len(b))
	if d.cached {
		b = nil
	}
	df := &diskFile{disk: d, path: path, real: f, durable: b, readOnly: flag&os.O_RDWR == 0}
	d.files = append(d.files, df)
	return df, size, nil
}

func (f *diskFile) ReadAt(b []byte, off int64) (int, error) { return f.real.ReadAt(b, off) }

func (f *diskFile) WriteAt(b []byte, off int64) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if f.disk.off {
		return 0, errPower
	}
	n, fail := len(b), error(nil)
	if f.disk.onWrite != nil {
		n, fail = f.disk.onWrite(f.path, b)
	}
	if _, err := f.real.WriteAt(b[:n], off); err != nil {
		f.disk.t.Error(err)
	}
	return n, fail
}

func (f *diskFile) Truncate(size int64) error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if f.disk.off {
		return errPower
	}
	return f.real.Truncate(size)
}

func (f *diskFile) Sync() error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if f.disk.off {
		return errPower
	}
	if f.disk.onSync != nil {
		if err := f.disk.onSync(f.path); err != nil {
			return err
		}
	}
	f.durable = f.content()
	return nil
}

func (f *diskFile) content() []byte {
	b, err := io.ReadAll(io.NewSectionReader(f.real, 0, 1<<40))
	if err != nil {
		f.disk.t.Error(err)
	}
	return b
}

func (f *diskFile) Close() error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if f.disk.off { // what is left of the file is still to be decided
		return nil
	}
	f.closed = true
	return f.real.Close()
}

// cut takes the power away. From then on nothing reaches the files.
func (d *disk) cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.off = true
}

// settle leaves in each file what the power cut may have left there. The store that used the disk has been closed.
func (d *disk) settle(random *rand.Rand) {
	for _, f := range d.files {
		if f.closed || f.readOnly {
			continue
		}
		written := f.content()
		// The length is the old one or the new one; bytes that never came are zeros.
		left := make([]byte, len(f.durable))
		if len(written) != len(f.durable) && random.IntN(2) == 0 {
			left = make([]byte, len(written))
		}
		copy(left, f.durable)
		odds := random.IntN(4) // of 3: none, some, or all sectors come to be
		for at := 0; at < min(len(left), len(written)); at += sector {
			if end := min(at+sector, len(left), len(written)); random.IntN(3) < odds {
				copy(left[at:end], written[at:end])
			}
		}
		_, err := f.real.WriteAt(left, 0)
		if err := errors.Join(err, f.real.Truncate(int64(len(left))), f.real.Close()); err != nil {
			d.t.Error(err)
		}
	}
}
