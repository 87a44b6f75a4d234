// Package maildir delivers into Maildirs, each message once, also over
// crashes.
package maildir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/dustin/go-humanize"

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/env"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/mda"
	"github.com/caddymail/caddy-smtp/smtpapp/placeholder"
	"github.com/caddymail/caddy-smtp/smtpapp/plainlog"
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

	// Owner is a user to whom what is made belongs, and Group one of groups;
	// names or numbers. Only root can give files away. Default: who Caddy runs as.
	Owner string `json:"owner,omitempty"`
	Group string `json:"group,omitempty"`

	// TagFolders is what becomes of a tag: "existing" delivers mail for
	// alice+lists into the folder .lists (Maildir++) if she has it, "create" makes
	// it, for whoever writes to her. What can be no folder's name is ignored.
	// Default: none, all is delivered into the mailbox itself.
	TagFolders string `json:"tag_folders,omitempty"`

	// Quota bounds the octets of a Maildir with its folders, but the trash, and
	// QuotaMessages their number, as Maildir++ counts them in the file maildirsize.
	// Zero: no bound.
	Quota         int64 `json:"quota,omitempty"`
	QuotaMessages int64 `json:"quota_messages,omitempty"`

	// QuotaLater keeps what is over the quota in the queue (452 4.2.2) and tries it
	// again. Default: false; it fails (552 5.2.2).
	QuotaLater bool `json:"quota_later,omitempty"`

	// Direct delivers a message before the reply to its client, without the queue,
	// where that is as sure: it is for one recipient, of which nobody wants to hear,
	// no shaping rule is for this agent, and the store is on ext4 or XFS, on Linux.
	// Such a message is first put into a directory `.smtp-stage` of the store (in
	// tmp of the Maildir, if it is for all recipients), which belongs to Caddy
	// alone; what is there after a power cut is delivered at the next start.
	// Default: true.
	Direct *bool `json:"direct,omitempty"`

	stage   *stage
	quota   *quota
	path    *placeholder.Path
	store   mda.Store
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
	if a.path, err = placeholder.ParsePath(a.Path, a.lower()); err != nil {
		return fmt.Errorf("maildir: path: %w", err)
	}
	a.store = mda.Store{Dir: a.path.Fixed, Mode: mode}
	a.stage = &stage{path: ".smtp-stage", log: plainlog.New(ctx.Slogger())}
	if a.path.Constant() {
		a.stage.path = "tmp/.smtp-stage"
	}
	if a.Owner != "" {
		if a.store.Owner, err = mda.LookupOwner(a.Owner, a.Group); err != nil {
			return fmt.Errorf("maildir: owner: %w", err)
		}
	}
	if a.Quota > 0 || a.QuotaMessages > 0 {
		a.quota = &quota{bytes: a.Quota, count: a.QuotaMessages, full: errFull, store: &a.store}
		if a.QuotaLater {
			a.quota.full = errFullNow
		}
	}
	env.FromContext(ctx).Offer(a)
	return nil
}

func (a *Agent) lower() bool { return a.Lowercase == nil || *a.Lowercase }

func (a *Agent) direct() bool { return a.Direct == nil || *a.Direct }

// Validate checks the options.
func (a *Agent) Validate() error {
	switch {
	case a.TagFolders != "" && a.TagFolders != tagsExisting && a.TagFolders != tagsCreate:
		return fmt.Errorf("maildir: tag_folders '%s' is neither %s nor %s", a.TagFolders, tagsExisting, tagsCreate)
	case a.Quota < 0, a.QuotaMessages < 0:
		return errors.New("maildir: the quota is negative")
	case a.QuotaLater && a.quota == nil:
		return errors.New("maildir: quota_later is for a quota")
	case a.Group != "" && a.Owner == "":
		return errors.New("maildir: a group is for an owner")
	}
	return nil
}

// Start refuses a configuration that this process cannot fulfil.
func (a *Agent) Start() error {
	if err := a.store.Owner.Permitted(); err != nil {
		return fmt.Errorf("maildir: %w", err)
	}
	a.takeStage()
	return nil
}

