// Package quota bounds how much a user sends.
package quota

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"regexp"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/env"
	"github.com/caddymail/caddy-smtp/smtpapp/plainlog"
	"github.com/caddymail/caddy-smtp/smtpapp/quota"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func init() { caddy.RegisterModule(new(Handler)) }

// Handler bounds how many messages and recipients each user may send in a time:
// what a stolen password is worth. Only what was accepted counts. Over a limit,
// MAIL, RCPT or the message is refused for the time being (452 4.7.0) with a word
// on when to come back. A limit is a number and a time, "200/1h": in any hour
// there are no more than that. Several may be given, all of which hold.
//
// Counts survive reloads and restarts. They are kept in memory and in a file of
// Caddy's data directory (smtp/quota), behind the back of the clients, so that a
// crash may forget the last seconds. Each node counts for itself. It knows up to
// 100,000 users, and of each the last 10,000 recipients.
//
// The event smtp_quota_reached, with quota, key, user, limit and retry (in
// seconds), says that somebody was stopped, at most every ten minutes for each.
type Handler struct {
	// Messages are limits of messages.
	Messages []string `json:"messages,omitempty"`

	// Recipients are limits of recipients, each RCPT of a message counted.
	Recipients []string `json:"recipients,omitempty"`

	// NewRecipients are limits of recipients that the user never wrote to
	// before. All are new to us at the beginning.
	NewRecipients []string `json:"new_recipients,omitempty"`

	// Key says who is counted, with placeholders such as {smtp.remote.ip}. Where
	// it is empty there is no limit. Default: "{smtp.auth.user}".
	Key string `json:"key,omitempty"`

	// TableRaw is a table from keys to limits of their own: "messages=500/1h",
	// "recipients=unlimited", or "unlimited" for all. They take the place of the
	// limits of the same kind. Without an entry, those count that the credential
	// source has as attributes of the user: quota_messages, quota_recipients and
	// quota_new_recipients, such as "500/1h 2000/1d". What is no limit is logged,
	// and those of the configuration hold.
	TableRaw json.RawMessage `json:"table,omitempty" caddy:"namespace=smtp.tables inline_key=table"`

	// Name is that of the file. Handlers of one name count together, on whatever
	// server they are. Letters, digits, "-" and "_". Default: "default".
	Name string `json:"name,omitempty"`

	// Annotate refuses nothing: it logs who would be refused, and notes the
	// result "x-quota" with the value "fail". Default: false.
	Annotate bool `json:"annotate,omitempty"`

	limits []quota.Limit
	path   string
	table  table
	env    *env.Env
	log    *slog.Logger
	state  lease
}

type table interface {
	Lookup(ctx context.Context, key string) (values []string, ok bool, err error)
}

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.handlers.quota", New: func() caddy.Module { return new(Handler) }}
}

// Provision reads the limits. The file is not touched before the first message.
func (h *Handler) Provision(ctx caddy.Context) (err error) {
	h.log = plainlog.New(ctx.Slogger())
	h.env = env.FromContext(ctx)
	if h.Key == "" {
		h.Key = "{smtp.auth.user}"
	}
	if h.Name == "" {
		h.Name = "default"
	}
	h.path = filepath.Join(caddy.AppDataDir(), "smtp", "quota", h.Name)
	if h.limits, err = h.configured(); err != nil {
		return err
	}
	if h.table, err = caddyopt.LoadModule[table](ctx, h, "TableRaw"); err != nil {
		return err
	}
	return h.env.Register(reached)
}

var isName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// Validate checks that there is something to do.
func (h *Handler) Validate() error {
	if !isName.MatchString(h.Name) {
		return fmt.Errorf("quota: '%s' is not a name of letters, digits, - and _", h.Name)
	}
	if len(h.limits) == 0 && h.table == nil {
		return errors.New("quota: no limit")
	}
	return nil
}

// Cleanup gives the counts back, to whoever comes next or to the file.
func (h *Handler) Cleanup() error { return h.state.release() }

// OnlyAnnotates says whether it refuses nothing.
func (h *Handler) OnlyAnnotates() bool { return h.Annotate }

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	quota [<name>] {
//		messages       <number/duration...>
//		recipients     <number/duration...>
//		new_recipients <number/duration...>
//		key            <placeholders>
//		table          <table...>
//		annotate
//	}
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if d.NextArg() {
		if h.Name = d.Val(); !isName.MatchString(h.Name) {
			return d.Errf("'%s' is not a name of letters, digits, - and _", h.Name)
		}
	}
	if d.NextArg() {
		return d.ArgErr()
	}
	err := caddyopt.Block(d, caddyopt.Table{
		"messages":       caddyopt.Strings(&h.Messages),
		"recipients":     caddyopt.Strings(&h.Recipients),
		"new_recipients": caddyopt.Strings(&h.NewRecipients),
		"key":            caddyopt.String(&h.Key),
		"table":          caddyopt.Module("smtp.tables", "table", &h.TableRaw),
		"annotate":       caddyopt.Flag(&h.Annotate),
	})
	if err != nil {
		return err
	}
	if limits, err := h.configured(); err != nil {
		return d.WrapErr(err)
	} else if len(limits) == 0 && h.TableRaw == nil {
		return d.Err("quota needs a limit or a table")
	}
	return nil
}

var (
	_ session.MailHandler    = (*Handler)(nil)
	_ session.RcptHandler    = (*Handler)(nil)
	_ session.MessageHandler = (*Handler)(nil)
	_ session.Annotator      = (*Handler)(nil)
	_ caddy.Provisioner      = (*Handler)(nil)
	_ caddy.Validator        = (*Handler)(nil)
	_ caddy.CleanerUpper     = (*Handler)(nil)
	_ caddyfile.Unmarshaler  = (*Handler)(nil)
)
