package queue

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// Retry has an entry tried as soon as there is room, whatever its time. What
// is held of it is released.
func (q *Queue) Retry(ctx context.Context, id string) error {
	known := q.hasten(id)
	released, err := q.release(ctx, id)
	if err == nil && !known && !released {
		return ErrNotFound
	}
	return err
}

// hasten makes due what waits of an entry.
func (q *Queue) hasten(id string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	for _, t := range q.sched.all[id] {
		d := q.sched.sites[t.site]
		if d != nil && d.pause >= 0 {
			d.until = time.Time{}
			q.sched.unpause(d)
		}
		if t.running {
			t.hasten = true
			continue
		}
		if t.index < 0 {
			continue
		}
		t.due = now
		for _, r := range t.rcpts {
			r.Due = now
		}
		q.sched.fix(t)
	}
	q.nudge()
	return len(q.sched.all[id]) > 0
}

// release schedules the recipients of an entry that are held.
func (q *Queue) release(ctx context.Context, id string) (any bool, err error) {
	q.releasing.Lock()
	defer q.releasing.Unlock()
	e, err := q.store.Get(ctx, id)
	if err != nil {
		return false, err
	}
	now := time.Now()
	e.Recipients = slices.DeleteFunc(e.Recipients, func(r *Recipient) bool { return !r.Held })
	if len(e.Recipients) == 0 {
		return false, nil
	}
	for _, r := range e.Recipients {
		r.Held, r.Due = false, now
	}
	q.fresh(id)
	if err := q.store.Commit(ctx, &Change{Update: e.Recipients}); err != nil {
		return false, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.scheduleNew([]*Entry{e})
	return true, nil
}

// Get returns an entry without its content.
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
	err := q.store.Each(ctx, f.After, func(e *Entry) bool {
		if f.matches(e) {
			out = append(out, e)
		}
		return len(out) < f.Limit
	})
	if err != nil {
		return nil, fmt.Errorf("listing the queue: %w", err)
	}
	return out, nil
}

func (f *Filter) matches(e *Entry) bool {
	if f.Sender != "" && e.Envelope.From.String() != f.Sender {
		return false
	}
	return slices.ContainsFunc(e.Recipients, func(r *Recipient) bool {
		return (f.Recipient == "" || r.Address.String() == f.Recipient) &&
			(f.Domain == "" || r.Address.Domain == f.Domain) && (f.Agent == "" || r.Agent == f.Agent)
	})
}
