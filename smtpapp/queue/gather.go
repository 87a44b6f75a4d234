package queue

import (
	"slices"
	"sync"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/dsn"
)

// gatherTime is how long a DSN waits for news of the other recipients of its
// message, while there are attempts for them.
const gatherTime = 5 * time.Second

// A gathering is the DSN about recipients of an entry of whom there is news while
// attempts for others of them go on. It is stored like any other, but not due for a
// moment; further news has one about all take its place, in the commit that says
// what became of them. So each is reported once, whatever a crash leaves.
type gathering struct {
	turn sync.Mutex // from the look at it until what comes of that is stored

	// Guarded by turn.
	id      string // of the DSN's entry, "" for none yet
	rcpts   []dsn.Recipient
	until   time.Time
	waiting bool   // there are attempts for others
	seized  string // entry that the change takes back

	// Guarded by Queue.mu.
	users int
	last  time.Time // when it was used
}

// gather waits for the turn of a ticket that has news for its sender. It returns nil
// where nobody else of the entry's recipients is, or was, under way.
func (q *Queue) gather(t *ticket, began, now time.Time) *gathering {
	if t.entry.Envelope.From.IsNull() || !t.news(began) {
		return nil
	}
	s := &q.sched
	q.mu.Lock()
	g := s.gatherings[t.entry.ID]
	others := len(s.all[t.entry.ID]) > 1
	if g == nil && !others {
		q.mu.Unlock()
		return nil
	}
	if g == nil {
		s.dropGatherings(now)
		g = new(gathering)
		s.gatherings[t.entry.ID] = g
	}
	g.users++
	g.last = now
	q.mu.Unlock()
	g.turn.Lock()
	q.mu.Lock()
	g.waiting = len(s.all[t.entry.ID]) > 1
	q.mu.Unlock()
	return g
}

// news reports whether an attempt that began then has settled somebody of whom his
// sender wants to hear.
func (t *ticket) news(began time.Time) bool {
	over := !began.Before(t.terms.schedule.deadline(t.entry))
	return slices.ContainsFunc(t.rcpts, func(r *Recipient) bool {
		c := *r
		if c.Last.Action == Delayed && over {
			c.Last.Action = Failed
		}
		return c.Last.Action != Delayed && wanted(t.entry.Envelope, &c)
	})
}

// dropGatherings forgets those that nobody came back to.
func (s *schedule) dropGatherings(now time.Time) {
	if len(s.gatherings) < 1000 || now.Sub(s.gatheringsSwept).Abs() < gatherTime {
		return
	}
	s.gatheringsSwept = now
	for id, g := range s.gatherings {
		if g.users == 0 && now.Sub(g.last).Abs() > gatherTime {
			delete(s.gatherings, id)
		}
	}
}

// retract takes the DSN back, if no attempt was made of it, and returns whom it is
// about. That is done by the same change.
func (q *Queue) retract(g *gathering, c *Change) []dsn.Recipient {
	if g.id == "" || !q.seizeEntry(g.id) {
		return nil
	}
	e, err := q.store.Get(q.ctx, g.id)
	if err != nil || slices.ContainsFunc(e.Recipients, func(r *Recipient) bool { return r.Attempts > 0 || r.Held }) {
		q.freeEntry(g.id)
		return nil
	}
	for _, r := range e.Recipients {
		r.Done, r.Bin = true, 0
		c.Update = append(c.Update, r)
	}
	g.seized = g.id
	return g.rcpts
}

// seizeEntry keeps everybody else away from an entry that waits in the store.
func (q *Queue) seizeEntry(id string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.sched.pending[id] || len(q.sched.all[id]) > 0 {
		return false
	}
	q.sched.pending[id] = true
	return true
}

func (q *Queue) freeEntry(id string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.sched.pending, id)
	if q.sched.reads > 0 {
		q.sched.touched[id] = true
	}
}

// note notes the DSN that has just been added to a change, if one has.
func (g *gathering) note(c *Change, rs []dsn.Recipient) {
	e := c.Add[len(c.Add)-1]
	g.id, g.rcpts = e.ID, rs
	if !g.waiting {
		return
	}
	for _, r := range e.Recipients {
		r.Due = later(r.Due, g.until)
	}
}

// gathered ends the turn, once the change is stored.
func (q *Queue) gathered(g *gathering) {
	if g == nil {
		return
	}
	if g.seized != "" {
		q.freeEntry(g.seized)
		g.seized = ""
	}
	g.turn.Unlock()
	q.mu.Lock()
	defer q.mu.Unlock()
	g.users--
}

// complete returns the DSN about recipients of an entry that need not wait any more,
// as no attempts are left, "" if there is none.
func (s *schedule) complete(entry string) (id string) {
	g := s.gatherings[entry]
	if g == nil || g.users > 0 || len(s.all[entry]) > 0 {
		return ""
	}
	delete(s.gatherings, entry)
	if !g.waiting {
		return ""
	}
	return g.id
}

// hasten has a DSN that waits for others sent now.
func (q *Queue) hasten(p *Policy, id string) {
	if id == "" || !q.seizeEntry(id) {
		return
	}
	e, err := q.store.Get(q.ctx, id)
	c, now := new(Change), time.Now()
	if err == nil {
		for _, r := range e.Recipients {
			if !r.Held && r.Attempts == 0 && r.Due.After(now) {
				r.Due = now
				c.Update = append(c.Update, r)
			}
		}
	}
	if len(c.Update) > 0 {
		q.persist(p, id, c)
	}
	q.freeEntry(id)
	q.mu.Lock()
	defer q.mu.Unlock()
	q.sched.putAll(c.Update)
	q.nudge()
}
