package dkimkey

import (
	"context"
	"crypto"
	"errors"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/dkim"
	"github.com/caddymail/caddy-smtp/smtpapp/dkimsign"
)

// A Status is what there is to know of a key, and to publish.
type Status struct {
	Domain    string
	Selector  string
	Algorithm Algorithm
	State     State
	Name      string // of the TXT record
	Record    string // its content
	Created   time.Time
	Signs     time.Time // from when on
	Published time.Time // first seen in DNS; zero: not yet
	Removed   time.Time // when it goes; zero: not known

	entry *entry
}

// A State is where a key is in its life.
type State string

// The states.
const (
	Next    State = "next"    // to be published; it does not sign yet
	Signing State = "signing" // it signs
	Retired State = "retired" // it stays published for what it signed
)

// Status tells of each key of the ring, in the order in which they sign.
func (r *Ring) Status() []Status {
	r.mu.Lock()
	es := r.entries
	r.mu.Unlock()
	now := time.Now()
	var out []Status
	for _, e := range sorted(es) {
		out = append(out, r.status(e, es, now))
	}
	return out
}

func (r *Ring) status(e *entry, es []*entry, now time.Time) Status {
	rec, err := e.Record()
	if err != nil {
		rec = "" // keys are checked when they are read
	}
	st := Status{
		Domain: e.Domain, Selector: e.Selector, Algorithm: of(e.Key), State: Signing, Name: e.Name(), Record: rec,
		Created: e.created, Signs: e.signs, Published: e.published, entry: e,
	}
	if r.given {
		return st
	}
	cur := r.o.Schedule.current(ofKind(es, of(e.Key)), now)
	switch {
	case e == cur:
	case before(e, cur) < 0:
		st.State, st.Removed = Retired, r.o.Schedule.removal(e, cur)
	default:
		st.State = Next
	}
	if e == cur && !slices.Contains(r.o.Algorithms, of(e.Key)) {
		st.State = Retired // of an algorithm that is no longer used
	}
	return st
}

// A Publication is what DNS has of a key.
type Publication string

// What DNS may have.
const (
	Published Publication = "published"
	Missing   Publication = "missing"
	Differs   Publication = "differs" // another key, or what is no key
	Useless   Publication = "useless" // the key, in a record by which verifiers accept no signature
	Unknown   Publication = "unknown" // DNS did not answer
)

// Lookup asks DNS for a key.
func Lookup(ctx context.Context, res Resolver, k dkimsign.Key) Publication {
	want, err := k.Record()
	if err != nil || res == nil {
		return Unknown
	}
	txts, err := res.LookupTXT(ctx, k.Name())
	if dnsErr, ok := errors.AsType[*net.DNSError](err); ok && dnsErr.IsNotFound {
		return Missing
	}
	switch {
	case err != nil:
		return Unknown
	case len(txts) != 1 || !sameKey(txts[0], want): // several records are as good as none (RFC 6376, section 3.6.2.2)
		return Differs
	case probe(k, txts[0]) != nil:
		return Useless
	}
	return Published
}

// Check asks DNS for a key by its status.
func (s Status) Check(ctx context.Context, res Resolver) Publication {
	return Lookup(ctx, res, s.entry.Key)
}

// sameKey reports whether verifiers find in a record the key of another one.
func sameKey(txt, want string) bool {
	a, err := dkim.ParsePublicKey(txt)
	if err != nil {
		return false
	}
	b, err := dkim.ParsePublicKey(want)
	if err != nil {
		return false
	}
	pub, ok := a.Public.(interface{ Equal(crypto.PublicKey) bool })
	return ok && pub.Equal(b.Public)
}

// ZoneRecord writes a TXT record as a line of a zone file (RFC 1035, section
// 5.1), its content in strings of at most 255 octets.
func ZoneRecord(name, txt string) string {
	var b strings.Builder
	b.WriteString(name + ". IN TXT (")
	for txt != "" {
		n := min(len(txt), 255)
		b.WriteString(` "` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(txt[:n]) + `"`)
		txt = txt[n:]
	}
	b.WriteString(" )")
	return b.String()
}
