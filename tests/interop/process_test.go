//go:build linux

package interop

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// need skips the test without the program, which is a failure where all of
// them are required.
func need(t testing.TB, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			missing(t, p+" is not installed")
		}
	}
}

// needRoot skips the test where a server that changes users cannot.
func needRoot(t testing.TB, program string) {
	t.Helper()
	if os.Getuid() != 0 {
		missing(t, program+" needs root")
	}
}

func missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CADDY_SMTP_REQUIRE_ALL") != "" {
		t.Fatal(what)
	}
	t.Skip(what)
}

// An output is what a process wrote, to be read while it runs.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// tail returns the last lines.
func (o *output) tail(n int) string {
	lines := strings.Split(strings.TrimSpace(o.String()), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// A process is a server that runs beside the test, and ends with it.
type process struct {
	name   string
	cmd    *exec.Cmd
	out    *output
	exited chan struct{}
}

// command is a program that dies with the test's process, whatever ends that,
// and heads a process group.
func command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	return cmd
}

// contained is a command in a PID and a mount namespace of its own. All of a
// daemon's processes end with its first one, and what it mounts is seen by
// nobody else. It needs root.
func contained(name string, args ...string) *exec.Cmd {
	cmd := command(name, args...)
	cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWPID
	cmd.SysProcAttr.Unshareflags = syscall.CLONE_NEWNS
	return cmd
}

// start runs a command until stop, or the end of the test.
func start(t testing.TB, name string, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{name: name, cmd: cmd, out: new(output), exited: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = p.out, p.out
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	go func() {
		cmd.Wait()
		close(p.exited)
	}()
	t.Cleanup(func() {
		p.stop()
		if t.Failed() {
			t.Logf("%s said:\n%s", name, p.out.tail(60))
		}
	})
	return p
}

// stop ends it in good order if it can, and by force if it takes too long.
func (p *process) stop() {
	syscall.Kill(-p.cmd.Process.Pid, syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(8 * time.Second):
	}
	p.kill()
}

// kill ends it and its process group at once.
func (p *process) kill() {
	syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.exited
}

// serves waits until something answers at addr.
func (p *process) serves(t testing.TB, network, addr string) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.Dial(network, addr)
		if err == nil {
			conn.Close()
			return
		}
		select {
		case <-p.exited:
			t.Fatalf("%s ended", p.name)
		default:
		}
		if time.Now().After(end) {
			t.Fatalf("%s does not serve: %v", p.name, err)
		}
	}
}

// says waits until it has written a text.
func (p *process) says(t testing.TB, text string) {
	t.Helper()
	wait(t, p.name+" to say "+text, func() bool {
		select {
		case <-p.exited:
			t.Fatalf("%s ended", p.name)
		default:
		}
		return strings.Contains(p.out.String(), text)
	})
}

// A result is how a client ended.
type result struct {
	code int
	out  string
}

// try runs a client to its end.
func try(t testing.TB, stdin, name string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatalf("%s: %v", name, err)
	}
	return result{cmd.ProcessState.ExitCode(), string(out)}
}

// run runs a client that must succeed, and returns what it wrote.
func run(t testing.TB, stdin, name string, args ...string) string {
	t.Helper()
	r := try(t, stdin, name, args...)
	if r.code != 0 {
		t.Fatalf("%s ended with %d:\n%s", name, r.code, last(r.out, 60))
	}
	return r.out
}

// nodeModules is where .ci/install puts npm packages, of which name is one.
func nodeModules(t testing.TB, name string) string {
	t.Helper()
	need(t, "node")
	dir := os.Getenv("CADDY_SMTP_NPM")
	if dir == "" {
		dir = "/opt/caddy-smtp-npm"
	}
	dir = filepath.Join(dir, "node_modules")
	if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
		missing(t, name+" is not installed")
	}
	return dir
}

func last(s string, lines int) string {
	var o output
	o.Write([]byte(s))
	return o.tail(lines)
}

var nextPort = func() *atomic.Int32 {
	n := new(atomic.Int32)
	n.Store(int32(20_000 + os.Getpid()%10_000))
	return n
}()

// freePort returns a port below those that the system gives to clients, so
// that no connection of another test takes it before the server does. What
// keeps other runs of these tests away from it is an abstract socket.
func freePort(t testing.TB) int {
	t.Helper()
	for range 2000 {
		port := int(nextPort.Add(1))
		ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
		if err != nil {
			continue
		}
		ln.Close()
		if mine(t, strconv.Itoa(port)) {
			return port
		}
	}
	t.Fatal("no port is free")
	return 0
}

// mine claims a name among all runs of these tests on this machine, until the
// test ends.
func mine(t testing.TB, name string) bool {
	ln, err := net.Listen("unix", "@caddy-smtp-interop-"+name)
	if err != nil {
		return false
	}
	t.Cleanup(func() { ln.Close() })
	return true
}
