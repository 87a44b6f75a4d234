package queue

import "time"

// A destination is a ready queue and what is known of its site.
type destination struct {
	site     site
	ready    [2][]*ticket // new ones, and those that have waited
	turn     int          // which of them was last
	fresh    int          // recipients in the active set that are in no bin
	running  int
	probing  int       // of those running, the ones begun when it was dead
	window   float64   // attempts that may run at once; 0 for not known yet
	failures int       // attempts in a row that found nobody there
	failedAt time.Time // the last of them
	tookAt   time.Time // when an attempt last found somebody
	capped   time.Time // the window does not grow before
	until    time.Time // no attempt before then
	reason   string    // of the last time that an attempt found nobody, or no room
	pause    int       // in the heap of pauses, -1 when not there
	listed   bool      // in the rotation

	location
	terms   *terms
	group   *group // nil if it has none
	active  int    // its recipients in the active set
	waiting bool   // for its group
}

func newDestination(k site) *destination { return &destination{site: k, pause: -1, terms: plain} }

// idle reports whether nothing is ready.
func (d *destination) idle() bool { return len(d.ready[0])+len(d.ready[1]) == 0 }

// pop takes a ready ticket, nil if there is none.
func (d *destination) pop() *ticket {
	t := d.peek()
	if t != nil {
		d.turn = d.choose()
		d.shift(d.turn)
	}
	return t
}

// peek returns what pop would take.
func (d *destination) peek() *ticket {
	if lane := d.choose(); d.first(lane) != nil {
		return d.ready[lane][0]
	}
	return nil
}

// choose returns the lane of the next ticket: of the same priority, new and old
// ones alternate.
func (d *destination) choose() (lane int) {
	a, b := d.first(0), d.first(1)
	switch {
	case a == nil:
		return 1
	case b == nil:
		return 0
	case a.entry.Envelope.Priority == b.entry.Envelope.Priority:
		return 1 - d.turn
	case b.rank().Before(a.rank()):
		return 1
	}
	return 0
}

// first returns the first ready ticket of a lane.
func (d *destination) first(lane int) *ticket {
	for len(d.ready[lane]) > 0 {
		if t := d.ready[lane][0]; !t.gone {
			return t
		}
		d.shift(lane)
	}
	return nil
}

func (d *destination) shift(lane int) {
	d.ready[lane][0] = nil
	d.ready[lane] = d.ready[lane][1:]
}

// remembers reports whether something is known that matters as long as mail waits.
func (d *destination) remembers() bool {
	if d.failures > 0 || !d.capped.IsZero() {
		return true
	}
	return d.group != nil && (len(d.hosts) > 0 || !d.group.paused.IsZero() || !d.group.slow.IsZero())
}

// open reports whether another attempt may begin. While nobody is there, one
// attempt at a time finds out when that ends.
func (d *destination) open(now time.Time) bool {
	if d.until.After(now) {
		return false
	}
	if d.failures > 0 {
		return d.running == 0
	}
	return d.running < d.limit()
}

// succeeded widens the window by one for each round of attempts.
func (d *destination) succeeded(now time.Time) {
	sc := &d.terms.schedule
	d.failures, d.until, d.tookAt = 0, time.Time{}, now
	if d.window == 0 {
		d.window = float64(min(sc.First, sc.PerDestination))
	}
	if !d.capped.After(now) {
		d.window = min(d.window+1/d.window, float64(sc.PerDestination))
	}
}

// A presence is whether an attempt has found somebody.
type presence uint8

const (
	absent  presence = iota
	full             // somebody who has no room
	present          // somebody, whatever he said
)

// presenceOf tells it by the statuses that an attempt has come to, which there is
// one of at least.
func presenceOf(ss []Status) presence {
	p := full
	for i := range ss {
		switch s := &ss[i]; {
		case !s.Unreachable:
			return present
		case s.Reply == nil || s.Reply.Code != 421:
			p = absent
		}
	}
	return p
}

// full narrows the window to what still runs, for a minute at least, since a site
// has no room for more. If nothing runs, it has none for us.
func (d *destination) full(now time.Time) bool {
	if d.failures > 0 || d.running == 0 {
		return false
	}
	if n := float64(d.running); d.window == 0 || d.window > n {
		d.window = n
	}
	d.capped = later(d.capped, now.Add(time.Minute))
	return true
}

// refused narrows the window by one, for a minute at least, where a failed
// attempt need not mean a dead site, as another has found somebody a moment ago:
// so many connections may be too many for it. If it is dead, there is soon nothing
// left to narrow.
func (d *destination) refused(now time.Time) bool {
	if d.failures > 0 || d.window <= 1 || now.Sub(d.tookAt) > time.Minute {
		return false
	}
	d.window = max(d.window-1, 1)
	d.capped = now.Add(time.Minute)
	return true
}

// crowd narrows the window to what runs, since there are no connections for more.
// If nothing does, others have them, who may leave some in a moment.
func (d *destination) crowd(now time.Time) {
	d.window = float64(max(d.running, 1))
	d.capped = later(d.capped, now.Add(10*time.Second))
	if d.running == 0 {
		d.until = later(d.until, now.Add(time.Second))
	}
}

// failed begins a pause: a minute, or what is tried for the first time would
// wait if that is less, and then twice as long, up to 15 times. Attempts that
// were under way when the first of them failed are one failure with it.
func (d *destination) failed(began, now time.Time) {
	if d.failures > 0 && !began.After(d.failedAt) {
		return
	}
	d.failures++
	d.failedAt = now
	d.window = 0
	first := min(time.Minute, d.terms.schedule.Retry[0])
	d.until = now.Add(first * time.Duration(min(1<<min(d.failures-1, 4), 15)))
}

// pauses is a heap of destinations by the end of their pause.
type pauses []*destination

func (p pauses) Len() int           { return len(p) }
func (p pauses) Less(i, j int) bool { return p[i].until.Before(p[j].until) }
func (p pauses) Swap(i, j int) {
	p[i], p[j] = p[j], p[i]
	p[i].pause, p[j].pause = i, j
}

// Push is for container/heap.
func (p *pauses) Push(x any) {
	d := x.(*destination)
	d.pause = len(*p)
	*p = append(*p, d)
}

// Pop is for container/heap.
func (p *pauses) Pop() any {
	old := *p
	d := old[len(old)-1]
	old[len(old)-1] = nil
	*p = old[:len(old)-1]
	d.pause = -1
	return d
}
