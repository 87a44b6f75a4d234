// Package remoteip matches the client's address.
package remoteip

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func init() { caddy.RegisterModule(new(Matcher)) }

// Matcher matches clients by their IP address. Behind a proxy that is the one
// that the PROXY protocol names. A client on a unix socket has none.
type Matcher struct {
	// Ranges are addresses, networks in CIDR notation, or "private_ranges" for
	// the networks of RFC 1918, unique local addresses and loopback.
	Ranges []string `json:"ranges,omitempty"`

	ranges []netip.Prefix
}

var privateRanges = []string{"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "fd00::/8", "::1/128"}

// CaddyModule returns the Caddy module information.
func (*Matcher) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.matchers.remote_ip", New: func() caddy.Module { return new(Matcher) }}
}

// Provision parses the ranges.
func (m *Matcher) Provision(caddy.Context) error {
	for _, r := range m.Ranges {
		list := []string{r}
		if r == "private_ranges" {
			list = privateRanges
		}
		for _, s := range list {
			p, err := parse(s)
			if err != nil {
				return err
			}
			m.ranges = append(m.ranges, p)
		}
	}
	return nil
}

func parse(s string) (netip.Prefix, error) {
	if strings.Contains(s, "/") {
		p, err := netip.ParsePrefix(s)
		if err == nil && p.Addr().Is4In6() {
			err = fmt.Errorf("'%s': write IPv4 networks as such", s)
		}
		return p.Masked(), err
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	return a.Unmap().WithZone("").Prefix(a.Unmap().BitLen())
}

// Stage is when the client has connected.
func (*Matcher) Stage() session.Stage { return session.StageConnect }

// Match reports whether the client's address is in a range.
func (m *Matcher) Match(_ context.Context, at *session.Point) (bool, error) {
	ip := at.Session.RemoteIP().WithZone("")
	for _, r := range m.ranges {
		if r.Contains(ip) {
			return true, nil
		}
	}
	return false, nil
}

// UnmarshalCaddyfile sets up the matcher from Caddyfile tokens. Syntax:
//
//	remote_ip <address|network|private_ranges...>
func (m *Matcher) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	for d.Next() {
		args := d.RemainingArgs()
		if len(args) == 0 || d.NextBlock(0) {
			return d.ArgErr()
		}
		m.Ranges = append(m.Ranges, args...)
	}
	return nil
}

var (
	_ session.Matcher       = (*Matcher)(nil)
	_ caddy.Provisioner     = (*Matcher)(nil)
	_ caddyfile.Unmarshaler = (*Matcher)(nil)
)
