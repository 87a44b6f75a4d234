// Package mailfrom matches the sender's address.
package mailfrom

import (
	"context"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/pattern"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func init() { caddy.RegisterModule(new(Matcher)) }

// Matcher matches the reverse-path, without regard to case. In a pattern "*"
// stands for any run of characters: "*@example.org", "news-*@*.example.org".
// "<>" is the null reverse-path of notifications, which no other pattern
// matches. Its JSON is a list of patterns.
type Matcher []string

// CaddyModule returns the Caddy module information.
func (*Matcher) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.matchers.mail_from", New: func() caddy.Module { return new(Matcher) }}
}

// Provision puts the patterns into the form in which they are compared.
func (m *Matcher) Provision(caddy.Context) error { return pattern.Addresses(*m) }

// Stage is MAIL.
func (*Matcher) Stage() session.Stage { return session.StageMail }

// Match reports whether the reverse-path fits a pattern.
func (m *Matcher) Match(_ context.Context, at *session.Point) (bool, error) {
	return pattern.HasAddress(*m, at.Transaction.Envelope.From), nil
}

// UnmarshalCaddyfile sets up the matcher from Caddyfile tokens. Syntax:
//
//	mail_from <pattern...>
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
	_ caddy.Provisioner     = (*Matcher)(nil)
	_ caddyfile.Unmarshaler = (*Matcher)(nil)
)
