package queue

import (
	"math"
	"math/rand/v2"
	"time"
)

// batch is how many entries or recipients are read or committed at once.
const batch = 500

// load finds out what the store has. Mail is taken meanwhile, so that a long
// queue does not keep a server from answering.
func (q *Queue) load() {
	q.look(true)
	select { // what the last process left waits for who can deliver it
	case <-q.survey:
		q.recover()
		signal(q.survey)
	case <-q.quit:
	}
	q.mu.Lock()
	q.loading = false
	q.mu.Unlock()
	for {
		select {
		case <-q.survey:
			q.look(false)
		case <-q.quit:
			return
		}
	}
}

// retry waits after an error of the store. It returns false when the queue is
// closed.
func (q *Queue) pause(err error) bool {
	q.log.Error("reading the queue", "error", err)
	select {
	case <-time.After(10 * time.Second):
		return true
	case <-q.quit:
		return false
	}
}

// look goes through the bins: at the start, to know of them, and after, when
// times could be wrong.
func (q *Queue) look(first bool) {
	for after := int64(0); ; {
		bins, err := q.store.Bins(q.ctx, after)
		if err != nil {
			if !q.pause(err) {
				return
			}
			continue
		}
		if len(bins) == 0 {
			return
		}
		var wrong []Bin
		q.mu.Lock()
		now := time.Now()
		latest := now.AddDate(1000, 0, 0)
		if p := q.policy(); p != nil {
			latest = now.Add(p.longest())
		}
		for _, b := range bins {
			q.sched.found(b, first, now)
			if b.Last.After(latest) {
				wrong = append(wrong, b)
			}
		}
		q.nudge()
		q.mu.Unlock()
		for _, b := range wrong {
			if !q.clamp(b, latest) {
				return
			}
		}
		after = bins[len(bins)-1].ID
	}
}

// found notes what the store has in a bin. Mail that was tried before and is
// overdue when the process starts does not come all at once.
func (s *schedule) found(i Bin, first bool, now time.Time) {
	b := s.bins[i.ID]
	if b == nil {
		b = &bin{id: i.ID, index: -1}
		s.bins[i.ID] = b
	}
	if b.active == 0 {
		b.due = earlier(b.due, i.Due)
	}
	b.speak = earlier(b.speak, i.Speak)
	b.timed = true // until it is found out
	if first && triedBin(i.ID) && i.Due.Before(now) {
		b.notBefore = now.Add(rand.N(time.Minute))
	}
	s.consider(b)
}

// clamp makes due what waits for a time that no retry would have: a clock that
// was wrong must not park mail for years. Who was told to hold it until then
// knows better (RFC 4865).
func (q *Queue) clamp(b Bin, latest time.Time) bool {
	for from := latest; ; {
		q.operating.Lock()
		es, next, err := q.store.Waiting(q.ctx, Wait{Bin: b.ID, From: from, Until: forever, Limit: batch})
		c, now := new(Change), time.Now()
		for _, e := range q.sound(es) {
			for _, r := range e.Recipients {
				from = later(from, r.Due)
				if r.Due.After(e.Envelope.HoldUntil) {
					r.Due = now.Add(rand.N(time.Minute))
					c.Update = append(c.Update, r)
				}
			}
		}
		if err == nil && len(c.Update) > 0 {
			err = q.store.Commit(q.ctx, c)
		}
		if err == nil {
			q.mu.Lock()
			q.sched.putAll(c.Update)
			q.nudge()
			q.mu.Unlock()
		}
		q.operating.Unlock()
		switch {
		case err != nil:
			if !q.pause(err) {
				return false
			}
			from = latest
		case next.IsZero():
			return true
		case len(c.Update) > 0:
			q.log.Warn("mail was parked by a clock that was wrong", "recipients", len(c.Update))
			from = latest
		}
	}
}

// forever is later than anything that is stored.
var forever = time.UnixMicro(math.MaxInt64)

// recover schedules what the last process had in memory alone.
func (q *Queue) recover() {
	for after := ""; ; {
		last, err := q.recoverSome(after)
		switch {
		case err != nil:
			if !q.pause(err) {
				return
			}
		case last == "":
			return
		default:
			after = last
		}
	}
}

// recoverSome finds some of that before it keeps operators waiting: in a long queue
// this means to read all of it.
func (q *Queue) recoverSome(after string) (last string, err error) {
	found, _, err := q.store.Waiting(q.ctx, Wait{After: after, Limit: batch})
	if err != nil || len(found) == 0 {
		return "", err
	}
	ids := make([]string, len(found))
	for i, e := range found {
		ids[i] = e.ID
	}
	if err := q.recoverThose(ids); err != nil {
		return "", err
	}
	return ids[len(ids)-1], nil
}

func (q *Queue) recoverThose(ids []string) error {
	q.operating.Lock()
	defer q.operating.Unlock()
	q.mu.Lock()
	q.sched.reads++
	q.mu.Unlock()
	es, _, err := q.store.Waiting(q.ctx, Wait{IDs: ids, Limit: math.MaxInt})
	whole := q.sound(es)
	q.mu.Lock()
	c := q.sched.recovered(whole, q.policy(), time.Now())
	q.sched.readEnds()
	q.nudge()
	q.mu.Unlock()
	if err == nil && len(c.Update) > 0 {
		err = q.store.Commit(q.ctx, c)
	}
	if err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.sched.putAll(c.Update)
	q.nudge()
	return nil
}

// recovered makes active what there is room for, and has the rest wait in the
// store.
func (s *schedule) recovered(es []*Entry, p *Policy, now time.Time) *Change {
	c := new(Change)
	for _, e := range es {
		if s.touched[e.ID] || s.pending[e.ID] {
			continue
		}
		var ready []*Recipient
		for _, r := range s.others(e) {
			k := siteOf(e, r.Recipient, p)
			if !r.Due.After(now) && s.admits(k, p, now) {
				ready = append(ready, r)
				continue
			}
			r.stow(e, k, s.termsOf(k, p))
			c.Update = append(c.Update, r)
		}
		s.activate(e, ready, nil, p, now)
	}
	return c
}

// read brings what is due from the store, one bin at a time.
func (q *Queue) read() {
	for {
		q.mu.Lock()
		now := time.Now()
		b, want := q.sched.choose(q.policy(), now)
		var limit int
		if b != nil {
			limit = want + b.active
		}
		q.mu.Unlock()
		if b == nil {
			select {
			case <-q.reader:
				continue
			case <-q.quit:
				return
			}
		}
		es, next, err := q.store.Waiting(q.ctx, Wait{Bin: b.id, Until: now, Limit: limit})
		es = q.sound(es)
		q.mu.Lock()
		if err != nil {
			if q.ctx.Err() == nil {
				q.log.Error("reading the queue", "error", err)
			}
			next, b.notBefore = now, now.Add(10*time.Second)
		}
		q.sched.read(b, es, next, q.policy(), now)
		q.nudge()
		q.mu.Unlock()
	}
}
