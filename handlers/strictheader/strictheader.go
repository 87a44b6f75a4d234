// Package strictheader refuses messages whose author depends on the reader.
package strictheader

import (
	"context"
	"fmt"
	"log/slog"
	"regexp"
	"strconv"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/originator"
	"github.com/caddymail/caddy-smtp/smtpapp/plainlog"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func init() { caddy.RegisterModule(new(Handler)) }

// Handler looks for what mail programs disagree over in the header: who a
// message is from must not depend on who reads it. It refuses the message, flags
// it, or lets it pass, as is said for each kind of problem. By default it refuses
//
//	no_from             no From field
//	several_from        more than one (RFC 5322, section 3.6)
//	several_sender      more than one Sender field
//	duplicate           more than one Reply-To, To, Cc, Bcc, Date, Subject, Message-ID, In-Reply-To or References
//	group               a group of addresses in From, Sender or Reply-To (RFC 6854)
//	empty_group         one without members
//	malformed           what is no address list (RFC 5322, section 3.4)
//	space_before_colon  "From : x"
//	blank_line          a line of white space that some take for the end of the header
//	nul                 NUL anywhere in the header
//	control             other control characters in From, Sender, Reply-To, also if encoded
//	encoded_word        =?utf-8?q?...?= in an address
//	comment             a comment in an address, or before it
//	route               <@a.example:b@c.example>
//	quoted_local        quoted special characters: "a@b"@c.example
//	not_utf8            octets that are not UTF-8
//	misleading          invisible characters, or letters of mixed scripts, in an address
//	too_many            over 100 addresses
//
// and flags what is legal:
//
//	several_addresses   several authors
//	no_sender           several authors without the Sender that is due
//	eight_bit           characters outside ASCII without SMTPUTF8 (RFC 6532)
//	domain_literal      a@[192.0.2.1]
//	display_name        a name that shows another address: "ceo@bank.example" <x@evil.example>
//
// A flag is a policy result "x-header" with the kind as its value, for matchers,
// placeholders and the log; it is not written into the message. Resent fields
// are looked at as the others.
type Handler struct {
	// Refuse are kinds that are refused.
	Refuse []string `json:"refuse,omitempty"`

	// Flag are kinds that are flagged.
	Flag []string `json:"flag,omitempty"`

	// Ignore are kinds that pass without notice.
	Ignore []string `json:"ignore,omitempty"`

	// Annotate flags all that would be refused. Default: false.
	Annotate bool `json:"annotate,omitempty"`

	// Code is the code of the reply, 500 to 599. Default: 550.
	Code int `json:"code,omitempty"`

	// Enhanced is the enhanced status code (RFC 3463), 5.x.x. Default: 5.6.0.
	Enhanced string `json:"enhanced,omitempty"`

	action map[originator.Kind]action
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
	return caddy.ModuleInfo{ID: "smtp.handlers.strict_header", New: func() caddy.Module { return new(Handler) }}
}

// Provision sorts the kinds.
func (h *Handler) Provision(ctx caddy.Context) error {
	h.log = plainlog.New(ctx.Slogger())
	if h.Code == 0 {
		h.Code = 550
	}
	if h.Enhanced == "" {
		h.Enhanced = "5.6.0"
	}
	if h.Code/100 != 5 || !enhanced.MatchString(h.Enhanced) {
		return fmt.Errorf("strict_header: %d %s is not the code of a refusal for good", h.Code, h.Enhanced)
	}
	return h.sort()
}

var enhanced = regexp.MustCompile(`^5\.\d{1,3}\.\d{1,3}$`)

func (h *Handler) sort() error {
	h.action = map[originator.Kind]action{}
	for _, k := range originator.Kinds() {
		h.action[k] = flag
		if k.Ambiguous() {
			h.action[k] = refuse
		}
	}
	given := map[string]bool{}
	for _, l := range []struct {
		kinds []string
		action
	}{{h.Refuse, refuse}, {h.Flag, flag}, {h.Ignore, ignore}} {
		for _, k := range l.kinds {
			if h.action[originator.Kind(k)] == 0 {
				return fmt.Errorf("strict_header: '%s' is no kind of problem", k)
			}
			if given[k] {
				return fmt.Errorf("strict_header: '%s' is given twice", k)
			}
			given[k] = true
			h.action[originator.Kind(k)] = l.action
		}
	}
	return nil
}

// OnlyAnnotates says whether it refuses nothing.
func (h *Handler) OnlyAnnotates() bool { return h.Annotate }

// HandleMessage reads the originator fields.
func (h *Handler) HandleMessage(_ context.Context, tx *session.Transaction, m *message.Message) error {
	for _, p := range originator.Read(m.Header).Problems {
		a := h.action[p.Kind]
		if p.Kind == originator.EightBit && tx.Envelope.UTF8 {
			a = ignore
		}
		switch {
		case a == refuse && !h.Annotate:
			return mail.Refuse(h.Code, h.Enhanced, "%s", p)
		case a == ignore:
		default:
			tx.Results = append(tx.Results, session.Result{Method: "x-header", Value: string(p.Kind), Reason: p.String(), Private: true})
			h.log.Info("header flagged", "transaction", tx.ID, "kind", string(p.Kind), "problem", p.String())
		}
	}
	return nil
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	strict_header {
//		refuse <kinds...>
//		flag   <kinds...>
//		ignore <kinds...>
//		code   <code> [<enhanced code>]
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
		"code": caddyopt.Once(func(d *caddyfile.Dispenser) (err error) {
			args := d.RemainingArgs()
			if len(args) < 1 || len(args) > 2 {
				return d.ArgErr()
			}
			if h.Code, err = strconv.Atoi(args[0]); err != nil || h.Code/100 != 5 {
				return d.Errf("'%s' is not the code of a refusal for good", args[0])
			}
			if len(args) == 2 {
				if h.Enhanced = args[1]; !enhanced.MatchString(h.Enhanced) {
					return d.Errf("'%s' is not an enhanced status code of a refusal for good", args[1])
				}
			}
			return nil
		}),
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
	_ session.MessageHandler = (*Handler)(nil)
	_ session.Annotator      = (*Handler)(nil)
	_ caddy.Provisioner      = (*Handler)(nil)
	_ caddyfile.Unmarshaler  = (*Handler)(nil)
)
