package mda

import (
	"context"
	"errors"
	"syscall"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

// ErrNoMailbox is the refusal of an address that has no mailbox or can't have one.
var ErrNoMailbox = mail.Refuse(550, "5.1.1", "no such mailbox")

// Each delivers to one recipient after the other. Errors that are no Reply are
// logged; once the attempt is called off, the rest is delayed.
func Each(ctx context.Context, d *queue.Delivery, deliver func(r *mail.Recipient) error) []queue.Status {
	statuses := make([]queue.Status, 0, len(d.Envelope.Recipients))
	for _, r := range d.Envelope.Recipients {
		if ctx.Err() != nil {
			break
		}
		err := deliver(r)
		if _, said := errors.AsType[*mail.Reply](err); err != nil && !said {
			d.Log.Error("delivering to a mailbox", "to", r.Address.String(), "error", err)
		}
		statuses = append(statuses, StatusFor(ReplyFor(err)))
	}
	return statuses
}

// ReplyFor says what became of a delivery, in words that tell nothing of
// paths and system calls. Only an address can fail for good.
func ReplyFor(err error) *mail.Reply {
	if err == nil {
		return &mail.Reply{Code: 250, Enh: "2.0.0", Text: "delivered"}
	}
	if r, ok := errors.AsType[*mail.Reply](err); ok {
		return r
	}
	if _, ok := errors.AsType[ContentError](err); ok {
		return mail.Refuse(451, "4.3.0", "local error in processing")
	}
	switch {
	case errors.Is(err, syscall.EDQUOT):
		return mail.Refuse(452, "4.2.2", "mailbox is full")
	case errors.Is(err, syscall.ENOSPC):
		return mail.Refuse(452, "4.3.1", "insufficient system storage")
	}
	return mail.Refuse(451, "4.2.0", "mailbox is not available")
}

// StatusFor is what a reply means for a recipient.
func StatusFor(r *mail.Reply) queue.Status {
	s := queue.Status{Action: queue.Delayed, Reply: r}
	switch {
	case r.Code/100 == 2:
		s.Action = queue.Delivered
	case r.Permanent():
		s.Action = queue.Failed
	}
	return s
}
