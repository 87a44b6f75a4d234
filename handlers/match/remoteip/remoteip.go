// Package remoteip matches the client's address.
package remoteip

import (
	"context"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/pattern"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func init() { caddy.RegisterModule(new(Matcher)) }

// Matcher matches clients by their IP address. Behind a proxy that is the one
// that the PROXY protocol names. A client on a unix socket has none.
type Matcher struct {
	// Ranges are addresses, networks in CIDR notation, or "private_ranges" for
	// the networks of RFC 1918, unique local addresses and loopback.
	Ranges []string `json:"ranges,omitempty"`

	ranges pattern.Networks
}

// CaddyModule returns the Caddy module information.
func (*Matcher) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.matchers.remote_ip", New: func() caddy.Module { return new(Matcher) }}
}

// Provision parses the ranges.
func (m *Matcher) Provision(caddy.Context) (err error) {
	m.ranges, err = pattern.ParseNetworks(m.Ranges)
	return err
}

// Stage is when the client has connected.
func (*Matcher) Stage() session.Stage { return session.StageConnect }

// Match reports whether the client's address is in a range.
func (m *Matcher) Match(_ context.Context, at *session.Point) (bool, error) {
	return m.ranges.Contain(at.Session.RemoteIP()), nil
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
