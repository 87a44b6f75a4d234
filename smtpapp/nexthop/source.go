package nexthop

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

// A Source is where connections come from. The zero Source leaves that to the
// system.
type Source struct {
	Addresses []netip.Addr // one of each family at most
	Hello     string       // the name in EHLO, "" for that of the Sender
}

// ParseSource parses addresses and a name for EHLO: one IPv4 address, one IPv6
// address, or both, and a name or none.
func ParseSource(words []string) (src Source, err error) {
	for _, w := range words {
		ip, err := netip.ParseAddr(strings.Trim(w, "[]"))
		switch {
		case err == nil && (ip.Zone() != "" || ip.IsUnspecified() || ip.IsMulticast()):
			return Source{}, fmt.Errorf("'%s' is not an address to send from", w)
		case err == nil && src.of(ip.Unmap()).IsValid():
			return Source{}, fmt.Errorf("'%s': a source has one address of a family", w)
		case err == nil:
			src.Addresses = append(src.Addresses, ip.Unmap())
		case src.Hello != "":
			return Source{}, fmt.Errorf("'%s' is neither an address nor the only name", w)
		default:
			if _, err := mail.ParseDomain(w); err != nil {
				return Source{}, fmt.Errorf("'%s' is neither an address nor a name: %w", w, err)
			}
			src.Hello = w
		}
	}
	if len(src.Addresses) == 0 {
		return Source{}, errors.New("a source needs an address")
	}
	return src, nil
}

// of returns the address that can talk to a peer, the zero Addr if there is none.
func (src Source) of(peer netip.Addr) netip.Addr {
	for _, ip := range src.Addresses {
		if ip.Is4() == peer.Is4() {
			return ip
		}
	}
	return netip.Addr{}
}

// From returns a Sender like s whose connections come from a source. They are
// kept apart from those of other sources.
func (s *Sender) From(src Source) *Sender {
	c := *s
	c.source = src
	if src.Hello != "" {
		c.Client.Hello = src.Hello
	}
	if len(src.Addresses) > 0 {
		c.Client.Dial = src.dial
	}
	return &c
}

var errNoSource = errors.New("the source has no address of the host's family")

func (src Source) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	var d net.Dialer
	if network == "tcp" {
		peer, err := netip.ParseAddrPort(addr)
		if err != nil {
			return nil, err
		}
		ip := src.of(peer.Addr())
		if !ip.IsValid() {
			return nil, &net.OpError{Op: "dial", Net: network, Addr: net.TCPAddrFromAddrPort(peer), Err: errNoSource}
		}
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(ip, 0))
	}
	return d.DialContext(ctx, network, addr)
}

// within returns the addresses that the source can talk to, all if there are
// none: dial says then what is wrong.
func (src Source) within(addrs []string) []string {
	if len(src.Addresses) == 0 {
		return addrs
	}
	var in []string
	for _, a := range addrs {
		if peer, err := netip.ParseAddrPort(a); err == nil && src.of(peer.Addr()).IsValid() {
			in = append(in, a)
		}
	}
	if len(in) == 0 {
		return addrs
	}
	return in
}
