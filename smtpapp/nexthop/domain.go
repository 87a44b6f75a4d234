package nexthop

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/caddymail/caddy-smtp/smtpapp/dns"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

// What DNS says of a domain or a host, as replies.
var (
	errNoDomain  = mail.Refuse(550, "5.1.2", "domain does not exist")
	errNullMX    = mail.Refuse(556, "5.1.10", "domain takes no mail") // RFC 7505, section 4.2
	errLoop      = mail.Refuse(554, "5.4.6", "mail for the domain loops back to this host")
	errLocalAddr = mail.Refuse(554, "5.4.6", "mail host has no address but local ones")
	errNoAddress = mail.Refuse(550, "5.4.4", "mail host has no address")
	errDNS       = mail.Refuse(451, "4.4.3", "DNS did not answer")
)

// A Finder finds the hosts that take mail for a domain (RFC 5321, section 5.1).
type Finder struct {
	Resolver dns.Resolver
	Hostname string // ours, in lower case
	Port     string
	// Loopback lets domains point to this machine.
	Loopback bool
	// Listens reports whether this server listens at an address; nil for no.
	Listens func(netip.AddrPort) bool
}

// Hosts returns the hosts for a domain or an address literal, best first. The
// error is a *mail.Reply.
func (f *Finder) Hosts(ctx context.Context, domain string) ([]Host, error) {
	if domain == "" { // as in <postmaster>
		return nil, errNoDomain
	}
	if ip, ok := addressLiteral(domain); ok {
		h := f.host(domain)
		h.ips = []netip.Addr{ip}
		return []Host{h}, nil
	}
	mxs, err := f.Resolver.LookupMX(ctx, domain+".")
	if err != nil && len(mxs) == 0 {
		if !notFound(err) {
			return nil, errDNS
		}
		return f.implicit(ctx, domain)
	}
	if len(mxs) == 1 && isRoot(mxs[0]) {
		return nil, errNullMX
	}
	mxs = f.beforeUs(slices.DeleteFunc(mxs, isRoot))
	if len(mxs) == 0 {
		return nil, errLoop
	}
	shuffleEquals(mxs)
	hosts := make([]Host, len(mxs))
	for i, mx := range mxs {
		hosts[i] = f.host(canonical(mx.Host))
		hosts[i].rank = mx.Pref
	}
	return hosts, nil
}

// implicit is a domain without MX records, which is its own host if it has an
// address.
func (f *Finder) implicit(ctx context.Context, domain string) ([]Host, error) {
	if domain == f.Hostname {
		return nil, errLoop
	}
	ips, err := f.Resolver.LookupNetIP(ctx, "ip", domain+".")
	switch {
	case notFound(err):
		return nil, errNoDomain
	case err != nil:
		return nil, errDNS
	}
	h := f.host(domain)
	h.ips = ips
	return []Host{h}, nil
}

func (f *Finder) host(name string) Host {
	h := Host{Name: name, network: "tcp", port: f.Port}
	if !f.Loopback {
		h.strange, h.finder = true, f
	}
	return h
}

// beforeUs drops ourselves and every host that is not better than we are: it
// would send the mail back.
func (f *Finder) beforeUs(mxs []*net.MX) []*net.MX {
	i := slices.IndexFunc(mxs, func(mx *net.MX) bool { return canonical(mx.Host) == f.Hostname })
	if i < 0 {
		return mxs
	}
	return slices.DeleteFunc(mxs, func(mx *net.MX) bool { return mx.Pref >= mxs[i].Pref })
}

// shuffleEquals puts hosts of equal preference in random order, as not every
// resolver does.
func shuffleEquals(mxs []*net.MX) {
	slices.SortStableFunc(mxs, func(a, b *net.MX) int { return int(a.Pref) - int(b.Pref) })
	for i := 0; i < len(mxs); {
		j := i + 1
		for j < len(mxs) && mxs[j].Pref == mxs[i].Pref {
			j++
		}
		same := mxs[i:j]
		rand.Shuffle(len(same), func(a, b int) { same[a], same[b] = same[b], same[a] })
		i = j
	}
}

func isRoot(mx *net.MX) bool { return mx.Host == "." || mx.Host == "" }

func canonical(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

func notFound(err error) bool {
	e, ok := errors.AsType[*net.DNSError](err)
	return ok && e.IsNotFound && !e.IsTemporary
}

// addressLiteral returns the address of a literal (RFC 5321, section 4.1.3).
func addressLiteral(domain string) (ip netip.Addr, ok bool) {
	in, ok := strings.CutPrefix(domain, "[")
	if !ok {
		return ip, false
	}
	in = strings.TrimPrefix(strings.TrimSuffix(in, "]"), "IPv6:")
	ip, err := netip.ParseAddr(in)
	return ip, err == nil
}

// addresses returns where a host is to be dialled, in order. The error is a
// *mail.Reply.
func addresses(ctx context.Context, r dns.Resolver, h Host) ([]string, error) {
	if h.network == "unix" {
		return []string{h.path}, nil
	}
	ips := h.ips
	if len(ips) == 0 {
		var err error
		ips, err = r.LookupNetIP(ctx, "ip", h.Name+".")
		switch {
		case notFound(err):
			return nil, errNoAddress
		case err != nil:
			return nil, errDNS
		}
	}
	var out []string
	for _, ip := range ips {
		if h.usable(ip.Unmap()) {
			out = append(out, net.JoinHostPort(ip.Unmap().String(), h.port))
		}
	}
	if len(out) == 0 {
		return nil, errLocalAddr
	}
	return out, nil
}

// usable refuses to be sent to this machine by somebody's DNS: what listens
// here may trust whoever comes from here.
func (h Host) usable(ip netip.Addr) bool {
	return !h.strange || !ip.IsLoopback() && !ip.IsUnspecified() && !ip.IsMulticast()
}
