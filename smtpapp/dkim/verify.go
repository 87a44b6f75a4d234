package dkim

import (
	"context"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"strings"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/dns"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

// The values of a signature (RFC 8601, section 2.7.1). A message without
// signatures is "none".
const (
	None      = "none"
	Pass      = "pass"
	Fail      = "fail"      // header or body are not what was signed
	Policy    = "policy"    // it does not count: its key, its time, or l=
	Neutral   = "neutral"   // it cannot be read, or its signer only tries it out
	TempError = "temperror" // DNS did not tell now
	PermError = "permerror" // it can never be checked
)

// Values are all of them.
var Values = []string{None, Pass, Fail, Policy, Neutral, TempError, PermError}

// MaxSignatures is how many signatures of a message can be checked at most.
const MaxSignatures = 8

// skew is how far a signer's clock may be ahead of ours.
const skew = 15 * time.Minute

// weakRSA is the size below which a key that still counts is called weak.
const weakRSA = 2048

// A Verdict is what became of one signature.
type Verdict struct {
	Value     string
	Err       error // why it is not Pass; its text may go to everyone
	Signature *Signature
	Key       *PublicKey // nil if it was not had
}

// Errors of signatures that can be read.
var (
	errBody    = errors.New("the body is not what was signed")
	errHeader  = errors.New("the header is not what was signed")
	errLength  = errors.New("l= leaves a part of the body unsigned")
	errExpired = errors.New("expired")
	errFuture  = errors.New("made in the future")
	errDNS     = errors.New("temporary failure of DNS")
)

// Verify checks the first signatures of a message, at most limit of them and
// MaxSignatures. The message is read once for each way to read it that they
// have. An error is one of reading the message.
func Verify(ctx context.Context, r dns.Resolver, m *message.Message, limit int) ([]Verdict, error) {
	v := verifier{ctx: ctx, resolver: r, m: m, now: time.Now(), keys: map[string]key{}, bodies: map[part][]byte{}}
	var verdicts []Verdict
	for f := range m.Header.Fields() {
		if !f.Is(FieldName) {
			continue
		}
		if len(verdicts) == min(limit, MaxSignatures) {
			break
		}
		s, err := ParseSignature(f.Raw())
		verdict := Verdict{Signature: s}
		switch {
		case err == nil:
			err = v.verify(&verdict)
		case errors.Is(err, errFrom), errors.Is(err, errAlgorithm), errors.Is(err, errIdentity), errors.Is(err, errTimes):
			verdict.fails(PermError, err)
			err = nil
		default:
			verdict.fails(Neutral, err)
			err = nil
		}
		if err != nil {
			return nil, err
		}
		verdicts = append(verdicts, verdict)
	}
	return verdicts, nil
}

func (d *Verdict) fails(value string, err error) { d.Value, d.Err = value, err }

// Weak reports a key that is shorter than it should be.
func (d *Verdict) Weak() bool {
	if d.Key == nil {
		return false
	}
	k, ok := d.Key.Public.(*rsa.PublicKey)
	return ok && k.N.BitLen() < weakRSA
}

// verifier is the work on one message. Keys are looked up once, and the body is
// hashed once for each part of it that was signed.
type verifier struct {
	ctx      context.Context
	resolver dns.Resolver
	m        *message.Message
	now      time.Time

	keys   map[string]key
	bodies map[part][]byte
	sizes  map[Canonicalization]int64
	byName map[string][]string
}

type key struct {
	*PublicKey
	err error
}

// A part is the body in one form, up to a length if that is not -1.
type part struct {
	canon  Canonicalization
	length int64
}

// verify checks a signature that could be read.
func (v *verifier) verify(d *Verdict) error {
	s := d.Signature
	if value, err := v.current(s); err != nil {
		d.fails(value, err)
		return nil
	}
	k := v.key(s)
	if d.Key = k.PublicKey; k.err != nil {
		d.fails(keyFault(k.err))
		return nil
	}
	if k.Strict && s.identityDomain() != s.Domain {
		d.fails(PermError, errIdentity)
		return nil
	}
	sum, whole, err := v.body(part{s.Canon.Body, s.Length})
	if err != nil {
		return err
	}
	headErr := k.Verify(s.Algorithm, v.header(s), s.value)
	switch {
	case errors.Is(headErr, ErrKeyUse):
		d.fails(PermError, headErr)
	case subtle.ConstantTimeCompare(sum, s.bodyHash) != 1:
		d.fails(Fail, errBody)
	case headErr != nil:
		d.fails(Fail, errHeader)
	case !whole:
		d.fails(Policy, errLength)
	default:
		d.Value = Pass
	}
	if k.Testing && d.Value == Fail { // RFC 6376, section 3.6.1: as if it were not signed
		d.Value = Neutral
	}
	return nil
}

// current holds a signature to its times.
func (v *verifier) current(s *Signature) (string, error) {
	switch {
	case !s.Expires.IsZero() && v.now.After(s.Expires):
		return Policy, errExpired
	case s.Signed.After(v.now.Add(skew)):
		return Policy, errFuture
	}
	return "", nil
}

func (v *verifier) key(s *Signature) key {
	name := s.Selector + "._domainkey." + s.Domain
	k, ok := v.keys[name]
	if !ok {
		k.PublicKey, k.err = LookupPublicKey(v.ctx, v.resolver, s.Selector, s.Domain)
		v.keys[name] = k
	}
	return k
}

// keyFault is what a key that cannot be had makes of a signature.
func keyFault(err error) (string, error) {
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return TempError, errDNS
	}
	for _, e := range []error{ErrNoKey, ErrRevoked, ErrKeyUse} {
		if errors.Is(err, e) {
			return PermError, e
		}
	}
	if errors.Is(err, ErrKeySize) {
		return Policy, ErrKeySize
	}
	return PermError, ErrKeySyntax
}

