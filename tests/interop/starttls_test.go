//go:build linux

package interop

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// The tests in this file are those of "Why TLS Is Better Without STARTTLS"
// (Poddebniak, Ising, Böck and Schinzel, 2021) that are about SMTP, for a server
// and for a client: what somebody on the way puts into the plaintext before the
// handshake must mean nothing after it.

// A plaintext is a connection to a server, before TLS.
type plaintext struct {
	t    *testing.T
	conn net.Conn
	r    *bufio.Reader
}

func inClear(t *testing.T, addr string) *plaintext {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	return &plaintext{t, conn, bufio.NewReader(conn)}
}

// say sends, and returns the last line of a reply.
func (p *plaintext) say(text string) string {
	fmt.Fprint(p.conn, text)
	for {
		l, err := p.r.ReadString('\n')
		if err != nil || len(l) < 4 || l[3] != '-' {
			return l
		}
	}
}

func (p *plaintext) want(code, text string) {
	p.t.Helper()
	if got := p.say(text); !strings.HasPrefix(got, code) {
		p.t.Fatalf("%q: %q, want %s", text, got, code)
	}
}

// secure does the handshake that comes after a 220.
func (p *plaintext) secure() {
	p.t.Helper()
	c := tls.Client(p.conn, insecure("mx.example.test"))
	if err := c.Handshake(); err != nil {
		p.t.Fatal(err)
	}
	p.conn, p.r = c, bufio.NewReader(c)
}

// silent wants nothing to be said for a moment.
func (p *plaintext) silent() {
	p.t.Helper()
	p.conn.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
	if l, err := p.r.ReadString('\n'); err == nil || l != "" {
		p.t.Fatalf("it says %q", l)
	}
	p.conn.SetReadDeadline(time.Now().Add(30 * time.Second))
}

// TestStartTLSServer is the part for servers.
func TestStartTLSServer(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.serve(boxes+`
	server mx ADDR(mx) {
		tls internal
		plaintext_auth`+strings.Replace(users, "auth {", "auth {\noptional", 1)+local+`
	}`, "mx")
	h.root("mx")
	const hello = "EHLO client.test\r\n"
	const authenticate = "AUTH PLAIN AGFsaWNlQGV4YW1wbGUudGVzdABxdWlja3N0YXJ0\r\n"

	// Commands behind STARTTLS, in its segment. A server that keeps them in its
	// buffer would answer them under TLS.
	for _, behind := range []string{"EHLO injected.test\r\n", "NOOP\r\n", hello + "MAIL FROM:<evil@evil.test>\r\n", "\r\n", "x", "\x16\x03\x01"} {
		t.Run(fmt.Sprintf("injected %q", behind), func(t *testing.T) {
			p := inClear(t, h.addr("mx"))
			p.want("220", "")
			p.want("250", hello)
			if got := p.say("STARTTLS\r\n" + behind); !strings.HasPrefix(got, "554 ") {
				t.Fatalf("got %q", got)
			}
			if got := p.say(""); got != "" {
				t.Errorf("it goes on: %q", got)
			}
		})
	}
	// In a segment of their own, before the handshake: they are no handshake.
	t.Run("injected behind the reply", func(t *testing.T) {
		p := inClear(t, h.addr("mx"))
		p.want("220", "")
		p.want("250", hello)
		p.want("220", "STARTTLS\r\n")
		fmt.Fprint(p.conn, "EHLO injected.test\r\nNOOP\r\n")
		if got := p.say(""); strings.HasPrefix(got, "2") {
			t.Errorf("commands in clear text are answered: %q", got)
		}
	})
	// STARTTLS behind others in a segment: all are answered, then there is TLS.
	t.Run("pipelined before", func(t *testing.T) {
		p := inClear(t, h.addr("mx"))
		p.want("220", "")
		p.want("250", hello+"NOOP\r\nSTARTTLS\r\n")
		p.want("250", "")
		p.want("220", "")
		p.secure()
		p.silent()
		p.want("503", "MAIL FROM:<a@b.test>\r\n") // EHLO is forgotten
		p.want("250", hello)
	})
	// Session fixation: who logs in, or begins a message, for a client that
	// comes after.
	t.Run("login before", func(t *testing.T) {
		p := inClear(t, h.addr("mx"))
		p.want("220", "")
		p.want("250", hello)
		p.want("235", authenticate)
		p.want("220", "STARTTLS\r\n")
		p.secure()
		p.silent()
		p.want("250", hello)
		p.want("235", authenticate) // it would be 503 if the first login were there
	})
	t.Run("transaction before", func(t *testing.T) {
		p := inClear(t, h.addr("mx"))
		p.want("220", "")
		p.want("250", hello)
		p.want("250", "MAIL FROM:<evil@evil.test>\r\n")
		p.want("503", "STARTTLS\r\n")
		p.want("250", "RSET\r\n")
		p.want("220", "STARTTLS\r\n")
		p.secure()
		p.want("503", "RCPT TO:<alice@example.test>\r\n")
	})
	t.Run("twice", func(t *testing.T) {
		p := inClear(t, h.addr("mx"))
		p.want("220", "")
		p.want("250", hello)
		p.want("220", "STARTTLS\r\n")
		p.secure()
		p.want("250", hello)
		p.want("503", "STARTTLS\r\n")
		p.want("501", "STARTTLS now\r\n")
		p.want("250", "NOOP\r\n")
	})
}

