package queue

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
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
		wait := time.Minute // or sooner; a clock that was set is noticed in time
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
		if jumped(now, time.Now()) {
			q.log.Warn("the clock was set")
			signal(q.survey)
		}
	}
}

// jumped reports whether the clock was set between two readings of it.
func jumped(a, b time.Time) bool {
	wall, real := b.Round(0).Sub(a.Round(0)), b.Sub(a)
	return (wall - real).Abs() > time.Minute
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
	q.locate(p)
	q.keepTimes(p, now)
	if len(q.sched.toRead) > 0 {
		signal(q.reader)
	}
	for {
		release, ok := p.Lease()
		if !ok {
			return next // it is about to be detached, which wakes us
		}
		t := q.sched.next(p, now)
		if t == nil {
			release()
			q.locate(p)
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
	if ms := wished(t.rcpts); ms != nil {
		q.makeUp(p, t, ms)
		return
	}
	began := time.Now()
	if t.entry.outOfTime(began) {
		q.withoutAttempt(p, t, began)
		return
	}
	if t.deaths() >= maxStarts {
		q.setAside(p, t)
		return
	}
	started := q.store.Begin(t.entry.ID)
	statuses, met := q.deliver(p, t, started)
	now := time.Now()
	if q.putBack(p, t, statuses, now) {
		started.End()
		return
	}
	readings := t.read(statuses)
	for i, r := range t.rcpts {
		r.Attempts++
		r.Last = statuses[i]
		if r.Last.Action == Delayed {
			r.remember(began, now)
		}
		met.befalls(r)
	}
	started.Settled(silent(t))
	c := new(Change)
	g := q.gather(t, began, now)
	left := q.record(p, t, g, began, now, c)
	if q.persist(p, t.entry.ID, c) {
		started.End()
	}
	q.gathered(g)
	if met != "" {
		q.quarantined(p, t.entry.ID, string(met), left)
	}

	there := presenceOf(statuses)
	q.mu.Lock()
	left = q.comply(p, t, left)
	q.sched.putAll(left)
	park := q.heed(p, t, readings, began, now)
	park = append(park, q.sched.ended(t, there, q.policy(), began, now)...)
	report := q.sched.complete(t.entry.ID)
	q.nudge()
	q.mu.Unlock()
	q.park(p, park)
	q.hasten(p, report)
	if there != present {
		q.sweep(p, t.site, statuses[0], began)
	}
}

// silent are the recipients that are delivered to, of which nobody has to hear.
func silent(t *ticket) (indices []int) {
	for _, r := range t.rcpts {
		if a := r.Last.Action; a != Delayed && a != Failed && !wanted(t.entry.Envelope, r) {
			indices = append(indices, r.Index)
		}
	}
	return indices
}

// taken notes recipients whom the agent has delivered to, of those of whom nobody
// has to hear, whatever the delivery is called.
func (t *ticket) taken(started Started) func([]*mail.Recipient) {
	return func(rs []*mail.Recipient) {
		var indices []int
		for _, r := range t.rcpts {
			if slices.Contains(rs, r.Recipient) && (t.entry.Envelope.From.IsNull() || quiet(t.entry.Envelope, r)) {
				indices = append(indices, r.Index)
			}
		}
		started.Settled(indices)
	}
}

// quiet reports whether a delivery to r is nothing that its sender hears of.
func quiet(env *mail.Envelope, r *Recipient) bool {
	c := *r
	for _, a := range []Action{Delivered, Relayed} {
		if c.Last = (Status{Action: a}); wanted(env, &c) {
			return false
		}
	}
	return true
}

// makeUp grants wishes that were stored, without an attempt: the process ended
// during the one that they were to follow.
func (q *Queue) makeUp(p *Policy, t *ticket, wishes map[int]Mark) {
	left := q.grant(p, t, t.rcpts, wishes, nil)
	for _, r := range left {
		r.Wish = NoWish
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	left = q.comply(p, t, left)
	q.sched.putAll(left)
	q.sched.returned(t, q.policy(), time.Now())
	q.nudge()
}

// park has tickets of new mail wait in the store.
func (q *Queue) park(p *Policy, ts []*ticket) {
	for len(ts) > 0 {
		some := ts[:min(batch, len(ts))]
		ts = ts[len(some):]
		c := new(Change)
		for _, t := range some {
			for _, r := range t.rcpts {
				r.stow(t.entry, t.site, t.terms)
			}
			c.Update = append(c.Update, t.rcpts...)
		}
		q.persist(p, some[0].entry.ID, c)
		for _, t := range some {
			q.settled(p, t, t.rcpts)
		}
	}
}

// settled is the end of a ticket that had no attempt.
func (q *Queue) settled(p *Policy, t *ticket, left []*Recipient) {
	q.mu.Lock()
	defer q.mu.Unlock()
	left = q.comply(p, t, left)
	q.sched.putAll(left)
	q.sched.finish(t)
	q.sched.drop(q.sched.sites[t.site])
	q.nudge()
}

// sweep tells the senders of what waits for a site that has just been found
// dead, of those whose time has come: with one probe now and then, the turn of
// each entry in a long queue would come too late.
func (q *Queue) sweep(p *Policy, k site, s Status, began time.Time) {
	for id := range binsOf(k) {
		for q.sweepSome(p, id, s, began) {
		}
	}
}

func (q *Queue) sweepSome(p *Policy, id int64, s Status, began time.Time) (more bool) {
	q.mu.Lock()
	b := q.sched.bins[id]
	if b == nil || b.sweeping || q.closed || b.speak.IsZero() || b.speak.After(began) {
		q.mu.Unlock()
		return false
	}
	b.sweeping, b.speak = true, time.Time{}
	q.sched.reads++
	limit := batch + b.active
	q.mu.Unlock()

	es, next, err := q.store.Waiting(q.ctx, Wait{Bin: id, Speak: true, Until: began, Limit: limit})
	es = q.sound(es)
	q.mu.Lock()
	if err != nil {
		next = began
		q.log.Error("reading the queue", "error", err)
	}
	ts := q.sched.seize(b, es, p)
	b.sweeping, b.speak = false, earlier(b.speak, next)
	for _, e := range es {
		for _, r := range e.Recipients {
			b.speak = earlier(b.speak, r.Speak) // if it is another's now, and he leaves it as it is
		}
	}
	q.sched.readEnds()
	q.sched.consider(b)
	q.mu.Unlock()
	q.giveUp(p, ts, s, began)
	return len(ts) > 0
}

// giveUp settles tickets whose turn will not come in time, as their site is
// dead, with what an attempt there has come to.
func (q *Queue) giveUp(p *Policy, ts []*ticket, s Status, began time.Time) {
	if len(ts) == 0 {
		return
	}
	c := new(Change)
	left := make([][]*Recipient, len(ts))
	for i, t := range ts {
		for _, r := range t.rcpts {
			r.Last = s
		}
		left[i] = q.record(p, t, nil, began, began, c)
	}
	q.persist(p, ts[0].entry.ID, c)
	for i, t := range ts {
		q.settled(p, t, left[i])
	}
}

// record decides what the last status of each recipient means, and adds that
// to a change with the DSNs it calls for. It returns who is tried again.
func (q *Queue) record(p *Policy, t *ticket, g *gathering, began, now time.Time, c *Change) (left []*Recipient) {
	var done, late []*Recipient
	jitter := spread()
	for _, r := range t.rcpts {
		judge(&t.terms.schedule, t.entry, r, began, now, jitter)
		switch {
		case r.Done:
			done = append(done, r)
		case t.terms.schedule.late(t.entry, r, now):
			late = append(late, r)
			fallthrough
		default:
			left = append(left, r)
		}
		q.report(p, t, r, began, now)
	}
	content := q.returned(t)
	q.notifyAll(p, t, g, content, done, now, c)
	q.notifyDelay(p, t, content, late, now, c)
	for _, r := range left {
		r.Bin = 0
		if !r.Held {
			r.stow(t.entry, t.site, t.terms)
		}
	}
	c.Update = append(c.Update, t.rcpts...)
	return left
}

// judge decides what a status means for the recipient: done, or when to try
// again.
//
// Time is over for whom an attempt that began after it has failed, so that
// a clock that jumps ahead costs nobody his last one.
func judge(s *Schedule, e *Entry, r *Recipient, began, now time.Time, jitter float64) {
	switch {
	case r.Last.Action != Delayed:
		r.Done = true
	case !began.Before(s.deadline(e)):
		r.Done, r.Held = true, false
		r.Last.Action = Failed
		r.Last.Reply = expired(r.Last.Reply)
	default:
		r.Due = s.again(e, r, now, jitter)
		if t := r.Last.NotBefore; t.After(r.Due) {
			r.Due = t
			if end := s.deadline(e); t.After(end) {
				r.Due = end
			}
		}
	}
}

// persist commits what an attempt did. Until that works, nothing is tried
// again: the mail may have been delivered. It returns false when the queue is
// closed in vain.
func (q *Queue) persist(p *Policy, id string, c *Change) bool {
	for delay := 100 * time.Millisecond; ; delay = min(2*delay, 10*time.Second) {
		err := q.commit(context.WithoutCancel(q.ctx), c)
		if err == nil {
			return true
		}
		p.Log.Error("recording an attempt", "id", id, "error", err, "next_try", delay)
		select {
		case <-time.After(delay):
		case <-q.ctx.Done():
			return false
		}
	}
}

var (
	errPanicked = &mail.Reply{Code: 451, Enh: "4.3.0", Text: "delivery failed inside this server"}
	errDamaged  = &mail.Reply{Code: 451, Enh: "4.3.0", Text: "stored content is damaged; held"}
)

// A fault is a cause of quarantine that an attempt has met, or "".
type fault string

// befalls notes a fault: what is not done of damaged content waits for an
// operator, and so does what has ended too many attempts in a row.
func (f fault) befalls(r *Recipient) {
	switch {
	case f != CauseDeath:
		r.Starts = 0
	case r.Last.Action == Delayed:
		r.Starts++
	}
	switch {
	case r.Last.Action != Delayed:
	case f == CauseDamage:
		r.Held, r.Reason = true, errDamaged.Text
	case r.Starts >= maxStarts:
		r.Held, r.Reason = true, reasonDied
	}
}

// deliver runs the agent. However it ends, there is a status for each
// recipient.
func (q *Queue) deliver(p *Policy, t *ticket, started Started) (statuses []Status, met fault) {
	statuses = make([]Status, len(t.rcpts))
	log := p.Log.With("id", t.entry.ID, "agent", t.site.agent)
	content, err := q.content(t)
	if err != nil {
		log.Error("reading an entry", "error", err)
		if lost(err) {
			return fill(statuses, Status{Reply: errDamaged}), CauseDamage
		}
		return fill(statuses, Status{Reply: errPanicked}), ""
	}
	ctx, cancel := q.attemptContext(p)
	defer cancel()
	if q.call(ctx, p, t, started, content, statuses, log) {
		return statuses, CauseDeath
	}
	for _, s := range statuses {
		if s.Action != Delayed || s.Unreachable {
			continue
		}
		if err := verify(content); err != nil {
			log.Error("stored content is damaged, the entry is held", "error", err)
			return fillDelayed(statuses, Status{Reply: errDamaged}), CauseDamage
		}
		break
	}
	return statuses, ""
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
func (q *Queue) call(ctx context.Context, p *Policy, t *ticket, started Started, content *message.Message, statuses []Status, log *slog.Logger) (panicked bool) {
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
			panicked = true
		}
	}()
	copy(statuses, p.Agents[t.site.agent].Deliver(ctx, &Delivery{
		ID: t.entry.ID, Envelope: &env, Content: content, Attempt: attempt, Queued: t.entry.Queued, Log: log,
		Taken:  t.taken(started),
		Source: t.site.source, Rule: t.terms.rule(),
	}))
	return false
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
	if t.site.source != "" {
		attrs = append(attrs, slog.String("source", t.site.source))
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
