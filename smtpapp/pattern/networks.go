package pattern

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Networks are networks of addresses.
type Networks []netip.Prefix

var privateRanges = []string{"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "fd00::/8", "::1/128"}

// ParseNetworks reads addresses, networks in CIDR notation, and
// "private_ranges" for the networks of RFC 1918, unique local addresses and
// loopback.
func ParseNetworks(words []string) (Networks, error) {
	var nets Networks
	for _, w := range words {
		list := []string{w}
		if w == "private_ranges" {
			list = privateRanges
		}
		for _, s := range list {
			p, err := network(s)
			if err != nil {
				return nil, err
			}
			nets = append(nets, p)
		}
	}
	return nets, nil
}

func network(s string) (netip.Prefix, error) {
	if !strings.Contains(s, "/") {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return netip.Prefix{}, fmt.Errorf("'%s' is neither an address nor a network", s)
		}
		a = a.Unmap().WithZone("")
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return p, fmt.Errorf("'%s' is neither an address nor a network", s)
	case p.Addr().Is4In6():
		return p, fmt.Errorf("'%s': write networks of IPv4 as such", s)
	}
	return p.Masked(), nil
}

// Contain reports whether an address is in one of the networks. None is the
// zero Addr, which clients on unix sockets have.
func (n Networks) Contain(ip netip.Addr) bool {
	ip = ip.Unmap().WithZone("")
	return slices.ContainsFunc(n, func(p netip.Prefix) bool { return p.Contains(ip) })
}
