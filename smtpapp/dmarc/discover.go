package dmarc

import (
	"context"
	"errors"
	"net"
	"strings"

	"golang.org/x/net/publicsuffix"

	"github.com/caddymail/caddy-smtp/smtpapp/dns"
)

// A Method tells which domains are of one organisation.
type Method string

// The methods.
const (
	TreeWalk     Method = "treewalk" // DNS says (RFC 9989, section 4.10)
	PublicSuffix Method = "psl"      // a list says (RFC 7489, section 3.2)
)

// maxWalk is how many labels of a long name are walked, and so with the first
// query how many there are at most (RFC 9989, section 4.10).
const maxWalk = 7

// A Finder asks for records, each once: it is made for one message.
type Finder struct {
	resolver dns.Resolver
	method   Method
	found    map[string]found
}

type found struct {
	record *Record
	err    error
}

// NewFinder returns a Finder.
func NewFinder(r dns.Resolver, m Method) *Finder {
	return &Finder{resolver: r, method: m, found: map[string]found{}}
}

// at returns the record at a domain, nil if there is none. Several are none.
// ErrRecord is one that is of no use, and other errors are those of DNS.
func (f *Finder) at(ctx context.Context, domain string) (*Record, error) {
	if r, ok := f.found[domain]; ok {
		return r.record, r.err
	}
	r, err := f.ask(ctx, domain)
	f.found[domain] = found{r, err}
	return r, err
}

func (f *Finder) ask(ctx context.Context, domain string) (*Record, error) {
	const prefix = "_dmarc."
	if len(prefix)+len(domain) > 253 {
		return nil, nil
	}
	txts, err := f.resolver.LookupTXT(ctx, prefix+domain)
	if notFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	one := ""
	for _, txt := range txts {
		if !isRecord(txt) {
			continue
		}
		if one != "" {
			return nil, nil
		}
		one = txt
	}
	if one == "" {
		return nil, nil
	}
	r, err := Parse(one)
	if err != nil {
		return nil, err
	}
	r.Domain = domain
	return r, nil
}

func notFound(err error) bool {
	e, ok := errors.AsType[*net.DNSError](err)
	return ok && e.IsNotFound
}

// Record returns the record that applies to an author's domain, nil if there is
// none (RFC 9989, section 4.10.1).
func (f *Finder) Record(ctx context.Context, author string) (*Record, error) {
	if r, err := f.at(ctx, author); r != nil || err != nil {
		return r, err
	}
	if f.method == PublicSuffix {
		org := Registered(author)
		if org == author {
			return nil, nil
		}
		return f.at(ctx, org)
	}
	rs, err := f.walk(ctx, author)
	if err != nil {
		return nil, err
	}
	org := organisation(author, rs)
	for _, r := range rs {
		if r.Domain == org || r.PSD == 'y' {
			return r, nil
		}
	}
	return nil, nil
}

// Organisation returns the organisational domain of a domain (RFC 9989, section
// 4.10.2).
func (f *Finder) Organisation(ctx context.Context, domain string) (string, error) {
	if f.method == PublicSuffix {
		return Registered(domain), nil
	}
	rs, err := f.walk(ctx, domain)
	if err != nil {
		return "", err
	}
	return organisation(domain, rs), nil
}

// Registered is the domain directly below a public suffix.
func Registered(domain string) string {
	org, err := publicsuffix.EffectiveTLDPlusOne(domain)
	if err != nil { // it is one itself
		return domain
	}
	return org
}

// walk returns the records from a domain upwards, the longest name first, up
// to one that says that it is the end.
func (f *Finder) walk(ctx context.Context, domain string) ([]*Record, error) {
	var rs []*Record
	for name, first := domain, true; name != ""; first = false {
		r, err := f.at(ctx, name)
		if err != nil && !errors.Is(err, ErrRecord) {
			return nil, err
		}
		if r != nil {
			rs = append(rs, r)
			if r.PSD != 'u' {
				break
			}
		}
		if first {
			name = shorten(name)
		} else {
			name = parent(name)
		}
	}
	return rs, nil
}

// shorten is the second name of a walk.
func shorten(name string) string {
	name = parent(name)
	for n := strings.Count(name, ".") + 1; n > maxWalk; n-- {
		name = parent(name)
	}
	return name
}

func parent(name string) string {
	_, rest, _ := strings.Cut(name, ".")
	return rest
}

// organisation selects the organisational domain from the records of a walk.
func organisation(domain string, rs []*Record) string {
	org := domain
	for _, r := range rs {
		switch {
		case r.PSD == 'n':
			return r.Domain
		case r.PSD == 'y' && r.Domain != domain:
			return below(domain, r.Domain)
		}
		org = r.Domain
	}
	return org
}

// below returns the ancestor of a domain that is one label below a suffix.
func below(domain, suffix string) string {
	rest := strings.TrimSuffix(domain, "."+suffix)
	return rest[strings.LastIndexByte(rest, '.')+1:] + "." + suffix
}

// Exists reports whether a domain exists (RFC 9989, section 3.2.13): one that is
// without records of the kinds that are asked for does, as do all whose servers
// lie about that for DNSSEC's sake (RFC 9824).
func (f *Finder) Exists(ctx context.Context, domain string) (bool, error) {
	_, err := f.resolver.LookupMX(ctx, domain)
	switch {
	case errors.Is(err, dns.ErrNoName):
		return false, nil
	case notFound(err):
		return true, nil
	}
	return err == nil, err
}
