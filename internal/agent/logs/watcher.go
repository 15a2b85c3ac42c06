// Package logs reads containers' logs, as the runtime writes them in the CRI's format, and rotates them.
//
// Followers share one inotify instance, which exists only while somebody follows. Always: a follower misses no line over a
// rotation, and gets the last line that a container wrote before it ended.
package logs

import (
	"encoding/binary"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Watcher tells followers that files in a directory changed.
type Watcher struct {
	mu    sync.Mutex // guards the fields below
	file  *os.File   // the inotify instance; nil while nobody watches
	paths map[string]*directory
	ids   map[int32]*directory
	ended sync.WaitGroup
}

type directory struct {
	path    string
	id      int32
	watches map[*Watch]struct{}
}

// Watch is one follower's. C gets a value after each change; changes that come close together are one.
type Watch struct {
	C     chan struct{}
	owner *Watcher
	dir   *directory
}

// NewWatcher returns a watcher that holds nothing yet.
func NewWatcher() *Watcher {
	return &Watcher{paths: map[string]*directory{}, ids: map[int32]*directory{}}
}

const interesting = unix.IN_MODIFY | unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_DELETE | unix.IN_DELETE_SELF | unix.IN_ONLYDIR

// Watch begins to watch a directory.
func (w *Watcher) Watch(path string) (*Watch, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.file == nil {
		fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
		if err != nil {
			return nil, fmt.Errorf("watch %s: %w", path, err)
		}
		w.file = os.NewFile(uintptr(fd), "inotify")
		w.ended.Add(1)
		go w.read(w.file)
	}
	dir := w.paths[path]
	if dir == nil {
		id, err := w.add(path)
		if err != nil {
			w.closeIfUnused()
			return nil, fmt.Errorf("watch %s: %w", path, err)
		}
		dir = &directory{path: path, id: id, watches: map[*Watch]struct{}{}}
		w.paths[path], w.ids[id] = dir, dir
	}
	watch := &Watch{C: make(chan struct{}, 1), owner: w, dir: dir}
	dir.watches[watch] = struct{}{}
	return watch, nil
}

func (w *Watcher) add(path string) (int32, error) {
	conn, err := w.file.SyscallConn()
	if err != nil {
		return 0, err
	}
	var id int
	if cerr := conn.Control(func(fd uintptr) { id, err = unix.InotifyAddWatch(int(fd), path, interesting) }); cerr != nil {
		return 0, cerr
	}
	return int32(id), err
}

// Close ends the watch.
func (h *Watch) Close() {
	w := h.owner
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(h.dir.watches, h)
	if len(h.dir.watches) > 0 || w.paths[h.dir.path] != h.dir {
		return
	}
	delete(w.paths, h.dir.path)
	delete(w.ids, h.dir.id)
	if conn, err := w.file.SyscallConn(); err == nil {
		_ = conn.Control(func(fd uintptr) { _, _ = unix.InotifyRmWatch(int(fd), uint32(h.dir.id)) })
	}
	w.closeIfUnused()
}

func (w *Watcher) closeIfUnused() {
	if len(w.paths) == 0 && w.file != nil {
		_ = w.file.Close()
		w.file = nil
	}
}

// Wake wakes the followers of a directory, for what no file says: its container ended.
func (w *Watcher) Wake(path string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if dir := w.paths[path]; dir != nil {
		dir.wake()
	}
}

func (d *directory) wake() {
	for h := range d.watches {
		select {
		case h.C <- struct{}{}:
		default:
		}
	}
}

// Close waits until nothing of the watcher runs. Watches must have been closed.
func (w *Watcher) Close() {
	w.mu.Lock()
	w.paths, w.ids = map[string]*directory{}, map[int32]*directory{}
	w.closeIfUnused()
	w.mu.Unlock()
	w.ended.Wait()
}

// read passes events on until its instance is closed.
func (w *Watcher) read(file *os.File) {
	defer w.ended.Done()
	buf := make([]byte, 16<<10)
	for {
		n, err := file.Read(buf)
		if err != nil {
			return
		}
		w.mu.Lock()
		for at := 0; at+unix.SizeofInotifyEvent <= n; {
			id := int32(binary.NativeEndian.Uint32(buf[at:]))
			mask := binary.NativeEndian.Uint32(buf[at+4:])
			at += unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(buf[at+12:]))
			if mask&unix.IN_Q_OVERFLOW != 0 {
				for _, d := range w.ids {
					d.wake()
				}
			} else if d := w.ids[id]; d != nil && w.file == file {
				d.wake()
			}
		}
		w.mu.Unlock()
	}
}