// A mitm is a next hop with somebody on the way, who plays act on each
// connection and notes what the client should not have said.
type mitm struct {
	addr string
	cert tls.Certificate

	mu     sync.Mutex
	faults []string
	done   int // connections
}

func newMITM(t *testing.T, act func(m *mitm, p *plaintext)) *mitm {
	t.Helper()
	certFile, keyFile := selfSigned(t, openDir(t), "far.test")
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	m := &mitm{addr: ln.Addr().String(), cert: cert}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(10 * time.Second))
				act(m, &plaintext{t, c, bufio.NewReader(c)})
				m.mu.Lock()
				m.done++
				m.mu.Unlock()
			}()
		}
	}()
	return m
}

func (m *mitm) fault(format string, args ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.faults = append(m.faults, fmt.Sprintf(format, args...))
}

func (m *mitm) ended() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.done
}

// line reads a command, "" at the end.
func (p *plaintext) line() string {
	l, _ := p.r.ReadString('\n')
	return strings.TrimSuffix(l, "\r\n")
}

// secureServer is the peer's side of the handshake.
func (m *mitm) secureServer(p *plaintext) bool {
	c := tls.Server(p.conn, &tls.Config{Certificates: []tls.Certificate{m.cert}})
	if c.Handshake() != nil {
		return false
	}
	p.conn, p.r = c, bufio.NewReader(c)
	return true
}

// inStep reads EHLO, and lets the client wait for the reply: what it says
// meanwhile it says because it has taken something else for the reply.
func (m *mitm) inStep(p *plaintext) {
	if l := p.line(); !strings.HasPrefix(l, "EHLO") {
		m.fault("not EHLO: %q", l)
	}
	p.conn.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
	if l := p.line(); l != "" {
		m.fault("out of step: %q", l)
	}
	p.conn.SetReadDeadline(time.Now().Add(10 * time.Second))
}

// receive is an honest server from behind the reply to EHLO.
func (m *mitm) receive(p *plaintext, ehlo string) {
	fmt.Fprint(p.conn, ehlo)
	for {
		switch l := p.line(); {
		case l == "":
			return
		case strings.HasPrefix(l, "DATA"):
			fmt.Fprint(p.conn, "354 go on\r\n")
			for l := p.line(); l != "." && l != ""; l = p.line() {
				continue
			}
			fmt.Fprint(p.conn, "250 taken\r\n")
		case strings.HasPrefix(l, "AUTH"):
			fmt.Fprint(p.conn, "235 you are in\r\n")
		default:
			fmt.Fprint(p.conn, "250 ok\r\n")
		}
	}
}

// nothing wants the client to say nothing but these words.
func (m *mitm) nothing(p *plaintext, but ...string) {
	for l := p.line(); l != ""; l = p.line() {
		allowed := false
		for _, b := range but {
			allowed = allowed || strings.HasPrefix(l, b)
		}
		if !allowed {
			m.fault("in clear: %q", l)
		}
		fmt.Fprint(p.conn, "250 ok\r\n")
	}
}

// begin is the plaintext up to STARTTLS.
func (m *mitm) begin(p *plaintext, ehlo string) {
	fmt.Fprint(p.conn, "220 far.test ESMTP\r\n")
	p.line()
	fmt.Fprint(p.conn, ehlo)
	if l := p.line(); l != "STARTTLS" {
		m.fault("not STARTTLS: %q", l)
	}
}

const (
	offers = "250-far.test\r\n250 STARTTLS\r\n"
	plain  = "250-far.test\r\n250 8BITMIME\r\n"
	logins = "250-far.test\r\n250 AUTH PLAIN LOGIN\r\n"
)

