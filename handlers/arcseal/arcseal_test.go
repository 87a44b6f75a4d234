package arcseal

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/arc"
	"github.com/caddymail/caddy-smtp/smtpapp/dkimkey"
	"github.com/caddymail/caddy-smtp/smtpapp/dkimsign"
	"github.com/caddymail/caddy-smtp/smtpapp/dns/dnstest"
	"github.com/caddymail/caddy-smtp/smtpapp/env"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

// signer is a handler that has keys of one domain.
type signer struct{ ring *dkimkey.Ring }

func (s signer) DKIMRing(domain string) *dkimkey.Ring {
	if domain != s.ring.Domain() {
		return nil
	}
	return s.ring
}

// provisioned returns the handler, with keys of fwd.test, and a zone that has
// them.
func provisioned(t *testing.T, h *Handler) (*Handler, *dnstest.Zone) {
	t.Helper()
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	r, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	ks := []dkimsign.Key{{Domain: "fwd.test", Selector: "e", Signer: ed}, {Domain: "fwd.test", Selector: "r", Signer: r}}
	zone := &dnstest.Zone{TXT: map[string][]string{}}
	for _, k := range ks {
		txt, err := k.Record()
		if err != nil {
			t.Fatal(err)
		}
		zone.TXT[k.Name()] = []string{txt}
	}
	e := &env.Env{Hostname: "mx.fwd.test", Resolver: zone}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: env.NewContext(context.Background(), e)})
	t.Cleanup(cancel)
	if err := h.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	if err := h.Start(); err == nil {
		t.Error("it starts without keys")
	}
	e.Offer(signer{dkimkey.Given("other.test", nil)})
	e.Offer(signer{dkimkey.Given("fwd.test", ks)})
	if err := h.Start(); err != nil {
		t.Fatal(err)
	}
	return h, zone
}

func content(t *testing.T) *message.Message {
	t.Helper()
	m, err := message.Parse([]byte("From: a@a.test\r\nSubject: x\r\n\r\nx\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func transaction(expanded bool) *session.Transaction {
	r := mail.NewRecipient(mail.Address{Local: "b", Domain: "fwd.test"})
	if expanded {
		r.Rewrite(mail.Address{Local: "b", Domain: "elsewhere.test"})
	}
	return &session.Transaction{
		Session: new(session.Session), Envelope: &mail.Envelope{Recipients: []*mail.Recipient{r}},
		Results: []session.Result{{Method: "spf", Value: "pass", Props: []session.Property{{Type: "smtp", Name: "mailfrom", Value: "a.test"}}}},
	}
}

func TestSeals(t *testing.T) {
	h, zone := provisioned(t, &Handler{Domain: "Fwd.test"})
	m := content(t)
	if err := h.HandleMessage(t.Context(), transaction(true), m); err != nil {
		t.Fatal(err)
	}
	r := arc.Verify(t.Context(), zone, m)
	if r.Value != arc.Pass || len(r.Sets) != 1 || r.Sets[0].Sealer != "fwd.test" || r.Sets[0].Selector != "r" {
		t.Fatalf("%s, %v", r.Value, r.Err)
	}
	if got := r.Sets[0].Results; !strings.HasSuffix(got, "; spf=pass smtp.mailfrom=a.test") {
		t.Error(got)
	}
	// By the next one, who changed it since the chain was verified.
	tx := transaction(true)
	tx.Results = append(tx.Results, session.Result{Method: "arc", Value: r.Value, Detail: r})
	m.Header.Set("Subject", "[list] x")
	if err := h.HandleMessage(t.Context(), tx, m); err != nil {
		t.Fatal(err)
	}
	if r := arc.Verify(t.Context(), zone, m); r.Value != arc.Pass || len(r.Sets) != 2 || r.OldestPass != 2 {
		t.Errorf("%s, %v, oldest pass %d", r.Value, r.Err, r.OldestPass)
	}
	// Without a result the chain is as it is now, and that has failed.
	m.Header.Set("Subject", "[list] [list] x")
	if err := h.HandleMessage(t.Context(), transaction(true), m); err != nil {
		t.Fatal(err)
	}
	r = arc.Verify(t.Context(), zone, m)
	if r.Value != arc.Fail || len(r.Sets) != 3 || r.Sets[2].CV != "fail" {
		t.Errorf("%s, %v", r.Value, r.Err)
	}
	n := m.Header.Len()
	if err := h.HandleMessage(t.Context(), transaction(true), m); err != nil || m.Header.Len() != n {
		t.Errorf("a chain that has ended goes on: %v", err)
	}
}

func TestLeavesAlone(t *testing.T) {
	h, _ := provisioned(t, &Handler{Domain: "fwd.test"})
	all, _ := provisioned(t, &Handler{Domain: "fwd.test", All: true})
	user := transaction(true)
	user.Session.User = "alice"
	gone := transaction(true)
	gone.Envelope.Recipients[0].Discard()
	for name, tc := range map[string]struct {
		h      *Handler
		tx     *session.Transaction
		sealed bool
	}{
		"local": {h, transaction(false), false}, "forwarded": {h, transaction(true), true}, "all": {all, transaction(false), true},
		"our user's": {all, user, false}, "discarded": {h, gone, false},
	} {
		m := content(t)
		if err := tc.h.HandleMessage(t.Context(), tc.tx, m); err != nil || (m.Header.Count("ARC-Seal") == 1) != tc.sealed {
			t.Errorf("%s: %v, %d seals", name, err, m.Header.Count("ARC-Seal"))
		}
	}
}

type noKeys struct{}

func (noKeys) Keys(context.Context) ([]dkimsign.Key, error) { return nil, dkimkey.ErrNotYet }

func TestNoKeys(t *testing.T) {
	h, _ := provisioned(t, &Handler{Domain: "fwd.test"})
	for _, ring := range []func() (keys, error){
		func() (keys, error) { return noKeys{}, nil },
		func() (keys, error) { return nil, errors.New("none") },
	} {
		h.ring = ring
		m := content(t)
		if err := h.HandleMessage(t.Context(), transaction(true), m); err != nil || m.Header.Len() != 2 {
			t.Errorf("%v, %d fields", err, m.Header.Len())
		}
	}
	if h.Seals() != session.ARCSeal || !h.OnlyAnnotates() {
		t.Error("it is no seal")
	}
}

func TestCaddyfile(t *testing.T) {
	for in, ok := range map[string]bool{
		"arc_seal fwd.test": true, "arc_seal fwd.test {\nall\n}": true,
		"arc_seal": false, "arc_seal a b": false, "arc_seal a {\nx\n}": false,
	} {
		h := new(Handler)
		if err := h.UnmarshalCaddyfile(caddyfile.NewTestDispenser(in)); (err == nil) != ok || ok && h.Domain != "fwd.test" {
			t.Errorf("%q: %v", in, err)
		}
	}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()
	for _, d := range []string{"", "a b", "[192.0.2.1]"} {
		if (&Handler{Domain: d}).Provision(ctx) == nil {
			t.Errorf("%q is taken", d)
		}
	}
}
