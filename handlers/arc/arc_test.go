package arc

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"net"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/arc"
	"github.com/caddymail/caddy-smtp/smtpapp/dkim"
	"github.com/caddymail/caddy-smtp/smtpapp/dkimsign"
	"github.com/caddymail/caddy-smtp/smtpapp/dns/dnstest"
	"github.com/caddymail/caddy-smtp/smtpapp/env"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func provisioned(t *testing.T, zone *dnstest.Zone, h *Handler) *Handler {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: env.NewContext(context.Background(), &env.Env{Resolver: zone})})
	t.Cleanup(cancel)
	if err := h.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	return h
}

// chained returns a message that domains have sealed, one.test and two.test unless
// there are others, and their keys.
func chained(t *testing.T, domains ...string) (*message.Message, *dnstest.Zone) {
	t.Helper()
	zone := &dnstest.Zone{TXT: map[string][]string{}}
	m, err := message.Parse([]byte("From: a@a.test\r\nSubject: x\r\n\r\nx\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	if len(domains) == 0 {
		domains = []string{"one.test", "two.test"}
	}
	for _, d := range domains {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		k := dkimsign.Key{Domain: d, Selector: "s", Signer: key}
		txt, err := k.Record()
		if err != nil {
			t.Fatal(err)
		}
		zone.TXT[k.Name()] = []string{txt}
		if err := arc.Seal(m, arc.Verify(t.Context(), zone, m), k, "mx."+d+"; dmarc=pass", time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	return m, zone
}

func transaction() *session.Transaction {
	s := &session.Session{Remote: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 25}}
	return &session.Transaction{Session: s, Envelope: new(mail.Envelope)}
}

func TestPasses(t *testing.T) {
	m, zone := chained(t)
	h := provisioned(t, zone, &Handler{Trust: []string{"*.test", "two.test"}})
	tx := transaction()
	if err := h.HandleMessage(t.Context(), tx, m); err != nil {
		t.Fatal(err)
	}
	r := tx.Results[0]
	if r.Method != "arc" || r.Value != "pass" || len(r.Props) != 2 || r.Props[0].Value != "192.0.2.1" || r.Props[1] != (session.Property{Type: "header", Name: "oldest-pass", Value: "0"}) {
		t.Errorf("%+v", r)
	}
	sets := r.Detail.(*arc.Result).Sets
	if len(sets) != 2 || !sets[0].Trusted || !sets[1].Trusted {
		t.Errorf("%+v", sets)
	}
	h = provisioned(t, zone, &Handler{Trust: []string{"one.test", "*.two.test"}})
	tx = transaction()
	if err := h.HandleMessage(t.Context(), tx, m); err != nil {
		t.Fatal(err)
	}
	if sets := tx.Results[0].Detail.(*arc.Result).Sets; !sets[0].Trusted || sets[1].Trusted {
		t.Error("trust is another's")
	}
}

// TestTrustSpelling: a sealer is the same in every spelling of its domain.
func TestTrustSpelling(t *testing.T) {
	spellings := []string{"bücher.test", "BÜCHER.test", "xn--bcher-kva.test", "XN--BCHER-KVA.test"}
	for _, sealed := range []string{"xn--bcher-kva.test", "bücher.test"} {
		m, zone := chained(t, sealed)
		for _, trusted := range spellings {
			tx := transaction()
			if err := provisioned(t, zone, &Handler{Trust: []string{trusted}}).HandleMessage(t.Context(), tx, m); err != nil {
				t.Fatal(err)
			}
			if sets := tx.Results[0].Detail.(*arc.Result).Sets; len(sets) != 1 || !sets[0].Trusted {
				t.Errorf("%s is trusted, %s has sealed: %+v", trusted, sealed, tx.Results[0])
			}
		}
	}
}

// TestTrustedClient: own users are not asked who was on the way, nor is DNS.
func TestTrustedClient(t *testing.T) {
	m, zone := chained(t)
	h := provisioned(t, zone, new(Handler))
	tx := transaction()
	tx.Session.User = "alice"
	asked := len(zone.Asked())
	if err := h.HandleMessage(t.Context(), tx, m); err != nil || len(tx.Results) > 0 || len(zone.Asked()) != asked {
		t.Errorf("%v, %+v, asked %v", err, tx.Results, zone.Asked()[asked:])
	}
}

// TestTrustNeedsAuthor: a sealer on the trust list whose message signature
// leaves From out is not trusted with who the author is.
func TestTrustNeedsAuthor(t *testing.T) {
	m, zone := chained(t)
	for _, n := range []string{"ARC-Authentication-Results", "ARC-Message-Signature", "ARC-Seal"} {
		m.Header.RemoveFunc(n, func(string) bool { return true })
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	k := dkimsign.Key{Domain: "one.test", Selector: "s", Signer: private}
	if zone.TXT[k.Name()][0], err = k.Record(); err != nil {
		t.Fatal(err)
	}
	sum, err := dkimsign.BodyHash(m.Body(), dkim.Relaxed)
	if err != nil {
		t.Fatal(err)
	}
	const results = "ARC-Authentication-Results: i=1; mx.one.test; dmarc=pass header.from=a.test\r\n"
	ams, err := complete(k, []byte("subject:x\r\n"), "ARC-Message-Signature: i=1; a=ed25519-sha256; c=relaxed/relaxed; d=one.test; s=s; h=Subject; bh="+
		base64.StdEncoding.EncodeToString(sum[:])+"; b=")
	if err != nil {
		t.Fatal(err)
	}
	before := dkim.Relaxed.AppendField(dkim.Relaxed.AppendField(nil, results), ams)
	seal, err := complete(k, before, "ARC-Seal: i=1; a=ed25519-sha256; cv=none; d=one.test; s=s; b=")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{results, ams, seal} {
		if err := m.Header.PrependRaw(f); err != nil {
			t.Fatal(err)
		}
	}
	tx := transaction()
	if err := provisioned(t, zone, &Handler{Trust: []string{"one.test"}}).HandleMessage(t.Context(), tx, m); err != nil {
		t.Fatal(err)
	}
	if r := tx.Results[0]; r.Value != "pass" || r.Detail.(*arc.Result).Sets[0].Trusted {
		t.Errorf("%s: %s", r.Value, r.Reason)
	}
}

func TestOthers(t *testing.T) {
	plain, err := message.Parse([]byte("From: a@a.test\r\n\r\nx\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	changed, zone := chained(t)
	changed.Header.Set("Subject", "y")
	whole, gone := chained(t)
	gone.Fail = map[string]bool{"s._domainkey.two.test": true}
	silent, never := chained(t)
	never.Silent = map[string]bool{"s._domainkey.two.test": true}
	for name, tc := range map[string]struct {
		m             *message.Message
		zone          *dnstest.Zone
		value, reason string
	}{
		"none":   {plain, zone, "none", ""},
		"fail":   {changed, zone, "fail", "i=2: ARC-Message-Signature: signature does not verify"},
		"dns":    {whole, gone, "fail", "temporary failure of DNS"},
		"silent": {silent, never, "fail", "temporary failure of DNS"},
	} {
		h := provisioned(t, tc.zone, &Handler{Timeout: caddy.Duration(50 * time.Millisecond)})
		tx := transaction()
		if err := h.HandleMessage(t.Context(), tx, tc.m); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if r := tx.Results[0]; r.Value != tc.value || r.Reason != tc.reason {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

func TestCaddyfile(t *testing.T) {
	for in, ok := range map[string]bool{
		"arc": true, "arc {\ntrust a.test *.b.test\ntrust c.test\ntimeout 5s\n}": true,
		"arc x": false, "arc {\ntrust\n}": false, "arc {\ntimeout -1s\n}": false, "arc {\nreject\n}": false, "arc {\ntimeout 1s\ntimeout 2s\n}": false,
	} {
		h := new(Handler)
		if err := h.UnmarshalCaddyfile(caddyfile.NewTestDispenser(in)); (err == nil) != ok {
			t.Errorf("%q: %v", in, err)
		}
		if ok && in != "arc" && (len(h.Trust) != 3 || h.Timeout != caddy.Duration(5*time.Second)) {
			t.Errorf("%+v", h)
		}
	}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()
	for _, h := range []*Handler{{Trust: []string{"a b"}}, {Timeout: -1}} {
		if h.Provision(ctx) == nil {
			t.Errorf("%+v is taken", h)
		}
	}
	if !new(Handler).OnlyAnnotates() {
		t.Error("it refuses")
	}
}

func complete(k dkimsign.Key, before []byte, field string) (string, error) {
	return k.Complete(dkim.Relaxed.AppendField(before, field), []byte(field))
}
