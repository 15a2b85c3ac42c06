package hold

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "hold" {
		os.Exit(Main(os.Args[2:]))
	}
	os.Exit(m.Run())
}

// held starts a process, and a holder of a pipe's writing end beside it. It returns the reading end.
func held(t *testing.T, path string) (*exec.Cmd, *os.File) {
	t.Helper()
	process := exec.Command("sleep", "1000")
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = process.Process.Kill(); _ = process.Wait() })
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	if err := Start(path, process.Process.Pid, w); err != nil {
		t.Fatal(err)
	}
	w.Close()
	return process, r
}

// ended waits for a pipe's last writer to go.
func ended(t *testing.T, r *os.File) {
	t.Helper()
	if err := r.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, err := r.Read(make([]byte, 1)); n != 0 || os.IsTimeout(err) {
		t.Fatalf("it is open still: %d, %v", n, err)
	}
}

func TestWhatIsHeldCanBeTakenAgainAndAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), strings.Repeat("long", 40), "hold")
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	_, r := held(t, path)
	lines := bufio.NewReader(r)
	for _, word := range []string{"one\n", "two\n"} {
		files, err := Take(path)
		if err != nil || len(files) != 1 {
			t.Fatalf("%v, %v", files, err)
		}
		if _, err := files[0].WriteString(word); err != nil {
			t.Fatal(err)
		}
		files[0].Close()
		if got, err := lines.ReadString('\n'); got != word {
			t.Errorf("%q, %v", got, err)
		}
	}
	End(path)
	ended(t, r)
	if _, err := os.Stat(path); err == nil {
		t.Error("its socket is left")
	}
	if _, err := Take(path); err == nil {
		t.Error("it gives what it does not hold any more")
	}
	End(path) // nobody there
}

func TestAHolderGoesWhenProcessAndDirectoryHaveGone(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "hold")
	process, r := held(t, path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	_ = process.Process.Kill()
	ended(t, r)
}

func TestTheReadersModeIsLeftAsItIs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hold")
	process := exec.Command("sleep", "1000")
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = process.Process.Kill(); _ = process.Wait() }()
	r, w, err := os.Pipe() // both do not block
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if err := Start(path, process.Process.Pid, r); err != nil {
		t.Fatal(err)
	}
	defer End(path)
	raw, _ := r.SyscallConn()
	var flags int
	_ = raw.Control(func(fd uintptr) { flags, err = unix.FcntlInt(fd, unix.F_GETFL, 0) })
	if err != nil || flags&unix.O_NONBLOCK == 0 {
		t.Errorf("it blocks now: %#x, %v", flags, err)
	}
}
