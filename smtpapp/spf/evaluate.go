package spf

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/caddymail/caddy-smtp/smtpapp/dns"
)

// Limits of RFC 7208, section 4.6.4.
const (
	maxLookups = 10 // terms that ask DNS
	maxVoid    = 2  // questions without an answer
	maxNames   = 10 // MX records, and PTR records that are looked at
)

// An evaluation is one check with its includes and redirections.
type evaluation struct {
	ctx context.Context
	r   dns.Resolver

	ip            netip.Addr
	hello         string
	local, domain string // of the sender

	lookups, void int
	names         []string // of the client, validated
	named         bool
}

// check is check_host() for a domain. An error goes with TempError and
// PermError only.
func (e *evaluation) check(domain string) (string, error) {
	rec, err := e.record(domain)
	if rec == nil {
		return valueOf(err), err
	}
	for _, d := range rec.directives {
		ok, err := e.matches(d, domain)
		if err != nil {
			return valueOf(err), err
		}
		if ok {
			return d.result, nil
		}
	}
	if !rec.redirects {
		return Neutral, nil
	}
	if err := e.count(); err != nil {
		return PermError, err
	}
	v, err := e.check(e.expand(rec.redirect, domain))
	if v == None { // section 6.1
		return PermError, errNone
	}
	return v, err
}

func valueOf(err error) string {
	switch {
	case err == nil:
		return None
	case errors.Is(err, errDNS):
		return TempError
	}
	return PermError
}

// record returns the policy of a domain, nil if it has none.
func (e *evaluation) record(domain string) (*record, error) {
	if !askable(domain) {
		return nil, nil
	}
	txts, err := e.r.LookupTXT(e.ctx, domain+".")
	if _, err = answered(err); err != nil {
		return nil, err
	}
	txts = slices.DeleteFunc(txts, func(s string) bool { return !isRecord(s) })
	switch len(txts) {
	case 0:
		return nil, nil
	case 1:
		return parseRecord(txts[0])
	}
	return nil, errRecords
}

// answered sorts a resolver's errors out: a name or record that is not there
// is an answer, and all else is temporary.
func answered(err error) (void bool, _ error) {
	if err == nil {
		return false, nil
	}
	if d, ok := errors.AsType[*net.DNSError](err); ok && d.IsNotFound {
		return true, nil
	}
	return false, errDNS
}

func (e *evaluation) count() error {
	if e.lookups++; e.lookups > maxLookups {
		return errLookups
	}
	return nil
}

// countVoid counts a question that had no answer.
func (e *evaluation) countVoid(n int) error {
	if n > 0 {
		return nil
	}
	if e.void++; e.void > maxVoid {
		return errVoid
	}
	return nil
}

func (e *evaluation) matches(d directive, domain string) (bool, error) {
	switch d.mechanism {
	case "all":
		return true, nil
	case "ip4", "ip6":
		return d.network.Contains(e.ip), nil
	}
	if err := e.count(); err != nil {
		return false, err
	}
	target := domain
	if d.hasSpec {
		target = e.expand(d.spec, domain)
	}
	switch d.mechanism {
	case "include":
		return e.include(target)
	case "ptr":
		return e.ptr(target)
	case "exists":
		ips, err := e.addresses("ip4", target)
		if err == nil {
			err = e.countVoid(len(ips))
		}
		return len(ips) > 0, err
	case "mx":
		return e.mx(target, d.bits)
	}
	ips, err := e.addresses(e.network(), target)
	if err == nil {
		err = e.countVoid(len(ips))
	}
	return e.among(ips, d.bits), err
}

// include: what another domain's policy lets pass (section 5.2).
func (e *evaluation) include(target string) (bool, error) {
	v, err := e.check(target)
	if v == None {
		err = errNone
	}
	return v == Pass, err
}

