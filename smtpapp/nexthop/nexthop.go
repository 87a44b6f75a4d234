// Package nexthop hands mail to other hosts: it finds the hosts of a domain,
// tries them in order, keeps connections for a moment, and decides what a
// failure means. It knows nothing of configuration, and not when an attempt is
// made or what comes after it.
package nexthop

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

// Bounds of one attempt, where a Sender has no others. Whoever is not reached by
// then is tried later.
const (
	maxHosts     = 20 // looked up
	maxAddresses = 5  // dialled
	maxSessions  = 2  // that came beyond EHLO

	// maxConnections are made to a host that takes few recipients on each.
	maxConnections = 20
)

// A Host is a host to be tried.
type Host struct {
	// Name is what DSNs call it and its certificate must be for.
	Name string

	network string       // "tcp" or "unix"
	path    string       // of a socket
	port    string       // of the others
	ips     []netip.Addr // where they are known
	strange bool         // somebody else's DNS has named it: see usable
	finder  *Finder      // that must not have found ourselves; nil where we may be
	rank    uint16       // among others of the same domain, the lowest first
	chosen  bool         // our own configuration has
}

// FixedHost returns the host of an address of our own configuration: the path
// of a socket for the network "unix", otherwise host and port. What it is and
// where it lies is nobody's business but the operator's.
func FixedHost(network, addr string) (Host, error) {
	if network == "unix" {
		return Host{Name: "localhost", network: network, path: addr, chosen: true}, nil
	}
	name, port, err := net.SplitHostPort(addr)
	if err != nil {
		return Host{}, err
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || name == "" {
		return Host{}, fmt.Errorf("'%s' has no host or no port", addr)
	}
	return Host{Name: mail.Key(strings.TrimSuffix(name, ".")), network: "tcp", port: port, ips: literal(name), chosen: true}, nil
}

// literal returns the address that s is in text form, if it is one.
func literal(s string) []netip.Addr {
	if ip, err := netip.ParseAddr(s); err == nil {
		return []netip.Addr{ip}
	}
	return nil
}

// String returns the host as logs have it.
func (h Host) String() string {
	if h.network == "unix" {
		return h.path
	}
	return net.JoinHostPort(h.Name, h.port)
}
