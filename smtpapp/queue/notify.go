package queue

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/dsn"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

// notify adds the DSN for recipients that are done to a change, for those the
// sender wants to hear of.
func (q *Queue) notify(p *Policy, e *Entry, content contentFunc, done []*Recipient, now time.Time, c *Change) {
	var rs []dsn.Recipient
	for _, r := range done {
		if wanted(e.Envelope, r) {
			rs = append(rs, reported(r, now, time.Time{}))
		}
	}
	q.send(p, e, content, rs, c)
}

// notifyDelay adds the one DSN that tells of a recipient's delay.
func (q *Queue) notifyDelay(p *Policy, e *Entry, content contentFunc, late []*Recipient, now time.Time, c *Change) {
	var rs []dsn.Recipient
	for _, r := range late {
		r.Noticed = true
		if by, asked := e.notifyBy(); asked && !r.Notify.Has(mail.NotifyNever) {
			d := reported(r, now, p.Schedule.deadline(e))
			d.Reply = overdue(by, d.Reply)
			rs = append(rs, d)
		} else if dsn.Wanted(r.Recipient, Delayed) {
			rs = append(rs, reported(r, now, p.Schedule.deadline(e)))
		}
	}
	q.send(p, e, content, rs, c)
}

func reported(r *Recipient, now, until time.Time) dsn.Recipient {
	return dsn.Recipient{
		Recipient: r.Recipient, Action: r.Last.Action, Reply: r.Last.Reply, RemoteMTA: r.Last.RemoteMTA,
		LastAttempt: now, Until: until,
	}
}

// A contentFunc returns what a DSN gives back, nil if it is lost.
type contentFunc func() *message.Message

func (q *Queue) returned(t *ticket) contentFunc {
	return func() *message.Message {
		m, err := q.content(t)
		if err != nil || verify(m) != nil {
			return nil
		}
		return m
	}
}

// send adds a DSN to a change, or says in the log why there is none.
func (q *Queue) send(p *Policy, e *Entry, content contentFunc, rs []dsn.Recipient, c *Change) {
	if len(rs) == 0 || e.Envelope.From.IsNull() { // RFC 5321, 4.5.5: never about a DSN
		return
	}
	defer func() { // a message that cannot be told of must not end the process
		if v := recover(); v != nil {
			p.Log.Error("panic making a DSN", "id", e.ID, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
		}
	}()
	o, err := dsn.Build(dsn.Report{
		Hostname: p.Hostname, From: p.Postmaster, Envelope: e.Envelope, Content: content(),
		Arrived: e.Queued, Recipients: rs,
	})
	if err != nil {
		if !errors.Is(err, dsn.ErrNullSender) {
			p.Log.Error("making a DSN", "id", e.ID, "error", err)
		}
		return
	}
	o.Envelope.Recipients = route(q.ctx, p, e.Envelope.From)
	if len(o.Envelope.Recipients) == 0 {
		p.Log.Warn("no way to the sender: DSN dropped", "id", e.ID, "from", e.Envelope.From.String())
		return
	}
	if p.Sign != nil {
		p.Sign(q.ctx, o.Content)
	}
	c.Add = append(c.Add, newEntry(o, NewID(), 0, time.Now()))
}

func route(ctx context.Context, p *Policy, to mail.Address) []*mail.Recipient {
	if p.Route == nil {
		return nil
	}
	rs := p.Route(ctx, to)
	for _, r := range rs {
		r.Notify = mail.NotifyNever
	}
	return rs
}
