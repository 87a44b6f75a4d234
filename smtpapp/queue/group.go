package queue

import (
	"container/heap"
	"math"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/window"
)

// A group is destinations that a rule counts together, or one of which there is
// more to know than a destination has. It outlives policies, and its destinations
// for as long as what it knows matters.
type group struct {
	key     string
	terms   *terms
	running int
	active  int            // recipients in the active set
	members int            // destinations
	waiting []*destination // that could have an attempt but for the group, in order
	starved []*bin         // that could be read but for the group

	messages, recipients []window.Window

	paused   time.Time // no attempt before then
	slow     time.Time // nor as many as there may be
	slowness int       // how often that is halved
	slowedAt time.Time // the last time
	reason   string    // the words that paused or slowed it last

	until time.Time // when there is room again, while it is in the heap
	index int       // in schedule.gates, -1 when not there
}

// groupings are the groups there are.
type groupings struct {
	groups      map[string]*group
	gates       gates    // those without room, by the time at which they have some
	roomy       []*group // that may have room for who waits
	groupsSwept time.Time
}

// key is what a site's terms are counted under, "" where the destination itself
// knows all there is to know.
func (t *terms) key(k site) string {
	switch {
	case t.Together:
		return t.Name + "\x00" + k.source
	case len(t.Messages)+len(t.Recipients)+len(t.Readings) > 0:
		return t.Name + "\x00" + k.source + "\x00" + k.agent + "\x00" + k.destination
	}
	return ""
}

// join puts a destination under terms, and into the group that these have.
func (s *schedule) join(d *destination, t *terms) {
	d.terms = t
	key := t.key(d.site)
	if d.group != nil && d.group.key == key {
		d.group.adopt(t)
		return
	}
	s.quit(d)
	if key == "" {
		return
	}
	g := s.groups[key]
	if g == nil {
		g = &group{key: key, index: -1}
		s.groups[key] = g
	}
	g.adopt(t)
	g.members++
	g.running += d.running
	g.active += d.active
	d.group = g
}

// quit takes a destination out of its group.
func (s *schedule) quit(d *destination) {
	g := d.group
	if g == nil {
		return
	}
	g.members--
	g.running -= d.running
	g.active -= d.active
	if d.waiting {
		for i, o := range g.waiting {
			if o == d {
				g.waiting[i] = nil
			}
		}
	}
	d.group, d.waiting = nil, false
	s.release(g)
}

// adopt puts a group under terms. Times that are counted already go on.
func (g *group) adopt(t *terms) {
	if g.terms == t {
		return
	}
	g.terms = t
	g.messages = windows(t.Messages, g.messages)
	g.recipients = windows(t.Recipients, g.recipients)
}

func windows(rates []Rate, old []window.Window) []window.Window {
	ws := make([]window.Window, len(rates))
	for i, r := range rates {
		ws[i].Per = r.Per
		for _, o := range old {
			if o.Per == r.Per {
				ws[i] = o
			}
		}
	}
	return ws
}

// wait is how long it takes until an attempt for n recipients may begin. One for
// more than there may be in all goes when nothing else has, and counts.
func (g *group) wait(n int, now time.Time) (d time.Duration) {
	for i, r := range g.terms.Messages {
		g.messages[i].Advance(now)
		d = max(d, g.messages[i].Wait(1, g.slowed(r.N, now), now))
	}
	for i, r := range g.terms.Recipients {
		limit := g.slowed(r.N, now)
		g.recipients[i].Advance(now)
		d = max(d, g.recipients[i].Wait(min(n, limit), limit, now))
	}
	if g.slow.After(now) { // and then there may be more
		d = min(d, g.slow.Sub(now))
	}
	return max(d, g.paused.Sub(now))
}

// slowed is what is left of a limit.
func (g *group) slowed(limit int, now time.Time) int {
	if !g.slow.After(now) {
		return limit
	}
	return max(limit>>g.slowness, 1)
}

// maxSlowness is down to an eighth.
const maxSlowness = 3

// heed does what a reading of a reply asks for: what was begun before the last
// time is part of that. It reports whether it did anything.
func (g *group) heed(r *Reading, began, now time.Time) (news bool) {
	if end := now.Add(r.Pause); r.Pause > 0 && end.After(g.paused) {
		news = !g.paused.After(now)
		g.paused = end
	}
	if r.Slow <= 0 {
		return news
	}
	if !g.slow.After(now) {
		g.slowness, news = 1, true
		g.slowedAt = now
	} else if began.After(g.slowedAt) && g.slowness < maxSlowness {
		g.slowness++
		g.slowedAt, news = now, true
	}
	g.slow = later(g.slow, now.Add(r.Slow))
	return news
}

// began counts an attempt.
func (g *group) began(n int, now time.Time) {
	g.running++
	for i := range g.messages {
		g.messages[i].Add(1, now)
	}
	for i := range g.recipients {
		g.recipients[i].Add(n, now)
	}
}

// spared takes an attempt back that was not made.
func (g *group) spared(n int) {
	for i := range g.messages {
		g.messages[i].Take(1, g.messages[i].Head)
	}
	for i := range g.recipients {
		g.recipients[i].Take(n, g.recipients[i].Head)
	}
}

// full reports whether as many attempts run as may.
func (g *group) full(now time.Time) bool {
	return g.running >= g.slowed(g.terms.schedule.PerDestination, now)
}

// room is how many attempts may begin.
func (g *group) room(now time.Time) int {
	if g.wait(1, now) > 0 {
		return 0
	}
	return min(g.slowed(g.terms.schedule.PerDestination, now)-g.running, g.budget(now))
}

