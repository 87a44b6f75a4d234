// Package rcpt matches a recipient's address.
package rcpt

import (
	"context"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/pattern"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func init() { caddy.RegisterModule(new(Matcher)) }

// Matcher matches the address of each recipient, as rewritten so far, without
// regard to case. In a pattern "*" stands for any run of characters:
// "*@example.org", "postmaster@*"; a local part alone is one at any domain. Its
// JSON is a list of patterns.
type Matcher []string

// CaddyModule returns the Caddy module information.
func (*Matcher) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.matchers.rcpt", New: func() caddy.Module { return new(Matcher) }}
}

// Provision puts the patterns into the form in which they are compared.
func (m *Matcher) Provision(caddy.Context) error { return pattern.Addresses(*m) }

// Stage is RCPT.
func (*Matcher) Stage() session.Stage { return session.StageRcpt }

// PerRecipient says that the matcher decides for each recipient.
func (*Matcher) PerRecipient() bool { return true }

// Match reports whether the recipient's address fits a pattern.
func (m *Matcher) Match(_ context.Context, at *session.Point) (bool, error) {
	return pattern.HasAddress(*m, at.Recipient.Address), nil
}

// UnmarshalCaddyfile sets up the matcher from Caddyfile tokens. Syntax:
//
//	rcpt <pattern...>
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
