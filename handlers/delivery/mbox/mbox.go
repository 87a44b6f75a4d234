// Package mbox appends to mailboxes that are one file each.
package mbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/env"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/mda"
	"github.com/caddymail/caddy-smtp/smtpapp/placeholder"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

func init() { caddy.RegisterModule(new(Agent)) }

// Agent appends to mbox files (RFC 4155), with Return-Path and Delivered-To
// fields on top and line feeds for line ends. A message is on disk before it
// counts as delivered; one that could not be written to its end is taken back by
// making the file as long as it was. An X-Delivery-Id field lets a message that is
// tried again after a crash find what was delivered of it: a part is replaced, a
// whole is left alone. A reader that moved the message to another folder in that
// moment gets it twice; a Maildir does not have that gap.
//
// While it writes, the file is locked by fcntl, as other programs do it, and if
// so configured by a file with ".lock" behind its name. Files that are not plain
// files, or have more than one name, get no mail.
type Agent struct {
	// Path is the file of a recipient, with the placeholders
	// `{smtp.rcpt.local}`, `{smtp.rcpt.domain}`, `{smtp.rcpt.tag}` and
	// `{smtp.rcpt}`. Mailboxes cannot lie outside of the directory that is before
	// the first of them, not by symbolic links either. A recipient whose local part
	// begins with a dot or has a slash has no mailbox. The file, and what is missing
	// above it, is made at the first delivery.
	Path string `json:"path,omitempty"`

	// Create says that every recipient exists. Otherwise one exists if the file at
	// Path does, unless a handler knows better, such as deliver with a table of
	// users. Default: false.
	Create bool `json:"create,omitempty"`

	// Lowercase puts local parts into lower case for the path, so that Alice and
	// alice have one mailbox. Domains always are. Default: true.
	Lowercase *bool `json:"lowercase,omitempty"`

	// Mode are the permission bits of files that are made, in octal. Directories
	// that are made can be entered by those who may read. Default: 0600.
	Mode string `json:"mode,omitempty"`

	// Owner is a user to whom what is made belongs, and Group one of groups;
	// names or numbers. Only root can give files away. Default: who Caddy runs as.
	Owner string `json:"owner,omitempty"`
	Group string `json:"group,omitempty"`

	// Dotlock is whether the file with ".lock" behind its name is a lock, too. One
	// that is older than five minutes was left behind, and is removed. Default:
	// false.
	Dotlock bool `json:"dotlock,omitempty"`

	// Quote is how lines that begin with "From " are told from the beginning of
	// the next message: "rd" (mboxrd) puts > before them and before those that have
	// a > there already, which can be undone; "o" (mboxo) only before the first.
	// Default: rd.
	Quote string `json:"quote,omitempty"`

	// LockTimeout is how long to wait for other programs. Then the message is tried
	// again later. Default: 30s.
	LockTimeout caddy.Duration `json:"lock_timeout,omitempty"`

	path    *placeholder.Path
	store   mda.Store
	started time.Time
}

// CaddyModule returns the Caddy module information.
func (*Agent) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.agents.mbox", New: func() caddy.Module { return new(Agent) }}
}

// Provision reads the path. Nothing is made or opened until the first delivery.
func (a *Agent) Provision(ctx caddy.Context) error {
	a.started = time.Now()
	if a.LockTimeout == 0 {
		a.LockTimeout = caddy.Duration(30 * time.Second)
	}
	if a.Quote == "" {
		a.Quote = quoteRD
	}
	mode, err := caddyopt.ParseMode(a.Mode, 0o600)
	if err != nil {
		return fmt.Errorf("mbox: mode: %w", err)
	}
	if a.path, err = placeholder.ParsePath(a.Path, a.Lowercase == nil || *a.Lowercase); err != nil {
		return fmt.Errorf("mbox: path: %w", err)
	}
	a.store = mda.Store{Dir: a.path.Fixed, Mode: mode}
	if rel, err := a.path.Expand(mail.NewRecipient(mail.Address{Local: "a", Domain: "b"})); err == nil && rel == "." {
		a.store.Dir = filepath.Dir(a.path.Fixed)
	}
	if a.Owner != "" {
		a.store.Owner, err = mda.LookupOwner(a.Owner, a.Group)
	}
	if err != nil {
		return fmt.Errorf("mbox: owner: %w", err)
	}
	env.FromContext(ctx).Offer(a)
	return nil
}