// admit reports whether a destination that is open otherwise may have its next
// attempt. If not, it is listed again when that may have changed.
func (s *schedule) admit(d *destination, now time.Time) bool {
	g := d.group
	if g == nil {
		return true
	}
	if !g.full(now) && g.index < 0 {
		n := 1
		if t := d.peek(); t != nil {
			n = len(t.rcpts)
		}
		wait := g.wait(n, now)
		if wait == 0 {
			return true
		}
		s.shut(g, now.Add(wait))
	}
	d.waiting = true
	g.waiting = append(g.waiting, d)
	return false
}

// shut has a group looked at when it has room again.
func (s *schedule) shut(g *group, until time.Time) {
	g.until = until
	heap.Push(&s.gates, g)
}

// release has a group looked at that may have room.
func (s *schedule) release(g *group) {
	if g != nil && len(g.waiting) > 0 && g.index < 0 {
		s.roomy = append(s.roomy, g)
	}
}

// openGates lists what waited for groups that have room again, and returns when
// the next one has.
func (s *schedule) openGates(p *Policy, now time.Time) (next time.Time) {
	for len(s.gates) > 0 && !s.gates[0].until.After(now) {
		g := heap.Pop(&s.gates).(*group)
		s.release(g)
		s.feed(g, p, now)
	}
	s.fill(p, now)
	if now.Sub(s.groupsSwept).Abs() > time.Minute {
		s.groupsSwept = now
		for key, g := range s.groups {
			if g.members == 0 && g.index < 0 && g.idle(now) {
				delete(s.groups, key)
			}
		}
	}
	if len(s.gates) > 0 {
		next = s.gates[0].until
	}
	return next
}

// fill lists as many of those that wait for groups as these have room for, in
// order. Who cannot begin for another reason is listed by what ends that.
func (s *schedule) fill(p *Policy, now time.Time) {
	for len(s.roomy) > 0 {
		gs := s.roomy
		s.roomy = nil
		for _, g := range gs {
			waiting, n := g.waiting, g.room(now)
			g.waiting = nil
			for i, d := range waiting {
				if n <= 0 || g.index >= 0 {
					g.waiting = append(waiting[i:], g.waiting...)
					if wait := g.wait(1, now); g.index < 0 && wait > 0 {
						s.shut(g, now.Add(wait))
					}
					break
				}
				if d == nil { // it has left
					continue
				}
				d.waiting = false
				if s.list(d, p, now); d.listed {
					n--
				}
			}
		}
	}
}

// ungroup forgets who waits for groups, before all are listed anew.
func (s *schedule) ungroup() {
	for _, g := range s.groups {
		for _, d := range g.waiting {
			if d != nil {
				d.waiting = false
			}
		}
		for _, b := range g.starved {
			b.starved = false
		}
		g.waiting, g.starved = nil, nil
		if g.index >= 0 {
			heap.Remove(&s.gates, g.index)
		}
	}
	s.roomy = nil
}

// idle reports whether nothing that is known matters any more.
func (g *group) idle(now time.Time) bool {
	if g.paused.After(now) || g.slow.After(now) {
		return false
	}
	n := 0
	for _, ws := range [][]window.Window{g.messages, g.recipients} {
		for i := range ws {
			ws[i].Advance(now)
			n += ws[i].Sum()
		}
	}
	return n == 0
}

// space is how many recipients more of a group's may be in the active set: one
// that cannot send has no use for it.
func (s *schedule) space(g *group, p *Policy, now time.Time) int {
	if g == nil {
		return math.MaxInt
	}
	return min(s.share(p.Schedule.Active)-g.active, g.budget(now)+g.running-g.active)
}

// budget is how much may begin now by the rates, and one to wait for the time when
// that is more.
func (g *group) budget(now time.Time) int {
	n := math.MaxInt32
	for i, r := range g.terms.Messages {
		g.messages[i].Advance(now)
		n = min(n, g.slowed(r.N, now)-g.messages[i].Sum())
	}
	for i, r := range g.terms.Recipients {
		g.recipients[i].Advance(now)
		n = min(n, g.slowed(r.N, now)-g.recipients[i].Sum())
	}
	if n < 1 || g.paused.After(now) {
		return 1
	}
	return n
}

// groupOf returns the group that a site has, or would have, nil if none.
func (s *schedule) groupOf(k site, p *Policy) *group {
	if d := s.sites[k]; d != nil {
		return d.group
	}
	t, _ := p.termsOf(k, nil)
	return s.groups[t.key(k)]
}

// starve notes a bin that its group keeps from being read.
func (g *group) starve(b *bin) {
	if !b.starved {
		b.starved = true
		g.starved = append(g.starved, b)
	}
}

// feed has such bins looked at when there is space, and half of the group's part
// has gone.
func (s *schedule) feed(g *group, p *Policy, now time.Time) {
	if len(g.starved) == 0 || p == nil || g.active > s.share(p.Schedule.Active)/2 || s.space(g, p, now) <= 0 {
		return
	}
	for _, b := range g.starved {
		if b.starved = false; b.index >= 0 {
			b.look = now
			heap.Fix(&s.looks, b.index)
		}
	}
	g.starved = nil
}

// gates is a heap of groups by the time at which they have room again.
type gates []*group

func (l gates) Len() int           { return len(l) }
func (l gates) Less(i, j int) bool { return l[i].until.Before(l[j].until) }
func (l gates) Swap(i, j int) {
	l[i], l[j] = l[j], l[i]
	l[i].index, l[j].index = i, j
}

// Push is for container/heap.
func (l *gates) Push(x any) {
	g := x.(*group)
	g.index = len(*l)
	*l = append(*l, g)
}

// Pop is for container/heap.
func (l *gates) Pop() any {
	old := *l
	g := old[len(old)-1]
	old[len(old)-1] = nil
	*l = old[:len(old)-1]
	g.index = -1
	return g
}