// mx: the addresses of a domain's mail exchangers (section 5.4).
func (e *evaluation) mx(target string, bits [2]int) (bool, error) {
	if !askable(target) {
		return false, e.countVoid(0)
	}
	mxs, err := e.r.LookupMX(e.ctx, target+".")
	if _, err = answered(err); err == nil {
		err = e.countVoid(len(mxs))
	}
	if err != nil {
		return false, err
	}
	if len(mxs) > maxNames {
		return false, errMXs
	}
	for _, mx := range mxs {
		ips, err := e.addresses(e.network(), strings.TrimSuffix(mx.Host, "."))
		if err != nil || e.among(ips, bits) {
			return err == nil, err
		}
	}
	return false, nil
}

// ptr: the client's own names, validated (section 5.5).
func (e *evaluation) ptr(target string) (bool, error) {
	names, err := e.clientNames()
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(names, func(n string) bool { return within(n, target) }), nil
}

// clientNames returns the names of the client that lead back to it. Errors of
// DNS leave them out: the reverse zone is the client's, not the domain's.
func (e *evaluation) clientNames() ([]string, error) {
	if e.named {
		return e.names, nil
	}
	e.named = true
	ptrs, err := e.r.LookupAddr(e.ctx, e.ip.String())
	if _, err = answered(err); err != nil {
		return nil, nil
	}
	if err := e.countVoid(len(ptrs)); err != nil {
		return nil, err
	}
	for _, p := range ptrs[:min(len(ptrs), maxNames)] {
		n := strings.TrimSuffix(p, ".")
		if ips, err := e.addresses(e.network(), n); err == nil && slices.Contains(ips, e.ip) {
			e.names = append(e.names, n)
		}
	}
	return e.names, nil
}

// validated is the macro "p": a name of the client, best one within domain.
func (e *evaluation) validated(domain string) string {
	names, err := e.clientNames()
	if err != nil || len(names) == 0 {
		return "unknown"
	}
	for _, n := range names {
		if strings.EqualFold(n, domain) {
			return n
		}
	}
	for _, n := range names {
		if within(n, domain) {
			return n
		}
	}
	return names[0]
}

func within(name, domain string) bool {
	n, d := strings.ToLower(name), strings.ToLower(strings.TrimSuffix(domain, "."))
	return n == d || strings.HasSuffix(n, "."+d)
}

// network is the family whose addresses can be the client's (section 5).
func (e *evaluation) network() string {
	if e.ip.Is4() {
		return "ip4"
	}
	return "ip6"
}

func (e *evaluation) addresses(network, host string) ([]netip.Addr, error) {
	if !askable(host) {
		return nil, nil
	}
	ips, err := e.r.LookupNetIP(e.ctx, network, host+".")
	if _, err = answered(err); err != nil {
		return nil, err
	}
	for i := range ips {
		ips[i] = ips[i].Unmap()
	}
	return ips, nil
}

// among reports whether the client is within so many bits of one of ips.
func (e *evaluation) among(ips []netip.Addr, bits [2]int) bool {
	n := bits[0]
	if e.ip.Is6() {
		n = bits[1]
	}
	return slices.ContainsFunc(ips, func(ip netip.Addr) bool {
		p, err := ip.Prefix(n)
		return err == nil && p.Contains(e.ip)
	})
}

// dotted is the macro "i": an address as labels.
func dotted(ip netip.Addr) string {
	if ip.Is4() {
		return ip.String()
	}
	const hex = "0123456789abcdef"
	var b strings.Builder
	for _, c := range ip.As16() {
		b.WriteString("." + string(hex[c>>4]) + "." + string(hex[c&15]))
	}
	return b.String()[1:]
}

// askable reports a name, without its last dot, that DNS can have. What cannot
// be a name does not exist (section 4.8). An address would be its own answer.
func askable(name string) bool {
	if name == "" || len(name) > 253 {
		return false
	}
	for l := range strings.SplitSeq(name, ".") {
		if l == "" || len(l) > 63 {
			return false
		}
	}
	if strings.IndexFunc(name, func(r rune) bool { return r < ' ' || r > '~' }) >= 0 {
		return false
	}
	_, err := netip.ParseAddr(name)
	return err != nil
}
