package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

// A Deed is what an operator can do to recipients.
type Deed string

// The deeds. What an attempt has at the time is not interrupted: whom it
// delivers to is delivered to, and the deed is done to who is left then. The
// operator's wish is on disk before.
const (
	// Retry has an attempt made as soon as there is room, whatever the time.
	// What is held is released if it was chosen by id, or for being held.
	Retry Deed = "retry"
	// Hold has no attempt made until a Release, not even when the time of the
	// message is over.
	Hold Deed = "hold"
	// Release ends a Hold, or that of damaged content; an attempt is due.
	Release Deed = "release"
	// Delete forgets recipients. Their sender hears of it only if it is told.
	Delete Deed = "delete"
	// Reassign gives recipients to another agent.
	Reassign Deed = "reassign"
)

// An Operation is a deed and how it is to be done.
type Operation struct {
	Deed   Deed
	Report bool   // Delete: send DSNs
	Agent  string // Reassign: to whom
}

// Progress is how far an operation has come.
type Progress struct {
	Entries    int      `json:"entries"`
	Recipients int      `json:"recipients"`
	InAttempt  int      `json:"in_attempt,omitempty"` // of the recipients: done after the attempt that has them
	Missing    []string `json:"missing,omitempty"`    // ids that are not in the queue
}

// ErrNoAgent says that no agent in force has the name.
var ErrNoAgent = errors.New("no such agent")

// Operate does something to all that a filter chooses, and tells after each
// batch, if tell is not nil. An error leaves what was told as it is. If nothing
// is there of what the filter names by id, the error is ErrNotFound.
func (q *Queue) Operate(ctx context.Context, op Operation, f Filter, tell func(Progress)) (Progress, error) {
	var p Progress
	if err := q.check(op); err != nil {
		return p, err
	}
	o := &operation{Operation: op, q: q, filter: f, p: &p}
	err := o.run(ctx, func() {
		if tell != nil {
			tell(p)
		}
	})
	if err == nil && len(f.IDs) > 0 && len(p.Missing) == len(f.IDs) {
		err = ErrNotFound
	}
	if p.Recipients > 0 {
		q.log.Info("operator", "deed", string(op.Deed), "entries", p.Entries, "recipients", p.Recipients, "in_attempt", p.InAttempt)
	}
	return p, err
}

// Retry has an entry tried as soon as there is room, whatever its time. What
// is held of it is released.
func (q *Queue) Retry(ctx context.Context, id string) error {
	_, err := q.Operate(ctx, Operation{Deed: Retry}, Filter{IDs: []string{id}}, nil)
	return err
}

func (q *Queue) check(op Operation) error {
	switch op.Deed {
	case Retry, Hold, Release, Delete:
		return nil
	case Reassign:
		q.mu.Lock()
		defer q.mu.Unlock()
		if p := q.policy(); p == nil || p.Agents[op.Agent] == nil {
			return fmt.Errorf("%w: %q", ErrNoAgent, op.Agent)
		}
		return nil
	}
	return fmt.Errorf("no such deed: %q", op.Deed)
}

// An operation is an Operation that is being done.
type operation struct {
	Operation
	q      *Queue
	filter Filter
	p      *Progress
}

func (o *operation) run(ctx context.Context, tell func()) error {
	if o.filter.IDs != nil {
		for ids := range slices.Chunk(o.filter.IDs, batch) {
			if err := o.batch(ctx, ids); err != nil {
				return err
			}
			tell()
		}
		return nil
	}
	f := o.filter
	for {
		var ids []string
		err := o.q.each(ctx, &f, func(e *Entry) bool {
			ids = append(ids, e.ID)
			return len(ids) < batch
		})
		if err == nil && len(ids) > 0 {
			err = o.batch(ctx, ids)
		}
		if err != nil {
			return err
		}
		tell()
		if len(ids) < batch {
			return nil
		}
		f.After = ids[len(ids)-1]
	}
}

