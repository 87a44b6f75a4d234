package queue

import (
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/dsn"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

// RFC 2852 lets a sender say by when his message is to be delivered. In mode R
// it is given up then, which Schedule.deadline sees to; in mode N the sender is
// told, and delivery goes on.

// outOfTime reports whether a message may not be delivered any more.
func (e *Entry) outOfTime(now time.Time) bool {
	env := e.Envelope
	return env.DeliverByReturn && !env.DeliverBy.IsZero() && !now.Before(env.DeliverBy)
}

// timed reports whether the sender has said by when.
func (e *Entry) timed() bool { return !e.Envelope.DeliverBy.IsZero() }

// notifyBy is when the sender wants to hear that a message was not delivered
// yet. Who has heard of it from the host before us does not want to again.
func (e *Entry) notifyBy() (by time.Time, ok bool) {
	env := e.Envelope
	return env.DeliverBy, !env.DeliverBy.IsZero() && !env.DeliverByReturn && !env.DeliverByTold
}

// overdue is what he is told (RFC 3463, section 3.5).
func overdue(by time.Time, last *mail.Reply) *mail.Reply {
	r := &mail.Reply{Code: 451, Enh: "4.4.7", Text: "not delivered by " + by.UTC().Format(time.RFC3339) + "; delivery goes on"}
	if last != nil {
		r.Text += "; the last attempt ended with: " + last.Error()
	}
	return r
}

// withoutAttempt settles a ticket whose time is over.
func (q *Queue) withoutAttempt(p *Policy, t *ticket, now time.Time) {
	left := q.conclude(p, []*ticket{t}, now)[0]
	q.mu.Lock()
	defer q.mu.Unlock()
	left = q.comply(p, t, left)
	q.sched.putAll(left)
	q.sched.returned(t, q.policy(), now)
	q.nudge()
}

// conclude records what tickets have come to by the attempts before, and returns
// who of each is tried again.
func (q *Queue) conclude(p *Policy, ts []*ticket, now time.Time) (left [][]*Recipient) {
	c := new(Change)
	for _, t := range ts {
		for _, r := range t.rcpts {
			r.Last = Status{Reply: r.Last.Reply, RemoteMTA: r.Last.RemoteMTA}
		}
		left = append(left, q.record(p, t, nil, now, now, c))
	}
	q.persist(p, ts[0].entry.ID, c)
	return left
}

// keepTimes settles what waits for dead sites, where attempts are too seldom to do
// it in time. q.mu is held.
func (q *Queue) keepTimes(p *Policy, now time.Time) {
	ids := q.sched.overtime(now)
	if len(ids) == 0 {
		return
	}
	release, ok := p.Lease()
	if !ok {
		return
	}
	q.runs.Go(func() {
		defer release()
		for _, id := range ids {
			for q.keepTime(p, id, now) {
			}
		}
	})
}

// overtime is the bins of dead sites in which the time of somebody may be over.
// It is found out once a minute, which is how often the schedule looks at least.
func (s *schedule) overtime(now time.Time) (ids []int64) {
	if now.Sub(s.timesKept).Abs() < time.Minute {
		return nil
	}
	s.timesKept = now
	for id, b := range s.bins {
		if !b.timed || b.sweeping || b.speak.IsZero() || b.speak.After(now) {
			continue
		}
		if d := s.sites[b.site]; !b.known || d != nil && d.failures > 0 {
			ids = append(ids, id)
		}
	}
	return ids
}

// keepTime does it for some of a bin, and reports whether there is more to do.
func (q *Queue) keepTime(p *Policy, id int64, now time.Time) (more bool) {
	q.mu.Lock()
	b := q.sched.bins[id]
	if b == nil || b.sweeping || q.closed {
		q.mu.Unlock()
		return false
	}
	b.sweeping, b.speak = true, time.Time{}
	q.sched.reads++
	limit := batch + b.active
	q.mu.Unlock()

	es, next, err := q.store.Waiting(q.ctx, Wait{Bin: id, Speak: true, Until: now, Limit: limit})
	es = q.sound(es)
	if err != nil {
		next = now
		q.log.Error("reading the queue", "error", err)
	}
	var over []*Entry
	q.mu.Lock()
	for _, e := range es {
		if e.timed() && !e.Envelope.DeliverBy.After(now) {
			over = append(over, e)
			continue
		}
		for _, r := range e.Recipients {
			b.speak = earlier(b.speak, r.Speak)
		}
	}
	ts := q.sched.seize(b, over, p)
	if len(ts) < len(over) { // somebody has them, who may leave them as they are
		next = earlier(next, now)
	}
	b.sweeping, b.speak = false, earlier(b.speak, next)
	b.timed = b.timed && (len(over) > 0 || !next.IsZero())
	q.sched.readEnds()
	q.sched.consider(b)
	q.mu.Unlock()
	if len(ts) == 0 {
		return false
	}
	for i, left := range q.conclude(p, ts, now) {
		q.settled(p, ts[i], left)
	}
	return true
}

// wanted reports whether somebody is to hear what a recipient has come to: the
// sender, or if there is none, of a failure, who is told of those. NOTIFY is a
// wish of senders, and NEVER the rule for DSNs (RFC 3461, section 6.1), so that it
// does not count there.
//
// Of a message that was relayed he hears from the next host, if that knows how.
// With deliver-by time there are two cases more (RFC 2852, sections 4.1.4 and
// 4.1.4.2): he wants to see the way that it takes, or he will not hear from the
// next host that its time is over. Who asked for no notification at all gets none.
func wanted(env *mail.Envelope, r *Recipient) bool {
	if env.From.IsNull() {
		return r.Last.Action == Failed
	}
	if r.Last.Action != Relayed {
		return dsn.Wanted(r.Recipient, r.Last.Action)
	}
	if !env.DeliverBy.IsZero() && !r.Notify.Has(mail.NotifyNever) &&
		(env.DeliverByTrace || !env.DeliverByReturn && !r.Last.KeepsTime) {
		return true
	}
	return !r.Last.Notifies && dsn.Wanted(r.Recipient, Relayed)
}
