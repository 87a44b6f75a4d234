package dkimkey

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/dkimsign"
)

// An entry is a key with the times that all nodes agree on, as it is stored.
type entry struct {
	dkimsign.Key

	created   time.Time
	signs     time.Time // from when on it may sign
	published time.Time // when DNS was first seen to have it; zero: not yet
}

// version is that of the stored form: lines "Name: value", and the key in PEM
// (PKCS #8), before which there may be such text (RFC 7468, section 5.2).
const version = "caddy-smtp DKIM key, version 1"

func (e *entry) marshal() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(e.Signer)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	fmt.Fprintln(&b, version)
	for _, f := range e.times() {
		if !f.at.IsZero() {
			fmt.Fprintf(&b, "%s: %s\n", f.name, f.at.UTC().Format(time.RFC3339))
		}
	}
	err = pem.Encode(&b, &pem.Block{Type: "PRIVATE KEY", Bytes: der})
	return b.Bytes(), err
}

type stamp struct {
	name string
	at   *time.Time
}

func (e *entry) times() []stamp {
	return []stamp{{"Created", &e.created}, {"Signs", &e.signs}, {"Published", &e.published}}
}

// unmarshal reads what marshal wrote. A key that somebody else put there, in
// PEM alone, signs from the beginning.
func unmarshal(domain, selector string, b []byte) (*entry, error) {
	e := &entry{Key: dkimsign.Key{Domain: domain, Selector: selector}}
	head, _, _ := bytes.Cut(b, []byte("-----BEGIN"))
	for i, l := range strings.Split(strings.TrimSpace(string(head)), "\n") {
		if l = strings.TrimSpace(l); l == "" {
			continue
		}
		if i == 0 {
			if l != version {
				return nil, fmt.Errorf("%w: not %q", errFormat, version)
			}
			continue
		}
		if err := e.field(l); err != nil {
			return nil, err
		}
	}
	var err error
	e.Signer, err = ParsePrivate(b)
	return e, err
}

var errFormat = errors.New("unknown form of a stored key")

func (e *entry) field(line string) error {
	name, value, _ := strings.Cut(line, ": ")
	for _, f := range e.times() {
		if f.name == name {
			at, err := time.Parse(time.RFC3339, value)
			if err != nil {
				return fmt.Errorf("%w: %s is not a time", errFormat, name)
			}
			*f.at = at
			return nil
		}
	}
	return errFormat // what the line is may be part of a key
}

// ErrPrivate says that text is not a private key that DKIM can use. It never
// holds any of the text.
var ErrPrivate = errors.New("not an RSA or Ed25519 private key in PEM or base64")

// ParsePrivate reads a private key: PEM (PKCS #8 or PKCS #1), or the base64 of
// the same without its armour, or of the 32 octets of an Ed25519 seed.
func ParsePrivate(text []byte) (crypto.Signer, error) {
	var der []byte
	if block, _ := pem.Decode(text); block != nil {
		der = block.Bytes
	} else {
		var err error
		if der, err = base64.StdEncoding.DecodeString(strings.Join(strings.Fields(string(text)), "")); err != nil {
			return nil, ErrPrivate
		}
	}
	s, err := parseDER(der)
	if err != nil {
		return nil, err
	}
	if err := (dkimsign.Key{Signer: s}).Check(); err != nil {
		return nil, err
	}
	return s, nil
}

func parseDER(der []byte) (crypto.Signer, error) {
	if len(der) == ed25519.SeedSize {
		return ed25519.NewKeyFromSeed(der), nil
	}
	if k, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return k, nil
	}
	k, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, ErrPrivate
	}
	switch k := k.(type) {
	case *rsa.PrivateKey:
		return k, nil
	case ed25519.PrivateKey:
		return k, nil
	}
	return nil, ErrPrivate
}
