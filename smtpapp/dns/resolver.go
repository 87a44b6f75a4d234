// Package dns asks the domain name system what a mail server wants to know of
// it. It is a stub resolver: it asks recursive servers over UDP and TCP and
// keeps their answers as long as their TTL allows. It knows nothing of mail
// and none of the other packages.
package dns

import (
	"context"
	"errors"
	"net"
	"net/netip"
)

// A Resolver answers the questions of a mail server. It is that part of
// *net.Resolver that one needs, so *net.Resolver is one too, and dnstest.Zone
// is one for tests.
//
// What a later package needs beyond it (TLSA records, whether an answer was
// authenticated) is an interface of its own beside this one, which *Client
// implements as well.
//
// Names are absolute, with or without their last dot: no search list applies.
// Every error is a bare *net.DNSError. IsNotFound says that the name, or the
// record at that name, does not exist (NXDOMAIN and NODATA), and ErrNoName is
// within that of a name that is not there at all; IsTemporary or
// IsTimeout that nobody knows, the end of ctx included. So is the end of the
// Budget that ctx may have.
type Resolver interface {
	// LookupMX returns the MX records of name, best preference first, those
	// of equal preference in random order (RFC 5321, section 5.1). The null
	// MX (RFC 7505) is one record with the host ".".
	LookupMX(ctx context.Context, name string) ([]*net.MX, error)

	// LookupNetIP returns the addresses of host; network is "ip", "ip4" or
	// "ip6".
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)

	// LookupTXT returns the TXT records of name, the strings of each joined.
	LookupTXT(ctx context.Context, name string) ([]string, error)

	// LookupAddr returns the names that the reverse zone has for addr, an IP
	// address in text form; they end in a dot.
	LookupAddr(ctx context.Context, addr string) ([]string, error)
}

// Reasons that a *net.DNSError gives in Err.
const (
	reasonNotFound  = "no such host"
	reasonServer    = "server misbehaving"
	reasonChain     = "CNAME chain too long"
	reasonMalformed = "no usable record in the answer"
)

// ErrNoName says that a name does not exist, nor any below it (NXDOMAIN, RFC
// 8020). An alias exists, wherever it leads.
var ErrNoName = errors.New("no such name")

func noName(name string) *net.DNSError {
	e := notFound(name)
	e.UnwrapErr = ErrNoName
	return e
}

func notFound(name string) *net.DNSError {
	return &net.DNSError{Err: reasonNotFound, Name: name, IsNotFound: true}
}

func temporary(reason, name, server string) *net.DNSError {
	return &net.DNSError{Err: reason, Name: name, Server: server, IsTemporary: true}
}

// unreachable is the error of a server that could not be asked in time.
func unreachable(err error, name, server string) *net.DNSError {
	e := temporary(err.Error(), name, server)
	e.UnwrapErr = err
	if t, ok := err.(interface{ Timeout() bool }); ok {
		e.IsTimeout = t.Timeout()
	}
	return e
}
