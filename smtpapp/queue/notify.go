package queue

import (
	"context"
	"errors"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/dsn"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

// notify adds the DSN for recipients that are done to a change, for those the
// sender wants to hear of.
func (q *Queue) notify(ctx context.Context, p *Policy, e *Entry, done []*Recipient, c *Change) {
	var rs []dsn.Recipient
	for _, r := range done {
		if dsn.Wanted(r.Recipient, r.Last.Action) {
			rs = append(rs, reported(r, time.Time{}))
		}
	}
	q.send(ctx, p, e, rs, c)
}

// notifyDelay adds the one DSN that tells of a delay.
func (q *Queue) notifyDelay(ctx context.Context, p *Policy, e *Entry, late []*Recipient, now time.Time, c *Change) {
	if e.Noticed || now.Sub(e.Queued) < p.Schedule.DelayNotice {
		return
	}
	var rs []dsn.Recipient
	for _, r := range late {
		if dsn.Wanted(r.Recipient, Delayed) {
			rs = append(rs, reported(r, e.Queued.Add(p.Schedule.Expire)))
		}
	}
	if len(rs) == 0 {
		return
	}
	e.Noticed = true
	c.Noticed = append(c.Noticed, e.ID)
	q.send(ctx, p, e, rs, c)
}

func reported(r *Recipient, until time.Time) dsn.Recipient {
	return dsn.Recipient{
		Recipient: r.Recipient, Action: r.Last.Action, Reply: r.Last.Reply, RemoteMTA: r.Last.RemoteMTA,
		LastAttempt: time.Now(), Until: until,
	}
}

// send adds a DSN to a change, or says in the log why there is none.
func (q *Queue) send(ctx context.Context, p *Policy, e *Entry, rs []dsn.Recipient, c *Change) {
	if len(rs) == 0 || e.Envelope.From.IsNull() { // RFC 5321, 4.5.5: never about a DSN
		return
	}
	content := e.Content
	if content == nil {
		if full, err := q.store.Get(ctx, e.ID); err == nil {
			content = full.Content
		}
	}
	o, err := dsn.Build(dsn.Report{
		Hostname: p.Hostname, From: p.Postmaster, Envelope: e.Envelope, Content: content,
		Arrived: e.Queued, Recipients: rs,
	})
	if err != nil {
		if !errors.Is(err, dsn.ErrNullSender) {
			p.Log.Error("making a DSN", "id", e.ID, "error", err)
		}
		return
	}
	o.Envelope.Recipients = route(ctx, p, e.Envelope.From)
	if len(o.Envelope.Recipients) == 0 {
		p.Log.Warn("no way to the sender: DSN dropped", "id", e.ID, "from", e.Envelope.From.String())
		return
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
