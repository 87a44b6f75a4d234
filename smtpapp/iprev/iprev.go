// Package iprev checks whether the name that an address has in the reverse
// zone leads back to it (RFC 8601, section 3). It knows nothing of sessions.
package iprev

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/caddymail/caddy-smtp/smtpapp/dns"
)

// The results (RFC 8601, section 2.7.3).
const (
	Pass      = "pass"
	Fail      = "fail"      // the names there are lead elsewhere
	TempError = "temperror" // DNS did not tell now
	PermError = "permerror" // there is no name
)

// Values are all results.
var Values = []string{Pass, Fail, TempError, PermError}

// maxNames bounds the names that are looked at.
const maxNames = 10

// Check returns the result for an address, and the first name that leads back.
func Check(ctx context.Context, r dns.Resolver, ip netip.Addr) (value, name string) {
	ip = ip.Unmap().WithZone("")
	names, err := r.LookupAddr(ctx, ip.String())
	if err != nil || len(names) == 0 {
		return failed(err, PermError), ""
	}
	network := "ip6"
	if ip.Is4() {
		network = "ip4"
	}
	value = Fail
	for _, n := range names[:min(len(names), maxNames)] {
		ips, err := r.LookupNetIP(ctx, network, n)
		if slices.ContainsFunc(ips, func(a netip.Addr) bool { return a.Unmap() == ip }) {
			return Pass, strings.ToLower(strings.TrimSuffix(n, "."))
		}
		if failed(err, Fail) == TempError {
			value = TempError
		}
	}
	return value, ""
}

// failed is TempError unless the name does not exist.
func failed(err error, notFound string) string {
	if e, ok := errors.AsType[*net.DNSError](err); err != nil && (!ok || !e.IsNotFound) {
		return TempError
	}
	return notFound
}
