package session_test

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/caddymail/caddy-smtp/smtpapp/wire"
)

// A target is a server that a fault is looked for in.
type target struct {
	dial  func(t *testing.T) *client
	taken func() []string // content
	tls   bool
}

// faults are those of go-smtp v0.25.1 that wire is there for. See reports
// whether a target has one.
var faults = []struct {
	name string
	see  func(t *testing.T, on target) bool
}{
	{"a truncated BDAT is a message", func(t *testing.T, on target) bool {
		c := on.dial(t)
		c.envelope()
		c.raw("BDAT 1000 LAST\r\nSubject: half\r\n\r\nonly this")
		c.Conn.(interface{ CloseWrite() error }).CloseWrite()
		c.rest()
		return len(on.taken()) > 0
	}},
	{"after a timeout content is commands", func(t *testing.T, on target) bool {
		c := on.dial(t)
		c.envelope()
		c.send("DATA")
		c.expect("354")
		c.send("Subject: x", "")
		time.Sleep(3 * shortTime / 2)
		c.send("MAIL FROM:<ceo@example.org>", "RCPT TO:<user@local.example>", "DATA")
		time.Sleep(shortTime / 2)
		c.send("smuggled", ".", "QUIT")
		c.rest()
		return len(on.taken()) > 0
	}},
	{"a message given up answers for the next", func(t *testing.T, on target) bool {
		c := on.dial(t)
		c.envelope()
		c.raw("BDAT 4\r\nabcd")
		c.expect("250")
		c.send("RSET")
		c.expect("250")
		c.envelope()
		c.raw("BDAT 6 LAST\r\na: b\r\n")
		return !strings.HasPrefix(c.reply(), "250")
	}},
	{"a pipelined chunk is a long line", func(t *testing.T, on target) bool {
		c := on.dial(t)
		c.envelope()
		c.raw("BDAT 3508 LAST\r\na: b\r\n\r\n" + strings.Repeat("x", 3500))
		return !strings.HasPrefix(c.reply(), "250")
	}},
	{"a message of the greatest size is too large", func(t *testing.T, on target) bool {
		c := on.dial(t)
		c.envelope()
		c.send("DATA")
		c.expect("354")
		c.raw(strings.Repeat("01234567\r\n", maxSize/10) + ".\r\n")
		return !strings.HasPrefix(c.reply(), "250")
	}},
	{"a failed handshake goes on in plaintext", func(t *testing.T, on target) bool {
		c := on.dial(t)
		if on.tls {
			return false
		}
		c.send("STARTTLS")
		c.expect("220")
		c.send("this is not TLS")
		time.Sleep(shortTime / 4)
		c.send("MAIL FROM:<s@example.org>")
		return strings.Contains(c.rest(), "250")
	}},
	{"STARTTLSxyz is STARTTLS", func(t *testing.T, on target) bool {
		c := on.dial(t)
		c.send("STARTTLSxyz")
		r := c.reply()
		return !strings.HasPrefix(r, "500") && !strings.Contains(r, "Already running")
	}},
	{"an end of content behind CRCRLF is missed", func(t *testing.T, on target) bool {
		c := on.dial(t)
		c.envelope()
		c.send("DATA")
		c.expect("354")
		c.raw("x\r\r\n.\r\n")
		r := c.reply() // at last the one to its silence
		return !strings.HasPrefix(r, "550") && !strings.HasPrefix(r, "250")
	}},
	{"commands run after QUIT", func(t *testing.T, on target) bool {
		c := on.dial(t)
		c.send("QUIT", "EHLO again", "MAIL FROM:<s@example.org>", "RCPT TO:<user@local.example>", "BDAT 6 LAST", "a: b")
		c.rest()
		time.Sleep(shortTime)
		return len(on.taken()) > 0
	}},
}

const (
	shortTime = 200 * time.Millisecond
	maxSize   = 10_000
)

// TestFaultsOfTheLibrary shows each fault where there is nothing to cure it,
// so that it is known when the cure is not needed any more.
func TestFaultsOfTheLibrary(t *testing.T) {
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			if raceEnabled {
				t.Skip("the fault is a data race, or next to one")
			}
			t.Parallel()
			if !f.see(t, bare(t, f.name == "commands run after QUIT")) {
				t.Error("go-smtp does not have this fault any more")
			}
		})
	}
}

func TestFaultsAreCured(t *testing.T) {
	for _, how := range []string{"plaintext", "STARTTLS", "TLS"} {
		for _, f := range faults {
			t.Run(how+"/"+f.name, func(t *testing.T) {
				t.Parallel()
				if f.see(t, ours(t, how)) {
					t.Error("fault is not cured")
				}
			})
		}
	}
}

// ours is a server of this package.
func ours(t *testing.T, how string) target {
	s := newServer(t)
	s.cfg.Limits.MessageSize = maxSize
	s.cfg.Timeouts = wire.Timeouts{Block: shortTime}
	addr := s.listen(how == "TLS")
	return target{
		tls: how != "plaintext",
		dial: func(t *testing.T) *client {
			c := dial(t, addr)
			if how == "TLS" {
				c = c.startTLS()
			}
			c.expect("220")
			c.send("EHLO client.example")
			c.expect("250")
			if how == "STARTTLS" {
				c.send("STARTTLS")
				c.expect("220")
				c = c.startTLS()
				c.send("EHLO client.example")
				c.expect("250")
			}
			return c
		},
		taken: func() (all []string) {
			for _, m := range s.messages() {
				all = append(all, m.body)
			}
			return all
		},
	}
}

