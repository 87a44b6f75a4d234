package queue

import (
	"container/heap"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/window"
)

// A group is destinations that a rule counts together, or one whose rate is
// counted. It outlives policies, and its destinations for as long as what it has
// counted matters.
type group struct {
	key     string
	terms   *terms
	running int
	active  int            // recipients in the active set
	members int            // destinations
	waiting []*destination // that could have an attempt but for the group, in order
	starved []*bin         // that could be read but for the group

	messages, recipients []window.Window

	until time.Time // when there is room again, while it is in the heap
	index int       // in schedule.gates, -1 when not there
}

// key is what a site's terms are counted under, "" where the destination itself
// counts all there is to count.
func (t *terms) key(k site) string {
	switch {
	case t.Together:
		return t.Name
	case len(t.Messages)+len(t.Recipients) > 0:
		return t.Name + "\x00" + k.agent + "\x00" + k.destination
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
	d.group, d.waiting = nil, false
	for i, o := range g.waiting {
		if o == d {
			g.waiting[i] = nil
		}
	}
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
		d = max(d, g.messages[i].Wait(1, r.N, now))
	}
	for i, r := range g.terms.Recipients {
		g.recipients[i].Advance(now)
		d = max(d, g.recipients[i].Wait(min(n, r.N), r.N, now))
	}
	return d
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

// full reports whether as many attempts run as may.
func (g *group) full() bool {
	return g.terms.Together && g.running >= g.terms.schedule.PerDestination
}

// room is how many attempts may begin.
func (g *group) room(now time.Time) int {
	if g.wait(1, now) > 0 {
		return 0
	}
	n := g.terms.schedule.PerDestination
	if g.terms.Together {
		n -= g.running
	}
	for i, r := range g.terms.Messages {
		n = min(n, r.N-g.messages[i].Sum())
	}
	return n
}

// admit reports whether a destination that is open otherwise may have its next
// attempt. If not, it is listed again when that may have changed.
func (s *schedule) admit(d *destination, now time.Time) bool {
	g := d.group
	if g == nil {
		return true
	}
	if !g.full() && g.index < 0 {
		wait := time.Duration(0)
		if t := d.peek(); t != nil {
			wait = g.wait(len(t.rcpts), now)
		}
		if wait == 0 {
			return true
		}
		g.until = now.Add(wait)
		heap.Push(&s.gates, g)
	}
	d.waiting = true
	g.waiting = append(g.waiting, d)
	return false
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
		s.release(heap.Pop(&s.gates).(*group))
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

// idle reports whether nothing that was counted matters any more.
func (g *group) idle(now time.Time) bool {
	n := 0
	for _, ws := range [][]window.Window{g.messages, g.recipients} {
		for i := range ws {
			ws[i].Advance(now)
			n += ws[i].Sum()
		}
	}
	return n == 0
}

// crowded reports whether a destination's group has its part of the active set.
func (s *schedule) crowded(d *destination, p *Policy) bool {
	return d != nil && d.group != nil && d.group.active >= s.share(p.Schedule.Active)
}

// starve notes a bin that its group keeps from being read.
func (g *group) starve(b *bin) {
	if !b.starved {
		b.starved = true
		g.starved = append(g.starved, b)
	}
}

// feed has such bins looked at when half of the group's part has gone.
func (s *schedule) feed(g *group, p *Policy, now time.Time) {
	if len(g.starved) == 0 || p == nil || g.active > s.share(p.Schedule.Active)/2 {
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
