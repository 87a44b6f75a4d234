package queue

import "time"

// A destination is a ready queue and what is known of its site.
type destination struct {
	site     site
	ready    []*ticket
	running  int
	window   float64   // attempts that may run at once; 0 for not known yet
	failures int       // attempts in a row that found nobody there
	until    time.Time // no attempt before then
	pause    int       // in the heap of pauses, -1 when not there
	listed   bool      // in the rotation
}

func newDestination(k site) *destination { return &destination{site: k, pause: -1} }

// firstWindow is how many attempts a site gets at once before it has taken any
// (LIMITS: 5 / 20): after an outage it is not run over.
const firstWindow = 5

// open reports whether another attempt may begin. While nobody is there, one
// attempt at a time finds out when that ends.
func (d *destination) open(sc *Schedule, now time.Time) bool {
	if d.until.After(now) {
		return false
	}
	if d.failures > 0 {
		return d.running == 0
	}
	return d.running < min(sc.PerDestination, max(firstWindow, int(d.window)))
}

// succeeded widens the window by one for each round of attempts.
func (d *destination) succeeded(sc *Schedule) {
	d.failures, d.until = 0, time.Time{}
	d.window = max(d.window, firstWindow)
	d.window = min(d.window+1/d.window, float64(sc.PerDestination))
}

// failed begins a pause: a minute, then longer, but not longer than what is
// tried for the first time would wait anyway.
func (d *destination) failed(sc *Schedule, now time.Time) {
	d.failures++
	d.window = 0
	d.until = now.Add(min(time.Minute<<min(d.failures-1, 4), 15*time.Minute, sc.Retry[0]))
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
