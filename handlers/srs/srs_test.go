package srs

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
	scheme "github.com/caddymail/caddy-smtp/smtpapp/srs"
)

// storage has one secret, or an error.
type storage struct{ err error }

var key = []byte("0123456789abcdef")

func (storage) Lock(context.Context, string) error          { return nil }
func (storage) Unlock(context.Context, string) error        { return nil }
func (storage) Store(context.Context, string, []byte) error { return fs.ErrPermission }
func (s storage) Load(context.Context, string) ([]byte, error) {
	b, _ := json.Marshal([]map[string]any{{"secret": key, "made": time.Now()}})
	return b, s.err
}

func handler(t testing.TB, h *Handler) *Handler {
	t.Helper()
	if h.storage == nil {
		h.storage = storage{}
	}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	if err := errors.Join(h.Provision(ctx), h.Validate()); err != nil {
		t.Fatal(err)
	}
	return h
}

func TestHandleRcpt(t *testing.T) {
	bob := mail.Address{Local: "bob", Domain: "far.test"}
	ours, err := scheme.Forward(bob, "fwd.test", key, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	old, _ := scheme.Forward(bob, "fwd.test", key, time.Now().AddDate(0, 0, -40))
	self, _ := scheme.Forward(mail.Address{Local: "x", Domain: "fwd.test"}, "other.test", key, time.Now())
	for _, tc := range []struct {
		h    Handler
		from string
		to   mail.Address
		want string
	}{
		{Handler{}, "", ours, "bob@far.test"},
		{Handler{}, "", mail.Address{Local: strings.ToLower(ours.Local), Domain: "fwd.test"}, "bob@far.test"},
		{Handler{}, "a@b.test", ours, "550 5.7.1"},
		{Handler{AnySender: true}, "a@b.test", ours, "bob@far.test"},
		{Handler{}, "", mail.Address{Local: ours.Local, Domain: "other.test"}, ours.Local + "@other.test"},
		{Handler{}, "", mail.Address{Local: "SRS0=AAAAAA=AA=far.test=bob", Domain: "fwd.test"}, "550 5.1.1"},
		{Handler{}, "", mail.Address{Local: "SRS1=x", Domain: "fwd.test"}, "550 5.1.1"},
		{Handler{}, "", old, "550 5.1.1"},
		{Handler{Validity: caddy.Duration(60 * 24 * time.Hour)}, "", old, "bob@far.test"},
		{Handler{}, "", mail.Address{Local: self.Local, Domain: "fwd.test"}, "550 5.1.1"},
		{Handler{}, "", mail.Address{Local: "srs", Domain: "fwd.test"}, "srs@fwd.test"},
		{Handler{storage: storage{errors.New("down")}}, "", ours, "451 4.3.0"},
	} {
		tc.h.Domain = "FWD.test"
		h := handler(t, &tc.h)
		tx := &session.Transaction{Envelope: &mail.Envelope{}}
		if tc.from != "" {
			tx.Envelope.From, _ = mail.ParseAddress(tc.from)
		}
		r := mail.NewRecipient(tc.to)
		var got string
		if err := h.HandleRcpt(t.Context(), tx, r); err != nil {
			got = mail.ReplyFor(err).Error()[:9]
		} else if got = r.Address.String(); (r.Address != tc.to) != r.Expanded || r.Claimed() {
			t.Errorf("%+v", r)
		}
		if got != tc.want {
			t.Errorf("%+v from %q to %s: %s, want %s", tc.h, tc.from, tc.to, got, tc.want)
		}
	}
}

func TestCaddyfile(t *testing.T) {
	for in, want := range map[string]string{
		"srs": `{}`,
		"srs fwd.test {\nvalidity 5d\nany_sender\n}": `{"domain":"fwd.test","validity":432000000000000,"any_sender":true}`,
		"srs a b":            "wrong argument count",
		"srs {\nsecret x\n}": "unrecognized option 'secret', at Testfile:2",
	} {
		h := new(Handler)
		if err := h.UnmarshalCaddyfile(caddyfile.NewTestDispenser(in)); err != nil {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q: %v, want %s", in, err, want)
			}
			continue
		}
		if b, _ := json.Marshal(h); string(b) != want {
			t.Errorf("%q: %s, want %s", in, b, want)
		}
	}
	for _, bad := range []*Handler{{Domain: "not a domain"}, {Validity: 1}, {Validity: caddy.Duration(501 * 24 * time.Hour)}, {Validity: -1}} {
		bad.storage = storage{}
		ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
		defer cancel()
		err := bad.Provision(ctx)
		if err == nil {
			err = bad.Validate()
		}
		if err == nil {
			t.Errorf("%+v is provisioned", bad)
		}
	}
}
