package client_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/client"
	"github.com/caddymail/caddy-smtp/smtpapp/client/clienttest"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

// quick are timeouts for peers that never answer.
var quick = client.Timeouts{Greeting: time.Second, Command: time.Second, Data: time.Second, Block: time.Second, Dot: time.Second}

func dial(t *testing.T, s *clienttest.Server, opts client.Options) *client.Conn {
	t.Helper()
	if opts.Hello == "" {
		opts.Hello = "client.test"
	}
	c, err := client.Dial(t.Context(), "tcp", s.Addr, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// wantError checks the phase of an error that is the network's.
func wantError(t *testing.T, err error, p client.Phase) *client.Error {
	t.Helper()
	e, ok := errors.AsType[*client.Error](err)
	if !ok || e.Phase != p {
		t.Fatalf("got %v, want an error at %s", err, p)
	}
	return e
}

// wantRefused checks the phase and code of an error that is the peer's word.
func wantRefused(t *testing.T, err error, p client.Phase, code int) {
	t.Helper()
	e, ok := errors.AsType[*client.RefusedError](err)
	r, isReply := errors.AsType[*mail.Reply](err)
	if !ok || !isReply || e.Phase != p || r.Code != code {
		t.Fatalf("got %v, want %d at %s", err, code, p)
	}
}

func TestHello(t *testing.T) {
	s := clienttest.Start(t, clienttest.Options{})
	c := dial(t, s, client.Options{Ignore: []string{"DSN"}})
	if !c.Usable() || !c.Extensions().Has("PIPELINING") || c.Extensions().Has("DSN") || c.Extensions().Size() != 1_000_000 {
		t.Errorf("got %v", c.Extensions())
	}
	if err := c.Reset(t.Context()); err != nil {
		t.Error(err)
	}
	if err := c.Quit(t.Context()); err != nil || c.Usable() {
		t.Error(err)
	}
	if got := strings.Join(s.Commands(), " "); got != "EHLO client.test RSET QUIT" {
		t.Errorf("said %s", got)
	}
}

func TestHelloRefused(t *testing.T) {
	for _, tc := range []struct {
		rule  clienttest.Rule
		phase client.Phase
		code  int
	}{
		{clienttest.Rule{At: "connect", Reply: "554 5.7.1 no mail"}, client.PhaseGreeting, 554},
		{clienttest.Rule{At: "connect", Reply: "421 4.3.2 later"}, client.PhaseGreeting, 421},
		{clienttest.Rule{At: "connect", Reply: "250 odd"}, client.PhaseGreeting, 250},
		{clienttest.Rule{At: "EHLO", Reply: "421 4.3.2 later", Close: true}, client.PhaseHello, 421},
		{clienttest.Rule{At: "EHLO", Reply: "451 4.3.2 later"}, client.PhaseHello, 451},
	} {
		s := clienttest.Start(t, clienttest.Options{}, tc.rule)
		_, err := client.Dial(t.Context(), "tcp", s.Addr, client.Options{})
		wantRefused(t, err, tc.phase, tc.code)
	}
	s := clienttest.Start(t, clienttest.Options{}, clienttest.Rule{At: "connect", Close: true})
	_, err := client.Dial(t.Context(), "tcp", s.Addr, client.Options{})
	wantError(t, err, client.PhaseGreeting)
	s = clienttest.Start(t, clienttest.Options{}, clienttest.Rule{At: "EHLO", Delay: 5 * time.Second})
	_, err = client.Dial(t.Context(), "tcp", s.Addr, client.Options{Timeouts: client.Timeouts{Command: 50 * time.Millisecond}})
	wantError(t, err, client.PhaseHello)
}

func TestHELO(t *testing.T) {
	s := clienttest.Start(t, clienttest.Options{}, clienttest.Rule{At: "EHLO", Reply: "502 5.5.1 what?"})
	c := dial(t, s, client.Options{})
	if !c.Usable() || len(c.Extensions()) != 0 {
		t.Errorf("usable %v, %v", c.Usable(), c.Extensions())
	}
}

func TestDialFails(t *testing.T) {
	opts := client.Options{Dial: func(context.Context, string, string) (net.Conn, error) { return nil, io.ErrClosedPipe }}
	_, err := client.Dial(t.Context(), "tcp", "x:25", opts)
	if wantError(t, err, client.PhaseConnect); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("got %v", err)
	}
}

func TestStartTLS(t *testing.T) {
	server, config := clienttest.Certificate(t, "mx.test")
	s := clienttest.Start(t, clienttest.Options{TLS: server})
	c := dial(t, s, client.Options{})
	if err := c.StartTLS(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	if state, on := c.TLS(); !on || state.ServerName != "mx.test" || c.Extensions().Has("STARTTLS") {
		t.Errorf("TLS %v, %v", on, c.Extensions())
	}
	wantError(t, c.StartTLS(t.Context(), config), client.PhaseStartTLS)
	send(t, c, "a@b.test")
	send(t, c, "a@b.test") // with a session ticket on the way, which is no data
	if m := s.Messages(); len(m) != 2 || !m[0].TLS {
		t.Errorf("got %+v", m)
	}
}

func TestStartTLSFails(t *testing.T) {
	server, config := clienttest.Certificate(t, "mx.test")
	plain := dial(t, clienttest.Start(t, clienttest.Options{}), client.Options{})
	if err := plain.StartTLS(t.Context(), config); !errors.Is(err, client.ErrNotOffered) || !plain.Usable() {
		t.Errorf("got %v", err)
	}
	refusing := dial(t, clienttest.Start(t, clienttest.Options{TLS: server}, clienttest.Rule{At: "STARTTLS", Reply: "454 4.7.0 not now"}), client.Options{})
	wantRefused(t, refusing.StartTLS(t.Context(), config), client.PhaseStartTLS, 454)
	if !refusing.Usable() {
		t.Error("a refusal of STARTTLS left the connection unusable")
	}
	injected := dial(t, clienttest.Start(t, clienttest.Options{TLS: server}, clienttest.Rule{At: "STARTTLS", Reply: "220 go\n250 injected"}), client.Options{})
	if err := injected.StartTLS(t.Context(), config); !errors.Is(err, client.ErrUnsolicited) || injected.Usable() {
		t.Errorf("got %v", err)
	}
	stranger := dial(t, clienttest.Start(t, clienttest.Options{TLS: server}), client.Options{})
	err := stranger.StartTLS(t.Context(), &tls.Config{ServerName: "other.test", RootCAs: config.RootCAs})
	if wantError(t, err, client.PhaseStartTLS); stranger.Usable() {
		t.Error("usable after a failed handshake")
	}
}

func TestImplicitTLSAndAuth(t *testing.T) {
	server, config := clienttest.Certificate(t, "127.0.0.1")
	users := map[string]string{"alice": "secret"}
	for _, mech := range []string{"PLAIN LOGIN", "LOGIN", "LOGIN CRAM-MD5"} {
		var logged bytes.Buffer
		s := clienttest.Start(t, clienttest.Options{TLS: server, Implicit: true, Users: users, Auth: mech})
		c := dial(t, s, client.Options{TLS: config, Logger: slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))})
		wantRefused(t, c.Auth(t.Context(), client.Credentials{Username: "alice", Password: "wrong"}), client.PhaseAuth, 535)
		if err := c.Auth(t.Context(), client.Credentials{Username: "alice", Password: "secret"}); err != nil {
			t.Fatal(err)
		}
		send(t, c, "a@b.test")
		if m := s.Messages(); len(m) != 1 || m[0].User != "alice" || !m[0].TLS {
			t.Errorf("got %+v", m)
		}
		if l := logged.String(); strings.Contains(l, "secret") || strings.Contains(l, "c2VjcmV0") || strings.Contains(l, "AGFsaWNlAHNlY3JldA") || !strings.Contains(l, "EHLO client.test") {
			t.Errorf("logged %s", l)
		}
	}
}

