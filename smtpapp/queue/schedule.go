package queue

import (
	"container/heap"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

// A ticket is what one attempt is for: recipients of one entry that share an
// agent and a destination, and the time. While it runs, its attempt alone
// touches it; else the schedule does.
type ticket struct {
	entry *Entry // without recipients and content, shared by all its tickets
	rcpts []*Recipient
	site  site
	due   time.Time

	content *message.Message // of what has just been accepted, nil if it is in the store only
	index   int              // in the heap, -1 when not there
	running bool             // an attempt is being made
	hasten  bool             // if it fails, the next is made at once
}

// A site is where a ticket goes: its ready queue.
type site struct{ agent, destination string }

// A schedule is every ticket of a queue. It is guarded by Queue.mu.
type schedule struct {
	waiting waiting // those whose time has not come, by time
	paused  pauses  // sites that are left alone, by the end of that
	sites   map[site]*destination
	turn    []*destination       // those that have ready tickets and may have an attempt, in rotation
	all     map[string][]*ticket // by entry id
	running int
	kept    int64 // octets of content in memory
}

func newSchedule() schedule {
	return schedule{sites: map[site]*destination{}, all: map[string][]*ticket{}}
}

// tickets parts recipients of an entry by agent, destination and time. Without
// a policy that has the agent, the destination is not known yet.
func tickets(e *Entry, rcpts []*Recipient, p *Policy) []*ticket {
	type part struct {
		site
		due int64
	}
	var ts []*ticket
	parts := map[part]*ticket{}
	for _, r := range rcpts {
		if r.Held {
			continue
		}
		k := part{siteOf(e, r.Recipient, p), r.Due.UnixMicro()}
		t := parts[k]
		if t == nil {
			t = &ticket{entry: e, site: k.site, due: r.Due, index: -1}
			parts[k] = t
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

// maxKept bounds the content that is kept in memory for attempts that come at
// once. What is over it is read from the store again.
const maxKept = 32 << 20

// add schedules the recipients of an entry, which may have content.
func (s *schedule) add(e *Entry, p *Policy, now time.Time) {
	bare := *e
	bare.Recipients, bare.Content = nil, nil
	for _, t := range tickets(&bare, e.Recipients, p) {
		if e.Content != nil && !t.due.After(now) && s.awaits(t.site, p) {
			s.keep(t, e.Content)
		}
		s.file(t)
	}
}

// awaits reports whether an attempt at a site comes soon, as far as is known.
func (s *schedule) awaits(k site, p *Policy) bool {
	if p == nil || p.Agents[k.agent] == nil {
		return false
	}
	d := s.sites[k]
	return d == nil || d.failures == 0
}

func (s *schedule) keep(t *ticket, m *message.Message) {
	if data, ok := m.Body().Bytes(); ok && s.kept+int64(len(data)) <= maxKept {
		t.content = m
		s.kept += int64(len(data))
	}
}

// forget drops the content of a ticket.
func (s *schedule) forget(t *ticket) {
	if t.content != nil {
		s.kept -= t.content.Body().Size()
		t.content = nil
	}
}

func (s *schedule) file(t *ticket) {
	s.all[t.entry.ID] = append(s.all[t.entry.ID], t)
	heap.Push(&s.waiting, t)
}

// remove takes a ticket off the list of its entry.
func (s *schedule) remove(t *ticket) {
	id := t.entry.ID
	list := s.all[id]
	for i, o := range list {
		if o == t {
			list[i] = list[len(list)-1]
			list[len(list)-1] = nil
			list = list[:len(list)-1]
			break
		}
	}
	if s.all[id] = list; len(list) == 0 {
		delete(s.all, id)
	}
}

// refile sorts what waits by the sites of a policy. What is being tried is left
// alone, and what is known of sites that matter is kept.
func (s *schedule) refile(p *Policy, now time.Time) {
	old := s.sites
	s.sites, s.turn, s.waiting = map[site]*destination{}, nil, s.waiting[:0]
	for k, d := range old {
		if d.running > 0 || d.until.After(now) {
			d.ready, d.listed = nil, false
			s.sites[k] = d
		}
	}
	for id, list := range s.all {
		var split []*ticket
		for i, t := range list {
			if t.running {
				continue
			}
			s.forget(t)
			parts := t.refile(p)
			list[i] = parts[0]
			split = append(split, parts[1:]...)
			for _, n := range parts {
				n.index = len(s.waiting)
				s.waiting = append(s.waiting, n)
			}
		}
		if len(split) > 0 {
			s.all[id] = append(list, split...)
		}
	}
	heap.Init(&s.waiting)
}

// refile returns the tickets that take the place of t: t itself, unless its
// recipients go different ways now.
func (t *ticket) refile(p *Policy) []*ticket {
	k := siteOf(t.entry, t.rcpts[0].Recipient, p)
	for _, r := range t.rcpts[1:] {
		if siteOf(t.entry, r.Recipient, p) != k {
			return tickets(t.entry, t.rcpts, p)
		}
	}
	t.site = k
	return []*ticket{t}
}

// ripen moves what is due to the ready queues, lists the sites whose pause is
// over, and returns when there will be more of either.
func (s *schedule) ripen(now time.Time, p *Policy) (next time.Time) {
	for len(s.waiting) > 0 && !s.waiting[0].due.After(now) {
		t := heap.Pop(&s.waiting).(*ticket)
		d := s.sites[t.site]
		if d == nil {
			d = newDestination(t.site)
			s.sites[t.site] = d
		}
		d.ready = append(d.ready, t)
		s.list(d, p, now)
	}
	for len(s.paused) > 0 && !s.paused[0].until.After(now) {
		d := heap.Pop(&s.paused).(*destination)
		s.list(d, p, now)
		s.drop(d)
	}
	if len(s.waiting) > 0 {
		next = s.waiting[0].due
	}
	if len(s.paused) > 0 {
		next = earlier(next, s.paused[0].until)
	}
	return next
}

// list puts a site into the rotation if it can have an attempt. Who cannot is
// listed by what ends that: an attempt that ends, a pause that is over, a
// policy that has the agent. So nothing is looked at in vain.
func (s *schedule) list(d *destination, p *Policy, now time.Time) {
	if p == nil || d.listed || len(d.ready) == 0 || !d.open(&p.Schedule, now) {
		return
	}
	if _, known := p.Agents[d.site.agent]; !known {
		return
	}
	d.listed = true
	s.turn = append(s.turn, d)
}

// next takes a ticket that may be tried now: one of each site in turn, so that
// none waits for another's backlog.
func (s *schedule) next(p *Policy, now time.Time) *ticket {
	if s.running >= p.Schedule.Concurrency {
		return nil
	}
	for len(s.turn) > 0 {
		d := s.turn[0]
		s.turn[0] = nil
		s.turn = s.turn[1:]
		d.listed = false
		if len(d.ready) == 0 || !d.open(&p.Schedule, now) {
			continue
		}
		t := d.ready[0]
		d.ready[0] = nil
		d.ready = d.ready[1:]
		d.running++
		s.running++
		t.running = true
		s.list(d, p, now)
		return t
	}
	return nil
}

// ended notes that an attempt is over and whether anybody was there. It returns
// the tickets for which an attempt of their own can't be waited for.
func (s *schedule) ended(t *ticket, unreachable bool, sc *Schedule, p *Policy, now time.Time) (overdue []*ticket) {
	d := s.sites[t.site]
	d.running--
	s.running--
	s.finish(t)
	if unreachable {
		d.failed(sc, now)
		if d.failures == 1 {
			for _, o := range d.ready {
				s.forget(o)
			}
		}
		overdue = s.overdue(d, sc, now)
	} else {
		d.succeeded(sc)
	}
	switch {
	case d.pause >= 0:
		s.unpause(d)
	case unreachable:
		heap.Push(&s.paused, d)
	}
	s.list(d, p, now)
	s.drop(d)
	return overdue
}

// finish forgets a ticket that was begun.
func (s *schedule) finish(t *ticket) {
	t.running = false
	s.forget(t)
	s.remove(t)
}

// overdue begins what waits for a site that has just been found dead and whose
// time is over, or whose sender is to be told: with one probe a minute, the
// turn of each ticket in a long queue would come too late.
func (s *schedule) overdue(d *destination, sc *Schedule, now time.Time) (ts []*ticket) {
	rest := d.ready[:0]
	for _, t := range d.ready {
		if sc.speaks(t.entry, t.rcpts, now) {
			t.running = true
			ts = append(ts, t)
		} else {
			rest = append(rest, t)
		}
	}
	clear(d.ready[len(rest):])
	d.ready = rest
	return ts
}

// drop forgets a site that nothing is known of.
func (s *schedule) drop(d *destination) {
	if len(d.ready) == 0 && d.running == 0 && d.pause < 0 && s.sites[d.site] == d {
		delete(s.sites, d.site)
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

// unpause puts a site where its pause, which has changed, says.
func (s *schedule) unpause(d *destination) { heap.Fix(&s.paused, d.pause) }