// batch does it to some entries, in one commit. An attempt may end between the
// look at the schedule and the wish; what it leaves is looked at again.
func (o *operation) batch(ctx context.Context, ids []string) error {
	touched := map[place]bool{}
	defer func() {
		entries := map[string]bool{}
		for k, busy := range touched {
			entries[k.entry] = true
			if o.p.Recipients++; busy {
				o.p.InAttempt++
			}
		}
		o.p.Entries += len(entries)
	}()
	for {
		r := &round{operation: o, entries: map[string]*Entry{}, busy: map[place]*ticket{}, wishes: map[place]Mark{}, touched: touched}
		missed, err := r.run(ctx, ids)
		if err != nil || len(missed) == 0 {
			return err
		}
		if ids = missed; len(r.taken)+len(r.entries) == 0 { // all of them are being committed
			time.Sleep(time.Millisecond)
		}
	}
}

// A place is where a recipient is stored.
type place struct {
	entry string
	index int
}

// A round is one go at a batch. What it takes out of the schedule is its own
// until it puts it back.
type round struct {
	*operation
	policy  *Policy
	ids     []string // that it has
	taken   []*ticket
	entries map[string]*Entry
	busy    map[place]*ticket // what an attempt has
	wishes  map[place]Mark    // for that
	touched map[place]bool    // whether an attempt has it
	change  Change
}

func (r *round) run(ctx context.Context, ids []string) (missed []string, err error) {
	r.q.operating.Lock()
	defer r.q.operating.Unlock()
	missed = r.take(ids)
	over, err := r.enact(ctx)
	r.putBack(err == nil)
	return append(missed, over...), err
}

// take takes entries out of the schedule, but for what is being tried. It
// returns those that are being committed.
func (r *round) take(ids []string) (missed []string) {
	q := r.q
	q.mu.Lock()
	defer q.mu.Unlock()
	r.policy = q.last
	for _, id := range ids {
		if q.sched.pending[id] {
			missed = append(missed, id)
			continue
		}
		q.sched.pending[id] = true
		r.ids = append(r.ids, id)
		taken, busy := q.sched.withdraw(id)
		r.taken = append(r.taken, taken...)
		for _, t := range busy {
			if r.Deed == Retry {
				q.sched.reopen(t.site)
			}
			for _, rc := range t.rcpts {
				r.busy[place{id, rc.Index}] = t
			}
		}
	}
	return missed
}

// putBack schedules what was taken, as it is now or as it was.
func (r *round) putBack(done bool) {
	s := &r.q.sched
	r.q.mu.Lock()
	defer r.q.mu.Unlock()
	for _, id := range r.ids {
		delete(s.pending, id)
		if s.reads > 0 {
			s.touched[id] = true
		}
	}
	changed := map[place]bool{}
	if done {
		for _, rc := range r.change.Update {
			changed[place{rc.Entry, rc.Index}] = true
			if b := s.bins[rc.Bin]; b != nil && !rc.Due.After(time.Now()) {
				b.notBefore = time.Time{} // what spreads attempts after a start is not for those that are asked for
			}
			if s.put(rc); r.Deed == Retry {
				s.reopen(siteOf(r.entries[rc.Entry], rc.Recipient, r.policy))
			}
		}
	}
	for _, t := range r.taken {
		rest := slices.DeleteFunc(slices.Clone(t.rcpts), func(rc *Recipient) bool { return changed[place{rc.Entry, rc.Index}] })
		if t.bin != nil {
			s.putAll(rest)
		} else if len(rest) > 0 {
			s.activate(t.entry, rest, nil, r.q.policy(), time.Now())
		}
		s.consider(t.bin)
		if d := s.sites[t.site]; d != nil {
			s.drop(d)
		}
	}
	r.q.nudge()
}