// header returns the sum of what the header part of a signature is over.
func (v *verifier) header(s *Signature) [sha256.Size]byte {
	h := sha256.New()
	var buf []byte
	next := map[string]int{} // by name, how many fields were signed
	for _, name := range s.Fields {
		fields, n := v.fields()[name], next[name]
		if n >= len(fields) {
			continue // one that is not there is signed as such
		}
		next[name] = n + 1
		buf = s.Canon.Header.AppendField(buf[:0], fields[n])
		h.Write(buf)
	}
	h.Write(s.Canon.Header.AppendField(buf[:0], s.unsigned()))
	return [sha256.Size]byte(h.Sum(nil))
}

// fields returns the header's fields by name in lower case, the lowest first
// (RFC 6376, section 5.4.2).
func (v *verifier) fields() map[string][]string {
	if v.byName != nil {
		return v.byName
	}
	v.byName = map[string][]string{}
	for f := range v.m.Header.Fields() {
		n := strings.ToLower(f.Name())
		v.byName[n] = append(v.byName[n], f.Raw())
	}
	for _, fs := range v.byName {
		for i, j := 0, len(fs)-1; i < j; i, j = i+1, j-1 {
			fs[i], fs[j] = fs[j], fs[i]
		}
	}
	return v.byName
}

// body returns the sum of a part of the body, and whether that is all of it.
func (v *verifier) body(p part) (sum []byte, whole bool, err error) {
	if sum, ok := v.bodies[p]; ok {
		return sum, p.length < 0 || p.length >= v.sizes[p.canon], nil
	}
	r, err := v.m.Body().NewReader()
	if err != nil {
		return nil, false, fmt.Errorf("read body: %w", err)
	}
	defer r.Close() //nolint:errcheck // it was only read
	first := &firstOctets{h: sha256.New(), limit: p.length}
	w := p.canon.NewBody(first)
	if _, err = io.Copy(w, r); err == nil {
		err = w.Close()
	}
	if err != nil {
		return nil, false, fmt.Errorf("read body: %w", err)
	}
	if v.sizes == nil {
		v.sizes = map[Canonicalization]int64{}
	}
	v.sizes[p.canon] = first.size
	if sum = first.h.Sum(nil); p.length > first.size {
		sum = nil // RFC 6376, section 3.5: no longer than the body
	}
	v.bodies[p] = sum
	return sum, p.length < 0 || p.length >= first.size, nil
}

// firstOctets hashes what comes before a limit, and counts all.
type firstOctets struct {
	h     hash.Hash
	limit int64 // -1 for none
	size  int64
}

func (f *firstOctets) Write(p []byte) (int, error) {
	n := int64(len(p))
	if f.limit >= 0 {
		n = max(0, min(n, f.limit-f.size))
	}
	f.h.Write(p[:n])
	f.size += int64(len(p))
	return len(p), nil
}

// Prefixes returns of each signature the first octets of its b=, at least 8 and
// as many as tell them apart (RFC 6008, section 4).
func Prefixes(vs []Verdict) []string {
	all := make([]string, len(vs))
	for i, d := range vs {
		b := d.Signature.B
		n := min(8, len(b))
		for j, o := range vs {
			if i != j && o.Signature.B != b {
				n = max(n, min(common(b, o.Signature.B)+1, len(b)))
			}
		}
		all[i] = b[:n]
	}
	return all
}

// common returns how much two strings begin with alike.
func common(a, b string) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}
