package queue

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

// Errors of a Store or Queue.
var (
	ErrNotFound = errors.New("no such entry")
	ErrClosed   = errors.New("queue is closed")
)

// A Queue accepts mail and sees to its delivery. It belongs to a process, not
// to a configuration: those attach and detach their policies.
type Queue struct {
	store Store
	log   *slog.Logger

	ctx    context.Context // of attempts; cancelled when Close runs out of patience
	cancel context.CancelFunc
	wake   chan struct{}
	quit   chan struct{}
	loop   sync.WaitGroup
	runs   sync.WaitGroup

	mu       sync.Mutex
	closed   bool
	policies []*Policy // the newest, last, is in force
	sched    schedule
}

// Open reads what the store has and begins to deliver as soon as a policy is
// attached. Close closes the store too.
func Open(store Store, log *slog.Logger) (*Queue, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	q := &Queue{store: store, log: log, wake: make(chan struct{}, 1), quit: make(chan struct{}), sched: newSchedule()}
	q.ctx, q.cancel = context.WithCancel(context.Background())
	now := time.Now()
	err := store.Each(q.ctx, func(e *Entry) bool {
		for _, r := range e.Recipients {
			r.Due = clamp(r.Due, now)
		}
		q.sched.add(tickets(e, nil))
		return true
	})
	if err != nil {
		return nil, err
	}
	q.loop.Go(q.run)
	return q, nil
}

// maxBackoff bounds how far ahead a time in the store can be: a clock that was
// wrong must not park mail for years.
const maxBackoff = 7 * 24 * time.Hour

func clamp(due, now time.Time) time.Time {
	if due.After(now.Add(maxBackoff)) {
		return now
	}
	return due
}

// Attach puts a policy in force. An agent's name stands for this policy's
// agent from now on, for mail that is queued already too.
func (q *Queue) Attach(p *Policy) {
	c := *p
	c.Schedule = p.Schedule.withDefaults()
	if c.Log == nil {
		c.Log = q.log
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.policies = append(q.policies, &c)
	c.origin = p
	q.rethink()
}

// Detach takes a policy out of force. Attempts that run under it go on. If it
// was the newest, the one before it is in force again.
func (q *Queue) Detach(p *Policy) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.policies = slices.DeleteFunc(q.policies, func(o *Policy) bool { return o.origin == p })
	q.rethink()
}

// rethink files every ticket anew, as agents and destinations may have changed.
func (q *Queue) rethink() {
	q.sched.refile(q.policy())
	q.nudge()
}

// policy returns the one in force, nil if there is none. q.mu is held.
func (q *Queue) policy() *Policy {
	if n := len(q.policies); n > 0 {
		return q.policies[n-1]
	}
	return nil
}

func (q *Queue) nudge() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// Accept makes the forks of one content durable and returns their id. Errors
// are Replies where they are of the kind that a client may know.
func (q *Queue) Accept(ctx context.Context, objects []*message.Object) (id string, err error) {
	now := time.Now()
	id = objects[0].ID
	if id == "" {
		id = NewID()
	}
	c := new(Change)
	for i, o := range objects {
		e := newEntry(o, id, i, now)
		c.Add = append(c.Add, e)
		q.refuse(ctx, e, c)
	}
	if err := q.commit(ctx, c); err != nil {
		return "", err
	}
	return id, nil
}

func newEntry(o *message.Object, id string, i int, now time.Time) *Entry {
	if i > 0 {
		id += "-" + strconv.Itoa(i+1)
	}
	env := *o.Envelope
	env.Recipients = nil
	e := &Entry{ID: id, Queued: now, Envelope: &env, Content: o.Content}
	for j, r := range o.Envelope.Recipients {
		due := now
		if env.HoldUntil.After(now) {
			due = env.HoldUntil
		}
		e.Recipients = append(e.Recipients, &Recipient{Recipient: r, Entry: id, Index: j, Due: due})
	}
	return e
}

// refuse ends the recipients of e that a message handler has refused, in the
// same commit that accepts the others.
func (q *Queue) refuse(ctx context.Context, e *Entry, c *Change) {
	var failed []*Recipient
	e.Recipients = slices.DeleteFunc(e.Recipients, func(r *Recipient) bool {
		if r.Refused == nil {
			return false
		}
		r.Last = Status{Action: Failed, Reply: r.Refused}
		failed = append(failed, r)
		return true
	})
	if len(failed) == 0 {
		return
	}
	q.mu.Lock()
	p := q.policy()
	q.mu.Unlock()
	if p != nil {
		q.notify(ctx, p, e, failed, c)
	}
	if len(e.Recipients) == 0 {
		c.Add = slices.DeleteFunc(c.Add, func(o *Entry) bool { return o == e })
	}
}

// commit stores a change and schedules what it adds.
func (q *Queue) commit(ctx context.Context, c *Change) error {
	q.mu.Lock()
	closed := q.closed
	q.mu.Unlock()
	if closed {
		return mail.Refuse(421, "4.3.2", "server is going down")
	}
	if len(c.Add)+len(c.Update)+len(c.Noticed) == 0 {
		return nil
	}
	if err := q.store.Commit(ctx, c); err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, e := range c.Add {
		q.sched.add(tickets(e, q.policy()))
	}
	if len(c.Add) > 0 {
		q.nudge()
	}
	return nil
}

// Close stops scheduling and waits for attempts to end. When ctx ends first
// they are cancelled, and waited for all the same.
func (q *Queue) Close(ctx context.Context) error {
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return nil
	}
	q.closed = true
	q.mu.Unlock()
	close(q.quit)
	q.loop.Wait()
	stop := context.AfterFunc(ctx, q.cancel)
	q.runs.Wait()
	stop()
	q.cancel()
	return q.store.Close()
}

// Create makes a file for content that is arriving.
func (q *Queue) Create() (*os.File, error) { return q.store.Create() }
