package scram

import (
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"hash"
)

// The types of channel binding that are known. There is no tls-unique: TLS 1.3
// has it not, and with TLS 1.2 it is weak (RFC 9266, section 1).
const (
	Exporter = "tls-exporter"
	EndPoint = "tls-server-end-point"
)

// Binding returns the data of a type of channel binding for a connection on
// which the server showed cert, nil if there is none of that type.
func Binding(kind string, st *tls.ConnectionState, cert *x509.Certificate) []byte {
	switch {
	case st == nil:
		return nil
	case kind == Exporter:
		return exporter(st)
	case kind == EndPoint && cert != nil:
		return endPoint(cert)
	}
	return nil
}

// Bindable reports whether a connection has any channel binding.
func Bindable(st *tls.ConnectionState, cert *x509.Certificate) bool {
	return Binding(Exporter, st, cert) != nil || Binding(EndPoint, st, cert) != nil
}

// exporter is RFC 9266, section 2. With TLS 1.2, where no context is another than
// an empty one, implementations disagree.
func exporter(st *tls.ConnectionState) []byte {
	if st.Version < tls.VersionTLS13 {
		return nil
	}
	b, err := st.ExportKeyingMaterial("EXPORTER-Channel-Binding", []byte{}, 32)
	if err != nil {
		return nil
	}
	return b
}

// endPoint is RFC 5929, section 4.1: the hash that the certificate was signed
// with, but SHA-256 in place of MD5 and SHA-1. Ed25519 has none.
func endPoint(cert *x509.Certificate) []byte {
	var h hash.Hash
	switch cert.SignatureAlgorithm {
	case x509.MD5WithRSA, x509.SHA1WithRSA, x509.ECDSAWithSHA1, x509.DSAWithSHA1,
		x509.SHA256WithRSA, x509.SHA256WithRSAPSS, x509.ECDSAWithSHA256, x509.DSAWithSHA256:
		h = sha256.New()
	case x509.SHA384WithRSA, x509.SHA384WithRSAPSS, x509.ECDSAWithSHA384:
		h = sha512.New384()
	case x509.SHA512WithRSA, x509.SHA512WithRSAPSS, x509.ECDSAWithSHA512:
		h = sha512.New()
	default:
		return nil
	}
	h.Write(cert.Raw)
	return h.Sum(nil)
}
