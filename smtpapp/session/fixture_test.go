package session_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-sasl"

	"github.com/caddymail/caddy-smtp/smtpapp/login"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

// rules is the one handler of the tests. What it does is said by the local
// parts of addresses.
type rules struct{}

func (rules) HandleConnect(_ context.Context, s *session.Session) error {
	if s.RemoteIP() == netip.MustParseAddr("192.0.2.66") {
		return mail.Refuse(550, "5.7.1", "not from there")
	}
	return nil
}

func (rules) HandleHello(_ context.Context, s *session.Session) error {
	if s.Hello == "refused.example" {
		return mail.Refuse(550, "5.7.1", "not you")
	}
	return nil
}

func (rules) Mechanisms(*session.Session) []string {
	return []string{"PLAIN", "TWO", "NOBODY"}
}

func (rules) NotOffered(_ *session.Session, mech string) *mail.Reply {
	if mech == "WEAK" {
		return mail.Refuse(534, "5.7.9", "too weak")
	}
	return nil
}

func (rules) Authenticate(ctx context.Context, s *session.Session, mech string) (sasl.Server, error) {
	switch mech {
	case "TWO":
		return &twoSteps{s: s}, nil
	case "NOBODY":
		return sasl.NewAnonymousServer(func(string) error { s.Anonymous(); return nil }), nil
	}
	return sasl.NewPlainServer(func(_, user, password string) error {
		if err := s.Claim(ctx, user); err != nil {
			return err
		}
		switch {
		case user == "broken":
			return fmt.Errorf("the database is away")
		case user == "panic":
			panic("in a login")
		case password != "secret":
			if user == "alice" {
				s.Mistaken(user)
			}
			return mail.Refuse(535, "5.7.8", "wrong")
		}
		s.Authenticated(&login.Identity{User: user}, mech)
		return nil
	}), nil
}

// twoSteps is a mechanism with a challenge and a last word, as SCRAM has.
type twoSteps struct {
	s    *session.Session
	step int
}

func (t *twoSteps) Next(response []byte) ([]byte, bool, error) {
	if t.step++; t.step == 1 {
		return []byte("who?"), false, t.s.Claim(context.Background(), "somebody")
	}
	if d, err := time.ParseDuration(string(response)); err == nil { // it takes as long to find out
		time.Sleep(d)
		return nil, false, mail.Refuse(535, "5.7.8", "wrong")
	}
	if string(response) == "wrong" {
		return []byte("you are not"), false, mail.Refuse(535, "5.7.8", "wrong")
	}
	t.s.Authenticated(&login.Identity{User: string(response)}, "TWO")
	return []byte("last word"), true, nil
}

func (rules) HandleMail(_ context.Context, tx *session.Transaction) error {
	switch tx.Envelope.From.Local {
	case "refused":
		return mail.Refuse(550, "5.7.1", "sender refused")
	case "panic":
		panic("in MAIL")
	}
	return nil
}

func (rules) HandleRcpt(_ context.Context, tx *session.Transaction, r *mail.Recipient) error {
	switch {
	case r.Address.Domain == "local.example" && (r.Address.Local == "unknown" || strings.ContainsAny(r.Address.Local, "%!@/|`")):
		return mail.Refuse(550, "5.1.1", "no mailbox %s", r.Address)
	case r.Address.Local == "later":
		return mail.Refuse(451, "4.7.1", "try again later")
	case r.Address.Domain != "" && r.Address.Domain != "local.example":
		return mail.Refuse(550, "5.7.1", "relaying denied")
	}
	if a := r.Address.Local; !r.RRVS.IsZero() && (a == "old" || a == "new") { // the one since 2020, the other since 2025
		if since := map[string]int{"old": 2020, "new": 2025}[a]; r.RRVS.Year() < since {
			return mail.Refuse(550, "5.7.17", "the owner has changed")
		}
		r.RRVS = time.Time{}
	}
	if r.Address.Local == "away" {
		r.Claim("relay")
	}
	r.Claim("test")
	return nil
}

func (rules) HandleMessage(_ context.Context, tx *session.Transaction, m *message.Message) error {
	switch m.Header.Get("Subject") {
	case "refused":
		return mail.Refuse(554, "5.7.1", "content refused")
	case "panic":
		panic("in content")
	}
	return nil
}

// lists are two aliases.
type lists struct{}

func (lists) HandleRcpt(_ context.Context, tx *session.Transaction, r *mail.Recipient) error {
	switch r.Address.Local {
	case "list":
		tx.Expand(r, mail.Address{Local: "one", Domain: "local.example"}, mail.Address{Local: "two", Domain: "local.example"})
	case "faraway":
		tx.Expand(r, mail.Address{Local: "away", Domain: "local.example"})
	case "weit":
		tx.Expand(r, mail.Address{Local: "fern\u00fc", Domain: "local.example"})
	}
	return nil
}

// A server keeps the messages that sessions accept.
type server struct {
	t   testing.TB
	cfg *session.Config
	dir string

	mu     sync.Mutex
	taken  []taken
	ended  int
	closed chan struct{} // a session ended
}