// Cleanup leaves nothing of what only this configuration needs.
func (a *Agent) Cleanup() error {
	a.stage.leave(true)
	return nil
}

// Deliver puts the message into the Maildir of each recipient.
func (a *Agent) Deliver(ctx context.Context, d *queue.Delivery) []queue.Status {
	return mda.Each(ctx, d, func(r *mail.Recipient) error { return a.deliver(ctx, d, r) })
}

func (a *Agent) deliver(ctx context.Context, d *queue.Delivery, to *mail.Recipient) error {
	box, it, err := a.open(d, to)
	if err != nil {
		return err
	}
	defer box.shut()
	return box.put(ctx, it)
}

// open opens a recipient's mailbox for a message.
func (a *Agent) open(d *queue.Delivery, to *mail.Recipient) (*mailbox, *item, error) {
	rel, err := a.path.Expand(to)
	if err != nil {
		return nil, nil, err
	}
	box, err := a.mailbox(rel, a.folderFor(to.Detail()))
	if err != nil {
		return nil, nil, err
	}
	return box, &item{
		name: fileName(d, a.path.Fold(to.Address), a.host),
		// Whoever took the message after this agent was made and is at its
		// first attempt cannot have delivered it before: no need to search.
		repeated: d.Attempt > 1 || !d.Queued.After(a.started),
		content:  mda.ContentFor(d, to.Address),
	}, nil
}

// Verify reports whether a has a mailbox. Where the directory of all
// mailboxes is missing, as when a disk is not mounted, nobody knows.
func (a *Agent) Verify(_ context.Context, to mail.Address) error {
	rel, err := a.path.Expand(mail.NewRecipient(to))
	if err != nil || a.Create {
		return err
	}
	isDir, err := a.store.Has(rel)
	switch {
	case errors.Is(err, fs.ErrNotExist) && rel != ".":
		return mail.Refuse(451, "4.2.0", "mailboxes are not available")
	case errors.Is(err, fs.ErrNotExist), err == nil && !isDir:
		return mda.ErrNoMailbox
	}
	return err
}

// UnmarshalCaddyfile sets up the agent from Caddyfile tokens. Syntax:
//
//	maildir <path> {
//		create
//		lowercase on|off
//		mode <octal>
//		owner <user> [<group>]
//		tag_folders existing|create
//		quota <size> [<messages>]
//		quota_later
//		direct on|off
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
		"create":      caddyopt.Flag(&a.Create),
		"lowercase":   caddyopt.OnOffUnset(&a.Lowercase),
		"mode":        caddyopt.Mode(&a.Mode),
		"owner":       caddyopt.Once(a.readOwner),
		"tag_folders": caddyopt.String(&a.TagFolders),
		"quota":       caddyopt.Once(a.readQuota),
		"quota_later": caddyopt.Flag(&a.QuotaLater),
		"direct":      caddyopt.OnOffUnset(&a.Direct),
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

func (a *Agent) readQuota(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) != 1 && len(args) != 2 {
		return d.ArgErr()
	}
	size, err := humanize.ParseBytes(args[0])
	if err != nil || size > math.MaxInt64 {
		return d.Errf("option 'quota': '%s' is not a size", args[0])
	}
	a.Quota = int64(size)
	if len(args) == 2 {
		if a.QuotaMessages, err = strconv.ParseInt(args[1], 10, 64); err != nil || a.QuotaMessages < 1 {
			return d.Errf("option 'quota': '%s' is not a number of messages", args[1])
		}
	}
	return nil
}

var (
	_ queue.Attendant       = (*Agent)(nil)
	_ queue.Verifier        = (*Agent)(nil)
	_ env.Starter           = (*Agent)(nil)
	_ caddy.Provisioner     = (*Agent)(nil)
	_ caddy.Validator       = (*Agent)(nil)
	_ caddy.CleanerUpper    = (*Agent)(nil)
	_ caddyfile.Unmarshaler = (*Agent)(nil)
)
