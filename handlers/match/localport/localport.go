// Package localport matches the port that the client connected to.
package localport

import (
	"context"
	"net"
	"slices"
	"strconv"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func init() { caddy.RegisterModule(new(Matcher)) }

// Matcher matches the TCP ports, of those that the server listens on, that the
// client connected to. Its JSON is a list of numbers.
type Matcher []uint16

// CaddyModule returns the Caddy module information.
func (*Matcher) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.matchers.local_port", New: func() caddy.Module { return new(Matcher) }}
}

// Stage is when the client has connected.
func (*Matcher) Stage() session.Stage { return session.StageConnect }

// Match reports whether the port is one of those listed.
func (m *Matcher) Match(_ context.Context, at *session.Point) (bool, error) {
	a, ok := at.Session.Local.(*net.TCPAddr)
	return ok && slices.Contains(*m, a.AddrPort().Port()), nil
}

// UnmarshalCaddyfile sets up the matcher from Caddyfile tokens. Syntax:
//
//	local_port <port...>
func (m *Matcher) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	for d.Next() {
		args := d.RemainingArgs()
		if len(args) == 0 || d.NextBlock(0) {
			return d.ArgErr()
		}
		for _, a := range args {
			p, err := strconv.ParseUint(a, 10, 16)
			if err != nil || p == 0 {
				return d.Errf("'%s' is not a port", a)
			}
			*m = append(*m, uint16(p))
		}
	}
	return nil
}

var (
	_ session.Matcher       = (*Matcher)(nil)
	_ caddyfile.Unmarshaler = (*Matcher)(nil)
)
