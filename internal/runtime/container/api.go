// Package container runs the containers of one node on libcontainer and looks after them until they are removed.
//
// It watches each container's process through a pidfd and its output through two FIFOs; it writes the container's record, its log, and what
// libcontainer writes. Always: what runs is on disk before it runs; a container, and whatever it writes, outlives this process, however it ends, and is found
// again by Open with its process, its exit code where the kernel still knows it, and its log going on where it stopped.
package container

import (
	"errors"
	"io"
	"log/slog"
	"time"

	"github.com/opencontainers/runc/libcontainer/configs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Errors that callers choose by.
var (
	ErrNotFound = errors.New("no such container")
	ErrExists   = errors.New("container exists already")
	ErrState    = errors.New("container is in another state")
)

// Spec is all that there is to know of a container before it runs.
type Spec struct {
	ID, Sandbox string // 64 hexadecimal digits each
	Rootfs      string // mounted by the caller

	Args, Env []string
	Cwd       string
	UID, GID  uint32
	Groups    []uint32

	Capabilities                                []string // such as CAP_CHOWN: bounding, permitted and effective
	Privileged, NoNewPrivileges, ReadonlyRootfs bool
	Seccomp                                     *configs.Seccomp // nil: unconfined
	MaskedPaths, ReadonlyPaths                  []string

	Mounts  []Mount // in this order, after the standard ones
	Devices []Device

	NetNS, IPCNS, UTSNS string // paths of pins; empty: the host's
	PIDNS               string // empty: its own; "host"; or a path
	Hostname            string

	CgroupPath string // below each hierarchy's root
	Resources  *runtimeapi.LinuxContainerResources
	Sysctls    map[string]string
	ShmPath    string // a directory for /dev/shm; empty: a tmpfs of its own

	TTY, Stdin, StdinOnce bool
	LogPath               string // empty: no log
	StopSignal            string // empty: SIGTERM
}

// Mount is a bind mount.
type Mount struct {
	Source, Destination         string
	Readonly, RecursiveReadonly bool
	Propagation                 string // "private" (or empty), "rslave", "rshared"
}

// Device is a device of the host.
type Device struct{ HostPath, ContainerPath, Permissions string }

// Status is where a container is in its life.
type Status int

// A container is created, then runs, then has exited; it never runs twice.
const (
	Created Status = iota
	Running
	Exited
)

// State is what there is to know of a container now.
type State struct {
	ID                         string
	Status                     Status
	PID                        int
	Created, Started, Finished time.Time
	ExitCode                   int32
	Reason, Message            string // Completed, Error, OOMKilled, StartError, Unknown
}

// Why a container ended.
const (
	Completed  = "Completed"
	Failed     = "Error"
	OOMKilled  = "OOMKilled"
	StartError = "StartError"
	Unknown    = "Unknown" // the exit code is not known: 255
)

// Config says where a manager keeps what.
type Config struct {
	Dir        string // DIR/ID: spec.json and state.json
	RunDir     string // not kept over a boot: FIFOs and libcontainer's state
	CgroupRoot string // default /sys/fs/cgroup
	Log        *slog.Logger
	OnEvent    func(State) // a container has started or ended; called at once, from any goroutine, and must not block
}

// ExecSpec is a further process in a running container, as its user, with its environment.
type ExecSpec struct {
	Args           []string
	Env            []string // besides the container's
	TTY            bool
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Resize         <-chan Size
	Timeout        time.Duration // zero: none
}

// Size is that of a terminal, in characters.
type Size struct{ Width, Height uint16 }
