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
	last     *Policy   // that was in force
	sched    schedule
	loading  map[string]bool // ids that load leaves alone; nil when it is done

	releasing sync.Mutex // one operator at a time
}

// Open reads what the store has, which may take a while after it returns, and
// begins to deliver as soon as a policy is attached. Close closes the store too.
func Open(store Store, log *slog.Logger) (*Queue, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	q := &Queue{
		store: store, log: log, wake: make(chan struct{}, 1), quit: make(chan struct{}),
		sched: newSchedule(), loading: map[string]bool{},
	}
	q.ctx, q.cancel = context.WithCancel(context.Background())
	q.loop.Go(q.run)
	q.loop.Go(q.load)
	return q, nil
}

// page is how many entries are read at once.
const page = 500

// load schedules what the store had. Mail is taken meanwhile, so that a long
// queue does not keep a server from answering.
func (q *Queue) load() {
	after := ""
	for {
		var es []*Entry
		err := q.store.Each(q.ctx, after, func(e *Entry) bool {
			es = append(es, e)
			return len(es) < page
		})
		if err != nil {
			q.log.Error("reading the queue", "error", err, "after", after)
		}
		q.mu.Lock()
		q.schedule(es)
		if len(es) < page && err == nil || q.closed {
			q.loading = nil
			q.mu.Unlock()
			return
		}
		q.mu.Unlock()
		if len(es) > 0 {
			after = es[len(es)-1].ID
		}
		if err != nil {
			select {
			case <-time.After(10 * time.Second):
			case <-q.quit:
				return
			}
		}
	}
}

// schedule adds entries that were loaded. q.mu is held.
func (q *Queue) schedule(es []*Entry) {
	p, now := q.policy(), time.Now()
	latest := now.Add(7 * 24 * time.Hour)
	if p != nil {
		latest = now.Add(p.Schedule.longest())
	}
	for _, e := range es {
		if q.loading[e.ID] {
			continue
		}
		for _, r := range e.Recipients {
			clamp(e, r, latest, now)
		}
		q.sched.add(e, p, now)
	}
	q.nudge()
}

// fresh keeps load from an entry that is about to be committed and will be
// scheduled by who does that: it may be done and gone when load comes to it.
func (q *Queue) fresh(id string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.loading != nil {
		q.loading[id] = true
	}
}

// Attach puts a policy in force. An agent's name stands for this policy's
// agent from now on, for mail that is queued already too.
func (q *Queue) Attach(p *Policy) {
	c := *p
	c.Schedule = p.Schedule.withDefaults()
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
		q.sched.refile(p, time.Now())
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

func (q *Queue) nudge() {
	select {
	case q.wake <- struct{}{}:
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
	for i, o := range objects {
		if err := q.add(newEntry(o, id, i, now), now, c); err != nil {
			return "", err
		}
	}
	if len(c.Add) == 0 {
		return id, nil
	}
	switch err := q.store.Commit(ctx, c); {
	case errors.Is(err, ErrClosed):
		return "", errClosing
	case err != nil:
		return "", err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.scheduleNew(c.Add)
	return id, nil
}

var errClosing = mail.Refuse(421, "4.3.2", "server is going down")

// scheduleNew schedules entries that were committed. q.mu is held.
func (q *Queue) scheduleNew(es []*Entry) {
	now := time.Now()
	for _, e := range es {
		q.sched.add(e, q.policy(), now)
	}
	if len(es) > 0 {
		q.nudge()
	}
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
		q.fresh(e.ID)
		c.Add = append(c.Add, e)
	}
	if len(failed) == 0 {
		return nil
	}
	q.mu.Lock()
	p := q.last // even if it is detached: the session goes on
	q.mu.Unlock()
	if p == nil {
		return errNoPolicy
	}
	release, ok := p.Lease()
	if !ok {
		return errNoPolicy
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
