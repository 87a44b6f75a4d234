//go:build linux

package interop

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSocketActivation: systemd-socket-activate binds the ports, and Caddy, which
// may run as anybody then, serves on them: in clear text, with TLS from the start,
// on IPv6 and on a unix socket.
func TestSocketActivation(t *testing.T) {
	t.Parallel()
	need(t, "systemd-socket-activate", "setpriv")
	needRoot(t, "setpriv")
	bin, err := caddyBinary()
	if err != nil {
		t.Fatal(err)
	}
	h := newHost(t)
	for _, d := range []string{"mail", "storage", "queue", "home"} {
		if err := os.Mkdir(filepath.Join(h.dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
		chown(t, filepath.Join(h.dir, d), "nobody")
	}
	six := fmt.Sprintf("[::1]:%s", h.port("six"))
	text := h.config(boxes + `
	server mx fd/3 fd/5 fd/6 {
		listen_tls fd/4
		tls internal` + local + `
	}`)
	file := filepath.Join(h.dir, "Caddyfile")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	// It waits for a first connection before it starts what it is told.
	cmd := command("systemd-socket-activate",
		"-l", h.addr("mx"), "-l", h.addr("tls"), "-l", six, "-l", filepath.Join(h.dir, "home/smtp.sock"),
		"-E", "HOME="+h.dir+"/home", "-E", "XDG_DATA_HOME="+h.dir+"/home", "-E", "XDG_CONFIG_HOME="+h.dir+"/home",
		"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs", bin, "run", "--config", file)
	p := start(t, "systemd-socket-activate", cmd)
	p.says(t, "Listening on")
	send(t, h.addr("mx"), "s@elsewhere.test", "user@example.test", "the first")
	got(t, h.inbox("user"), "the first")
	p.says(t, "serving initial configuration")
	send(t, six, "s@elsewhere.test", "user@example.test", "over IPv6")
	contains(t, got(t, h.inbox("user"), "over IPv6").text, "[IPv6:::1]")
	conn, err := net.Dial("unix", filepath.Join(h.dir, "home/smtp.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	sock := &plaintext{t, conn, bufio.NewReader(conn)}
	sock.want("220", "")
	sock.want("250", "EHLO client.test\r\n")
	implicit := inClear(t, h.addr("tls"))
	implicit.secure()
	implicit.want("220", "")
	implicit.want("250", "EHLO client.test\r\n")
	if st, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid)); err != nil || !strings.Contains(string(st), "Uid:\t65534\t65534") || !strings.Contains(string(st), "CapEff:\t0000000000000000") {
		t.Errorf("it runs as somebody else: %v\n%s", err, st)
	}
}
