// Package iprev checks whether the client's address has a name that leads back
// to it.
package iprev

import (
	"context"
	"fmt"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/dns"
	"github.com/caddymail/caddy-smtp/smtpapp/env"
	"github.com/caddymail/caddy-smtp/smtpapp/iprev"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/refusal"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func init() { caddy.RegisterModule(new(Handler)) }

// Handler checks at MAIL whether the client's address has a name in the
// reverse zone that leads back to it (RFC 8601, section 3). The result is
// "iprev": pass; fail, if the names that there are lead elsewhere; permerror,
// if there is no name; or temperror. Its comment is the name. Our own users,
// and clients that the server trusts, are not checked.
type Handler struct {
	// Reject are results that refuse MAIL for good, with 550 5.7.25 (RFC
	// 7372). Defer are those that refuse for now, with 451 4.7.25. Default:
	// none.
	refusal.Options

	resolver dns.Resolver
}

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.handlers.iprev", New: func() caddy.Module { return new(Handler) }}
}

// Provision checks the options and takes the resolver of the configuration.
func (h *Handler) Provision(ctx caddy.Context) error {
	h.resolver = env.FromContext(ctx).Resolver
	return h.valid()
}

func (h *Handler) valid() error {
	if err := h.Check(iprev.Values); err != nil {
		return fmt.Errorf("iprev: %w", err)
	}
	return nil
}

// HandleMail checks the client.
func (h *Handler) HandleMail(ctx context.Context, tx *session.Transaction) error {
	ip := tx.Session.RemoteIP()
	if tx.Session.Trusted() || !ip.IsValid() {
		return nil
	}
	value, name := iprev.Check(ctx, h.resolver, ip)
	tx.Results = append(tx.Results, session.Result{
		Method: "iprev", Value: value, Comment: name,
		Props: []session.Property{{Type: "policy", Name: "iprev", Value: ip.WithZone("").String()}},
	})
	switch h.Class(value) {
	case 5:
		return mail.Refuse(550, "5.7.25", "reverse DNS of %s: %s", ip, value)
	case 4:
		return mail.Refuse(451, "4.7.25", "reverse DNS of %s: %s", ip, value)
	}
	return nil
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	iprev {
//		reject <results...>
//		defer  <results...>
//	}
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if d.NextArg() {
		return d.ArgErr()
	}
	err := caddyopt.Block(d, caddyopt.Table{
		"reject": caddyopt.Strings(&h.Reject),
		"defer":  caddyopt.Strings(&h.Defer),
	})
	if err != nil {
		return err
	}
	if err := h.valid(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

var (
	_ session.MailHandler   = (*Handler)(nil)
	_ caddy.Provisioner     = (*Handler)(nil)
	_ caddyfile.Unmarshaler = (*Handler)(nil)
)
