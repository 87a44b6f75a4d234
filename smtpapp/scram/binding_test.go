package scram

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"testing"
	"time"

	xdg "github.com/xdg-go/scram"
)

func certificate(t *testing.T, key crypto.Signer, alg x509.SignatureAlgorithm) tls.Certificate {
	t.Helper()
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), SignatureAlgorithm: alg}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func TestEndPoint(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	st := &tls.ConnectionState{Version: tls.VersionTLS12}
	for alg, sum := range map[x509.SignatureAlgorithm]func([]byte) []byte{
		x509.ECDSAWithSHA256: func(b []byte) []byte { s := sha256.Sum256(b); return s[:] },
		x509.ECDSAWithSHA384: func(b []byte) []byte { s := sha512.Sum384(b); return s[:] },
		x509.ECDSAWithSHA512: func(b []byte) []byte { s := sha512.Sum512(b); return s[:] },
	} {
		cert := certificate(t, ec, alg)
		got := Binding(EndPoint, st, cert.Leaf)
		if !bytes.Equal(got, sum(cert.Certificate[0])) {
			t.Errorf("%s: %x", alg, got)
		}
		theirs, err := xdg.NewTLSServerEndpointBinding(&tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert.Leaf}})
		if err != nil || !bytes.Equal(got, theirs.Data) {
			t.Errorf("%s: %x, another implementation has %x %v", alg, got, theirs.Data, err)
		}
	}
	old := *certificate(t, ec, x509.ECDSAWithSHA256).Leaf
	old.SignatureAlgorithm = x509.SHA1WithRSA
	if want := sha256.Sum256(old.Raw); !bytes.Equal(Binding(EndPoint, st, &old), want[:]) {
		t.Error("SHA-1 is not SHA-256")
	}
	if Binding(EndPoint, st, certificate(t, ed, x509.PureEd25519).Leaf) != nil || Binding(EndPoint, st, nil) != nil || Binding(EndPoint, nil, &old) != nil {
		t.Error("a binding of nothing")
	}
	if Bindable(st, nil) || !Bindable(st, &old) || Bindable(nil, &old) || Binding("tls-unique", st, &old) != nil {
		t.Error("bindable")
	}
}

// TestExporter: both sides have the same, and each connection has another.
func TestExporter(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := certificate(t, key, x509.ECDSAWithSHA256)
	var before []byte
	for range 2 {
		server, client := connect(t, cert, tls.VersionTLS13)
		got := Binding(Exporter, &server, cert.Leaf)
		theirs, err := xdg.NewTLSExporterBinding(&client)
		if len(got) != 32 || err != nil || !bytes.Equal(got, theirs.Data) || bytes.Equal(got, before) {
			t.Errorf("%x, client %x %v, before %x", got, theirs.Data, err, before)
		}
		before = got
	}
	if server, _ := connect(t, cert, tls.VersionTLS12); Binding(Exporter, &server, cert.Leaf) != nil {
		t.Error("TLS 1.2")
	}
}

func connect(t *testing.T, cert tls.Certificate, version uint16) (server, client tls.ConnectionState) {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	s := tls.Server(a, &tls.Config{Certificates: []tls.Certificate{cert}, MaxVersion: version})
	c := tls.Client(b, &tls.Config{InsecureSkipVerify: true})
	done := make(chan error)
	go func() { done <- s.HandshakeContext(t.Context()) }()
	err := c.HandshakeContext(t.Context())
	if err2 := <-done; err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
	return s.ConnectionState(), c.ConnectionState()
}
