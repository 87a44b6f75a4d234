// Package maildir delivers into Maildirs, each message once, also over
// crashes.
package maildir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/env"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

func init() { caddy.RegisterModule(new(Agent)) }

// Agent delivers into Maildirs, with Return-Path and Delivered-To fields on
// top and line feeds for line ends. A message that is tried again after a
// crash finds what was delivered of it, so nobody gets it twice.
type Agent struct {
	// Path is the Maildir of a recipient, with the placeholders
	// `{smtp.rcpt.local}`, `{smtp.rcpt.domain}`, `{smtp.rcpt.tag}` and
	// `{smtp.rcpt}`. Mailboxes cannot lie outside of the directory that is
	// before the first of them, not by symbolic links either. A recipient whose
	// local part begins with a dot or has a slash has no mailbox. The Maildir,
	// and what is missing above it, is made at the first delivery.
	Path string `json:"path,omitempty"`

	// Create says that every recipient exists. Otherwise one exists if the
	// directory at Path does, unless a handler knows better, such as deliver
	// with a table of users. Default: false.
	Create bool `json:"create,omitempty"`

	// Lowercase puts local parts into lower case for the path, so that Alice and
	// alice have one mailbox. Domains always are. Default: true.
	Lowercase *bool `json:"lowercase,omitempty"`

	// Mode are the permission bits of messages, in octal. Directories that are
	// made can be entered by those who may read. Default: 0600, for this user
	// alone.
	Mode string `json:"mode,omitempty"`

	path    *template
	store   store
	host    string
	started time.Time
}

// CaddyModule returns the Caddy module information.
func (*Agent) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.agents.maildir", New: func() caddy.Module { return new(Agent) }}
}

// Provision reads the path. Nothing is made or opened until the first delivery.
func (a *Agent) Provision(ctx caddy.Context) error {
	a.host, a.started = env.FromContext(ctx).Hostname, time.Now()
	mode, err := caddyopt.ParseMode(a.Mode, 0o600)
	if err != nil {
		return fmt.Errorf("maildir: mode: %w", err)
	}
	path, err := fill(a.Path, fromEnvironment)
	if err == nil {
		a.path, err = parseTemplate(path, a.Lowercase == nil || *a.Lowercase)
	}
	if err != nil {
		return fmt.Errorf("maildir: path: %w", err)
	}
	a.store = store{dir: a.path.fixed, mode: mode}
	return nil
}

// Deliver puts the message into the Maildir of each recipient.
func (a *Agent) Deliver(ctx context.Context, d *queue.Delivery) []queue.Status {
	statuses := make([]queue.Status, 0, len(d.Envelope.Recipients))
	for _, r := range d.Envelope.Recipients {
		if ctx.Err() != nil {
			break // the rest is delayed
		}
		err := a.deliver(ctx, d, r.Address)
		reply := replyFor(err)
		if _, said := errors.AsType[*mail.Reply](err); err != nil && !said {
			d.Log.Error("delivering to a Maildir", "to", r.Address.String(), "error", err)
		}
		statuses = append(statuses, queue.Status{Action: action(reply), Reply: reply})
	}
	return statuses
}

func (a *Agent) deliver(ctx context.Context, d *queue.Delivery, to mail.Address) error {
	rel, err := a.path.expand(to)
	if err != nil {
		return err
	}
	box, err := a.store.mailbox(rel)
	if err != nil {
		return err
	}
	defer shut(box.root)
	it := item{
		name: fileName(d, a.path.fold(to), a.host),
		// Whoever took the message after this agent was made and is at its
		// first attempt cannot have delivered it before: no need to search.
		repeated: d.Attempt > 1 || !d.Queued.After(a.started),
		content:  content{ctx: ctx, message: withFields(d, to), binary: d.Envelope.Body == mail.BodyBinary},
	}
	return box.put(&it)
}

// Verify reports whether a has a mailbox. Where the directory of all
// mailboxes is missing, as when a disk is not mounted, nobody knows.
func (a *Agent) Verify(_ context.Context, to mail.Address) error {
	rel, err := a.path.expand(to)
	if err != nil || a.Create {
		return err
	}
	isDir, err := a.store.has(rel)
	switch {
	case errors.Is(err, fs.ErrNotExist) && rel != ".":
		return mail.Refuse(451, "4.2.0", "mailboxes are not available")
	case errors.Is(err, fs.ErrNotExist), err == nil && !isDir:
		return errNoMailbox
	}
	return err
}

// UnmarshalCaddyfile sets up the agent from Caddyfile tokens. Syntax:
//
//	maildir <path> {
//		create
//		lowercase on|off
//		mode <octal>
//	}
func (a *Agent) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.AllArgs(&a.Path) {
		return d.ArgErr()
	}
	path, err := fill(a.Path, unknownYet)
	if err == nil {
		_, err = parseTemplate(path, true)
	}
	if err != nil {
		return d.WrapErr(err)
	}
	return caddyopt.Block(d, caddyopt.Table{
		"create":    caddyopt.Flag(&a.Create),
		"lowercase": caddyopt.OnOffUnset(&a.Lowercase),
		"mode":      caddyopt.Mode(&a.Mode),
	})
}

var (
	_ queue.Agent           = (*Agent)(nil)
	_ queue.Verifier        = (*Agent)(nil)
	_ caddy.Provisioner     = (*Agent)(nil)
	_ caddyfile.Unmarshaler = (*Agent)(nil)
)
