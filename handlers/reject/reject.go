// Package reject refuses, for good or for now.
package reject

import (
	"context"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strconv"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/placeholder"
	"github.com/caddymail/caddy-smtp/smtpapp/plainlog"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func init() {
	caddy.RegisterModule(new(Handler))
	caddy.RegisterModule(new(Defer))
}

// Handler refuses at the first stage at which its matcher can decide: the
// client, its EHLO, the sender, a recipient, or the message. Without a matcher
// it refuses recipients.
type Handler struct {
	// Code is the code of the reply, 400 to 599. 421 ends the session. Default:
	// 550.
	Code int `json:"code,omitempty"`

	// Enhanced is the enhanced status code (RFC 3463), of the same class. Default:
	// 5.7.1 or 4.7.1.
	Enhanced string `json:"enhanced,omitempty"`

	// Text is the text of the reply. It may have placeholders. Default: "refused
	// by policy".
	Text string `json:"text,omitempty"`

	// Annotate refuses nothing: it logs what would have been refused, and notes
	// it as the result "reject" or "defer" with the code as its value. Default:
	// false.
	Annotate bool `json:"annotate,omitempty"`

	method string
	log    *slog.Logger
}

// Defer refuses for now: the client is asked to try again. Apart from its default
// code, which is 451, it is as reject.
type Defer struct{ Handler }

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.handlers.reject", New: func() caddy.Module { return &Handler{method: "reject"} }}
}

// CaddyModule returns the Caddy module information.
func (*Defer) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.handlers.defer", New: func() caddy.Module { return &Defer{Handler{method: "defer"}} }}
}

var enhanced = regexp.MustCompile(`^[245]\.\d{1,3}\.\d{1,3}$`)

// Provision checks the codes.
func (h *Handler) Provision(ctx caddy.Context) error {
	h.log = plainlog.New(ctx.Slogger())
	h.defaults()
	return h.valid()
}

func (h *Handler) defaults() {
	if h.method == "" {
		h.method = "reject"
	}
	if h.Code == 0 {
		h.Code = map[string]int{"reject": 550, "defer": 451}[h.method]
	}
	if h.Enhanced == "" {
		h.Enhanced = strconv.Itoa(h.Code/100) + ".7.1"
	}
	if h.Text == "" {
		h.Text = "refused by policy"
	}
}

func (h *Handler) valid() error {
	class := h.Code / 100
	switch {
	case class != 4 && class != 5:
		return fmt.Errorf("%d is not the code of a refusal", h.Code)
	case class != 4 && h.method == "defer":
		return fmt.Errorf("%d is not the code of a refusal for now", h.Code)
	case !enhanced.MatchString(h.Enhanced):
		return fmt.Errorf("'%s' is not an enhanced status code", h.Enhanced)
	case h.Enhanced[0] != strconv.Itoa(class)[0]:
		return fmt.Errorf("%d and %s contradict each other", h.Code, h.Enhanced)
	}
	return nil
}

// StartsAt is the stage at which the route can decide.
func (h *Handler) StartsAt(route session.Stage, conditional bool) session.Stage {
	switch {
	case !conditional:
		return max(route, session.StageRcpt)
	case route == session.StageAuth: // what is refused is mail, not a login
		return session.StageMail
	}
	return route
}

// OnlyAnnotates says whether it refuses nothing.
func (h *Handler) OnlyAnnotates() bool { return h.Annotate }

// HandleConnect refuses the client, by one of the two codes that there are for
// it (RFC 5321, section 3.1; 421 from section 3.8).
func (h *Handler) HandleConnect(_ context.Context, s *session.Session) error {
	r := h.reply(s, nil, nil)
	r.Code = map[bool]int{true: 554, false: 421}[r.Permanent()]
	return h.refuse(r, s, &s.Results)
}

// HandleHello refuses EHLO.
func (h *Handler) HandleHello(_ context.Context, s *session.Session) error {
	return h.refuse(h.reply(s, nil, nil), s, &s.Results)
}

// HandleMail refuses the sender.
func (h *Handler) HandleMail(_ context.Context, tx *session.Transaction) error {
	return h.refuse(h.reply(tx.Session, tx, nil), tx.Session, &tx.Results)
}

// HandleRcpt refuses the recipient.
func (h *Handler) HandleRcpt(_ context.Context, tx *session.Transaction, r *mail.Recipient) error {
	return h.refuse(h.reply(tx.Session, tx, r), tx.Session, &tx.Results)
}

// HandleMessage refuses the message.
func (h *Handler) HandleMessage(_ context.Context, tx *session.Transaction, _ *message.Message) error {
	return h.refuse(h.reply(tx.Session, tx, nil), tx.Session, &tx.Results)
}

func (h *Handler) reply(s *session.Session, tx *session.Transaction, r *mail.Recipient) *mail.Reply {
	return &mail.Reply{Code: h.Code, Enh: h.Enhanced, Text: placeholder.New(s, tx, r).ReplaceAll(h.Text, "")}
}

// refuse returns the reply, or notes it.
func (h *Handler) refuse(r *mail.Reply, s *session.Session, results *[]session.Result) error {
	if !h.Annotate {
		return r
	}
	h.log.Info("would be refused", "session", s.ID, "reply", r.Error())
	note := session.Result{Method: h.method, Value: strconv.Itoa(r.Code), Reason: r.Text, Private: true}
	if !slices.ContainsFunc(*results, func(o session.Result) bool {
		return o.Method == note.Method && o.Value == note.Value && o.Reason == note.Reason
	}) { // a client may say EHLO as often as it likes
		*results = append(*results, note)
	}
	return nil
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	reject [<code>] [<enhanced code>] [<text>] {
//		annotate
//	}
//
// and the same for defer.
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	args := d.RemainingArgs()
	if len(args) > 0 {
		if code, err := strconv.Atoi(args[0]); err == nil {
			h.Code, args = code, args[1:]
		}
	}
	if len(args) > 0 && enhanced.MatchString(args[0]) {
		h.Enhanced, args = args[0], args[1:]
	}
	if len(args) > 0 {
		h.Text, args = args[0], args[1:]
	}
	if len(args) > 0 {
		return d.ArgErr()
	}
	if err := h.check(); err != nil {
		return d.WrapErr(err)
	}
	return caddyopt.Block(d, caddyopt.Table{"annotate": caddyopt.Flag(&h.Annotate)})
}

// check checks what was given, as Provision will.
func (h *Handler) check() error {
	c := *h
	c.defaults()
	return c.valid()
}

var (
	_ session.ConnectHandler = (*Handler)(nil)
	_ session.HelloHandler   = (*Handler)(nil)
	_ session.MailHandler    = (*Handler)(nil)
	_ session.RcptHandler    = (*Handler)(nil)
	_ session.MessageHandler = (*Handler)(nil)
	_ session.Starter        = (*Handler)(nil)
	_ session.Annotator      = (*Handler)(nil)
	_ caddy.Provisioner      = (*Handler)(nil)
	_ caddyfile.Unmarshaler  = (*Defer)(nil)
)
