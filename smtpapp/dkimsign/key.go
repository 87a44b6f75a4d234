package dkimsign

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"

	"github.com/caddymail/caddy-smtp/smtpapp/dkim"
)

// A Key is a private key and where its public half is published.
type Key struct {
	Domain   string // the d= tag
	Selector string // the s= tag
	// Signer is an RSA or Ed25519 key, in memory or anywhere else.
	Signer crypto.Signer
}

// ErrKey says that a key is of no use for DKIM.
var ErrKey = errors.New("neither an Ed25519 key nor an RSA key of 1024 bits or more")

// Check tells whether the key is of a kind that can sign.
func (k Key) Check() error {
	switch p := k.public().(type) {
	case ed25519.PublicKey:
		return nil
	case *rsa.PublicKey:
		if p.N.BitLen() >= dkim.MinRSA {
			return nil
		}
	}
	return ErrKey
}

func (k Key) public() crypto.PublicKey {
	if k.Signer == nil {
		return nil
	}
	return k.Signer.Public()
}

// Algorithm is the a= tag.
func (k Key) Algorithm() string {
	if _, ok := k.Signer.(ed25519.PrivateKey); ok {
		return "ed25519-sha256"
	}
	if _, ok := k.public().(ed25519.PublicKey); ok {
		return "ed25519-sha256"
	}
	return "rsa-sha256"
}

// Name is the name of the key's DNS record (RFC 6376, section 3.6.2.1).
func (k Key) Name() string { return k.Selector + "._domainkey." + k.Domain }

// Record is the TXT record to publish under that name (RFC 6376, section 3.6.1,
// and RFC 8463, section 4.2).
func (k Key) Record() (string, error) {
	if err := k.Check(); err != nil {
		return "", err
	}
	if p, ok := k.public().(ed25519.PublicKey); ok {
		return "v=DKIM1; k=ed25519; p=" + base64.StdEncoding.EncodeToString(p), nil
	}
	der, err := x509.MarshalPKIXPublicKey(k.public())
	if err != nil {
		return "", err
	}
	return "v=DKIM1; k=rsa; p=" + base64.StdEncoding.EncodeToString(der), nil
}

// Complete signs what a signature is over, which ends with the canonical form
// of its own field. field is that field up to "b=", and is returned with the
// value of that tag and CRLF.
func (k Key) Complete(signed, field []byte) (string, error) {
	sig, err := k.sign(sha256.Sum256(signed))
	if err != nil {
		return "", err
	}
	const line = 54 // octets of a signature that make 72 of base64
	for len(sig) > line {
		field = base64.StdEncoding.AppendEncode(field, sig[:line])
		field = append(field, "\r\n\t "...)
		sig = sig[line:]
	}
	field = base64.StdEncoding.AppendEncode(field, sig)
	return string(append(field, "\r\n"...)), nil
}

// sign signs the hash of a header. Ed25519 takes it as a message of its own
// (RFC 8463, section 3).
func (k Key) sign(sum [sha256.Size]byte) ([]byte, error) {
	hash := crypto.SHA256
	switch k.Signer.(type) {
	case ed25519.PrivateKey:
		hash = 0
	default:
		if err := k.Check(); err != nil {
			return nil, err
		}
		if _, ok := k.public().(ed25519.PublicKey); ok {
			hash = 0
		}
	}
	sig, err := k.Signer.Sign(rand.Reader, sum[:], hash)
	if err == nil && len(sig) == 0 {
		err = fmt.Errorf("%T made no signature", k.Signer)
	}
	return sig, err
}
