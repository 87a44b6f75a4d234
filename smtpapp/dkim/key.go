package dkim

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/caddymail/caddy-smtp/smtpapp/dns"
)

// Sizes of RSA keys in bits. Shorter ones can be broken (RFC 8301, section
// 3.2), and longer ones cost more than they are worth.
const (
	MinRSA = 1024
	MaxRSA = 4096
)

// Reasons that a signature cannot be checked with a key, for good.
var (
	ErrNoKey     = errors.New("no key")
	ErrRevoked   = errors.New("key revoked")
	ErrKeySyntax = errors.New("key is not valid")
	ErrKeySize   = errors.New("key is too short or too long")
	ErrKeyUse    = errors.New("key is not for this use")
	ErrSignature = errors.New("signature does not verify")
)

// A PublicKey is a key record (RFC 6376, section 3.6.1, and RFC 8463).
type PublicKey struct {
	Public crypto.PublicKey // *rsa.PublicKey or ed25519.PublicKey

	Testing bool // t=y: its owner tries DKIM out
	Strict  bool // t=s: i= must be of the domain of d= itself

	hashes []string // nil: any
}

// ParsePublicKey reads a key record.
func ParsePublicKey(txt string) (*PublicKey, error) {
	tags, err := ParseTags(txt)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKeySyntax, err)
	}
	if v, ok := tags.Lookup("v"); ok && (v != "DKIM1" || tags.First() != "v") {
		return nil, ErrKeySyntax
	}
	p, ok := tags.Lookup("p")
	switch {
	case !ok:
		return nil, ErrKeySyntax
	case p == "":
		return nil, ErrRevoked
	}
	if s, ok := tags.Lookup("s"); ok && !slices.ContainsFunc(List(s), func(s string) bool { return s == "*" || s == "email" }) {
		return nil, ErrKeyUse
	}
	k := new(PublicKey)
	if h, ok := tags.Lookup("h"); ok {
		k.hashes = List(h)
	}
	for _, f := range List(tags.Get("t")) {
		k.Testing, k.Strict = k.Testing || f == "y", k.Strict || f == "s"
	}
	kind, ok := tags.Lookup("k")
	if !ok {
		kind = "rsa"
	}
	if k.Public, err = parsePublic(kind, p); err != nil {
		return nil, err
	}
	return k, nil
}

// maxKey bounds the base64 of a key: RSA with 4096 bits has 736.
const maxKey = 2 << 10

func parsePublic(kind, p string) (crypto.PublicKey, error) {
	if p = Unspaced(p); len(p) > maxKey {
		return nil, ErrKeySize
	}
	der, err := base64.StdEncoding.DecodeString(p)
	if err != nil {
		return nil, ErrKeySyntax
	}
	switch kind {
	case "ed25519":
		if len(der) != ed25519.PublicKeySize {
			return nil, ErrKeySyntax
		}
		return ed25519.PublicKey(der), nil
	case "rsa":
		return parseRSA(der)
	}
	return nil, ErrKeyUse
}

// parseRSA reads a SubjectPublicKeyInfo, which is what everyone publishes, or
// the bare RSAPublicKey that RFC 6376 names (its erratum 3017).
func parseRSA(der []byte) (crypto.PublicKey, error) {
	var key *rsa.PublicKey
	if k, err := x509.ParsePKIXPublicKey(der); err == nil {
		key, _ = k.(*rsa.PublicKey)
	} else if k, err := x509.ParsePKCS1PublicKey(der); err == nil {
		key = k
	}
	if key == nil {
		return nil, ErrKeySyntax
	}
	if n := key.N.BitLen(); n < MinRSA || n > MaxRSA {
		return nil, ErrKeySize
	}
	return key, nil
}

// LookupPublicKey finds the key of a selector of a domain. Of several records,
// which RFC 6376 leaves undefined (section 3.6.2.2), the first valid one
// counts. An error of DNS is a temporary one.
func LookupPublicKey(ctx context.Context, r dns.Resolver, selector, domain string) (*PublicKey, error) {
	txts, err := r.LookupTXT(ctx, selector+"._domainkey."+domain)
	if e, ok := errors.AsType[*net.DNSError](err); ok && e.IsNotFound {
		return nil, ErrNoKey
	}
	if err != nil {
		return nil, err
	}
	first := ErrNoKey
	for i, txt := range txts {
		k, err := ParsePublicKey(txt)
		if err == nil {
			return k, nil
		}
		if i == 0 {
			first = err
		}
	}
	return nil, first
}

// An Algorithm is the value of an a= tag (RFC 6376, section 3.3, and RFC 8463).
// There is no rsa-sha1 any more (RFC 8301).
type Algorithm string

// The algorithms.
const (
	RSASHA256     Algorithm = "rsa-sha256"
	Ed25519SHA256 Algorithm = "ed25519-sha256"
)

// Verify checks a signature over what has the SHA-256 sum.
func (k *PublicKey) Verify(a Algorithm, sum [32]byte, signature []byte) error {
	if k.hashes != nil && !slices.ContainsFunc(k.hashes, func(h string) bool { return strings.EqualFold(h, "sha256") }) {
		return ErrKeyUse
	}
	ok := false
	switch p := k.Public.(type) {
	case *rsa.PublicKey:
		if a != RSASHA256 {
			return ErrKeyUse
		}
		ok = rsa.VerifyPKCS1v15(p, crypto.SHA256, sum[:], signature) == nil
	case ed25519.PublicKey:
		if a != Ed25519SHA256 {
			return ErrKeyUse
		}
		ok = ed25519.Verify(p, sum[:], signature)
	}
	if !ok {
		return ErrSignature
	}
	return nil
}
