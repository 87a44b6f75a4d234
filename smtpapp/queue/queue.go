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
	wake   chan struct{} // the schedule has changed
	reader chan struct{} // there is something to read
	survey chan struct{} // the bins are to be looked through
	quit   chan struct{}
	loop   sync.WaitGroup
	runs   sync.WaitGroup

	mu       sync.Mutex
	closed   bool
	policies []*Policy // the newest, last, is in force
	last     *Policy   // that was in force
	sched    schedule
	loading  bool

	operating sync.Mutex // one batch of operators', or of what the last process left, at a time
}

// Open reads what the store has, which may take a while after it returns, and
// begins to deliver as soon as a policy is attached. Close closes the store too.
func Open(store Store, log *slog.Logger) (*Queue, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	q := &Queue{
		store: store, log: log, quit: make(chan struct{}), sched: newSchedule(), loading: true,
		wake: make(chan struct{}, 1), reader: make(chan struct{}, 1), survey: make(chan struct{}, 1),
	}
	q.ctx, q.cancel = context.WithCancel(context.Background())
	q.loop.Go(q.run)
	q.loop.Go(q.read)
	q.loop.Go(q.load)
	return q, nil
}

// Attach puts a policy in force. An agent's name stands for this policy's
// agent from now on, for mail that is queued already too.
func (q *Queue) Attach(p *Policy) {
	c := *p
	c.Schedule = p.Schedule.withDefaults()
	c.compile()
	if c.Log == nil {
		c.Log = q.log
	}
	c.origin = p
	q.mu.Lock()
	defer q.mu.Unlock()
	q.policies = append(q.policies, &c)
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

// rethink files every ticket anew if another policy is in force now, as agents
// and destinations may have changed.
func (q *Queue) rethink() {
	p := q.policy()
	if p != nil && p == q.last {
		return
	}
	if p != nil {
		q.last = p
		if r, ok := q.store.(Reserver); ok {
			r.Reserve(p.FreeSpace)
		}
		if lost := q.sched.refile(p, time.Now()); len(lost) > 0 {
			q.runs.Go(func() { q.park(p, lost) })
		}
		signal(q.survey)
	}
	q.nudge()
}

// policy returns the one in force, nil if there is none. q.mu is held.
func (q *Queue) policy() *Policy {
	if n := len(q.policies); n > 0 {
		return q.policies[n-1]
	}
	return nil
}

func (q *Queue) nudge() { signal(q.wake) }

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Accept makes the forks of one content durable and returns their id. Errors
// are Replies where they are of the kind that a client may know.
func (q *Queue) Accept(ctx context.Context, objects []*message.Object) (id string, err error) {
	q.mu.Lock()
	closed := q.closed
	q.mu.Unlock()
	if closed {
		return "", errClosing
	}
	now := time.Now()
	id = objects[0].ID
	if id == "" {
		id = NewID()
	}
	c := new(Change)
	es := make([]*Entry, len(objects))
	for i, o := range objects {
		es[i] = newEntry(o, id, i, now)
		if err := q.add(es[i], now, c); err != nil {
			return "", err
		}
	}
	if err := q.expand(es, now, c); err != nil {
		return "", err
	}
	if len(c.Add) == 0 || q.attend(ctx, c) {
		return id, nil
	}
	switch err := q.commit(ctx, c); {
	case errors.Is(err, ErrClosed):
		return "", errClosing
	case err != nil:
		return "", err
	}
	return id, nil
}

var errClosing = mail.Refuse(421, "4.3.2", "server is going down")

// commit makes a change durable, and schedules the entries that it adds.
func (q *Queue) commit(ctx context.Context, c *Change) error {
	if len(c.Add) == 0 {
		return q.store.Commit(ctx, c)
	}
	q.mu.Lock()
	for _, e := range c.Add {
		q.sched.pending[e.ID] = true
		q.sched.place(e, q.policy(), time.Now())
	}
	q.mu.Unlock()
	err := q.store.Commit(ctx, c)
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, e := range c.Add {
		delete(q.sched.pending, e.ID)
		if err != nil {
			continue
		}
		var ready []*Recipient
		for _, r := range e.Recipients {
			if q.sched.put(r); r.Bin == 0 {
				ready = append(ready, r)
			}
		}
		q.sched.activate(e, ready, nil, q.policy(), time.Now())
	}
	q.nudge()
	return err
}

func newEntry(o *message.Object, id string, i int, now time.Time) *Entry {
	if i > 0 {
		id += "-" + strconv.Itoa(i+1)
	}
	env := *o.Envelope
	env.Recipients = nil
	e := &Entry{ID: id, Queued: now, Envelope: &env, Content: o.Content}
	for j, r := range o.Envelope.Recipients {
		if r.Discarded {
			continue
		}
		due := now
		if env.HoldUntil.After(now) {
			due = env.HoldUntil
		}
		e.Recipients = append(e.Recipients, &Recipient{Recipient: r, Entry: id, Index: j, Due: due})
	}
	return e
}

// add adds an entry to a change. The recipients that a message handler has
// refused end in the same commit that accepts the others.
func (q *Queue) add(e *Entry, now time.Time, c *Change) error {
	var failed []*Recipient
	e.Recipients = slices.DeleteFunc(e.Recipients, func(r *Recipient) bool {
		if r.Refused == nil {
			return false
		}
		r.Last = Status{Action: Failed, Reply: r.Refused}
		failed = append(failed, r)
		return true
	})
	if len(e.Recipients) > 0 {
		c.Add = append(c.Add, e)
	}
	if len(failed) == 0 {
		return nil
	}
	p, release, err := q.lease()
	if err != nil {
		return err
	}
	defer release()
	q.notify(p, e, func() *message.Message { return e.Content }, failed, now, c)
	return nil
}

// errNoPolicy: nobody knows how to tell the sender of a recipient that was
// refused, so that the client has to keep the message.
var errNoPolicy = errors.New("no policy is in force")

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
	stop := context.AfterFunc(ctx, q.cancel)
	q.loop.Wait()
	q.runs.Wait()
	stop()
	q.cancel()
	return q.store.Close()
}

// Create makes a file for content that is arriving.
func (q *Queue) Create() (*os.File, error) { return q.store.Create() }
