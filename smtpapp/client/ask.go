package client

import (
	"context"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

// Ask asks whether the peer takes mail for an address: it begins a transaction
// from the null reverse-path and says RCPT. No mail is sent; Reset ends it. The
// Result is of PhaseRcpt if the peer got that far, else of PhaseMail. An error is
// an *Error.
func (c *Conn) Ask(ctx context.Context, to mail.Address) (Result, error) {
	if !c.Usable() {
		return Result{}, &Error{Phase: PhaseMail, Err: ErrUnusable}
	}
	line := "MAIL FROM:<>"
	if !to.IsASCII() {
		if !c.ext.Has("SMTPUTF8") {
			return Result{Reply: noUTF8(), Phase: PhaseRcpt, Local: true}, nil
		}
		line += " SMTPUTF8"
	}
	defer c.watch(ctx)()
	if err := c.quiet(ctx, PhaseMail); err != nil {
		return Result{}, err
	}
	c.dirty = true
	r, err := c.exchange(ctx, PhaseMail, c.opts.Timeouts.Command, line)
	if err != nil || r.Code/100 != 2 {
		return Result{Reply: r, Phase: PhaseMail}, err
	}
	if r, err = c.exchange(ctx, PhaseRcpt, c.opts.Timeouts.Command, "RCPT TO:"+to.Path()); err == nil && !c.broken {
		err = c.quiet(ctx, PhaseRcpt)
	}
	return Result{Reply: r, Phase: PhaseRcpt}, err
}
