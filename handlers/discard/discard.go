// Package discard throws mail away.
package discard

import (
	"context"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func init() { caddy.RegisterModule(new(Handler)) }

// Handler accepts mail for a recipient and throws it away. The sender is told
// that all is well. Message handlers still run, and may refuse the message.
type Handler struct{}

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.handlers.discard", New: func() caddy.Module { return new(Handler) }}
}

// HandleRcpt takes the recipient, unless another handler has.
func (*Handler) HandleRcpt(_ context.Context, _ *session.Transaction, r *mail.Recipient) error {
	r.Discard()
	return nil
}

// Agents are none.
func (*Handler) Agents() []string { return nil }

// ClaimsAll says that no recipient is left to later handlers.
func (*Handler) ClaimsAll() bool { return true }

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	discard
func (*Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	return caddyopt.End(d)
}

var (
	_ session.RcptHandler   = (*Handler)(nil)
	_ session.Claimer       = (*Handler)(nil)
	_ caddyfile.Unmarshaler = (*Handler)(nil)
)
