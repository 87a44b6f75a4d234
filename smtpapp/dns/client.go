package dns

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	miekg "github.com/miekg/dns"
)

// A Client is a Resolver that asks recursive servers. It may be used by many
// goroutines at once, and starts none that outlives a call.
type Client struct {
	servers []string // address:port
	timeout time.Duration
	cache   cache
	flights flights
}

var _ Resolver = (*Client)(nil)

// An Option changes a Client as it is made.
type Option func(*Client)

// Timeout sets how long one server is waited for, its TCP fallback included.
// The default is 5 s.
func Timeout(d time.Duration) Option { return func(c *Client) { c.timeout = d } }

// CacheEntries sets how many answers are kept. The default is 10,000; 0 keeps
// none.
func CacheEntries(n int) Option { return func(c *Client) { c.cache.max = n } }

// New returns a Client that asks servers, in order: IP addresses, with a port
// unless it is 53. None means those that /etc/resolv.conf names now, or else
// the one on this host. An address that is none is an error.
func New(servers []string, opts ...Option) (*Client, error) {
	c := &Client{timeout: 5 * time.Second}
	c.cache.max = 10_000
	for _, o := range opts {
		o(c)
	}
	if len(servers) == 0 {
		servers = systemServers("/etc/resolv.conf")
	}
	for _, s := range servers {
		a, err := serverAddress(s)
		if err != nil {
			return nil, err
		}
		c.servers = append(c.servers, a)
	}
	return c, nil
}

// systemServers returns the name servers of a resolv.conf(5).
func systemServers(file string) []string {
	conf, err := miekg.ClientConfigFromFile(file)
	if err != nil || len(conf.Servers) == 0 {
		return []string{"127.0.0.1", "::1"}
	}
	return conf.Servers
}

func serverAddress(s string) (string, error) {
	if ap, err := netip.ParseAddrPort(s); err == nil && ap.Port() != 0 {
		return ap.String(), nil
	}
	a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"))
	if err != nil {
		return "", fmt.Errorf("name server %q is not an IP address, with or without a port", s)
	}
	return netip.AddrPortFrom(a, 53).String(), nil
}

// LookupMX implements Resolver. Records whose host is no host name are left
// out; if that leaves none, the error is temporary.
func (c *Client) LookupMX(ctx context.Context, name string) ([]*net.MX, error) {
	a, err := c.lookup(ctx, name, miekg.TypeMX)
	if err != nil {
		return nil, err
	}
	var mxs []*net.MX
	for _, rr := range a.records {
		if mx := rr.(*miekg.MX); mx.Mx == "." || plainName(mx.Mx) {
			mxs = append(mxs, &net.MX{Host: mx.Mx, Pref: mx.Preference})
		}
	}
	if len(mxs) == 0 {
		return nil, temporary(reasonMalformed, name, "")
	}
	rand.Shuffle(len(mxs), func(i, j int) { mxs[i], mxs[j] = mxs[j], mxs[i] })
	slices.SortStableFunc(mxs, func(a, b *net.MX) int { return cmp.Compare(a.Pref, b.Pref) })
	return mxs, nil
}

// LookupTXT implements Resolver.
func (c *Client) LookupTXT(ctx context.Context, name string) ([]string, error) {
	a, err := c.lookup(ctx, name, miekg.TypeTXT)
	if err != nil {
		return nil, err
	}
	var txts []string
	for _, rr := range a.records {
		txts = append(txts, unescape(strings.Join(rr.(*miekg.TXT).Txt, "")))
	}
	return txts, nil
}

// LookupAddr implements Resolver. Names that are no host names are left out.
func (c *Client) LookupAddr(ctx context.Context, addr string) ([]string, error) {
	ip, err := netip.ParseAddr(addr)
	if err != nil {
		return nil, &net.DNSError{Err: "unrecognized address", Name: addr}
	}
	rev, err := miekg.ReverseAddr(ip.Unmap().WithZone("").String())
	if err != nil {
		return nil, &net.DNSError{Err: "unrecognized address", Name: addr}
	}
	a, err := c.lookup(ctx, rev, miekg.TypePTR)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, rr := range a.records {
		if n := rr.(*miekg.PTR).Ptr; plainName(n) {
			names = append(names, n)
		}
	}
	if len(names) == 0 {
		return nil, notFound(addr)
	}
	return names, nil
}

// LookupNetIP implements Resolver. An IP address is its own answer, and
// localhost is this host (RFC 6761, section 6.3); neither is asked for.
func (c *Client) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	want4, want6 := network == "ip" || network == "ip4", network == "ip" || network == "ip6"
	if !want4 && !want6 {
		return nil, &net.DNSError{Err: "unknown network " + network, Name: host}
	}
	if own := ownAddresses(host); own != nil {
		own = slices.DeleteFunc(own, func(a netip.Addr) bool { return a.Is4() && !want4 || a.Is6() && !want6 })
		if len(own) == 0 {
			return nil, notFound(host)
		}
		return own, nil
	}
	var a4, a6 []netip.Addr
	var err4, err6 error
	var wg sync.WaitGroup
	if want4 {
		wg.Go(func() { a4, err4 = c.addresses(ctx, host, miekg.TypeA) })
	}
	if want6 {
		wg.Go(func() { a6, err6 = c.addresses(ctx, host, miekg.TypeAAAA) })
	}
	wg.Wait()
	if all := append(a4, a6...); len(all) > 0 {
		return all, nil
	}
	return nil, worse(err4, err6)
}

func (c *Client) addresses(ctx context.Context, host string, typ uint16) ([]netip.Addr, error) {
	a, err := c.lookup(ctx, host, typ)
	if err != nil {
		return nil, err
	}
	var addrs []netip.Addr
	for _, rr := range a.records {
		var ip net.IP
		switch rr := rr.(type) {
		case *miekg.A:
			ip = rr.A
		case *miekg.AAAA:
			ip = rr.AAAA
		}
		if addr, ok := netip.AddrFromSlice(ip); ok {
			addrs = append(addrs, addr.Unmap())
		}
	}
	if len(addrs) == 0 {
		return nil, temporary(reasonMalformed, host, "")
	}
	return addrs, nil
}

// ownAddresses returns the addresses of a host that nobody is asked for.
func ownAddresses(host string) []netip.Addr {
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{ip.Unmap()}
	}
	h := "." + strings.ToLower(strings.TrimSuffix(host, "."))
	if strings.HasSuffix(h, ".localhost") {
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	}
	return nil
}

// worse returns the error that leaves more open: with the A records of a host
// not found and its AAAA records not to be had, whether it has an address is
// not known.
func worse(a, b error) error {
	if a == nil {
		return b
	}
	if e, ok := errors.AsType[*net.DNSError](b); ok && !e.IsNotFound {
		return b
	}
	return a
}
