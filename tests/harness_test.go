// Package tests runs the whole of it: Caddy in this process, loaded from a
// Caddyfile, over real sockets on the loopback interface.
package tests

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddymail/caddy-smtp"
)

// TestMain keeps Caddy's data away from that of the user.
func TestMain(m *testing.M) {
	if addr := os.Getenv("CADDY_SMTP_SINK"); addr != "" {
		beSink(addr)
	}
	dir, err := os.MkdirTemp("", "caddy-smtp-tests")
	if err != nil {
		log.Fatal(err)
	}
	os.Setenv("XDG_DATA_HOME", dir)
	os.Setenv("XDG_CONFIG_HOME", dir)
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// A host is one Caddy under test. Caddy is one per process, so tests that have
// one do not run in parallel.
type host struct {
	t     *testing.T
	dir   string
	admin string
	ports map[string]int
}

func newHost(t *testing.T) *host {
	t.Helper()
	h := &host{t: t, dir: folder(t), ports: map[string]int{}}
	h.admin = h.addr("admin")
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	return h
}

// folder is as t.TempDir, but what still runs for a moment after Caddy has been
// stopped may write into it.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "caddy-smtp-test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for range 100 {
			if os.RemoveAll(dir) == nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
	return dir
}

// addr returns a loopback address that stays the same for a name.
func (h *host) addr(name string) string {
	h.t.Helper()
	if h.ports[name] == 0 {
		h.ports[name] = freePort(h.t)
	}
	return fmt.Sprintf("127.0.0.1:%d", h.ports[name])
}

// Ports are given one after the other, so that tests at the same time have
// different ones before they listen too.
var lastPort = func() *atomic.Int32 {
	n := new(atomic.Int32)
	n.Store(rand.Int32N(10_000))
	return n
}()

// freePort returns a port that nobody listens on, below those of the other
// tests' servers, from 20,000, and of the system's for who asks for any.
func freePort(t testing.TB) int {
	t.Helper()
	for range 100 {
		port := 10_000 + int(lastPort.Add(1))%10_000
		if ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			ln.Close()
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}

// config wraps the inside of the smtp option, and what comes behind the global
// options. In both, ADDR(name) is an address of the host and DIR its folder.
func (h *host) config(smtp, rest string) string {
	h.t.Helper()
	text := fmt.Sprintf(`{
	admin %s
	persist_config off
	skip_install_trust
	local_certs
	storage file_system %s/storage
	log {
		level ERROR
	}
	smtp {
		hostname mx.example.test
		queue DIR/queue
		%s
	}
}
%s`, h.admin, h.dir, smtp, rest)
	for {
		i := strings.Index(text, "ADDR(")
		if i < 0 {
			break
		}
		j := i + strings.IndexByte(text[i:], ')')
		text = text[:i] + h.addr(text[i+5:j]) + text[j+1:]
	}
	return strings.ReplaceAll(text, "DIR", h.dir)
}

// adapt turns a Caddyfile into JSON.
func adapt(t testing.TB, text string) ([]byte, error) {
	t.Helper()
	out, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
	for _, w := range warnings {
		if !strings.Contains(w.Message, "not formatted") {
			t.Logf("warning: %s", w)
		}
	}
	return out, err
}

// load loads what config makes, as a reload that is never skipped.
func (h *host) load(smtp string) {
	h.t.Helper()
	if err := h.try(smtp, ""); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) try(smtp, rest string) error {
	h.t.Helper()
	cfg, err := adapt(h.t, h.config(smtp, rest))
	if err != nil {
		return err
	}
	return caddy.Load(cfg, true)
}

// local is a server that takes mail for example.test into Maildirs.
const local = `
	agent local maildir DIR/mail/{smtp.rcpt.domain}/{smtp.rcpt.local}
	server mx ADDR(mx) {
		tls internal
		@local rcpt_domain example.test
		deliver @local local {
			users inline {
				alice@example.test
				bob@example.test
			}
		}
	}
`

// mails returns the messages in a Maildir.
func mails(t testing.TB, dir string) []string {
	t.Helper()
	var out []string
	for _, sub := range []string{"new", "cur"} {
		files, err := os.ReadDir(filepath.Join(dir, sub))
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		for _, f := range files {
			b, err := os.ReadFile(filepath.Join(dir, sub, f.Name()))
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, string(b))
		}
	}
	return out
}

