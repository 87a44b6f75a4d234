package queue

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

// An Attendant is an Agent that may deliver while the client still waits for the
// reply to its message, without the queue.
type Attendant interface {
	Agent
	// DeliverNow delivers to the one recipient there is, and reports whether it has
	// done so, in a way that outlives the machine's power. If it has not, nothing
	// is left of it, and the message is queued: it may refuse whatever it likes.
	//
	// A process that ends before the reply to the client leaves a message that
	// will come again. So what is done must not be there for readers until it is
	// on the disk, a moment before DeliverNow returns.
	DeliverNow(ctx context.Context, d *Delivery) bool
}

// attendedTo is what there is to say of it.
var attendedTo = Status{Action: Delivered, Reply: &mail.Reply{Code: 250, Enh: "2.0.0", Text: "delivered before the reply"}}

// attended makes room for attempts beside the queue.
type attended chan struct{}

// attend delivers what is to be queued, if that is one message to one recipient of
// whom nobody has to hear but by the reply, and if nothing would keep the queue
// from trying at once. Else the queue has it.
func (q *Queue) attend(ctx context.Context, c *Change) bool {
	if len(c.Add) != 1 || len(c.Add[0].Recipients) != 1 {
		return false
	}
	now, e := time.Now(), c.Add[0]
	if e.timed() || e.Recipients[0].Due.After(now) || !quiet(e.Envelope, e.Recipients[0]) {
		return false
	}
	p, release, err := q.lease()
	if err != nil {
		return false
	}
	defer release()
	r := e.Recipients[0]
	agent, ok := p.Agents[r.Agent].(Attendant)
	if !ok || !q.ready(p, siteOf(e, r.Recipient, p), now) {
		return false
	}
	select {
	case p.attended <- struct{}{}:
		defer func() { <-p.attended }()
	default:
		return false
	}
	t := &ticket{entry: e, rcpts: e.Recipients, site: site{agent: r.Agent}}
	if !q.deliverNow(ctx, p, t, agent) {
		return false
	}
	r.Attempts, r.Done, r.Last = 1, true, attendedTo
	q.report(p, t, r, now, time.Now())
	return true
}

// ready reports whether a site has nothing against an attempt now: no rule, which
// would count it, and no pause. There must be room for what may be queued
// instead, since that is where the room for all else is watched.
func (q *Queue) ready(p *Policy, k site, now time.Time) bool {
	if r, ok := q.store.(Reserver); ok && !r.Room() {
		return false
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if d := q.sched.sites[k]; d != nil && (d.failures > 0 || d.until.After(now)) {
		return false
	}
	t, unsure := p.termsOf(k, nil)
	return t == p.base && !unsure && !q.closed
}

// deliverNow is the agent's turn.
func (q *Queue) deliverNow(ctx context.Context, p *Policy, t *ticket, agent Attendant) (done bool) {
	e := t.entry
	log := p.Log.With("id", e.ID, "agent", t.site.agent)
	defer func() {
		if v := recover(); v != nil {
			log.Error("panic in an agent", "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
			done = false
		}
	}()
	env := *e.Envelope
	env.Recipients = append(env.Recipients, e.Recipients[0].Recipient)
	return agent.DeliverNow(ctx, &Delivery{
		ID: e.ID, Envelope: &env, Content: e.Content.Fork(), Attempt: 1, Queued: e.Queued, Log: log,
	})
}