func TestAuthRefusesPlaintext(t *testing.T) {
	s := clienttest.Start(t, clienttest.Options{Users: map[string]string{"a": "b"}, Auth: "CRAM-MD5"})
	c := dial(t, s, client.Options{})
	if err := c.Auth(t.Context(), client.Credentials{}); !errors.Is(err, client.ErrPlaintext) {
		t.Errorf("got %v", err)
	}
	c = dial(t, s, client.Options{InsecureAuth: true})
	if err := c.Auth(t.Context(), client.Credentials{}); !errors.Is(err, client.ErrNotOffered) {
		t.Errorf("got %v", err)
	}
	for _, cmd := range s.Commands() {
		if strings.HasPrefix(cmd, "AUTH") {
			t.Errorf("said %s", cmd)
		}
	}
}

// TestUnsolicited has peers that speak between transactions.
func TestUnsolicited(t *testing.T) {
	s := clienttest.Start(t, clienttest.Options{}, clienttest.Rule{At: ".", Reply: "250 taken\n250 and again"})
	c := dial(t, s, client.Options{})
	send(t, c, "a@b.test")
	_, err := c.Send(t.Context(), transaction("a@b.test"))
	if wantError(t, err, client.PhaseMail); !errors.Is(err, client.ErrUnsolicited) || c.Usable() {
		t.Errorf("got %v", err)
	}
	s.Set(clienttest.Rule{At: ".", Reply: "250 taken\n421 4.4.2 bye", Close: true})
	c = dial(t, s, client.Options{})
	send(t, c, "a@b.test")
	_, err = c.Send(t.Context(), transaction("a@b.test"))
	wantRefused(t, err, client.PhaseMail, 421)
	s.Set(clienttest.Rule{At: ".", Reply: "250 taken", Close: true})
	c = dial(t, s, client.Options{})
	send(t, c, "a@b.test")
	time.Sleep(20 * time.Millisecond)
	wantError(t, c.Reset(t.Context()), client.PhaseReset)
}

func TestCancel(t *testing.T) {
	s := clienttest.Start(t, clienttest.Options{}, clienttest.Rule{At: "RCPT", Delay: 3 * time.Second})
	c := dial(t, s, client.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(30*time.Millisecond, cancel)
	start := time.Now()
	_, err := c.Send(ctx, transaction("a@b.test"))
	if wantError(t, err, client.PhaseRcpt); !errors.Is(err, context.Canceled) || time.Since(start) > 2*time.Second {
		t.Errorf("got %v after %v", err, time.Since(start))
	}
	if _, err := c.Send(t.Context(), transaction("a@b.test")); !errors.Is(err, client.ErrUnusable) {
		t.Errorf("got %v", err)
	}
}

func TestQuitDoesNotWaitLong(t *testing.T) {
	s := clienttest.Start(t, clienttest.Options{}, clienttest.Rule{At: "QUIT", Delay: time.Second})
	c := dial(t, s, client.Options{Timeouts: client.Timeouts{Quit: 20 * time.Millisecond}})
	wantError(t, c.Quit(t.Context()), client.PhaseQuit)
}

func TestMailMax(t *testing.T) {
	s := clienttest.Start(t, clienttest.Options{Extensions: []string{"LIMITS MAILMAX=1"}})
	c := dial(t, s, client.Options{})
	send(t, c, "a@b.test")
	if c.Usable() {
		t.Error("usable for more than the peer allows")
	}
}