// TestStartTLSClient is the part for clients: our relay and an attacker between
// it and the next hop.
func TestStartTLSClient(t *testing.T) {
	t.Parallel()
	const (
		required = "tls required\ninsecure_skip_verify\nauth alice secret"
		secure   = "tls required\ninsecure_skip_verify"
	)
	for name, tt := range map[string]struct {
		options  string
		delivers bool
		act      func(m *mitm, p *plaintext)
	}{
		"honest": {required, true, func(m *mitm, p *plaintext) {
			m.begin(p, offers)
			fmt.Fprint(p.conn, "220 go\r\n")
			if m.secureServer(p) {
				m.inStep(p)
				m.receive(p, logins)
			}
		}},
		// A reply behind the 220, which a client that keeps its buffer takes for
		// the one to its EHLO under TLS.
		"a reply injected before TLS": {required, false, func(m *mitm, p *plaintext) {
			m.begin(p, offers)
			fmt.Fprint(p.conn, "220 go\r\n250-far.test\r\n250 AUTH PLAIN\r\n")
			if m.secureServer(p) {
				if l := p.line(); strings.HasPrefix(l, "EHLO") { // it may give up instead
					p.conn.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
					if l := p.line(); l != "" {
						m.fault("out of step: %q", l)
					}
				}
			}
		}},
		// Replies that come before their commands.
		"replies before commands": {secure, false, func(m *mitm, p *plaintext) {
			fmt.Fprint(p.conn, "220 far.test ESMTP\r\n"+offers+"220 go\r\n")
			if l := p.line(); l != "" && !strings.HasPrefix(l, "EHLO") {
				m.fault("out of step: %q", l)
			}
			m.nothing(p, "STARTTLS", "QUIT", "\x16")
		}},
		// What was offered in clear means nothing under TLS.
		"capabilities of the plaintext": {required, false, func(m *mitm, p *plaintext) {
			m.begin(p, "250-far.test\r\n250-AUTH PLAIN LOGIN\r\n250 STARTTLS\r\n")
			fmt.Fprint(p.conn, "220 go\r\n")
			if m.secureServer(p) {
				m.inStep(p)
				fmt.Fprint(p.conn, plain)
				m.nothing(p, "QUIT")
			}
		}},
		"STARTTLS taken out of the offer": {required, false, func(m *mitm, p *plaintext) {
			fmt.Fprint(p.conn, "220 far.test ESMTP\r\n")
			p.line()
			fmt.Fprint(p.conn, logins)
			m.nothing(p, "QUIT", "STARTTLS")
		}},
		"STARTTLS refused": {required, false, func(m *mitm, p *plaintext) {
			m.begin(p, "250-far.test\r\n250-AUTH PLAIN LOGIN\r\n250 STARTTLS\r\n")
			fmt.Fprint(p.conn, "454 not now\r\n")
			m.nothing(p, "QUIT")
		}},
		"no handshake behind 220": {required, false, func(m *mitm, p *plaintext) {
			m.begin(p, offers)
			fmt.Fprint(p.conn, "220 go\r\n")
			fmt.Fprint(p.conn, "250-far.test\r\n250 AUTH PLAIN\r\n")
			for l := p.line(); l != ""; l = p.line() {
				if strings.HasPrefix(l, "AUTH") || strings.HasPrefix(l, "MAIL") || strings.HasPrefix(l, "EHLO") {
					m.fault("in clear: %q", l)
				}
			}
		}},
		"another's certificate": {"tls required", false, func(m *mitm, p *plaintext) {
			m.begin(p, offers)
			fmt.Fprint(p.conn, "220 go\r\n")
			if m.secureServer(p) {
				m.nothing(p, "QUIT")
			}
		}},
		// Where TLS is not required, mail goes in clear, and the client still
		// says nothing out of step.
		"opportunistic, without the offer": {"tls opportunistic", true, func(m *mitm, p *plaintext) {
			fmt.Fprint(p.conn, "220 far.test ESMTP\r\n")
			m.inStep(p)
			m.receive(p, plain)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMITM(t, tt.act)
			h := newHost(t)
			h.serve(gateway(m.addr+" {\ntrust 127.0.0.0/8\n"+tt.options+"\n}"), "out")
			send(t, h.addr("out"), login, "user@far.test", "between")
			if tt.delivers {
				wait(t, "the queue to be empty", func() bool { return !strings.Contains(h.queued(), "far.test") })
			} else {
				wait(t, "two attempts", func() bool { return m.ended() >= 2 })
				if !strings.Contains(h.queued(), "user@far.test") {
					t.Error("it is not in the queue any more")
				}
			}
			m.mu.Lock()
			defer m.mu.Unlock()
			for _, f := range m.faults {
				t.Error(f)
			}
		})
	}
}
