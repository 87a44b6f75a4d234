// Package auth lets users log in.
package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/certmagic"
	"github.com/emersion/go-sasl"

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/env"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/plainlog"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func init() { caddy.RegisterModule(new(Handler)) }

// Handler offers AUTH (RFC 4954) with what its credential sources can serve, and
// refuses MAIL from clients that have not logged in. Unless the server's options
// say otherwise, AUTH is offered under TLS only.
//
// The mechanisms are EXTERNAL, SCRAM-SHA-256 and SCRAM-SHA-1 with channel binding
// (-PLUS) and without, OAUTHBEARER, XOAUTH2, PLAIN, LOGIN, and if they are named
// CRAM-MD5 and ANONYMOUS. Those are offered, best first, that the sources can
// serve for all users, and that the connection is worth: EXTERNAL where the
// client has shown a certificate that TLS has verified, -PLUS under TLS.
//
// A client that logs in as ANONYMOUS (RFC 4505) may send MAIL, but is no user:
// relay and all else that is for users is closed to it. It is meant for sinks.
//
// Names of users are compared without regard to case (RFC 8265). Logging in on
// behalf of another user is refused.
type Handler struct {
	// SourcesRaw are the credential sources, in order. The first that knows a
	// user decides.
	SourcesRaw []json.RawMessage `json:"sources,omitempty" caddy:"namespace=smtp.auth inline_key=source"`

	// Optional lets clients send mail without logging in. Default: false.
	Optional bool `json:"optional,omitempty"`

	// Offer are the mechanisms to offer; it is an error if no source can serve
	// one. One that is named is offered if any source can serve it, even if
	// users of others cannot use it. Default: all that every user can use, but
	// for CRAM-MD5 and ANONYMOUS, which are offered only if they are named.
	Offer []string `json:"mechanisms,omitempty"`

	// Concurrency is how many password hashes may be computed at a time, since
	// each takes a CPU, and perhaps much memory, for a good while. Default: the
	// number of CPUs.
	Concurrency int `json:"concurrency,omitempty"`

	sources   []any
	passwords *passwords
	decoys    *decoys
	hostname  string
	log       *slog.Logger
}

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.handlers.auth", New: func() caddy.Module { return new(Handler) }}
}

// Provision loads the sources.
func (h *Handler) Provision(ctx caddy.Context) (err error) {
	if h.Concurrency == 0 {
		h.Concurrency = runtime.GOMAXPROCS(0)
	}
	h.log, h.hostname = plainlog.New(ctx.Slogger()), env.FromContext(ctx).Hostname
	h.decoys = &decoys{storage: func() certmagic.Storage { return ctx.Storage() }, log: h.log}
	if h.sources, err = caddyopt.LoadModules[any](ctx, h, "SourcesRaw"); err != nil {
		return err
	}
	if h.passwords, err = newPasswords(ctx, h.Concurrency); err != nil {
		return err
	}
	return nil
}

// Validate checks that there is something to offer.
func (h *Handler) Validate() error {
	if h.Concurrency < 0 {
		return errors.New("auth: concurrency is negative")
	}
	for i, name := range h.Offer {
		m := find(name)
		switch {
		case m == nil:
			return fmt.Errorf("auth: unknown mechanism '%s'", name)
		case slices.ContainsFunc(h.Offer[:i], func(o string) bool { return strings.EqualFold(o, name) }):
			return fmt.Errorf("auth: mechanism %s is named twice", m.name)
		case !m.needs(h.sources, true):
			return fmt.Errorf("auth: no source can serve %s", m.name)
		}
	}
	switch {
	case len(h.sources) == 0 && !slices.ContainsFunc(h.Offer, func(o string) bool { return strings.EqualFold(o, "ANONYMOUS") }):
		return errors.New("auth: no credential source")
	case !slices.ContainsFunc(mechanisms, func(m mechanism) bool { return h.offers(&m) }):
		return errors.New("auth: the sources can serve no mechanism")
	}
	return nil
}

// Authenticate begins an exchange.
func (h *Handler) Authenticate(ctx context.Context, s *session.Session, mechanism string) (sasl.Server, error) {
	if m := find(mechanism); m != nil && slices.Contains(h.Mechanisms(s), m.name) {
		return m.begin(&exchange{h: h, ctx: ctx, s: s, mechanism: m.name}), nil
	}
	return nil, mail.Refuse(504, "5.5.4", "mechanism not supported")
}

// LoginOptional reports whether clients can do without a login.
func (h *Handler) LoginOptional() bool { return h.Optional }

// HandleMail refuses clients that have not logged in.
func (h *Handler) HandleMail(_ context.Context, tx *session.Transaction) error {
	if tx.Session.User == "" && tx.Session.Method == "" && !h.Optional {
		return mail.Refuse(530, "5.7.0", "authentication required")
	}
	return nil
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	auth <source...>
//	auth {
//		<source...>
//		optional
//		mechanisms  <name...>
//		concurrency <number>
//	}
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if d.NextArg() {
		return h.source(d)
	}
	return caddyopt.Block(d, caddyopt.Table{
		"optional":    caddyopt.Flag(&h.Optional),
		"mechanisms":  caddyopt.Strings(&h.Offer),
		"concurrency": caddyopt.Int(&h.Concurrency, 1),
		"":            h.source,
	})
}

func (h *Handler) source(d *caddyfile.Dispenser) error {
	if _, err := caddy.GetModule("smtp.auth." + d.Val()); err != nil {
		return d.Errf("unrecognized option '%s'", d.Val())
	}
	raw, err := caddyopt.Guest(d, "smtp.auth", "source")
	h.SourcesRaw = append(h.SourcesRaw, raw)
	return err
}

var (
	_ session.AuthHandler   = (*Handler)(nil)
	_ session.AuthExplainer = (*Handler)(nil)
	_ session.MailHandler   = (*Handler)(nil)
	_ caddy.Provisioner     = (*Handler)(nil)
	_ caddy.Validator       = (*Handler)(nil)
	_ caddyfile.Unmarshaler = (*Handler)(nil)
)
