// Package dnstest is a domain name system for tests: a Resolver made of maps,
// and a server that answers from the same maps.
package dnstest

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/dns"
)

// A Zone is what there is to know of the domain name system. The keys of its
// maps are names in lower case without their last dot. A name that is a key of
// none does not exist. Once a Zone is in use its maps are changed by Change.
type Zone struct {
	Host  map[string][]string // addresses, of both families
	MX    map[string][]net.MX
	TXT   map[string][]string
	PTR   map[string][]string // names by address, as "192.0.2.1"
	CNAME map[string]string

	// Fail names what is answered with SERVFAIL, Silent what is not answered
	// at all: for a Resolver call, until its context ends. The names of PTR
	// records are addresses here too. "TXT example.test" is one type only, which
	// is "ip", "ip4" or "ip6" for the addresses that a Resolver call asks for.
	Fail, Silent map[string]bool

	// Authentic names what is answered with the AD bit.
	Authentic map[string]bool

	// TTL is that of every record; the default is a minute.
	TTL time.Duration

	mu    sync.Mutex
	asked []string
}

var _ dns.Resolver = (*Zone)(nil)

// Change calls f, which may change the maps while nobody reads them.
func (z *Zone) Change(f func(z *Zone)) {
	z.mu.Lock()
	defer z.mu.Unlock()
	f(z)
}

// Asked returns the questions so far as "MX example.test", in order.
func (z *Zone) Asked() []string {
	z.mu.Lock()
	defer z.mu.Unlock()
	return slices.Clone(z.asked)
}

// LookupMX implements dns.Resolver; the order among equals is the map's.
func (z *Zone) LookupMX(ctx context.Context, name string) ([]*net.MX, error) {
	r, err := z.ask(ctx, "MX", name)
	if err != nil || len(r.mx) == 0 {
		return nil, r.orNotFound(err, name)
	}
	var mxs []*net.MX
	for _, mx := range r.mx {
		mxs = append(mxs, &net.MX{Host: absolute(mx.Host), Pref: mx.Pref})
	}
	slices.SortStableFunc(mxs, func(a, b *net.MX) int { return int(a.Pref) - int(b.Pref) })
	return mxs, nil
}

// LookupNetIP implements dns.Resolver.
func (z *Zone) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{ip}, nil
	}
	r, err := z.ask(ctx, network, host)
	addrs := slices.DeleteFunc(r.addrs, func(a netip.Addr) bool {
		return network == "ip4" && !a.Is4() || network == "ip6" && a.Is4()
	})
	if err != nil || len(addrs) == 0 {
		return nil, r.orNotFound(err, host)
	}
	return addrs, nil
}

// LookupTXT implements dns.Resolver.
func (z *Zone) LookupTXT(ctx context.Context, name string) ([]string, error) {
	r, err := z.ask(ctx, "TXT", name)
	if err != nil || len(r.txt) == 0 {
		return nil, r.orNotFound(err, name)
	}
	return slices.Clone(r.txt), nil
}

// LookupAddr implements dns.Resolver.
func (z *Zone) LookupAddr(ctx context.Context, addr string) ([]string, error) {
	r, err := z.ask(ctx, "PTR", addr)
	if err != nil || len(r.ptr) == 0 {
		return nil, r.orNotFound(err, addr)
	}
	var names []string
	for _, n := range r.ptr {
		names = append(names, absolute(n))
	}
	return names, nil
}

// A result is all that a zone has at a name.
type result struct {
	exists, fail, silent, authentic bool

	addrs []netip.Addr
	mx    []net.MX
	txt   []string
	ptr   []string
	cname string
}

// ask returns what is at name, its CNAMEs followed.
func (z *Zone) ask(ctx context.Context, typ, name string) (result, error) {
	ctx, done := dns.Bound(ctx)
	defer done()
	for hops := range 9 {
		r := z.find(typ, name)
		r.exists = r.exists || hops > 0
		switch {
		case r.silent:
			<-ctx.Done()
			return r, &net.DNSError{Err: "i/o timeout", Name: name, IsTimeout: true, IsTemporary: true, UnwrapErr: ctx.Err()}
		case r.fail:
			return r, &net.DNSError{Err: "server misbehaving", Name: name, IsTemporary: true}
		case r.cname == "":
			return r, nil
		}
		name = r.cname
	}
	return result{}, &net.DNSError{Err: "CNAME chain too long", Name: name, IsTemporary: true}
}

// find returns what is at name itself and notes that it was asked for.
func (z *Zone) find(typ, name string) result {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	z.mu.Lock()
	defer z.mu.Unlock()
	z.asked = append(z.asked, typ+" "+name)
	r := result{
		fail: z.Fail[name] || z.Fail[typ+" "+name], silent: z.Silent[name] || z.Silent[typ+" "+name], authentic: z.Authentic[name],
		mx: z.MX[name], txt: z.TXT[name], ptr: z.PTR[name], cname: z.CNAME[name],
	}
	for _, s := range z.Host[name] {
		r.addrs = append(r.addrs, netip.MustParseAddr(s))
	}
	r.exists = len(r.addrs)+len(r.mx)+len(r.txt)+len(r.ptr)+len(r.cname) > 0
	return r
}

func (z *Zone) ttl() uint32 {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.TTL == 0 {
		return 60
	}
	return uint32(z.TTL / time.Second)
}

func (r result) orNotFound(err error, name string) error {
	if err != nil {
		return err
	}
	e := &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
	if !r.exists {
		e.UnwrapErr = dns.ErrNoName
	}
	return e
}

func absolute(name string) string { return strings.TrimSuffix(name, ".") + "." }
