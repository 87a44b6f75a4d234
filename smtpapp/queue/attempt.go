package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"slices"
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
		wait := time.Hour
		if !next.IsZero() {
			wait = max(next.Sub(now), 0)
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
	next := q.sched.ripen(now)
	for {
		release, ok := p.Lease()
		if !ok {
			return next // it is about to be detached, which wakes us
		}
		t, again := q.sched.next(now, &p.Schedule, p)
		if t == nil {
			release()
			return earlier(next, again)
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
	statuses := q.deliver(p, t)
	now := time.Now()
	c := new(Change)
	var again, failed, told []*Recipient
	unreachable := true
	for i, r := range t.rcpts {
		r.Attempts++
		r.Last = statuses[i]
		unreachable = unreachable && r.Last.Unreachable
		q.judge(p, t.entry, r, now)
		switch {
		case !r.Done:
			again = append(again, r)
		case r.Last.Action == Failed:
			failed = append(failed, r)
		default:
			told = append(told, r)
		}
		q.report(p, t, r, began, now)
	}
	c.Update = t.rcpts
	q.notify(q.ctx, p, t.entry, append(failed, told...), c)
	q.notifyDelay(q.ctx, p, t.entry, again, now, c)
	q.record(p, t, c)

	q.mu.Lock()
	defer q.mu.Unlock()
	q.sched.ended(t, unreachable, now, &p.Schedule)
	if len(again) > 0 {
		e := *t.entry
		e.Recipients, e.Content = again, nil
		q.sched.add(tickets(&e, q.policy()))
	}
	q.nudge()
}

// record commits what an attempt did. Until that works, nothing is tried
// again: the mail may have been delivered.
func (q *Queue) record(p *Policy, t *ticket, c *Change) {
	for delay := 100 * time.Millisecond; ; delay = min(2*delay, 10*time.Second) {
		err := q.commitResult(c)
		if err == nil {
			return
		}
		p.Log.Error("recording an attempt", "id", t.entry.ID, "error", err, "next_try", delay)
		select {
		case <-time.After(delay):
		case <-q.ctx.Done():
			return
		}
	}
}

func (q *Queue) commitResult(c *Change) error {
	if err := q.store.Commit(context.WithoutCancel(q.ctx), c); err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, e := range c.Add {
		q.sched.add(tickets(e, q.policy()))
	}
	return nil
}

var errPanicked = &mail.Reply{Code: 451, Enh: "4.3.0", Text: "delivery failed inside this server"}

// deliver runs the agent. However it ends, there is a status for each recipient.
func (q *Queue) deliver(p *Policy, t *ticket) (statuses []Status) {
	statuses = make([]Status, len(t.rcpts))
	log := p.Log.With("id", t.entry.ID, "agent", t.site.agent)
	content, err := q.content(t)
	if err != nil {
		log.Error("reading an entry", "error", err)
		return fill(statuses, Status{Reply: errPanicked})
	}
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
	ctx, cancel := context.WithCancel(q.ctx)
	defer cancel()
	if p.Context != nil {
		defer context.AfterFunc(p.Context, cancel)()
	}
	copy(statuses, p.Agents[t.site.agent].Deliver(ctx, &Delivery{
		ID: t.entry.ID, Envelope: &env, Content: content, Attempt: attempt, Queued: t.entry.Queued, Log: log,
	}))
	return statuses
}

func fill(ss []Status, s Status) []Status {
	for i := range ss {
		ss[i] = s
	}
	return ss
}

// content is at hand for what has just been accepted, else in the store.
func (q *Queue) content(t *ticket) (*message.Message, error) {
	if c := t.entry.Content; c != nil {
		if _, ok := c.Body().Bytes(); ok {
			return c.Fork(), nil
		}
	}
	e, err := q.store.Get(q.ctx, t.entry.ID)
	if err != nil {
		return nil, err
	}
	return e.Content, nil
}

// judge decides what a status means for the recipient: done, or when to try
// again.
func (q *Queue) judge(p *Policy, e *Entry, r *Recipient, now time.Time) {
	s := &p.Schedule
	if r.Last.Action != Delayed {
		r.Done = true
		return
	}
	life := s.Expire
	if e.Envelope.From.IsNull() {
		life = s.ExpireNull
	}
	end := e.Queued.Add(life)
	if !now.Before(end) {
		r.Done = true
		r.Last.Action = Failed
		r.Last.Reply = expired(r.Last.Reply)
		return
	}
	r.Due = now.Add(jitter(s.Retry[min(r.Attempts-1, len(s.Retry)-1)]))
	if r.Due.After(end) {
		r.Due = end
	}
}

// expired is the last word of a recipient whose time is over (RFC 3463,
// section 3.5).
func expired(last *mail.Reply) *mail.Reply {
	r := &mail.Reply{Code: 554, Enh: "5.4.7", Text: "delivery time expired"}
	if last != nil {
		r.Text += "; the last attempt ended with: " + last.Error()
	}
	return r
}

// jitter spreads attempts by a fifth, so that they do not come all at once.
func jitter(d time.Duration) time.Duration {
	fifth := int64(d / 5)
	return d + time.Duration(rand.Int64N(2*fifth+1)-fifth)
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
	if !r.Done {
		attrs = append(attrs, slog.Time("next_try", r.Due))
	}
	p.Log.LogAttrs(q.ctx, slog.LevelInfo, "delivery", attrs...)
	if p.Observe != nil {
		p.Observe.AttemptEnded(r.Agent, r.Last.Action, now.Sub(began))
	}
}

// Retry has an entry tried as soon as there is room, whatever its time.
func (q *Queue) Retry(ctx context.Context, id string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	list := q.sched.all[id]
	if len(list) == 0 {
		return ErrNotFound
	}
	now := time.Now()
	for _, t := range slices.Clone(list) {
		if t.running || t.index < 0 {
			continue
		}
		t.due = now
		for _, r := range t.rcpts {
			r.Due = now
		}
		q.sched.fix(t)
		if d := q.sched.sites[t.site]; d != nil {
			d.until = time.Time{}
		}
	}
	q.nudge()
	return nil
}

// Get returns an entry.
func (q *Queue) Get(ctx context.Context, id string) (*Entry, error) { return q.store.Get(ctx, id) }

// A Filter says which entries List returns. Zero fields do not matter.
type Filter struct {
	Sender    string
	Recipient string
	Domain    string // of a recipient
	Agent     string
	After     string // id of the last entry of the page before
	Limit     int    // default 100
}

// List returns entries without their content, oldest first.
func (q *Queue) List(ctx context.Context, f Filter) ([]*Entry, error) {
	if f.Limit <= 0 {
		f.Limit = 100
	}
	var out []*Entry
	err := q.store.Each(ctx, func(e *Entry) bool {
		if f.matches(e) {
			out = append(out, e)
		}
		return len(out) < f.Limit
	})
	if err != nil && !errors.Is(err, context.Canceled) {
		return nil, fmt.Errorf("listing the queue: %w", err)
	}
	return out, err
}

func (f *Filter) matches(e *Entry) bool {
	if f.After != "" && e.ID <= f.After || f.Sender != "" && e.Envelope.From.String() != f.Sender {
		return false
	}
	return slices.ContainsFunc(e.Recipients, func(r *Recipient) bool {
		return (f.Recipient == "" || r.Address.String() == f.Recipient) &&
			(f.Domain == "" || r.Address.Domain == f.Domain) && (f.Agent == "" || r.Agent == f.Agent)
	})
}
