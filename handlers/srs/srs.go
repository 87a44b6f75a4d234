// Package srs leads back what comes to addresses of the Sender Rewriting Scheme.
package srs

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/env"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/plainlog"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
	scheme "github.com/caddymail/caddy-smtp/smtpapp/srs"
)

func init() { caddy.RegisterModule(new(Handler)) }

// Handler puts the sender of a forwarded message in the place of the address that
// the forward agent has made of him, so that a DSN finds its way back. The
// recipient is left to later handlers, such as relay. Addresses that are forged or
// too old are refused (550 5.1.1), and so is mail that is no DSN (550 5.7.1).
type Handler struct {
	// Domain is that of the addresses, the same as that of the forward agent.
	// Default: the app's hostname.
	Domain string `json:"domain,omitempty"`

	// Validity is how long addresses are good, in days of 24 hours. Default: 21d.
	Validity caddy.Duration `json:"validity,omitempty"`

	// AnySender takes mail with a reverse-path as well. Whoever has seen an address
	// can then write to that sender through this host. Default: false.
	AnySender bool `json:"any_sender,omitempty"`

	keys    *scheme.Keys
	storage scheme.Storage
}

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.handlers.srs", New: func() caddy.Module { return new(Handler) }}
}

// Provision finds out the domain. Secrets are read when they are first wanted.
func (h *Handler) Provision(ctx caddy.Context) error {
	if h.Domain == "" {
		h.Domain = env.FromContext(ctx).Hostname
	}
	domain, err := mail.ParseDomain(h.Domain)
	if err != nil {
		return fmt.Errorf("srs: domain: %w", err)
	}
	h.Domain = domain
	if h.Validity == 0 {
		h.Validity = caddy.Duration(scheme.DefaultValidity)
	}
	if h.storage == nil {
		h.storage = ctx.Storage()
	}
	h.keys = &scheme.Keys{Storage: h.storage, Log: plainlog.New(ctx.Slogger())}
	return nil
}

// Validate checks the options.
func (h *Handler) Validate() error {
	if d := time.Duration(h.Validity); d < 24*time.Hour || d > scheme.MaxValidity {
		return errors.New("srs: validity is not between one day and 500")
	}
	return nil
}

var (
	errNobody = mail.Refuse(550, "5.1.1", "no such address")
	errNoDSN  = mail.Refuse(550, "5.7.1", "this address takes delivery status notifications only")
)

// HandleRcpt rewrites a recipient that is an address of ours.
func (h *Handler) HandleRcpt(ctx context.Context, tx *session.Transaction, r *mail.Recipient) error {
	if r.Claimed() || !strings.EqualFold(r.Address.Domain, h.Domain) || !scheme.Is(r.Address.Local) {
		return nil
	}
	secrets, err := h.keys.Secrets(ctx)
	if err != nil {
		return err
	}
	to, err := scheme.Reverse(r.Address.Local, secrets, time.Now(), time.Duration(h.Validity))
	switch {
	case err != nil || to.Domain == h.Domain:
		return errNobody
	case !tx.Envelope.From.IsNull() && !h.AnySender:
		return errNoDSN
	}
	r.Rewrite(to)
	return nil
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	srs [<domain>] {
//		validity   <duration>
//		any_sender
//	}
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if args := d.RemainingArgs(); len(args) > 1 {
		return d.ArgErr()
	} else if len(args) == 1 {
		h.Domain = args[0]
	}
	return caddyopt.Block(d, caddyopt.Table{
		"validity":   caddyopt.Duration(&h.Validity),
		"any_sender": caddyopt.Flag(&h.AnySender),
	})
}

var (
	_ session.RcptHandler   = (*Handler)(nil)
	_ caddy.Provisioner     = (*Handler)(nil)
	_ caddy.Validator       = (*Handler)(nil)
	_ caddyfile.Unmarshaler = (*Handler)(nil)
)
