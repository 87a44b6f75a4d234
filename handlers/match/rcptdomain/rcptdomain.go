// Package rcptdomain matches a recipient's domain.
package rcptdomain

import (
	"context"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/pattern"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func init() { caddy.RegisterModule(new(Matcher)) }

// Matcher matches the domain of each recipient, as rewritten so far.
// "*.example.org" is every domain below example.org, and "*" every domain.
// Internationalised domains may be written either way. For a list that changes
// often, use lookup with a table. Its JSON is a list of domains.
type Matcher []string

// CaddyModule returns the Caddy module information.
func (*Matcher) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.matchers.rcpt_domain", New: func() caddy.Module { return new(Matcher) }}
}

// Provision puts the domains into the form in which they are compared.
func (m *Matcher) Provision(caddy.Context) error { return pattern.Domains(*m) }

// Stage is RCPT.
func (*Matcher) Stage() session.Stage { return session.StageRcpt }

// PerRecipient says that the matcher decides for each recipient.
func (*Matcher) PerRecipient() bool { return true }

// Match reports whether the recipient is in a domain.
func (m *Matcher) Match(_ context.Context, at *session.Point) (bool, error) {
	return pattern.HasDomain(*m, at.Recipient.Address.Domain), nil
}

// UnmarshalCaddyfile sets up the matcher from Caddyfile tokens. Syntax:
//
//	rcpt_domain <domain...>
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
	_ session.Matcher          = (*Matcher)(nil)
	_ session.RecipientMatcher = (*Matcher)(nil)
	_ caddy.Provisioner        = (*Matcher)(nil)
	_ caddyfile.Unmarshaler    = (*Matcher)(nil)
)
