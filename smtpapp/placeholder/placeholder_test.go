package placeholder

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/caddymail/caddy-smtp/smtpapp/login"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func TestNew(t *testing.T) {
	cert := &x509.Certificate{Subject: pkix.Name{CommonName: "client"}}
	s := &session.Session{
		ID: "s1", Remote: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1000}, Local: &net.TCPAddr{IP: net.ParseIP("2001:db8::1"), Port: 25},
		Hello: "client.example", User: "alice", Method: "PLAIN",
		Identity: &login.Identity{User: "alice", Secret: "phone", Attributes: map[string]string{"agent": "slow"}},
		TLS: &tls.ConnectionState{Version: tls.VersionTLS13, CipherSuite: tls.TLS_AES_128_GCM_SHA256, ServerName: "mx.example",
			PeerCertificates: []*x509.Certificate{cert}, VerifiedChains: [][]*x509.Certificate{{cert}}},
	}
	tx := &session.Transaction{ID: "q1", Session: s,
		Envelope: &mail.Envelope{From: mail.Address{Local: "a b", Domain: "from.example"}},
		Results:  []session.Result{{Method: "spf", Value: "none"}, {Method: "spf", Value: "fail", Reason: "why"}}}
	r := mail.NewRecipient(mail.Address{Local: "bob+tag+x", Domain: "given.example"})
	r.Rewrite(mail.Address{Local: "carol+tag+x", Domain: "rcpt.example"})
	repl := New(s, tx, r)
	for in, want := range map[string]string{
		"{smtp.session.id}": "s1", "{smtp.remote.ip}:{smtp.remote.port}": "192.0.2.1:1000", "{smtp.local.ip} {smtp.local.port}": "2001:db8::1 25",
		"{smtp.helo}": "client.example", "{smtp.auth.user}/{smtp.auth.method}": "alice/PLAIN",
		"{smtp.auth.secret}/{smtp.auth.attr.agent}{smtp.auth.attr.none}": "phone/slow",
		"{smtp.tls.version} {smtp.tls.cipher}":                           "TLS 1.3 TLS_AES_128_GCM_SHA256", "{smtp.tls.server_name}": "mx.example", "{smtp.tls.client.subject}": "CN=client",
		"{smtp.mail.from}": `"a b"@from.example`, "{smtp.mail.from.local}": "a b", "{smtp.mail.from.domain}": "from.example",
		"{smtp.rcpt}": "carol+tag+x@rcpt.example", "{smtp.rcpt.local}": "carol+tag+x", "{smtp.rcpt.domain}": "rcpt.example", "{smtp.rcpt.tag}": "tag+x",
		"{smtp.rcpt.given}": "bob+tag+x@given.example", "{smtp.queue.id}": "q1",
		"{smtp.result.spf}": "fail", "{smtp.result.spf.reason}": "why", "{smtp.result.dkim}": "",
		"{smtp.remote.name}{smtp.tls.x}{smtp.other}{system.hostname}": "",
	} {
		if got := repl.ReplaceAll(in, ""); got != want {
			t.Errorf("%s: %q, want %q", in, got, want)
		}
	}
}

func TestOnlyRecipient(t *testing.T) {
	to := func(local string) *mail.Recipient {
		return mail.NewRecipient(mail.Address{Local: local, Domain: "x.example"})
	}
	tx := &session.Transaction{Envelope: &mail.Envelope{Recipients: []*mail.Recipient{to("a")}}}
	if got := New(nil, tx, nil).ReplaceAll("{smtp.rcpt}", ""); got != "a@x.example" {
		t.Error(got)
	}
	tx.Envelope.Recipients = append(tx.Envelope.Recipients, to("b"))
	if got := New(nil, tx, nil).ReplaceAll("{smtp.rcpt}", ""); got != "" {
		t.Error(got)
	}
}

func TestNothingKnown(t *testing.T) {
	s := &session.Session{Results: []session.Result{{Method: "dnsbl", Value: "listed"}}}
	repl := New(s, nil, nil)
	for _, k := range []string{"session.id", "remote.ip", "local.port", "helo", "auth.user", "tls.version", "tls.cipher", "tls.client.subject",
		"mail.from", "mail.from.domain", "rcpt", "rcpt.tag", "rcpt.given", "queue.id", "result.spf"} {
		if v, ok := repl.Get("smtp." + k); v != "" || !ok {
			t.Errorf("%s: %q %v", k, v, ok)
		}
	}
	if v, _ := repl.Get("smtp.result.dnsbl"); v != "listed" {
		t.Error(v)
	}
}

// TestClientDataIsInert is what a client would have to say to read our files.
func TestClientDataIsInert(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SECRET", "secret")
	evil := "{file." + secret + "}{env.SECRET}{smtp.auth.user}\r\n\x00"
	s := &session.Session{Hello: evil, User: "alice"}
	got := New(s, nil, nil).ReplaceAll("{smtp.helo}|{file."+secret+"}{env.SECRET}", "")
	if want := evil[:len(evil)-3] + "   |"; got != want {
		t.Errorf("%q", got)
	}
}

func TestForDelivery(t *testing.T) {
	env := &mail.Envelope{From: mail.Address{Local: "a", Domain: "from.example"}, AuthUser: "alice"}
	r := mail.NewRecipient(mail.Address{Local: "b", Domain: "to.example"})
	in := "/{smtp.queue.id}/{smtp.mail.from}/{smtp.rcpt.domain}/{smtp.rcpt.local}/{smtp.auth.user}{smtp.helo}{env.HOME}"
	if got := ForDelivery(env, r, "q1").ReplaceAll(in, ""); got != "/q1/a@from.example/to.example/b/alice" {
		t.Error(got)
	}
}
