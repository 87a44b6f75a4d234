// Package helo matches the name by which a client introduces itself.
package helo

import (
	"context"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/pattern"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func init() { caddy.RegisterModule(new(Matcher)) }

// Matcher matches the name that the client gave in EHLO or HELO, without regard
// to case. In each pattern "*" stands for any run of characters: "*.example.org".
// A client may claim any name. Its JSON is a list of patterns.
type Matcher []string

// CaddyModule returns the Caddy module information.
func (*Matcher) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.matchers.helo", New: func() caddy.Module { return new(Matcher) }}
}

// Stage is EHLO.
func (*Matcher) Stage() session.Stage { return session.StageHello }

// Match reports whether the name fits a pattern.
func (m *Matcher) Match(_ context.Context, at *session.Point) (bool, error) {
	for _, p := range *m {
		if pattern.Glob(p, at.Session.Hello) {
			return true, nil
		}
	}
	return false, nil
}

// UnmarshalCaddyfile sets up the matcher from Caddyfile tokens. Syntax:
//
//	helo <pattern...>
func (m *Matcher) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	for d.Next() {
		args := d.RemainingArgs()
		if len(args) == 0 || d.NextBlock(0) {
			return d.ArgErr()
		}
		*m = append(*m, args...)
	}
	return nil
}

var (
	_ session.Matcher       = (*Matcher)(nil)
	_ caddyfile.Unmarshaler = (*Matcher)(nil)
)
