package maildir

import (
	"errors"
	"syscall"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

// replyFor says what became of a delivery, in words that tell nothing of
// paths and system calls. Only an address can fail for good.
func replyFor(err error) *mail.Reply {
	if err == nil {
		return &mail.Reply{Code: 250, Enh: "2.0.0", Text: "delivered"}
	}
	if r, ok := errors.AsType[*mail.Reply](err); ok {
		return r
	}
	if _, ok := errors.AsType[contentError](err); ok {
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

func action(r *mail.Reply) queue.Action {
	switch {
	case r.Code/100 == 2:
		return queue.Delivered
	case r.Permanent():
		return queue.Failed
	}
	return queue.Delayed
}
