// Package verify makes all checks of where a message comes from.
package verify

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func init() { caddy.RegisterModule(new(Handler)) }

// checks are the handlers that verify is made of, in the order in which they
// act: later ones read the results of earlier ones.
var checks = []string{"iprev", "spf", "dkim", "arc", "dmarc"}

// Handler is `iprev`, `spf`, `dkim`, `arc` and `dmarc` in this order, each with
// its defaults unless it is given options. So all is noted, in one
// Authentication-Results field, and what refuses is DMARC alone: a message that
// its author's domain wants refused gets 550 5.7.1. All look-ups of a message
// take 20 s together at most. Our own users are not checked.
type Handler struct {
	// ChecksRaw are options of the checks, by their names.
	ChecksRaw caddy.ModuleMap `json:"checks,omitempty" caddy:"namespace=smtp.handlers"`

	// Off are checks that are not made.
	Off []string `json:"off,omitempty"`

	mail    []session.MailHandler
	message []session.MessageHandler
}

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.handlers.verify", New: func() caddy.Module { return new(Handler) }}
}

// Provision loads the checks.
func (h *Handler) Provision(ctx caddy.Context) error {
	if err := h.valid(); err != nil {
		return err
	}
	all := caddy.ModuleMap{}
	for _, c := range checks {
		switch raw, ok := h.ChecksRaw[c]; {
		case ok:
			all[c] = raw
		case !slices.Contains(h.Off, c):
			all[c] = json.RawMessage("{}")
		}
	}
	h.ChecksRaw = all
	loaded, err := caddyopt.LoadMap[any](ctx, h, "ChecksRaw")
	if err != nil {
		return err
	}
	for _, c := range checks {
		if m, ok := loaded[c].(session.MailHandler); ok {
			h.mail = append(h.mail, m)
		}
		if m, ok := loaded[c].(session.MessageHandler); ok {
			h.message = append(h.message, m)
		}
	}
	return nil
}

func (h *Handler) valid() error {
	for _, c := range h.Off {
		if _, on := h.ChecksRaw[c]; on {
			return fmt.Errorf("verify: %s is off and has options", c)
		}
	}
	names := slices.Clone(h.Off)
	for c := range h.ChecksRaw {
		names = append(names, c)
	}
	for _, c := range names {
		if !slices.Contains(checks, c) {
			return fmt.Errorf("verify: '%s' is not a check; there are %s", c, strings.Join(checks, ", "))
		}
	}
	if len(h.Off) == len(checks) {
		return fmt.Errorf("verify: all checks are off")
	}
	return nil
}

// HandleMail makes the checks of the client and the sender.
func (h *Handler) HandleMail(ctx context.Context, tx *session.Transaction) error {
	for _, c := range h.mail {
		if err := c.HandleMail(ctx, tx); err != nil {
			return err
		}
	}
	return nil
}

// HandleMessage makes those of the message.
func (h *Handler) HandleMessage(ctx context.Context, tx *session.Transaction, m *message.Message) error {
	for _, c := range h.message {
		if err := c.HandleMessage(ctx, tx, m); err != nil {
			return err
		}
	}
	return nil
}

// OnlyAnnotates reports whether no check refuses a message.
func (h *Handler) OnlyAnnotates() bool {
	return !slices.ContainsFunc(h.message, func(c session.MessageHandler) bool {
		a, ok := c.(session.Annotator)
		return !ok || !a.OnlyAnnotates()
	})
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	verify {
//		iprev|spf|dkim|arc|dmarc off | { <options> }
//	}
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if d.NextArg() {
		return d.ArgErr()
	}
	t := caddyopt.Table{}
	for _, c := range checks {
		t[c] = caddyopt.Once(h.readCheck)
	}
	if err := caddyopt.Block(d, t); err != nil {
		return err
	}
	if err := h.valid(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

func (h *Handler) readCheck(d *caddyfile.Dispenser) error {
	name := d.Val()
	if d.NextArg() {
		if d.Val() == "off" {
			h.Off = append(h.Off, name)
			return caddyopt.End(d)
		}
		d.Prev()
	}
	m, err := caddyfile.UnmarshalModule(d, "smtp.handlers."+name)
	if err != nil {
		return err
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return d.WrapErr(err)
	}
	if h.ChecksRaw == nil {
		h.ChecksRaw = caddy.ModuleMap{}
	}
	h.ChecksRaw[name] = raw
	return nil
}

var (
	_ session.MailHandler    = (*Handler)(nil)
	_ session.MessageHandler = (*Handler)(nil)
	_ session.Annotator      = (*Handler)(nil)
	_ caddy.Provisioner      = (*Handler)(nil)
	_ caddyfile.Unmarshaler  = (*Handler)(nil)
)
