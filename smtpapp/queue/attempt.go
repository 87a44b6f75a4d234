package queue

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

// run is the one goroutine that owns the schedule.
func (q *Queue) run() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		now := time.Now()
		next := q.dispatch(now)
		wait := time.Hour // or sooner; a clock that was set is noticed in time
		if !next.IsZero() {
			wait = min(wait, max(next.Sub(now), 0))
		}
		timer.Reset(wait)
		select {
		case <-q.quit:
			return
		case <-q.wake:
		case <-timer.C:
		}
	}
}

// dispatch begins the attempts that may begin, and returns when to look again.
func (q *Queue) dispatch(now time.Time) time.Time {
	q.mu.Lock()
	defer q.mu.Unlock()
	p := q.policy()
	if p == nil || q.closed {
		return time.Time{}
	}
	next := q.sched.ripen(now, p)
	for {
		release, ok := p.Lease()
		if !ok {
			return next // it is about to be detached, which wakes us
		}
		t := q.sched.next(p, now)
		if t == nil {
			release()
			return next
		}
		q.runs.Go(func() {
			defer release()
			q.attempt(p, t)
		})
	}
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// attempt gives a ticket to its agent and records what it says.
func (q *Queue) attempt(p *Policy, t *ticket) {
	began := time.Now()
	statuses, damaged := q.deliver(p, t)
	now := time.Now()
	unreachable := true
	for i, r := range t.rcpts {
		r.Attempts++
		r.Last, r.Held = statuses[i], damaged && statuses[i].Action == Delayed
		unreachable = unreachable && r.Last.Unreachable
	}
	again := q.record(p, t, began, now)

	q.mu.Lock()
	overdue := q.sched.ended(t, unreachable, &p.Schedule, q.policy(), now)
	q.refill(t, again, now)
	q.mu.Unlock()
	for _, o := range overdue {
		q.giveUp(p, o, statuses[0], now)
	}
}

// giveUp settles a ticket whose turn will not come in time, as its site is
// dead, with what an attempt there has just come to.
func (q *Queue) giveUp(p *Policy, t *ticket, s Status, now time.Time) {
	for _, r := range t.rcpts {
		r.Last = s
	}
	again := q.record(p, t, now, now)
	q.mu.Lock()
	defer q.mu.Unlock()
	q.sched.finish(t)
	q.refill(t, again, now)
}

// refill schedules the recipients of a ticket who are tried again. q.mu is held.
func (q *Queue) refill(t *ticket, again []*Recipient, now time.Time) {
	e := *t.entry
	e.Recipients = again
	if t.hasten {
		for _, r := range again {
			r.Due = now
		}
	}
	q.sched.add(&e, q.policy(), now)
	q.nudge()
}

// record decides what the last status of each recipient means, and commits
// that with the DSNs it calls for. It returns who is tried again.
func (q *Queue) record(p *Policy, t *ticket, began, now time.Time) (again []*Recipient) {
	c := &Change{Update: t.rcpts}
	var done, late []*Recipient
	jitter := spread()
	for _, r := range t.rcpts {
		judge(&p.Schedule, t.entry, r, now, jitter)
		switch {
		case r.Done:
			done = append(done, r)
		case p.Schedule.late(t.entry, r, now):
			late = append(late, r)
			fallthrough
		default:
			again = append(again, r)
		}
		q.report(p, t, r, began, now)
	}
	content := q.returned(t)
	q.notify(p, t.entry, content, done, now, c)
	q.notifyDelay(p, t.entry, content, late, now, c)
	q.persist(p, t, c)
	return again
}

// judge decides what a status means for the recipient: done, or when to try
// again.
func judge(s *Schedule, e *Entry, r *Recipient, now time.Time, jitter float64) {
	switch {
	case r.Last.Action != Delayed:
		r.Done = true
	case !now.Before(s.deadline(e)):
		r.Done, r.Held = true, false
		r.Last.Action = Failed
		r.Last.Reply = expired(r.Last.Reply)
	default:
		r.Due = s.again(e, r, now, jitter)
	}
}

// persist commits what an attempt did. Until that works, nothing is tried
// again: the mail may have been delivered.
func (q *Queue) persist(p *Policy, t *ticket, c *Change) {
	for delay := 100 * time.Millisecond; ; delay = min(2*delay, 10*time.Second) {
		err := q.store.Commit(context.WithoutCancel(q.ctx), c)
		if err == nil {
			break
		}
		p.Log.Error("recording an attempt", "id", t.entry.ID, "error", err, "next_try", delay)
		select {
		case <-time.After(delay):
		case <-q.ctx.Done():
			return
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.scheduleNew(c.Add)
}

var (
	errPanicked = &mail.Reply{Code: 451, Enh: "4.3.0", Text: "delivery failed inside this server"}
	errDamaged  = &mail.Reply{Code: 451, Enh: "4.3.0", Text: "stored content is damaged; held"}
)

// deliver runs the agent. However it ends, there is a status for each
// recipient. What is not done of damaged content has to wait for an operator.
func (q *Queue) deliver(p *Policy, t *ticket) (statuses []Status, damaged bool) {
	statuses = make([]Status, len(t.rcpts))
	log := p.Log.With("id", t.entry.ID, "agent", t.site.agent)
	content, err := q.content(t)
	if err != nil {
		log.Error("reading an entry", "error", err)
		if lost(err) {
			return fill(statuses, Status{Reply: errDamaged}), true
		}
		return fill(statuses, Status{Reply: errPanicked}), false
	}
	ctx, cancel := q.attemptContext(p)
	defer cancel()
	q.call(ctx, p, t, content, statuses, log)
	for _, s := range statuses {
		if s.Action != Delayed || s.Unreachable {
			continue
		}
		if err := verify(content); err != nil {
			log.Error("stored content is damaged, the entry is held", "error", err)
			return fillDelayed(statuses, Status{Reply: errDamaged}), true
		}
		break
	}
	return statuses, false
}

// attemptContext ends with the queue's or the policy's.
func (q *Queue) attemptContext(p *Policy) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(q.ctx)
	if p.Context == nil {
		return ctx, cancel
	}
	stop := context.AfterFunc(p.Context, cancel)
	return ctx, func() { stop(); cancel() }
}

// call is the agent's turn.
func (q *Queue) call(ctx context.Context, p *Policy, t *ticket, content *message.Message, statuses []Status, log *slog.Logger) {
	env := *t.entry.Envelope
	attempt := 0
	for _, r := range t.rcpts {
		env.Recipients = append(env.Recipients, r.Recipient)
		attempt = max(attempt, r.Attempts+1)
	}
	defer func() {
		if v := recover(); v != nil {
			log.Error("panic in an agent", "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
			fill(statuses, Status{Reply: errPanicked})
		}
	}()
	copy(statuses, p.Agents[t.site.agent].Deliver(ctx, &Delivery{
		ID: t.entry.ID, Envelope: &env, Content: content, Attempt: attempt, Queued: t.entry.Queued, Log: log,
	}))
}

func fill(ss []Status, s Status) []Status {
	for i := range ss {
		ss[i] = s
	}
	return ss
}

func fillDelayed(ss []Status, s Status) []Status {
	for i := range ss {
		if ss[i].Action == Delayed {
			ss[i] = s
		}
	}
	return ss
}

// content is at hand for what has just been accepted, else in the store.
func (q *Queue) content(t *ticket) (*message.Message, error) {
	if t.content != nil {
		return t.content.Fork(), nil
	}
	return q.store.Content(q.ctx, t.entry.ID)
}

// lost reports whether an error of content is there to stay.
func lost(err error) bool {
	return errors.Is(err, ErrDamaged) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrNotFound)
}

// verify reads content that lies in a file and returns an error if it is not
// what was stored. Whoever delivers meets the same error, but cannot tell it
// from one of his own.
func verify(m *message.Message) error {
	if _, ok := m.Body().Bytes(); ok {
		return nil
	}
	r, err := m.Body().NewReader()
	if err == nil {
		_, err = io.Copy(io.Discard, r)
		_ = r.Close()
	}
	if err != nil && lost(err) {
		return err
	}
	return nil
}

// report logs an attempt and counts it.
func (q *Queue) report(p *Policy, t *ticket, r *Recipient, began, now time.Time) {
	attrs := []slog.Attr{
		slog.String("id", t.entry.ID), slog.String("to", r.Address.String()), slog.String("from", t.entry.Envelope.From.String()),
		slog.String("agent", r.Agent), slog.String("status", r.Last.Action.String()), slog.Int("attempt", r.Attempts),
		slog.Duration("took", now.Sub(began)), slog.Duration("delay", now.Sub(t.entry.Queued)),
	}
	if r.Last.RemoteMTA != "" {
		attrs = append(attrs, slog.String("remote", r.Last.RemoteMTA))
	}
	if r.Last.Reply != nil {
		attrs = append(attrs, slog.String("reply", r.Last.Reply.Error()))
	}
	switch {
	case r.Held:
		attrs = append(attrs, slog.Bool("held", true))
	case !r.Done:
		attrs = append(attrs, slog.Time("next_try", r.Due))
	}
	p.Log.LogAttrs(q.ctx, slog.LevelInfo, "delivery", attrs...)
	if p.Observe != nil {
		p.Observe.AttemptEnded(r.Agent, r.Last.Action, now.Sub(began))
	}
}
