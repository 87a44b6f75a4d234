// Package mailfromdomain matches the sender's domain.
package mailfromdomain

import (
	"context"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/pattern"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func init() { caddy.RegisterModule(new(Matcher)) }

// Matcher matches the domain of the reverse-path. "*.example.org" is every domain
// below example.org, and "*" every domain; the null reverse-path has none.
// Internationalised domains may be written either way. Its JSON is a list of
// domains.
type Matcher []string

// CaddyModule returns the Caddy module information.
func (*Matcher) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.matchers.mail_from_domain", New: func() caddy.Module { return new(Matcher) }}
}

// Provision puts the domains into the form in which they are compared.
func (m *Matcher) Provision(caddy.Context) error { return pattern.Domains(*m) }

// Stage is MAIL.
func (*Matcher) Stage() session.Stage { return session.StageMail }

// Match reports whether the reverse-path is in a domain.
func (m *Matcher) Match(_ context.Context, at *session.Point) (bool, error) {
	return pattern.HasDomain(*m, at.Transaction.Envelope.From.Domain), nil
}

// UnmarshalCaddyfile sets up the matcher from Caddyfile tokens. Syntax:
//
//	mail_from_domain <domain...>
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
