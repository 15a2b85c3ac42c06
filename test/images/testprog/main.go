// Command testprog is the program in the test image testprog:1. Each argument is one step, done in order; what it sees it
// prints, one line each, so that a test can read it from a container's log.
//
//	print:TEXT       a line to standard output        error:TEXT   a line to standard error
//	exit:CODE        end now                          sleep:DUR    wait, as Go writes durations; "sleep:" for ever
//	eat:MIB          take and touch so much memory    spin:DUR     use a whole CPU
//	ignore:SIGNAL    ignore TERM, INT, HUP or QUIT    signals      print each signal from now on, and go on
//	trap:CODE        end with CODE at SIGTERM         lines:N      N numbered lines; lines:N:DUR with pauses
//	env[:NAME]       the environment, or one of it    id           user, group, groups, capabilities, seccomp, no_new_privs
//	args             its own arguments                pwd          the working directory
//	hostname         host name                        ips          addresses
//	read:FILE        a file's content                 write:FILE:TEXT   writes a file
//	append:FILE:TEXT adds a line to a file            ls:DIR       names in a directory
//	stdin            prints what comes, until its end tty          says whether standard input is a terminal, and its size
//	dial:ADDR        connects, prints what comes      get:URL      an HTTP request's status and body
//	listen:PORT      answers HTTP: host name and path echo:PORT    sends back what comes over TCP; both in the background
//	api:PATH         asks the cluster's API, as client-go does in a pod
//	pid              its process ID                   ps           all processes it sees
package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

func main() {
	for _, step := range os.Args[1:] {
		verb, rest, _ := strings.Cut(step, ":")
		if err := do(verb, rest); err != nil {
			fmt.Fprintf(os.Stderr, "testprog: %s: %v\n", step, err)
			os.Exit(125)
		}
	}
}

var named = map[string]syscall.Signal{"TERM": syscall.SIGTERM, "INT": syscall.SIGINT, "HUP": syscall.SIGHUP, "QUIT": syscall.SIGQUIT}

func do(verb, rest string) error {
	switch verb {
	case "print":
		fmt.Println(rest)
	case "error":
		fmt.Fprintln(os.Stderr, rest)
	case "exit":
		code, err := strconv.Atoi(rest)
		if err != nil {
			return err
		}
		os.Exit(code)
	case "sleep", "spin":
		return pass(verb, rest)
	case "eat":
		return eat(rest)
	case "ignore", "signals", "trap":
		return signals(verb, rest)
	case "lines":
		return lines(rest)
	case "env", "args", "pwd", "hostname", "ips", "id", "pid", "ps", "tty":
		return show(verb, rest)
	case "read", "write", "append", "ls", "stdin":
		return files(verb, rest)
	case "api":
		return askAPI(rest)
	case "dial", "get", "listen", "echo":
		return network(verb, rest)
	default:
		return fmt.Errorf("no such step")
	}
	return nil
}

func pass(verb, rest string) error {
	if rest == "" {
		select {}
	}
	d, err := time.ParseDuration(rest)
	if err != nil {
		return err
	}
	if verb == "sleep" {
		time.Sleep(d)
		return nil
	}
	for end := time.Now().Add(d); time.Now().Before(end); {
	}
	return nil
}

var eaten [][]byte // kept, so that it stays taken

func eat(rest string) error {
	n, err := strconv.Atoi(rest)
	if err != nil {
		return err
	}
	for range n {
		b := make([]byte, 1<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		eaten = append(eaten, b)
	}
	fmt.Println("ate", n, "MiB")
	return nil
}

func signals(verb, rest string) error {
	switch verb {
	case "ignore":
		s, ok := named[rest]
		if !ok {
			return fmt.Errorf("no such signal")
		}
		signal.Ignore(s)
	case "trap":
		code, err := strconv.Atoi(rest)
		if err != nil {
			return err
		}
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGTERM)
		go func() {
			<-c
			fmt.Println("got terminated")
			os.Exit(code)
		}()
	default:
		c := make(chan os.Signal, 16)
		signal.Notify(c, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2)
		go func() {
			for s := range c {
				fmt.Println("got", s)
			}
		}()
	}
	return nil
}

