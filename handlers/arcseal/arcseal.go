// Package arcseal adds to the Authenticated Received Chain of messages that are
// forwarded (RFC 8617).
package arcseal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/arc"
	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/dkimkey"
	"github.com/caddymail/caddy-smtp/smtpapp/dkimsign"
	"github.com/caddymail/caddy-smtp/smtpapp/dns"
	"github.com/caddymail/caddy-smtp/smtpapp/env"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/plainlog"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func init() { caddy.RegisterModule(new(Handler)) }

// Handler seals messages that are forwarded (RFC 8617): it adds a set to their
// Authenticated Received Chain that says what `spf`, `dkim`, `dmarc` and `arc`
// found when they came. Next hops that trust this domain can then let pass what
// forwarding has broken. It runs after all other handlers of the message stage,
// wherever it stands, so that the seal covers what they changed; but `arc` has
// to be among them, so that the chain is checked as it came.
//
// What clients send that logged in or are trusted is not sealed: it begins here,
// and is signed with DKIM. A chain that failed at somebody else's, or has 50
// sets, is left alone. While there is no key the message goes on unsealed, and
// the log says so.
type Handler struct {
	// Domain is in whose name the seal is. Its keys are those with which a `sign`
	// handler of the configuration signs for it.
	Domain string `json:"domain,omitempty"`

	// All seals messages to all recipients. Default: those for a recipient who is
	// elsewhere than the sender said, such as the target of an alias.
	All bool `json:"all,omitempty"`

	env      *env.Env
	resolver dns.Resolver
	log      *slog.Logger
	ring     func() (keys, error)
}

// keys are those of the domain.
type keys interface {
	Keys(ctx context.Context) ([]dkimsign.Key, error)
}

// keyHolder is a handler that has keys; it offers itself.
type keyHolder interface {
	DKIMRing(domain string) *dkimkey.Ring
}

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.handlers.arc_seal", New: func() caddy.Module { return new(Handler) }}
}

// Provision checks the domain.
func (h *Handler) Provision(ctx caddy.Context) error {
	d, err := mail.ParseDomain(h.Domain)
	if err != nil || strings.HasPrefix(d, "[") {
		return fmt.Errorf("arc_seal: '%s' is not a domain", h.Domain)
	}
	h.Domain = d
	h.env, h.log = env.FromContext(ctx), plainlog.New(ctx.Slogger())
	h.resolver = h.env.Resolver
	h.ring = h.find
	h.env.Offer(h)
	return nil
}

// find finds the keys at who signs with them.
func (h *Handler) find() (keys, error) {
	for _, s := range env.All[keyHolder](h.env) {
		if r := s.DKIMRing(h.Domain); r != nil {
			return r, nil
		}
	}
	return nil, fmt.Errorf("arc_seal: no 'sign' handler has keys of %s", h.Domain)
}

// Start fails if there are no keys.
func (h *Handler) Start() error {
	_, err := h.ring()
	return err
}

// Seals says that it seals what all other handlers have left.
func (*Handler) Seals() session.Seal { return session.ARCSeal }

// OnlyAnnotates says that it refuses nothing.
func (*Handler) OnlyAnnotates() bool { return true }

// HandleMessage seals the message if it is forwarded.
func (h *Handler) HandleMessage(ctx context.Context, tx *session.Transaction, m *message.Message) error {
	forwarded := func(r *mail.Recipient) bool { return r.Expanded && !r.Discarded }
	if tx.Session.Trusted() || !h.All && !slices.ContainsFunc(tx.Envelope.Recipients, forwarded) {
		return nil
	}
	err := h.seal(ctx, tx, m)
	if err != nil && !errors.Is(err, arc.ErrEnded) {
		h.log.Warn("a message goes unsealed", "transaction", tx.ID, "error", err)
	}
	return nil
}

func (h *Handler) seal(ctx context.Context, tx *session.Transaction, m *message.Message) error {
	ring, err := h.ring()
	if err != nil {
		return err
	}
	ks, err := ring.Keys(ctx)
	if err != nil {
		return err
	}
	return arc.Seal(m, h.prior(ctx, tx, m), choose(ks), tx.AuthResults().String(), time.Now())
}

// choose takes an RSA key if there is one: a set has one algorithm, and not
// everyone knows the other.
func choose(ks []dkimsign.Key) dkimsign.Key {
	for _, k := range ks {
		if k.Algorithm() == "rsa-sha256" {
			return k
		}
	}
	return ks[0]
}

// prior is what the chain was when the message came. Without an arc handler it
// is what it is now.
func (h *Handler) prior(ctx context.Context, tx *session.Transaction, m *message.Message) *arc.Result {
	for _, r := range slices.Backward(tx.Find("arc")) {
		if d, ok := r.Detail.(*arc.Result); ok {
			return d
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	return arc.Verify(ctx, h.resolver, m)
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	arc_seal <domain> {
//		all
//	}
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.AllArgs(&h.Domain) {
		return d.ArgErr()
	}
	return caddyopt.Block(d, caddyopt.Table{"all": caddyopt.Flag(&h.All)})
}

var (
	_ session.MessageHandler = (*Handler)(nil)
	_ session.Sealer         = (*Handler)(nil)
	_ session.Annotator      = (*Handler)(nil)
	_ caddy.Provisioner      = (*Handler)(nil)
	_ caddyfile.Unmarshaler  = (*Handler)(nil)
	_ env.Starter            = (*Handler)(nil)
)
