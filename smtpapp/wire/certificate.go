package wire

import (
	"crypto/tls"
	"crypto/x509"
	"net"
)

// under is a connection below TLS. It is where the certificate that the server
// chose is noted, since crypto/tls tells it to nobody.
type under struct {
	net.Conn
	served *tls.Certificate
}

// NoteCertificate is for a tls.Config's GetCertificate to tell which one it
// returns, so that Certificate has it.
func NoteCertificate(hello *tls.ClientHelloInfo, cert *tls.Certificate) {
	if u, ok := hello.Conn.(*under); ok {
		u.served = cert
	}
}

// leaf is the certificate that was served, nil if it is not known.
func (u *under) leaf(cfg *tls.Config) *x509.Certificate {
	cert := u.served
	if cert == nil && len(cfg.Certificates) == 1 && cfg.GetCertificate == nil && cfg.GetConfigForClient == nil {
		cert = &cfg.Certificates[0]
	}
	switch {
	case cert == nil || len(cert.Certificate) == 0:
		return nil
	case cert.Leaf != nil:
		return cert.Leaf
	}
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		return nil
	}
	return leaf
}

// Certificate is the one that the server showed, nil where there is no TLS, or
// where it is not known.
func (c *Conn) Certificate() *x509.Certificate { return c.certificate }
