package queue

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/dsn"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

// notify adds the DSN for recipients that are done to a change, for those the
// sender wants to hear of.
func (q *Queue) notify(p *Policy, e *Entry, content contentFunc, done []*Recipient, now time.Time, c *Change) {
	q.send(p, e, content, reports(e, done, now), c)
}

// notifyAll is notify for a ticket whose DSN may be about others of the entry too.
func (q *Queue) notifyAll(p *Policy, t *ticket, g *gathering, content contentFunc, done []*Recipient, now time.Time, c *Change) {
	rs := reports(t.entry, done, now)
	if len(rs) == 0 || g == nil {
		q.send(p, t.entry, content, rs, c)
		return
	}
	before := q.retract(g, c)
	if before == nil {
		g.until = now.Add(gatherTime)
	}
	rs = append(before, rs...)
	had := len(c.Add)
	if q.send(p, t.entry, content, rs, c); len(c.Add) > had {
		g.note(c, rs)
	}
}

func reports(e *Entry, done []*Recipient, now time.Time) (rs []dsn.Recipient) {
	for _, r := range done {
		if wanted(e.Envelope, r) {
			rs = append(rs, reported(r, now, time.Time{}))
		}
	}
	return rs
}

// notifyDelay adds the one DSN that tells of a recipient's delay.
func (q *Queue) notifyDelay(p *Policy, t *ticket, content contentFunc, late []*Recipient, now time.Time, c *Change) {
	var rs []dsn.Recipient
	e, until := t.entry, t.terms.schedule.deadline(t.entry)
	for _, r := range late {
		r.Noticed = true
		if by, asked := e.notifyBy(); asked && !r.Notify.Has(mail.NotifyNever) {
			d := reported(r, now, until)
			d.Reply = overdue(by, d.Reply)
			rs = append(rs, d)
		} else if dsn.Wanted(r.Recipient, Delayed) {
			rs = append(rs, reported(r, now, until))
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
	env := e.Envelope
	if len(rs) == 0 || env.Final && env.From.IsNull() {
		return
	}
	if env.From.IsNull() && p.Notices.Double.IsNull() {
		p.Log.Info("double failure: nobody is told", "id", e.ID, "reason", "no sender")
		return
	}
	defer func() { // a message that cannot be told of must not end the process
		if v := recover(); v != nil {
			p.Log.Error("panic making a DSN", "id", e.ID, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
		}
	}()
	rep := dsn.Report{
		Hostname: p.Hostname, From: p.Postmaster, Envelope: env, Content: content(),
		Arrived: e.Queued, Recipients: rs, Returned: p.Notices.Returned, Log: p.Log.With("id", e.ID),
	}
	if q.tell(p, e, rep, env.From, c) {
		return
	}
	rep.To = p.Notices.Double
	rep.Recipients = slices.DeleteFunc(rs, func(r dsn.Recipient) bool { return r.Action != Failed })
	if len(rep.Recipients) == 0 || !q.tell(p, e, rep, rep.To, c) {
		p.Log.Warn("nobody is told of a message", "id", e.ID, "from", env.From.String())
	}
}

// tell adds a DSN for somebody to a change, and reports whether it did.
func (q *Queue) tell(p *Policy, e *Entry, rep dsn.Report, to mail.Address, c *Change) bool {
	if to.IsNull() { // RFC 5321, section 6.1
		return false
	}
	rs := route(q.ctx, p, e.Envelope, to)
	if len(rs) == 0 {
		p.Log.Warn("no way to whom a DSN is for", "id", e.ID, "to", to.String())
		return false
	}
	if p.Notices.Template != nil {
		var h *message.Header
		if rep.Content != nil {
			h = rep.Content.Header
		}
		rep.Template = p.Notices.Template(h)
	}
	o, err := dsn.Build(rep)
	if err != nil {
		p.Log.Error("making a DSN", "id", e.ID, "error", err)
		return false
	}
	o.Envelope.Recipients = rs
	if p.Sign != nil {
		p.Sign(q.ctx, o.Content)
	}
	c.Add = append(c.Add, newEntry(o, NewID(), 0, time.Now()))
	return true
}

func route(ctx context.Context, p *Policy, about *mail.Envelope, to mail.Address) []*mail.Recipient {
	if p.Route == nil {
		return nil
	}
	rs := p.Route(ctx, about, to)
	for _, r := range rs {
		r.Notify = mail.NotifyNever
	}
	return rs
}
