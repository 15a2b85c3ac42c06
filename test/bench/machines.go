package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"sampan.dev/internal/client"
	"sampan.dev/internal/instance"
	"sampan.dev/internal/resource/kinds"
)

// machine is a network namespace, and perhaps a node in it.
type machine struct {
	name, addr, data string
	holder           *exec.Cmd
	bin              string
}

// machines are joined by a bridge, and have no way out.
type machines struct {
	bench *bench
	dir   string
	all   []*machine
	links []string
}

func (b *bench) newMachines() (*machines, error) {
	dir, err := os.MkdirTemp(b.dir, "machines-")
	return &machines{bench: b, dir: dir}, err
}

func ip(args ...string) error {
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// add makes a machine with an address on the bridge, or with none and no link.
func (ms *machines) add(name, bridge, addr string) (*machine, error) {
	m := &machine{name: name, addr: addr, data: filepath.Join(ms.dir, name), bin: ms.bench.bin, holder: exec.Command("sleep", "infinity")}
	m.holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := m.holder.Start(); err != nil {
		return nil, err
	}
	ms.all = append(ms.all, m)
	if err := m.ip("link", "set", "lo", "up"); err != nil || bridge == "" {
		return m, err
	}
	if exec.Command("ip", "link", "show", bridge).Run() != nil {
		ms.links = append(ms.links, bridge)
		if err := errors.Join(ip("link", "add", bridge, "type", "bridge"), ip("link", "set", bridge, "up")); err != nil {
			return nil, err
		}
	}
	return m, ms.plug(m, bridge, "eth0", addr+"/24")
}

// plug joins a machine to a bridge.
func (ms *machines) plug(m *machine, bridge, link, addr string) error {
	port := fmt.Sprintf("p%d-%s", m.holder.Process.Pid, link)
	ms.links = append(ms.links, port)
	return errors.Join(
		ip("link", "add", port, "type", "veth", "peer", "name", link, "netns", strconv.Itoa(m.holder.Process.Pid)), ip("link", "set", port, "master", bridge, "up"),
		m.ip("addr", "add", addr, "dev", link), m.ip("link", "set", link, "up"))
}

func (m *machine) command(ctx context.Context, words ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "nsenter", append([]string{"--target=" + strconv.Itoa(m.holder.Process.Pid), "--net", "--"}, words...)...)
}

func (m *machine) ip(args ...string) error {
	if out, err := m.command(context.Background(), append([]string{"ip"}, args...)...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s on %s: %w: %s", strings.Join(args, " "), m.name, err, out)
	}
	return nil
}

func (m *machine) sampan(ctx context.Context, args ...string) (string, error) {
	out, err := m.command(ctx, append(append([]string{m.bin}, args...), "--data-dir="+m.data)...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("sampan %s on %s: %w\n%s", strings.Join(args, " "), m.name, err, out)
	}
	return string(out), nil
}

// end resets the nodes, the server last, and removes the machines.
func (ms *machines) end() error {
	var errs []error
	for i := range ms.all {
		m := ms.all[len(ms.all)-1-i]
		if _, err := os.Stat(m.data); err == nil {
			_, err := m.sampan(context.Background(), "reset")
			errs = append(errs, err)
		}
	}
	for _, m := range ms.all {
		_ = m.holder.Process.Kill()
		_ = m.holder.Wait()
	}
	for _, link := range ms.links {
		_ = exec.Command("ip", "link", "del", link).Run() // some have gone with their other end
	}
	return errors.Join(append(errs, os.RemoveAll(ms.dir))...)
}

// cluster starts a server on the first machine and agents on two others, and gives a client that runs on the first.
func (ms *machines) cluster(ctx context.Context, flags ...string) (c *client.Client, err error) {
	for i, name := range []string{"one", "two", "three"} {
		m, err := ms.add(name, "bench-sw", fmt.Sprintf("192.168.90.%d", 10+i))
		if err != nil {
			return nil, err
		}
		if i == 0 {
			if _, err := m.sampan(ctx, append([]string{"server", "--detach", "--merge-kubeconfig=false", "--node-name=one"}, flags...)...); err != nil {
				return nil, err
			}
			continue
		}
		token, err := ms.all[0].sampan(ctx, "token", "create")
		if err != nil {
			return nil, err
		}
		lines := strings.Split(strings.TrimSpace(token), "\n")
		if _, err := m.sampan(ctx, "agent", "--detach", "--node-name="+name, "--server="+ms.all[0].addr, "--token="+lines[len(lines)-1]); err != nil {
			return nil, err
		}
	}
	// The bench itself gets onto the bridge.
	if err := ip("addr", "add", "192.168.90.250/24", "dev", "bench-sw"); err != nil {
		return nil, err
	}
	cfg, err := client.FromKubeconfig(filepath.Join(ms.all[0].data, "kubeconfig"), "")
	if err != nil {
		return nil, err
	}
	cfg.Server, cfg.Table = "https://"+ms.all[0].addr+":6443", kinds.Table()
	return client.New(cfg)
}

// own are pids of all processes of a machine's pods.
func (m *machine) pods() (pids []int) {
	inst, err := instance.At(m.data)
	if err != nil {
		return nil
	}
	seen := map[int]bool{}
	for _, hierarchy := range []string{"", "pids", "memory"} {
		_ = filepath.WalkDir(filepath.Join("/sys/fs/cgroup", hierarchy, inst.CgroupParent()), func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Name() == "cgroup.procs" {
				data, _ := os.ReadFile(path)
				for _, text := range strings.Fields(string(data)) {
					if pid, err := strconv.Atoi(text); err == nil && !seen[pid] {
						seen[pid] = true
						pids = append(pids, pid)
					}
				}
			}
			return nil
		})
	}
	return pids
}
