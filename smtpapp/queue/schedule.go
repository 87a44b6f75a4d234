package queue

import (
	"container/heap"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

// A ticket is what one attempt is for: recipients of one entry that share an
// agent and a destination, and the time.
type ticket struct {
	entry *Entry
	rcpts []*Recipient
	site  site
	due   time.Time

	index   int  // in the heap, -1 when not there
	running bool // an attempt is being made
}

// A site is where a ticket goes: its ready queue.
type site struct{ agent, destination string }

// A destination is a ready queue and what is known of its site.
type destination struct {
	ready    []*ticket
	running  int
	failures int       // attempts in a row that found nobody there
	until    time.Time // no attempt before then
	listed   bool      // in the rotation
}

// A schedule is every ticket of a queue. It is guarded by Queue.mu.
type schedule struct {
	waiting waiting // those whose time has not come, by time
	sites   map[site]*destination
	turn    []site               // sites that have ready tickets, in rotation
	all     map[string][]*ticket // by entry id
	running int
}

func newSchedule() schedule {
	return schedule{sites: map[site]*destination{}, all: map[string][]*ticket{}}
}

// tickets parts the recipients of an entry by agent and destination. Without a
// policy that has the agent, the destination is not known yet.
func tickets(e *Entry, p *Policy) []*ticket {
	var ts []*ticket
	bySite := map[site]*ticket{}
	for _, r := range e.Recipients {
		if r.Held {
			continue
		}
		s := siteOf(e, r.Recipient, p)
		t := bySite[s]
		if t == nil || !t.due.Equal(r.Due) {
			t = &ticket{entry: e, site: s, due: r.Due, index: -1}
			bySite[s] = t
			ts = append(ts, t)
		}
		t.rcpts = append(t.rcpts, r)
	}
	return ts
}

func siteOf(e *Entry, r *mail.Recipient, p *Policy) site {
	s := site{agent: r.Agent}
	if p == nil {
		return s
	}
	if rt, ok := p.Agents[r.Agent].(Router); ok {
		s.destination = rt.Destination(e.Envelope, r)
	}
	return s
}

// add schedules tickets.
func (s *schedule) add(ts []*ticket) {
	for _, t := range ts {
		s.all[t.entry.ID] = append(s.all[t.entry.ID], t)
		heap.Push(&s.waiting, t)
	}
}

// remove forgets a ticket that is neither waiting nor ready.
func (s *schedule) remove(t *ticket) {
	id := t.entry.ID
	list := s.all[id]
	for i, o := range list {
		if o == t {
			list[i] = list[len(list)-1]
			list = list[:len(list)-1]
			break
		}
	}
	if s.all[id] = list; len(list) == 0 {
		delete(s.all, id)
	}
}

// refile makes the tickets of every entry anew for a policy. Those that are
// being tried are left alone.
func (s *schedule) refile(p *Policy) {
	old := s.all
	sites := map[site]*destination{}
	for k, d := range s.sites {
		if d.running > 0 || d.until.After(time.Now()) {
			d.ready, d.listed = nil, false
			sites[k] = d
		}
	}
	*s = schedule{sites: sites, all: map[string][]*ticket{}, running: s.running}
	for id, list := range old {
		e := *list[0].entry
		e.Recipients = nil
		for _, t := range list {
			if t.running {
				s.all[id] = append(s.all[id], t)
			} else {
				e.Recipients = append(e.Recipients, t.rcpts...)
			}
		}
		s.add(tickets(&e, p))
	}
}

// ripen moves what is due to the ready queues, and returns when the next will be.
func (s *schedule) ripen(now time.Time) (next time.Time) {
	for len(s.waiting) > 0 && !s.waiting[0].due.After(now) {
		s.ready(heap.Pop(&s.waiting).(*ticket))
	}
	if len(s.waiting) > 0 {
		next = s.waiting[0].due
	}
	return next
}

func (s *schedule) ready(t *ticket) {
	d := s.sites[t.site]
	if d == nil {
		d = new(destination)
		s.sites[t.site] = d
	}
	d.ready = append(d.ready, t)
	s.list(t.site, d)
}

func (s *schedule) list(k site, d *destination) {
	if !d.listed {
		d.listed = true
		s.turn = append(s.turn, k)
	}
}

// next takes a ticket that may be tried now: one of each site in turn, so that
// none waits for another's backlog. If there is none, again is when a site
// that is left alone may be tried.
func (s *schedule) next(now time.Time, sc *Schedule, p *Policy) (t *ticket, again time.Time) {
	if s.running >= sc.Concurrency {
		return nil, again
	}
	for range len(s.turn) {
		k := s.turn[0]
		s.turn = s.turn[1:]
		d := s.sites[k]
		d.listed = false
		if len(d.ready) == 0 {
			s.drop(k, d)
			continue
		}
		s.list(k, d)
		_, known := p.Agents[k.agent]
		switch {
		case !known:
		case d.until.After(now):
			if again.IsZero() || d.until.Before(again) {
				again = d.until
			}
		case d.running < sc.PerDestination && (d.failures == 0 || d.running == 0):
			t, d.ready = d.ready[0], d.ready[1:]
			t.running = true
			d.running++
			s.running++
			return t, again
		}
	}
	return nil, again
}

// drop forgets a site that nothing is known of.
func (s *schedule) drop(k site, d *destination) {
	if d.running == 0 && d.failures == 0 {
		delete(s.sites, k)
	}
}

// ended notes how an attempt went.
func (s *schedule) ended(t *ticket, unreachable bool, now time.Time, sc *Schedule) {
	d := s.sites[t.site]
	s.running--
	d.running--
	t.running = false
	s.remove(t)
	if !unreachable {
		d.failures, d.until = 0, time.Time{}
	} else {
		d.failures++
		pause := min(time.Minute<<min(d.failures-1, 4), 15*time.Minute, sc.Retry[0])
		d.until = now.Add(pause)
	}
	if len(d.ready) == 0 && !d.listed {
		s.drop(t.site, d)
	}
}

// waiting is a heap of tickets by due time.
type waiting []*ticket

func (w waiting) Len() int           { return len(w) }
func (w waiting) Less(i, j int) bool { return w[i].due.Before(w[j].due) }
func (w waiting) Swap(i, j int) {
	w[i], w[j] = w[j], w[i]
	w[i].index, w[j].index = i, j
}

// Push is for container/heap.
func (w *waiting) Push(x any) {
	t := x.(*ticket)
	t.index = len(*w)
	*w = append(*w, t)
}

// Pop is for container/heap.
func (w *waiting) Pop() any {
	old := *w
	t := old[len(old)-1]
	old[len(old)-1] = nil
	*w = old[:len(old)-1]
	t.index = -1
	return t
}

// fix moves a waiting ticket to its new time.
func (s *schedule) fix(t *ticket) { heap.Fix(&s.waiting, t.index) }
