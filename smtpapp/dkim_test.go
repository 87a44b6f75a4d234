package smtpapp

import (
	"context"
	"errors"
	"testing"

	"go.uber.org/zap"

	"github.com/caddymail/caddy-smtp/smtpapp/env"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

type signer func(m *message.Message) error

func (s signer) SignOwn(_ context.Context, m *message.Message) error { return s(m) }

// TestSignOwn: a DSN is signed by the first who can; one that panics or fails,
// however far it came, is as if it were not there.
func TestSignOwn(t *testing.T) {
	sign := func(name string) signer {
		return func(m *message.Message) error {
			m.Header.Prepend("DKIM-Signature", name)
			return nil
		}
	}
	half := func(then func() error) signer {
		return func(m *message.Message) error {
			m.Header.Prepend("DKIM-Signature", "half")
			return then()
		}
	}
	panics := half(func() error { panic("no key") })
	fails := half(func() error { return errors.New("no key") })
	passes := signer(func(*message.Message) error { return nil })
	for _, tc := range []struct {
		signers []signer
		want    string
	}{
		{nil, ""},
		{[]signer{panics}, ""},
		{[]signer{fails, passes}, ""},
		{[]signer{panics, fails, passes, sign("a"), sign("b")}, "a"},
	} {
		e := new(env.Env)
		for _, s := range tc.signers {
			e.Offer(s)
		}
		h, _, err := message.ParseHeader([]byte("From: postmaster@mx.test\r\n\r\n"))
		if err != nil {
			t.Fatal(err)
		}
		m := message.New(h, message.NewBody([]byte("x\r\n")))
		(&App{env: e, log: zap.NewNop()}).signOwn(t.Context(), m)
		if got := m.Header.Get("DKIM-Signature"); got != tc.want || m.Header.Count("From") != 1 {
			t.Errorf("%d signers: %q, want %q", len(tc.signers), got, tc.want)
		}
	}
}
