// Package strictaddress refuses or flags addresses that people mistake for others.
package strictaddress

import (
	"context"
	"fmt"
	"log/slog"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/plainlog"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func init() { caddy.RegisterModule(new(Handler)) }

// Handler looks at internationalised local parts (RFC 6531) of reverse-path and
// recipients. A domain's registry sees to it that its names can be told apart;
// what stands before the "@" nobody need have looked at. It refuses, with 553
// 5.6.7, what can hardly be meant
//
//	mixed_scripts   letters of scripts that are not written together in one word: pаypal with a Cyrillic а
//	bidi            right-to-left text against the rule for domains (RFC 5893, section 2), whose order depends on what stands beside it
//
// and flags
//
//	mixed_numbers   digits of several systems
//	compatibility   forms of characters that are others in another width or style (NFKC): ｐａｙｐａｌ
//	symbols         what no identifier has (RFC 8264): emoji, signs, unassigned code points
//
// A flag is a policy result "x-address" with the kind as its value, for matchers
// and the log. Controls, invisible and direction-changing characters are refused
// anyway, and so are domains that IDNA2008 does not allow.
type Handler struct {
	// Refuse are kinds that are refused.
	Refuse []string `json:"refuse,omitempty"`

	// Flag are kinds that are flagged.
	Flag []string `json:"flag,omitempty"`

	// Ignore are kinds that pass without notice.
	Ignore []string `json:"ignore,omitempty"`

	// Annotate flags all that would be refused. Default: false.
	Annotate bool `json:"annotate,omitempty"`

	action map[string]action
	log    *slog.Logger
}

type action byte

const (
	refuse action = iota + 1
	flag
	ignore
)

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.handlers.strict_address", New: func() caddy.Module { return new(Handler) }}
}

// Provision sorts the kinds.
func (h *Handler) Provision(ctx caddy.Context) error {
	h.log = plainlog.New(ctx.Slogger())
	return h.sort()
}

func (h *Handler) sort() error {
	h.action = map[string]action{mixedScripts: refuse, direction: refuse, mixedNumbers: flag, compatibility: flag, symbols: flag}
	given := map[string]bool{}
	for _, l := range []struct {
		kinds []string
		action
	}{{h.Refuse, refuse}, {h.Flag, flag}, {h.Ignore, ignore}} {
		for _, k := range l.kinds {
			if !slices.Contains(kinds, k) {
				return fmt.Errorf("strict_address: '%s' is no kind of doubt about an address", k)
			}
			if given[k] {
				return fmt.Errorf("strict_address: '%s' is given twice", k)
			}
			given[k] = true
			h.action[k] = l.action
		}
	}
	return nil
}

// HandleMail looks at the reverse-path.
func (h *Handler) HandleMail(_ context.Context, tx *session.Transaction) error {
	return h.look(tx, tx.Envelope.From)
}

// HandleRcpt looks at a recipient, as the client named it.
func (h *Handler) HandleRcpt(_ context.Context, tx *session.Transaction, r *mail.Recipient) error {
	if r.Expanded { // our own configuration knows whom it means
		return nil
	}
	return h.look(tx, r.Address)
}

func (h *Handler) look(tx *session.Transaction, a mail.Address) error {
	for _, kind := range doubts(a.Local) {
		switch do := h.action[kind]; {
		case do == refuse && !h.Annotate:
			return mail.Refuse(553, "5.6.7", "the local part of this address can be mistaken for another: %s", kind)
		case do == ignore:
		default:
			tx.Results = append(tx.Results, session.Result{Method: "x-address", Value: kind, Private: true})
			h.log.Info("address flagged", "transaction", tx.ID, "kind", kind, "address", a.String())
		}
	}
	return nil
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	strict_address {
//		refuse <kinds...>
//		flag   <kinds...>
//		ignore <kinds...>
//		annotate
//	}
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if d.NextArg() {
		return d.ArgErr()
	}
	err := caddyopt.Block(d, caddyopt.Table{
		"refuse":   caddyopt.Strings(&h.Refuse),
		"flag":     caddyopt.Strings(&h.Flag),
		"ignore":   caddyopt.Strings(&h.Ignore),
		"annotate": caddyopt.Flag(&h.Annotate),
	})
	if err != nil {
		return err
	}
	if err := h.sort(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

var (
	_ session.MailHandler   = (*Handler)(nil)
	_ session.RcptHandler   = (*Handler)(nil)
	_ caddy.Provisioner     = (*Handler)(nil)
	_ caddyfile.Unmarshaler = (*Handler)(nil)
)
