package session_test

import (
	"context"
	"crypto/tls"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

type atConnect func() error

func (f atConnect) HandleConnect(context.Context, *session.Session) error { return f() }

// TestGreeting: what a handler says against a client is the greeting, and the
// last word.
func TestGreeting(t *testing.T) {
	for _, tt := range []struct {
		f    atConnect
		want string
	}{
		{func() error { return mail.Refuse(550, "5.7.1", "listed") }, "554 5.7.1 listed"},
		{func() error { return mail.Refuse(450, "4.7.0", "too many") }, "421 4.7.0 too many"},
		{func() error { return errors.New("a fault of ours") }, "421 4.3.0"},
		{func() error { panic("at connect") }, "421 4.3.0"},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newServer(t)
			plan, err := session.Compile([]session.Route{{Handlers: []session.Handler{{Name: "connect", Module: tt.f}}}})
			if err != nil {
				t.Fatal(err)
			}
			s.cfg.Plan = plan
			conn, _ := s.pipe(t.Context())
			c := newClient(t, conn)
			c.expect(tt.want)
			c.gone()
			<-s.closed
			conn.Close()
		})
	}
}

// TestHandshakeTimeout: who does not come to an end with TLS is cut off
// without a word, which would not be in TLS.
func TestHandshakeTimeout(t *testing.T) {
	for _, say := range []string{"", "\x16\x03\x01\x02\x00\x01"} {
		inBubble(t, func(c *client, s *server, _ *session.Session, _ func()) {
			c.begin()
			c.send("STARTTLS")
			c.expect("220 2.0.0")
			began := time.Now()
			c.raw(say)
			c.gone()
			after(t, began, 10*time.Second, 10*time.Second)
		})
	}
}

// TestHandshakePanic: the certificates come from elsewhere, and so do panics.
func TestHandshakePanic(t *testing.T) {
	for _, implicit := range []bool{false, true} {
		s := newServer(t)
		s.cfg.TLS = &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { panic("no certificate") }}
		c := dial(t, s.listen(implicit))
		if !implicit {
			c.begin()
			c.send("STARTTLS")
			c.expect("220")
		}
		if err := tls.Client(c.Conn, &tls.Config{InsecureSkipVerify: true}).Handshake(); err == nil {
			t.Error("handshake without a certificate")
		}
		<-s.closed
	}
}