// enact decides and commits. It returns the entries of which an attempt has
// ended meanwhile.
func (r *round) enact(ctx context.Context) (missed []string, err error) {
	now := time.Now()
	for _, id := range r.ids {
		e, err := r.q.store.Get(ctx, id)
		switch {
		case errors.Is(err, ErrNotFound):
			if r.filter.IDs != nil && !slices.Contains(r.p.Missing, id) {
				r.p.Missing = append(r.p.Missing, id)
			}
			continue
		case err != nil:
			return nil, err
		}
		if err := r.entry(e, now); err != nil {
			return nil, err
		}
		r.entries[id] = e
	}
	missed = r.wish()
	if len(r.change.Update)+len(r.change.Mark) == 0 {
		return missed, nil
	}
	if err := r.q.commit(ctx, &r.change); err != nil {
		r.unwish()
		return nil, err
	}
	return missed, nil
}

// entry does it to the chosen recipients of one entry.
func (r *round) entry(e *Entry, now time.Time) error {
	if !r.filter.chooses(e, now) {
		return nil
	}
	var told []*Recipient
	for _, rc := range e.Recipients {
		if !r.filter.choosesRecipient(rc) {
			continue
		}
		k := place{e.ID, rc.Index}
		if r.busy[k] != nil {
			r.wishes[k] = r.mark(rc)
			continue
		}
		if !r.one(rc, now) {
			continue
		}
		rc.settle(e, r.policy)
		r.touched[k] = false
		r.change.Update = append(r.change.Update, rc)
		r.change.Mark = append(r.change.Mark, Mark{Entry: e.ID, Index: rc.Index, Agent: rc.Agent})
		if rc.Done && r.Report {
			told = append(told, rc)
		}
	}
	if len(told) == 0 {
		return nil
	}
	p, release, err := r.q.lease()
	if err != nil {
		return err
	}
	defer release()
	r.q.notify(p, e, r.q.stored(e.ID), told, now, &r.change)
	return nil
}

// one does it to a recipient that waits, and reports whether that changes it.
func (r *round) one(rc *Recipient, now time.Time) bool {
	switch r.Deed {
	case Retry:
		if rc.Held && r.filter.IDs == nil && (r.filter.Held == nil || !*r.filter.Held) {
			return false
		}
		rc.release(now)
	case Release:
		if !rc.Held {
			return false
		}
		rc.release(now)
	case Reassign:
		rc.reassign(r.Agent)
		rc.Due = now
	default:
		rc.grant(r.mark(rc), now)
	}
	return true
}

// mark is what is to be done to a recipient when its attempt is over.
func (r *round) mark(rc *Recipient) Mark {
	m := Mark{Entry: rc.Entry, Index: rc.Index}
	switch {
	case r.Deed == Hold:
		m.Wish = WishHold
	case r.Deed == Delete && r.Report:
		m.Wish = WishReport
	case r.Deed == Delete:
		m.Wish = WishDelete
	case r.Deed == Reassign:
		m.Agent = r.Agent
	}
	return m
}

// wish tells the attempts what is wanted of their recipients, and has that
// stored. It returns the entries whose attempts are over.
func (r *round) wish() (missed []string) {
	r.q.mu.Lock()
	defer r.q.mu.Unlock()
	for k, m := range r.wishes {
		t := r.busy[k]
		if !t.running {
			if delete(r.wishes, k); !slices.Contains(missed, k.entry) {
				missed = append(missed, k.entry)
			}
			continue
		}
		r.touched[k] = true
		if t.wishes == nil {
			t.wishes, t.hasten = map[int]Mark{}, map[int]bool{}
		}
		delete(t.wishes, k.index) // the last word counts
		delete(t.hasten, k.index)
		if r.Deed == Retry || r.Deed == Release {
			t.hasten[k.index] = true
		} else {
			t.wishes[k.index] = m
		}
		r.change.Mark = append(r.change.Mark, m)
	}
	return missed
}

// unwish takes back what could not be stored.
func (r *round) unwish() {
	r.q.mu.Lock()
	defer r.q.mu.Unlock()
	for k, m := range r.wishes {
		if t := r.busy[k]; t.wishes[k.index] == m {
			delete(t.wishes, k.index)
		}
	}
	clear(r.touched)
}