// bare is go-smtp alone.
func bare(t *testing.T, noTimeout bool) target {
	b := new(backend)
	s := smtp.NewServer(b)
	s.Domain = "mx.example"
	s.ErrorLog = nothing{}
	s.MaxMessageBytes = maxSize
	if !noTimeout {
		s.ReadTimeout = shortTime
	}
	s.TLSConfig = serverTLS(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	return target{taken: b.messages, dial: func(t *testing.T) *client {
		c := dial(t, l.Addr().String())
		c.expect("220")
		c.send("EHLO client.example")
		c.expect("250")
		return c
	}}
}

type nothing struct{}

func (nothing) Printf(string, ...any) {}
func (nothing) Println(...any)        {}

// A backend takes everything, slowly.
type backend struct {
	mu    sync.Mutex
	taken []string
}

func (b *backend) messages() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.taken
}

func (b *backend) NewSession(*smtp.Conn) (smtp.Session, error) { return b, nil }
func (b *backend) Reset()                                      {}
func (b *backend) Logout() error                               { return nil }
func (b *backend) Mail(string, *smtp.MailOptions) error        { return nil }
func (b *backend) Rcpt(string, *smtp.RcptOptions) error        { return nil }
func (b *backend) Data(r io.Reader) error {
	m, err := io.ReadAll(r)
	if time.Sleep(shortTime / 4); err != nil {
		return err
	}
	time.Sleep(shortTime / 4)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.taken = append(b.taken, string(m))
	return nil
}

func dial(t *testing.T, addr string) *client {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(10 * time.Second))
	return newClient(t, c)
}

func (c *client) startTLS() *client {
	c.t.Helper()
	tc := tls.Client(c.Conn, &tls.Config{InsecureSkipVerify: true})
	if err := tc.Handshake(); err != nil {
		c.t.Fatal(err)
	}
	return &client{c.t, tc, bufio.NewReader(tc)}
}

func (c *client) envelope() {
	c.t.Helper()
	c.send("MAIL FROM:<s@example.org>", "RCPT TO:<user@local.example>")
	c.expect("250", "250")
}

// rest reads all that the server still says.
func (c *client) rest() string {
	c.SetReadDeadline(time.Now().Add(2 * shortTime))
	b, _ := io.ReadAll(c.r)
	return string(b)
}

// TestStartTLSForgets shows that nothing from before TLS counts (RFC 3207,
// section 4.2).
func TestStartTLSForgets(t *testing.T) {
	s := newServer(t)
	c := dial(t, s.listen(false))
	c.expect("220")
	c.send("EHLO client.example")
	c.expect("250")
	c.send("AUTH PLAIN AGEAc2VjcmV0", "STARTTLS")
	c.expect("235", "220")
	c = c.startTLS()
	c.send("MAIL FROM:<s@example.org>")
	c.expect("503 5.5.1")
	c.send("EHLO client.example")
	if r := c.reply(); strings.Contains(r, "STARTTLS") || !strings.Contains(r, "AUTH PLAIN") {
		t.Fatalf("%q", r)
	}
	c.send("STARTTLS")
	c.expect("503 5.5.1")
	c.send("AUTH PLAIN AGEAc2VjcmV0")
	c.expect("235")
	c.envelope()
	c.send("DATA")
	c.expect("354")
	c.send("a: b", "", ".", "QUIT")
	c.expect("250", "221")
	c.gone()
	<-s.closed
	if n := len(s.messages()); n != 1 || s.ended != 1 {
		t.Fatal(n, s.ended)
	}
}

// TestPlaintextAuth shows AUTH where passwords can be read on the way.
func TestPlaintextAuth(t *testing.T) {
	s := newServer(t)
	s.cfg.PlaintextAuth = false
	c := dial(t, s.listen(false))
	c.expect("220")
	c.send("EHLO client.example")
	if r := c.reply(); strings.Contains(r, "AUTH") {
		t.Fatalf("%q", r)
	}
	c.send("AUTH PLAIN AGEAc2VjcmV0")
	c.expect("538 5.7.11")
}

// countWrites counts what leaves in one piece.
type countWrites struct {
	net.Conn
	n *int
}

func (c countWrites) Write(b []byte) (int, error) {
	*c.n++
	return c.Conn.Write(b)
}

// TestOneWrite: replies to what came together leave together (RFC 2920).
func TestOneWrite(t *testing.T) {
	s := newServer(t)
	cl, srv := net.Pipe()
	n := 0
	c := newClient(t, cl)
	go s.serve(countWrites{srv, &n})
	c.expect("220")
	c.send("EHLO client.example")
	c.expect("250")
	c.send("MAIL FROM:<s@example.org>", "RCPT TO:<user@local.example>", "RCPT TO:<unknown@local.example>", "DATA")
	c.expect("250", "250", "550", "354")
	c.send("a: b", "", ".")
	c.expect("250")
	cl.Close()
	<-s.closed
	if n != 4 {
		t.Errorf("%d writes, want 4", n)
	}
}
