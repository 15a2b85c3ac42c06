package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// Lines that a detached process sends back; every other line is progress for the person to read.
const (
	reportReady  = "\x00ready"
	reportFailed = "\x00failed "
)

// logLimit is the size at which a log is put aside at a start.
const logLimit = 10 << 20

// detach starts the same command in a process of its own session and shows its progress until its node is Ready.
func (u *up) detach(ctx context.Context, args []string) error {
	if err := u.preflight(); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("start in the background: %w", err)
	}
	log, err := u.openLog()
	if err != nil {
		return fmt.Errorf("start in the background: %w", err)
	}
	defer log.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start in the background: %w", err)
	}
	defer r.Close()
	cmd := exec.Command(self, append(without(args, "--detach"), "--report-fd=3")...)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = log, log, []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return fmt.Errorf("start in the background: %w", err)
	}
	in := bufio.NewScanner(r)
	for in.Scan() {
		line := in.Text()
		if line == reportReady {
			fmt.Fprintf(u.out, "sampan runs in the background (pid %d); its log is %s\n", cmd.Process.Pid, u.inst.Log())
			return cmd.Process.Release()
		}
		if msg, ok := strings.CutPrefix(line, reportFailed); ok {
			_ = cmd.Wait()
			return errors.New(msg)
		}
		fmt.Fprintln(u.out, line)
	}
	err = cmd.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("sampan ended before its node was Ready (%v): see %s", err, u.inst.Log())
}

func (u *up) openLog() (*os.File, error) {
	path := u.inst.Log()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if info, err := os.Stat(path); err == nil && info.Size() > logLimit {
		if err := os.Rename(path, path+".1"); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o640)
}

func without(args []string, flag string) []string {
	var rest []string
	for _, a := range args {
		if a != flag && !strings.HasPrefix(a, flag+"=") {
			rest = append(rest, a)
		}
	}
	return rest
}

// ready tells a detached start's parent that it may return.
func (u *up) ready() {
	if u.report != nil {
		fmt.Fprintln(u.report, reportReady)
		u.report.Close()
		u.report, u.out = nil, os.Stdout
	}
}

// failed tells it why there will be no such moment.
func (u *up) failed(err error) {
	if u.report != nil {
		fmt.Fprintln(u.report, reportFailed+strings.ReplaceAll(err.Error(), "\n", " "))
	}
}
