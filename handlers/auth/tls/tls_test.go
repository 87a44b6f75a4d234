package tls

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// issue makes a certificate, by itself or by a CA.
func issue(t *testing.T, tmpl, ca *x509.Certificate, caKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if tmpl.SerialNumber, tmpl.NotAfter = big.NewInt(1), time.Now().Add(time.Hour); ca == nil {
		ca, caKey = tmpl, key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca, key.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// shown is the state of a connection whose client has shown a certificate, with
// what is verified of it.
func shown(t *testing.T, tmpl *x509.Certificate) (st *tls.ConnectionState, ca *x509.Certificate) {
	t.Helper()
	ca, key := issue(t, &x509.Certificate{Subject: pkix.Name{CommonName: "Users CA"}, IsCA: true, BasicConstraintsValid: true}, nil, nil)
	leaf, _ := issue(t, tmpl, ca, key)
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	chains, err := leaf.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		t.Fatal(err)
	}
	return &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}, VerifiedChains: chains}, ca
}

type entries map[string]string

func (e entries) Lookup(_ context.Context, key string) ([]string, bool, error) {
	if key == "broken" {
		return nil, false, errors.New("down")
	}
	v, ok := e[key]
	return []string{v}, ok, nil
}

func TestCheckCertificate(t *testing.T) {
	st, ca := shown(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "Printer 7"}, EmailAddresses: []string{"Alice@Example.org", "info@example.org"},
		DNSNames: []string{"printer.example.org"}, URIs: []*url.URL{{Scheme: "spiffe", Host: "example.org", Path: "/mail/bob"}},
	})
	print := fingerprint(st.PeerCertificates[0])
	bare, _ := shown(t, &x509.Certificate{Subject: pkix.Name{CommonName: "dave"}})
	none, _ := shown(t, &x509.Certificate{})
	for _, c := range []struct {
		name string
		s    Source
		st   *tls.ConnectionState
		want string
	}{
		{"default", Source{}, st, "alice@example.org"},
		{"default, no address", Source{}, bare, "dave"},
		{"no name", Source{}, none, ""},
		{"not a name of a user", Source{By: []string{"cn"}}, st, ""},
		{"and then the next", Source{By: []string{"cn", "dns"}}, st, "printer.example.org"},
		{"URI in a table", Source{By: []string{"uri"}, table: entries{"spiffe://example.org/mail/bob": "Bob"}}, st, "bob"},
		{"second address in a table", Source{table: entries{"info@example.org": "team", "dave": "dave"}}, st, "team"},
		{"not in the table", Source{table: entries{"x": "y"}}, st, ""},
		{"fingerprint", Source{By: []string{"fingerprint"}, table: entries{print: "carol"}}, st, "carol"},
		{"issuer", Source{Issuers: []string{"Other CA", "Users CA"}}, st, "alice@example.org"},
		{"issuer's fingerprint", Source{Issuers: []string{strings.ToUpper(fingerprint(ca))}}, st, "alice@example.org"},
		{"other issuer", Source{Issuers: []string{"Other CA", print}}, st, ""},
		{"unverified", Source{}, &tls.ConnectionState{PeerCertificates: st.PeerCertificates}, ""},
		{"no TLS", Source{}, nil, ""},
	} {
		table := c.s.table
		if err := c.s.Provision(caddy.Context{}); err != nil {
			t.Fatal(err)
		}
		c.s.table = table
		id, err := c.s.CheckCertificate(t.Context(), c.st)
		got := ""
		if id != nil {
			got = id.User
		}
		if got != c.want || err != nil {
			t.Errorf("%s: %q %v, want %q", c.name, got, err, c.want)
		}
	}
	broken, _ := shown(t, &x509.Certificate{Subject: pkix.Name{CommonName: "broken"}})
	odd, _ := shown(t, &x509.Certificate{Subject: pkix.Name{CommonName: "odd"}})
	s := Source{By: []string{"cn"}, table: entries{"odd": "a b"}}
	for _, st := range []*tls.ConnectionState{broken, odd} {
		if id, err := s.CheckCertificate(t.Context(), st); id != nil || err == nil {
			t.Errorf("%+v %v", id, err)
		}
	}
}

func TestValidate(t *testing.T) {
	for want, s := range map[string]*Source{
		"'x' is not email": {By: []string{"x"}}, "'cn' is given twice": {By: []string{"cn", "cn"}},
		"need a table": {By: []string{"fingerprint"}}, "no name": {Issuers: []string{""}},
	} {
		if err := s.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	if err := (&Source{By: []string{"fingerprint", "cn"}, table: entries{}}).Validate(); err != nil {
		t.Error(err)
	}
}

func TestCaddyfile(t *testing.T) {
	for in, want := range map[string]string{
		"tls":                       `{}`,
		"tls email dns":             `{"by":["email","dns"]}`,
		"tls {\nby cn\nissuer A\n}": `{"by":["cn"],"issuers":["A"]}`,
		"tls {\nissuers A\n}":       "unrecognized option 'issuers', at Testfile:2",
	} {
		s := new(Source)
		err := s.UnmarshalCaddyfile(caddyfile.NewTestDispenser(in))
		got, _ := json.Marshal(s)
		if err != nil {
			got = fmt.Append(nil, err)
		}
		if string(got) != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}