func lines(rest string) error {
	count, pause, _ := strings.Cut(rest, ":")
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	wait := time.Duration(0)
	if pause != "" {
		if wait, err = time.ParseDuration(pause); err != nil {
			return err
		}
	}
	for i := range n {
		fmt.Println("line", i+1)
		time.Sleep(wait)
	}
	return nil
}

func show(verb, rest string) error {
	switch verb {
	case "env":
		for _, e := range os.Environ() {
			if rest == "" || strings.HasPrefix(e, rest+"=") {
				fmt.Println(e)
			}
		}
	case "args":
		fmt.Printf("%q\n", os.Args)
	case "pwd":
		dir, err := os.Getwd()
		fmt.Println(dir)
		return err
	case "hostname":
		host, err := os.Hostname()
		fmt.Println(host)
		return err
	case "ips":
		addrs, err := net.InterfaceAddrs()
		for _, a := range addrs {
			fmt.Println(a)
		}
		return err
	case "pid":
		fmt.Println("pid", os.Getpid())
	case "id":
		return id()
	case "ps":
		return ps()
	case "tty":
		var size [4]uint16
		_, _, e := syscall.Syscall(syscall.SYS_IOCTL, 0, syscall.TIOCGWINSZ, uintptr(unsafe.Pointer(&size)))
		if e != 0 {
			fmt.Println("no terminal")
			return nil
		}
		fmt.Printf("terminal %d rows %d columns\n", size[0], size[1])
	}
	return nil
}

func id() error {
	groups, err := os.Getgroups()
	if err != nil {
		return err
	}
	fmt.Printf("uid=%d gid=%d groups=%v\n", os.Getuid(), os.Getgid(), groups)
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(data)) {
		if strings.HasPrefix(line, "Cap") || strings.HasPrefix(line, "Seccomp:") || strings.HasPrefix(line, "NoNewPrivs") {
			fmt.Print(line)
		}
	}
	return nil
}

func ps() error {
	names, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return err
	}
	for _, f := range names {
		if data, err := os.ReadFile(f); err == nil {
			fmt.Println(strings.Split(f, "/")[2], strings.TrimSpace(strings.ReplaceAll(string(data), "\x00", " ")))
		}
	}
	return nil
}

func files(verb, rest string) error {
	name, text, _ := strings.Cut(rest, ":")
	switch verb {
	case "read":
		data, err := os.ReadFile(rest)
		_, _ = os.Stdout.Write(data)
		return err
	case "write":
		return os.WriteFile(name, []byte(text), 0o644)
	case "append":
		f, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintln(f, text); err != nil {
			return err
		}
		return f.Close()
	case "ls":
		entries, err := os.ReadDir(rest)
		for _, e := range entries {
			fmt.Println(e.Type(), e.Name())
		}
		return err
	}
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		fmt.Println("in:", in.Text())
	}
	fmt.Println("in: end")
	return in.Err()
}

func network(verb, rest string) error {
	switch verb {
	case "dial":
		c, err := net.DialTimeout("tcp", rest, 5*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = io.Copy(os.Stdout, c)
		return err
	case "get":
		client := http.Client{Timeout: 10 * time.Second}
		resp, err := client.Get(rest)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		fmt.Println(resp.Status)
		_, err = io.Copy(os.Stdout, resp.Body)
		return err
	}
	l, err := net.Listen("tcp", ":"+rest)
	if err != nil {
		return err
	}
	fmt.Println("listening on", l.Addr())
	if verb == "listen" {
		go func() {
			fmt.Println(http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				host, _ := os.Hostname()
				fmt.Fprintln(w, host, r.URL.Path)
			})))
		}()
		return nil
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	return nil
}