// Validate checks the options.
func (a *Agent) Validate() error {
	switch {
	case a.Quote != quoteRD && a.Quote != quoteO:
		return fmt.Errorf("mbox: quote '%s' is neither %s nor %s", a.Quote, quoteRD, quoteO)
	case a.LockTimeout < 0:
		return errors.New("mbox: lock_timeout is negative")
	case a.Group != "" && a.Owner == "":
		return errors.New("mbox: a group is for an owner")
	}
	return nil
}

// Start refuses a configuration that this process cannot fulfil.
func (a *Agent) Start() error {
	if err := a.store.Owner.Permitted(); err != nil {
		return fmt.Errorf("mbox: %w", err)
	}
	return nil
}

// Deliver appends the message to the file of each recipient.
func (a *Agent) Deliver(ctx context.Context, d *queue.Delivery) []queue.Status {
	return mda.Each(ctx, d, func(r *mail.Recipient) error { return a.deliver(ctx, d, r) })
}

// file is where a recipient's mailbox is, below the store.
func (a *Agent) file(r *mail.Recipient) (dir, name string, err error) {
	rel, err := a.path.Expand(r)
	if err != nil {
		return "", "", err
	}
	if rel == "." {
		return ".", filepath.Base(a.path.Fixed), nil
	}
	return filepath.Dir(rel), filepath.Base(rel), nil
}

func (a *Agent) deliver(ctx context.Context, d *queue.Delivery, r *mail.Recipient) error {
	dir, name, err := a.file(r)
	if err != nil {
		return err
	}
	root, err := a.store.Open(dir)
	if err != nil {
		return err
	}
	defer mda.Shut(root)
	// Whoever took the message after this agent was made and is at its first
	// attempt cannot have delivered it before: no need to search.
	repeated := d.Attempt > 1 || !d.Queued.After(a.started)
	return a.locked(ctx, root, name, func(f *file) error {
		return f.append(ctx, newItem(d, a.path.Fold(r.Address), r.Address, a.Quote), repeated)
	})
}

// Verify reports whether a has a mailbox. Where the directory of all mailboxes is
// missing, as when a disk is not mounted, nobody knows.
func (a *Agent) Verify(_ context.Context, to mail.Address) error {
	dir, name, err := a.file(mail.NewRecipient(to))
	if err != nil || a.Create {
		return err
	}
	st, err := a.store.Lstat(filepath.Join(dir, name))
	switch {
	case errors.Is(err, mda.ErrNoStore):
		return mail.Refuse(451, "4.2.0", "mailboxes are not available")
	case errors.Is(err, fs.ErrNotExist), err == nil && !st.Mode().IsRegular():
		return mda.ErrNoMailbox
	}
	return err
}

// UnmarshalCaddyfile sets up the agent from Caddyfile tokens. Syntax:
//
//	mbox <path> {
//		create
//		lowercase    on|off
//		mode         <octal>
//		owner        <user> [<group>]
//		dotlock
//		quote        rd|o
//		lock_timeout <duration>
//	}
func (a *Agent) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.AllArgs(&a.Path) {
		return d.ArgErr()
	}
	if err := placeholder.CheckPath(a.Path); err != nil {
		return d.WrapErr(err)
	}
	return caddyopt.Block(d, caddyopt.Table{
		"create":       caddyopt.Flag(&a.Create),
		"lowercase":    caddyopt.OnOffUnset(&a.Lowercase),
		"mode":         caddyopt.Mode(&a.Mode),
		"owner":        caddyopt.Once(a.readOwner),
		"dotlock":      caddyopt.Flag(&a.Dotlock),
		"quote":        caddyopt.String(&a.Quote),
		"lock_timeout": caddyopt.Duration(&a.LockTimeout),
	})
}

func (a *Agent) readOwner(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) != 1 && len(args) != 2 {
		return d.ArgErr()
	}
	a.Owner, a.Group = args[0], strings.Join(args[1:], "")
	return nil
}

var (
	_ queue.Agent           = (*Agent)(nil)
	_ queue.Verifier        = (*Agent)(nil)
	_ env.Starter           = (*Agent)(nil)
	_ caddy.Provisioner     = (*Agent)(nil)
	_ caddy.Validator       = (*Agent)(nil)
	_ caddyfile.Unmarshaler = (*Agent)(nil)
)
