package tests

import (
	"bufio"
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func newReader(r io.Reader) *bufio.Reader { return bufio.NewReader(r) }

// caddyBinary builds cmd/caddy once.
func caddyBinary(t testing.TB) string {
	t.Helper()
	bin, err := buildOnce()
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

var buildOnce = sync.OnceValues(func() (string, error) {
	bin := filepath.Join(os.Getenv("XDG_DATA_HOME"), "caddy-under-test")
	cmd := exec.Command("go", "build", "-o", bin, "../cmd/caddy")
	cmd.Stderr = os.Stderr
	return bin, cmd.Run()
})

// command is a program that is killed when the test ends, or takes too long.
func command(t testing.TB, name string, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return exec.CommandContext(ctx, name, args...)
}

// A process is a Caddy of its own.
type process struct {
	*host
	file  string
	under string // a shell command, such as ulimit, before it
	cmd   *exec.Cmd
}

// runCaddy starts a Caddy with what config makes, and waits until it serves.
func runCaddy(t *testing.T, smtp string) *process {
	t.Helper()
	return runCaddyUnder(t, ":", smtp)
}

// runCaddyUnder is runCaddy with a command of the shell before it.
func runCaddyUnder(t *testing.T, under, smtp string) *process {
	t.Helper()
	return runCaddyIn(t, folder(t), under, smtp)
}

// runCaddyIn is runCaddyUnder with its data in a folder.
func runCaddyIn(t *testing.T, dir, under, smtp string) *process {
	t.Helper()
	h := &host{t: t, dir: dir, ports: map[string]int{}}
	h.admin = h.addr("admin")
	p := &process{host: h, file: filepath.Join(folder(t), "Caddyfile"), under: under}
	if err := os.WriteFile(p.file, []byte(h.config(smtp, "")), 0o600); err != nil {
		t.Fatal(err)
	}
	p.restart()
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		p.cmd.Wait()
	})
	return p
}

func (p *process) restart() {
	p.t.Helper()
	p.cmd = exec.Command("sh", "-c", p.under+`; exec "$0" "$@"`, caddyBinary(p.t), "run", "--config", p.file)
	var out strings.Builder
	p.cmd.Stdout, p.cmd.Stderr = &out, &out
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.Dial("tcp", p.addr("mx"))
		if err == nil {
			conn.Close()
			return
		}
		if time.Now().After(end) {
			p.t.Fatalf("it does not serve: %v\n%s", err, out.String())
		}
	}
}
