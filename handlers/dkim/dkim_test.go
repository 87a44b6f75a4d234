package dkim

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"net"
	"strings"
	"testing"

	"github.com/caddymail/caddy-smtp/smtpapp/dkim"
	"github.com/caddymail/caddy-smtp/smtpapp/dkimsign"
	"github.com/caddymail/caddy-smtp/smtpapp/dns/dnstest"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func transaction() *session.Transaction {
	s := &session.Session{Remote: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1}}
	return &session.Transaction{Session: s, Envelope: new(mail.Envelope)}
}

func parse(t *testing.T, s string) *message.Message {
	t.Helper()
	m, err := message.Parse([]byte(s))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestResults: what our own signer signs passes, and results say all there is.
func TestResults(t *testing.T) {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	zone := &dnstest.Zone{TXT: map[string][]string{"s._domainkey.d.test": {"v=DKIM1; k=ed25519; t=y; p=" + base64.StdEncoding.EncodeToString(pub)}}}
	m := parse(t, "DKIM-Signature: v=1; a=rsa-sha1; d=d.test; s=s; h=from; bh=eA==; b=eA==; i=\"x;\r\nFrom: a@d.test\r\nSubject: x\r\n\r\nbody\r\n")
	if err := dkimsign.Sign(m, []dkimsign.Key{{Domain: "d.test", Selector: "s", Signer: key}}, dkimsign.Options{}); err != nil {
		t.Fatal(err)
	}
	h := &Handler{Signatures: 5, resolver: zone}
	tx := transaction()
	if err := h.HandleMessage(t.Context(), tx, m); err != nil || len(tx.Results) != 2 {
		t.Fatalf("%v, %+v", err, tx.Results)
	}
	tx.Session = session.New(pipe(t), &session.Config{Hostname: "mx.test"}, false)
	got := tx.AuthResults().String()
	for _, want := range []string{
		"mx.test; dkim=pass (test mode) header.d=d.test header.i=@d.test header.s=s header.a=ed25519-sha256 header.b=",
		`; dkim=permerror reason="unknown or broken algorithm" header.d=d.test header.i="\"x" header.s=s header.a=rsa-sha1 header.b="eA=="`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("got  %s\nlacks %s", got, want)
		}
	}
	if v, ok := tx.Results[0].Detail.(dkim.Verdict); !ok || v.Signature.Domain != "d.test" {
		t.Errorf("no details: %+v", tx.Results[0])
	}
}

func TestNone(t *testing.T) {
	h := &Handler{Signatures: 5, resolver: new(dnstest.Zone)}
	tx := transaction()
	if err := h.HandleMessage(t.Context(), tx, parse(t, "From: a@d.test\r\n\r\n")); err != nil || tx.Results[0].Value != "none" {
		t.Errorf("%v, %+v", err, tx.Results)
	}
	tx = transaction()
	tx.Session.User = "alice"
	if err := h.HandleMessage(t.Context(), tx, parse(t, "From: a@d.test\r\n\r\n")); err != nil || len(tx.Results) > 0 {
		t.Errorf("our own user: %v, %+v", err, tx.Results)
	}
}

func pipe(t *testing.T) net.Conn {
	c, s := net.Pipe()
	t.Cleanup(func() { _, _ = c.Close(), s.Close() })
	return c
}