// patience is for machines that are busy with other tests, too.
const patience = time.Minute

// wait polls until f is true.
func wait(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !f(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: it took too long", what)
		}
	}
}

// inbox waits for n messages of a user of example.test.
func (h *host) inbox(user string, n int) []string {
	h.t.Helper()
	dir := filepath.Join(h.dir, "mail", "example.test", user)
	wait(h.t, fmt.Sprintf("%d messages for %s", n, user), func() bool { return len(mails(h.t, dir)) >= n })
	if got := mails(h.t, dir); len(got) != n {
		h.t.Fatalf("%s got %d messages, want %d", user, len(got), n)
	}
	return mails(h.t, dir)
}

// A talker is a client that says what it is told.
type talker struct {
	t    testing.TB
	conn net.Conn
	r    *bufio.Reader
}

func dial(t testing.TB, addr string) *talker {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	k := &talker{t, conn, bufio.NewReader(conn)}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	return k
}

// greet dials, and says EHLO.
func greet(t testing.TB, addr string) *talker {
	t.Helper()
	k := dial(t, addr)
	k.want("220")
	k.say("250", "EHLO client.test")
	return k
}

// reply reads a reply; it is its lines.
func (k *talker) reply() (string, error) {
	var b strings.Builder
	for {
		l, err := k.r.ReadString('\n')
		b.WriteString(l)
		if err != nil || len(l) < 4 || l[3] != '-' {
			return b.String(), err
		}
	}
}

func (k *talker) want(code string) string {
	k.t.Helper()
	r, err := k.reply()
	if err != nil || !strings.HasPrefix(r, code) {
		k.t.Fatalf("got %q, %v; want %s", r, err, code)
	}
	return r
}

// say sends a line and wants a reply that begins with code.
func (k *talker) say(code, format string, args ...any) string {
	k.t.Helper()
	if _, err := fmt.Fprintf(k.conn, format+"\r\n", args...); err != nil {
		k.t.Fatal(err)
	}
	return k.want(code)
}

// send sends one message over the session.
func (k *talker) send(from, to, subject string) string {
	k.t.Helper()
	k.say("250", "MAIL FROM:<%s>", from)
	k.say("250", "RCPT TO:<%s>", to)
	k.say("354", "DATA")
	return k.say("250", "From: <%s>\r\nTo: <%s>\r\nSubject: %s\r\n\r\nhello\r\n.", from, to, subject)
}

// starttls goes on over TLS and returns its state.
func (k *talker) starttls(cfg *tls.Config) tls.ConnectionState {
	k.t.Helper()
	k.say("220", "STARTTLS")
	c := tls.Client(k.conn, cfg)
	if err := c.Handshake(); err != nil {
		k.t.Fatal(err)
	}
	k.conn, k.r = c, bufio.NewReader(c)
	return c.ConnectionState()
}

// insecure is a client that takes any certificate.
func insecure(name string) *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, ServerName: name} //nolint:gosec // the test looks at the certificate itself
}

// adminClient keeps no connections: a reload would close them.
var adminClient = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// ask asks the admin API, and again where a reload has reset the connection in the
// backlog of the listener of before.
func (h *host) ask(method, path string) *http.Response {
	h.t.Helper()
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		req, err := http.NewRequest(method, "http://"+h.admin+path, nil)
		if err != nil {
			h.t.Fatal(err)
		}
		resp, err := adminClient.Do(req)
		if err == nil {
			return resp
		}
		if time.Now().After(end) {
			h.t.Fatal(err)
		}
	}
}

