package arc

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"strings"

	"github.com/caddymail/caddy-smtp/smtpapp/dkim"
	"github.com/caddymail/caddy-smtp/smtpapp/dns"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

// The values of a chain (RFC 8617, section 4.4).
const (
	None = "none"
	Pass = "pass"
	Fail = "fail"
)

// A Result is what became of a chain.
type Result struct {
	// Value is None, Pass or Fail. All failures are permanent, those of DNS too
	// (RFC 8617, section 5.2.1).
	Value string
	// Err is why a chain failed. It wraps a *net.DNSError if DNS did.
	Err error
	// Sets are the sets, the first one first. If the chain failed, they may lack
	// what could not be read.
	Sets []*Set
	// OldestPass is the first instance whose message signature still verifies, 0
	// if all do (RFC 8617, section 5.2, step 5). It is known of chains that pass.
	OldestPass int
}

var errFailedBefore = errors.New("the chain had failed before")

// Verify checks the chain of a message (RFC 8617, section 5.2).
func Verify(ctx context.Context, r dns.Resolver, m *message.Message) *Result {
	sets, err := read(m.Header)
	res := &Result{Value: None, Sets: sets}
	if err == nil && len(sets) == 0 {
		return res
	}
	v := verifier{ctx: ctx, resolver: r, m: m, keys: map[string]key{}, bodies: map[dkim.Canonicalization][]byte{}}
	if err == nil {
		err = v.chain(sets)
	}
	if err != nil {
		res.Value, res.Err = Fail, err
		return res
	}
	res.Value, res.OldestPass = Pass, v.oldestPass(sets)
	return res
}

// verifier is the work on one message: each key is looked up once, and the
// body is read once for each canonicalization that it has not been read for.
type verifier struct {
	ctx      context.Context
	resolver dns.Resolver
	m        *message.Message
	keys     map[string]key
	bodies   map[dkim.Canonicalization][]byte
	byName   map[string][]string
}

type key struct {
	*dkim.PublicKey
	err error
}

// chain checks the last message signature and all seals.
func (v *verifier) chain(sets []*Set) error {
	last := sets[len(sets)-1]
	if err := v.message(last); err != nil {
		return fmt.Errorf("i=%d: %s: %w", last.Instance, fieldSignature, err)
	}
	sums := sealed(sets)
	for i := len(sets) - 1; i >= 0; i-- {
		if err := v.verify(sets[i].as, sums[i]); err != nil {
			return fmt.Errorf("i=%d: %s: %w", i+1, fieldSeal, err)
		}
	}
	return nil
}

// oldestPass goes back to the first message signature that does not verify.
func (v *verifier) oldestPass(sets []*Set) int {
	for i := len(sets) - 2; i >= 0; i-- {
		if v.message(sets[i]) != nil {
			return i + 2
		}
	}
	return 0
}

// verify checks a signature over what has the sum.
func (v *verifier) verify(s *signature, sum [sha256.Size]byte) error {
	name := s.selector + "._domainkey." + s.domain
	k, ok := v.keys[name]
	if !ok {
		k.PublicKey, k.err = dkim.LookupPublicKey(v.ctx, v.resolver, s.selector, s.domain)
		v.keys[name] = k
	}
	if k.err != nil {
		return k.err
	}
	return k.Verify(s.algorithm, sum, s.value)
}

// message checks the message signature of a set.
func (v *verifier) message(set *Set) (err error) {
	for _, c := range set.ams.canons {
		if err = v.canonical(set, c); err == nil {
			break
		}
	}
	return err
}

// canonical checks a message signature in one canonical form. Unlike DKIM's it
// has no l=: the body hash is that of the whole body.
func (v *verifier) canonical(set *Set, c dkim.Canonicalizations) error {
	body, err := v.body(c.Body)
	if err != nil {
		return err
	}
	if subtle.ConstantTimeCompare(body, set.ams.bodyHash) != 1 {
		return errors.New("body hash does not match")
	}
	var buf []byte
	h := sha256.New()
	next := map[string]int{} // by name, how many fields were signed
	for _, name := range set.ams.fields {
		fields, n := v.fields()[name], next[name]
		if n >= len(fields) {
			continue // one that is not there is signed as such
		}
		next[name] = n + 1
		buf = c.Header.AppendField(buf[:0], fields[n])
		h.Write(buf)
	}
	buf = c.Header.AppendField(buf[:0], unsigned(set.signature))
	h.Write(buf)
	return v.verify(set.ams, [sha256.Size]byte(h.Sum(nil)))
}

// fields returns the header's fields by name in lower case, the lowest first
// (RFC 6376, section 5.4.2).
func (v *verifier) fields() map[string][]string {
	if v.byName == nil {
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
	}
	return v.byName
}

func (v *verifier) body(c dkim.Canonicalization) ([]byte, error) {
	if sum := v.bodies[c]; sum != nil {
		return sum, nil
	}
	r, err := v.m.Body().NewReader()
	if err != nil {
		return nil, err
	}
	defer r.Close() //nolint:errcheck // it was only read
	h := sha256.New()
	w := c.NewBody(h)
	if _, err := io.Copy(w, r); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	v.bodies[c] = h.Sum(nil)
	return v.bodies[c], nil
}

// sealed returns what each seal is over: all sets up to its own, in order, the
// seal itself without its signature (RFC 8617, section 5.1.1).
func sealed(sets []*Set) [][sha256.Size]byte {
	sums := make([][sha256.Size]byte, len(sets))
	h := sha256.New()
	var buf []byte
	for i, s := range sets {
		buf = dkim.Relaxed.AppendField(buf[:0], s.results)
		buf = dkim.Relaxed.AppendField(buf, s.signature)
		h.Write(buf)
		sums[i] = sumWith(h, dkim.Relaxed.AppendField(nil, unsigned(s.seal)))
		buf = dkim.Relaxed.AppendField(buf[:0], s.seal)
		h.Write(buf)
	}
	return sums
}

// sumWith returns the sum of what h has and p.
func sumWith(h hash.Hash, p []byte) (sum [sha256.Size]byte) {
	c, err := h.(hash.Cloner).Clone()
	if err != nil { // crypto/sha256 can
		panic(err)
	}
	c.Write(p)
	c.Sum(sum[:0])
	return sum
}

// unsigned returns a field without the value of its b= tag and without its line
// break (RFC 6376, section 3.7).
func unsigned(raw string) string {
	raw = strings.TrimSuffix(raw, "\r\n")
	for at := strings.IndexByte(raw, ':') + 1; at < len(raw); {
		end := strings.IndexByte(raw[at:], ';')
		if end < 0 {
			end = len(raw)
		} else {
			end += at
		}
		if name, _, ok := strings.Cut(raw[at:end], "="); ok && strings.Trim(name, " \t\r\n") == "b" {
			return raw[:at+len(name)+1] + raw[end:]
		}
		at = end + 1
	}
	return raw
}

// Temporary reports whether the chain failed because of DNS.
func (r *Result) Temporary() bool {
	_, ok := errors.AsType[*net.DNSError](r.Err)
	return ok
}
