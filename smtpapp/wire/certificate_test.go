package wire_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/wire"
)

// TestCertificate: the server knows which certificate it showed to whom.
func TestCertificate(t *testing.T) {
	one, two := selfSigned(t, "one.test"), selfSigned(t, "two.test")
	choose := func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		cert := &one
		if hello.ServerName == "two.test" {
			cert = &two
		}
		wire.NoteCertificate(hello, cert)
		return cert, nil
	}
	inner := &tls.Config{GetCertificate: choose}
	for _, c := range []struct {
		cfg        *tls.Config
		name, want string
	}{
		{inner, "one.test", "one.test"},
		{inner, "two.test", "two.test"},
		{&tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return inner, nil }}, "two.test", "two.test"},
		{&tls.Config{Certificates: []tls.Certificate{two}}, "one.test", "two.test"},
		{&tls.Config{Certificates: []tls.Certificate{one, two}}, "one.test", ""},
	} {
		server, client := net.Pipe()
		conn := wire.New(server, wire.Config{})
		done := make(chan error)
		go func() {
			_, err := conn.Handshake(t.Context(), c.cfg)
			done <- err
		}()
		tc := tls.Client(client, &tls.Config{ServerName: c.name, InsecureSkipVerify: true})
		if err := tc.HandshakeContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		got := ""
		if cert := conn.Certificate(); cert != nil {
			got = cert.DNSNames[0]
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
		client.Close()
		server.Close()
	}
}

func selfSigned(t *testing.T, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