// get asks the admin API.
func (h *host) get(path string, into any) int {
	h.t.Helper()
	resp := h.ask(http.MethodGet, path)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	if s, ok := into.(*string); ok {
		*s = string(b)
	} else if into != nil {
		if err := json.Unmarshal(b, into); err != nil {
			h.t.Fatalf("%s: %v: %s", path, err, b)
		}
	}
	return resp.StatusCode
}

// A sink is an SMTP server that keeps what it gets.
type sink struct {
	addr string
	mail chan string

	// took is told of each message before it is answered, and unheard, if not nil,
	// of one to which the reply was not read: the connection is reset then, where it
	// would end if it had been.
	took, unheard func(string)
}

// newSink takes any message. It is no part of what is tested, so it is the
// plainest that works.
func newSink(t testing.TB) *sink { return sinkAt(t, "127.0.0.1:0") }

func sinkAt(t testing.TB, addr string) *sink {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s := &sink{addr: ln.Addr().String(), mail: make(chan string, 10_000)}
	s.took = func(m string) { s.mail <- m }
	t.Cleanup(func() { ln.Close() })
	go s.run(ln)
	return s
}

func (s *sink) run(ln net.Listener) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		go s.serve(conn)
	}
}

func (s *sink) serve(conn net.Conn) {
	defer conn.Close()
	r := bufio.NewReader(conn)
	fmt.Fprint(conn, "220 sink.test ESMTP\r\n")
	last := "" // whose reply may be unread
	for {
		l, err := r.ReadString('\n')
		if err != nil {
			if last != "" && s.unheard != nil && !errors.Is(err, io.EOF) {
				s.unheard(last)
			}
			return
		}
		last = ""
		switch strings.ToUpper(strings.TrimSpace(l[:min(4, len(l))])) {
		case "DATA":
			fmt.Fprint(conn, "354 go on\r\n")
			var b bytes.Buffer
			for l != ".\r\n" {
				if l, err = r.ReadString('\n'); err != nil {
					return
				}
				b.WriteString(l)
			}
			last = b.String()
			s.took(last)
			fmt.Fprint(conn, "250 2.0.0 taken\r\n")
		case "QUIT":
			fmt.Fprint(conn, "221 bye\r\n")
			return
		default:
			fmt.Fprint(conn, "250 2.0.0 ok\r\n")
		}
	}
}

// next waits for a message.
func (s *sink) next(t testing.TB) string {
	t.Helper()
	select {
	case m := <-s.mail:
		return m
	case <-time.After(15 * time.Second):
		t.Fatal("nothing arrived")
		return ""
	}
}

func contains(t testing.TB, text string, parts ...string) {
	t.Helper()
	if i := slices.IndexFunc(parts, func(p string) bool { return !strings.Contains(text, p) }); i >= 0 {
		t.Errorf("lacks %q:\n%s", parts[i], text)
	}
}

// loadJSON loads a configuration that is JSON already.
func loadJSON(t testing.TB, cfg []byte) {
	t.Helper()
	if err := caddy.Load(cfg, true); err != nil {
		t.Fatal(err)
	}
}

// refusingServer refuses every recipient.
func refusingServer(t testing.TB) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				r := bufio.NewReader(conn)
				fmt.Fprint(conn, "220 sink.test ESMTP\r\n")
				for {
					l, err := r.ReadString('\n')
					switch {
					case err != nil:
						return
					case strings.HasPrefix(l, "RCPT"):
						fmt.Fprint(conn, "550 5.1.1 no such user here\r\n")
					default:
						fmt.Fprint(conn, "250 ok\r\n")
					}
				}
			}()
		}
	}()
	return ln.Addr().String()
}

func (h *host) post(path string) int {
	h.t.Helper()
	resp := h.ask(http.MethodPost, path)
	resp.Body.Close()
	return resp.StatusCode
}

func dialUnix(t testing.TB, path string) *talker {
	t.Helper()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &talker{t, conn, bufio.NewReader(conn)}
}