type taken struct {
	env      *mail.Envelope
	body     string
	received string
}

func newServer(t testing.TB) *server {
	plan, err := session.Compile([]session.Route{{Handlers: []session.Handler{{Name: "lists", Module: lists{}}, {Name: "rules", Module: rules{}}}}})
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, closed: make(chan struct{}, 1<<16)}
	if d, ok := t.(interface{ TempDir() string }); ok {
		s.dir = d.TempDir()
	}
	n := 0
	s.cfg = &session.Config{
		Hostname: "mx.example", Plan: plan, TLS: serverTLS(t), PlaintextAuth: true,
		Limits: session.Limits{
			MessageSize: 1 << 20, Recipients: 1000, Messages: 100, Hops: 50, HeaderSize: 256 << 10,
			HeaderFields: 1000, FieldSize: 64 << 10, ErrorDelay: time.Second, SoftErrors: 5, HardErrors: 10, NonMail: 100, FailedAuth: 3, Chunks: 10_000,
			LineLength: 2048, AuthLineLength: 12_288, TextLine: 1 << 20,
		},
		NewID: func() string {
			s.mu.Lock()
			defer s.mu.Unlock()
			n++
			return fmt.Sprintf("id%d", n)
		},
		Accept: s, Spool: s, Observe: s, PassesOn: func(agent string) bool { return agent == "relay" },
		Postmaster: mail.Address{Local: "postmaster", Domain: "local.example"},
	}
	return s
}

func (s *server) Create() (*os.File, error) { return os.CreateTemp(s.dir, "spool") }

func (s *server) Accept(_ context.Context, objects []*message.Object) (string, error) {
	for _, o := range objects {
		r, err := o.Content.Body().NewReader()
		if err != nil {
			return "", err
		}
		b, err := io.ReadAll(r)
		if err != nil {
			return "", err
		}
		received := o.Content.Header.Get("Received")
		o.Content.Header.Remove("Received")
		s.mu.Lock()
		s.taken = append(s.taken, taken{o.Envelope, string(o.Content.Header.Bytes()) + string(b), received})
		s.mu.Unlock()
	}
	return objects[0].ID, nil
}

func (s *server) MessageEnded(*session.Transaction, *mail.Reply) {}

func (s *server) SessionEnded(*session.Session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended++
}

func (s *server) messages() []taken {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.taken
}

// pipe begins a session over net.Pipe.
func (s *server) pipe(ctx context.Context) (net.Conn, *session.Session) {
	client, srv := net.Pipe()
	return client, s.begin(ctx, srv, false)
}

// begin begins a session on a connection.
func (s *server) begin(ctx context.Context, conn net.Conn, implicit bool) *session.Session {
	sess := session.New(conn, s.cfg, implicit)
	go func() {
		_ = sess.Serve(ctx)
		s.closed <- struct{}{}
	}()
	return sess
}

func (s *server) serve(c net.Conn) {
	_ = session.New(c, s.cfg, false).Serve(context.Background())
	s.closed <- struct{}{}
}

// listen serves connections on a socket.
func (s *server) listen(implicit bool) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_ = session.New(c, s.cfg, implicit).Serve(context.Background())
				s.closed <- struct{}{}
			}()
		}
	}()
	return l.Addr().String()
}

var testCert = sync.OnceValues(func() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	tpl := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"mx.example"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, &key.PublicKey, key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
})

func serverTLS(t testing.TB) *tls.Config {
	cert, err := testCert()
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{cert}}
}

// A client says things and expects replies.
type client struct {
	t testing.TB
	net.Conn
	r *bufio.Reader
}

func newClient(t testing.TB, c net.Conn) *client {
	return &client{t, c, bufio.NewReader(c)}
}

// send sends lines in one write.
func (c *client) send(lines ...string) {
	c.t.Helper()
	c.raw(strings.Join(lines, "\r\n") + "\r\n")
}

func (c *client) raw(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c.Conn, s); err != nil {
		c.t.Logf("C: %v", err)
	}
}

// reply reads a whole reply, "" at the end.
func (c *client) reply() string {
	var b strings.Builder
	for {
		l, err := c.r.ReadString('\n')
		if err != nil {
			return b.String()
		}
		b.WriteString(l)
		if len(l) < 4 || l[3] != '-' {
			return b.String()
		}
	}
}

// expect reads replies whose last lines begin as given.
func (c *client) expect(want ...string) {
	c.t.Helper()
	for _, w := range want {
		got := c.reply()
		lines := strings.Split(strings.TrimSuffix(got, "\r\n"), "\r\n")
		if got == "" || !strings.HasPrefix(lines[len(lines)-1], w) {
			c.t.Fatalf("want %s, got %q", w, got)
		}
	}
}

// gone expects the end of the connection.
func (c *client) gone() {
	c.t.Helper()
	if got := c.reply(); got != "" {
		c.t.Fatalf("want the end, got %q", got)
	}
}
