package tests

import (
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

// TestNames: whatever a client says of whom it wants to talk to, it gets the
// hostname's certificate, on STARTTLS and on TLS from the start.
func TestNames(t *testing.T) {
	h := newHost(t)
	h.load(strings.Replace(local, "tls internal", "tls internal\nlisten_tls ADDR(tls)", 1))
	wait(t, "the certificate", func() bool {
		return issued(greet(t, h.addr("mx")).starttls(insecure("mx.example.test")))
	})
	for name, cfg := range map[string]*tls.Config{
		"SNI":                 {ServerName: "mx.example.test"},
		"no SNI":              {},
		"unknown SNI":         {ServerName: "other.example.test"},
		"address as SNI":      {ServerName: "127.0.0.1"},
		"odd ALPN":            {ServerName: "mx.example.test", NextProtos: []string{"smtp", "weird"}},
		"TLS 1.2":             {ServerName: "mx.example.test", MaxVersion: tls.VersionTLS12},
		"HTTP's ALPN, no SNI": {NextProtos: []string{"h2", "http/1.1"}},
	} {
		cfg.InsecureSkipVerify = true //nolint:gosec // the test looks at the certificate itself
		t.Run(name, func(t *testing.T) {
			states := map[string]tls.ConnectionState{"STARTTLS": greet(t, h.addr("mx")).starttls(cfg)}
			conn, err := tls.Dial("tcp", h.addr("tls"), cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			states["TLS"] = conn.ConnectionState()
			for how, s := range states {
				if err := s.PeerCertificates[0].VerifyHostname("mx.example.test"); err != nil || !issued(s) {
					t.Errorf("%s: %v, issued %t", how, err, issued(s))
				}
			}
		})
	}
}

// issued tells a certificate of the internal CA from the temporary one.
func issued(s tls.ConnectionState) bool { return len(s.PeerCertificates) > 1 }

// TestNoSessionTickets: Exchange Online trips over them.
func TestNoSessionTickets(t *testing.T) {
	h := newHost(t)
	h.load(local)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		cfg := insecure("mx.example.test")
		cfg.MaxVersion = version
		cfg.ClientSessionCache = tls.NewLRUClientSessionCache(10)
		for range 2 {
			k := greet(t, h.addr("mx"))
			if s := k.starttls(cfg); s.DidResume {
				t.Errorf("%s: a session was resumed", tls.VersionName(version))
			}
			k.say("250", "EHLO client.test")
			k.say("221", "QUIT")
		}
		if _, ok := cfg.ClientSessionCache.Get("mx.example.test"); ok {
			t.Errorf("%s: a ticket was handed out", tls.VersionName(version))
		}
	}
}

// TestSharedHost: the site's certificate and STARTTLS's are one, obtained once.
func TestSharedHost(t *testing.T) {
	h := newHost(t)
	site := fmt.Sprintf("https://mx.example.test:%d {\n bind 127.0.0.1\n tls internal\n respond hello\n}\n", freePort(t))
	_, port, _ := strings.Cut(site, "test:")
	port, _, _ = strings.Cut(port, " ")
	if err := h.try(local, site); err != nil {
		t.Fatal(err)
	}
	var web *tls.Conn
	wait(t, "the site", func() (ok bool) {
		var err error
		web, err = tls.Dial("tcp", net.JoinHostPort("127.0.0.1", port), insecure("mx.example.test"))
		return err == nil
	})
	defer web.Close()
	wait(t, "the same certificate", func() bool {
		mail := greet(t, h.addr("mx")).starttls(insecure(""))
		return mail.PeerCertificates[0].SerialNumber.Cmp(web.ConnectionState().PeerCertificates[0].SerialNumber) == 0
	})
}

// TestTemporaryCertificate: until the first one is issued, STARTTLS works.
func TestTemporaryCertificate(t *testing.T) {
	h := newHost(t)
	// An ACME server that accepts connections and says nothing.
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	h.load(strings.Replace(local, "tls internal", "tls {\n issuer acme {\n dir https://"+ln.Addr().String()+"/dir\n }\n }", 1))
	k := greet(t, h.addr("mx"))
	s := k.starttls(insecure("mx.example.test"))
	if issued(s) {
		t.Error("who issued this?")
	}
	k.say("250", "EHLO client.test")
	k.send("a@b.test", "alice@example.test", "x")
	h.inbox("alice", 1)
}

// TestDeniedOnDemand: a name that on-demand TLS may not have is served with
// the hostname's certificate.
func TestDeniedOnDemand(t *testing.T) {
	h := newHost(t)
	denied := strings.Replace(local, "tls internal", "tls internal {\n on_demand\n }", 1)
	text := strings.Replace(h.config(denied, ""), "skip_install_trust", "skip_install_trust\n\ton_demand_tls {\n\t\tpermission http http://127.0.0.1:1/none\n\t}", 1)
	cfg, err := adapt(t, text)
	if err != nil {
		t.Fatal(err)
	}
	loadJSON(t, cfg)
	wait(t, "a handshake", func() bool {
		s := greet(t, h.addr("mx")).starttls(insecure("denied.example.test"))
		return s.PeerCertificates[0].VerifyHostname("mx.example.test") == nil
	})
}

// TestStartTLSFails without a word, and the server lives.
func TestStartTLSFails(t *testing.T) {
	h := newHost(t)
	h.load(local)
	k := greet(t, h.addr("mx"))
	k.say("220", "STARTTLS")
	fmt.Fprint(k.conn, "this is no TLS\r\n")
	k.conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	if r, err := k.reply(); err == nil || strings.HasPrefix(r, "250") {
		t.Errorf("got %q, %v", r, err)
	}
	greet(t, h.addr("mx")).send("a@b.test", "alice@example.test", "x")
}

// TestTLSOff offers neither.
func TestTLSOff(t *testing.T) {
	h := newHost(t)
	h.load(strings.Replace(local, "tls internal", "tls off", 1))
	k := dial(t, h.addr("mx"))
	k.want("220")
	if r := k.say("250", "EHLO client.test"); strings.Contains(r, "STARTTLS") {
		t.Error("STARTTLS is offered")
	}
	k.say("5", "STARTTLS")
	if err := h.try(strings.Replace(local, "tls internal", "tls off\nlisten_tls ADDR(tls)", 1), ""); err == nil {
		t.Error("an address that begins with TLS went without it")
	}
}