func (r *Recipient) release(now time.Time) {
	r.Held, r.Reason, r.Starts, r.Due = false, "", 0, now
}

func (r *Recipient) reassign(agent string) {
	c := *r.Recipient // the agent that had it may still look at it
	c.Agent = agent
	r.Recipient = &c
}

// grant does what a mark says.
func (r *Recipient) grant(m Mark, now time.Time) {
	switch m.Wish {
	case WishHold:
		r.Held, r.Reason = true, "by an operator"
	case WishDelete:
		r.Done = true
	case WishReport:
		r.Done = true
		r.Last = Status{Action: Failed, Reply: removed(r.Last.Reply)} // our words, not the remote server's
	case NoWish:
		if m.Agent != "" {
			r.reassign(m.Agent)
			r.Due = now
		}
	}
}

// removed is the last word of a recipient that an operator deletes.
func removed(last *mail.Reply) *mail.Reply {
	r := &mail.Reply{Code: 554, Enh: "5.3.0", Text: "removed from the queue by the administrator"}
	if last != nil {
		r.Text += "; the last attempt ended with: " + last.Error()
	}
	return r
}

// settle has a recipient wait where it belongs now.
func (r *Recipient) settle(e *Entry, p *Policy) {
	r.Bin = 0
	if !r.Done && !r.Held {
		k := siteOf(e, r.Recipient, p)
		t, _ := p.termsOf(k, nil)
		r.stow(e, k, t)
	}
}

// comply does to the recipients of an attempt that is over what operators have
// wished meanwhile. q.mu is held, though not while that is made durable.
func (q *Queue) comply(p *Policy, t *ticket, left []*Recipient) []*Recipient {
	for len(t.wishes)+len(t.hasten) > 0 {
		wishes, hasten := t.wishes, t.hasten
		t.wishes, t.hasten = nil, nil
		q.mu.Unlock()
		left = q.grant(p, t, left, wishes, hasten)
		q.mu.Lock()
	}
	return left
}

func (q *Queue) grant(p *Policy, t *ticket, rcpts []*Recipient, wishes map[int]Mark, hasten map[int]bool) (left []*Recipient) {
	c, now := new(Change), time.Now()
	var told []*Recipient
	for _, r := range rcpts {
		m, wished := wishes[r.Index]
		if wished || hasten[r.Index] {
			r.release(now) // the attempt may have held it, and its result been seen
			r.grant(m, now)
			r.settle(t.entry, p)
			c.Update = append(c.Update, r)
			c.Mark = append(c.Mark, Mark{Entry: r.Entry, Index: r.Index, Agent: r.Agent})
		}
		if !r.Done {
			left = append(left, r)
		} else if m.Wish == WishReport {
			told = append(told, r)
		}
	}
	if len(c.Update) > 0 {
		q.notify(p, t.entry, q.returned(t), told, now, c)
		q.persist(p, t.entry.ID, c)
	}
	return left
}

// wished are the wishes that were stored when the process ended.
func wished(rs []*Recipient) map[int]Mark {
	var ms map[int]Mark
	for _, r := range rs {
		if r.Wish != NoWish {
			if ms == nil {
				ms = map[int]Mark{}
			}
			ms[r.Index] = Mark{Entry: r.Entry, Index: r.Index, Wish: r.Wish}
		}
	}
	return ms
}

// lease returns the policy that is or was last in force, if it still serves.
func (q *Queue) lease() (*Policy, func(), error) {
	q.mu.Lock()
	p := q.last // even if it is detached: sessions go on
	q.mu.Unlock()
	if p == nil {
		return nil, nil, errNoPolicy
	}
	release, ok := p.Lease()
	if !ok {
		return nil, nil, errNoPolicy
	}
	return p, release, nil
}

// stored returns the content of an entry, for a DSN.
func (q *Queue) stored(id string) contentFunc {
	return func() *message.Message {
		m, err := q.store.Content(q.ctx, id)
		if err != nil || verify(m) != nil {
			return nil
		}
		return m
	}
}
