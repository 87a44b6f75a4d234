package queue

import (
	"cmp"
	"container/heap"
	"slices"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/window"
)

// A State is how a destination is treated.
type State string

// The states. Where several hold, the first of them is told.
const (
	// Paused is left alone until a time, as nobody was there, or a rule has it so.
	Paused State = "paused"
	// Probed is asked by one attempt at a time, as nobody was there the last time.
	Probed State = "probed"
	// Slowed has a part of what it may have, as a rule has it so.
	Slowed State = "slowed"
	// Narrowed has fewer attempts at once than it had, as it took no more.
	Narrowed State = "narrowed"
	// Limited waits for the time when its rates have room.
	Limited State = "limited"
	// Free has all that it may have.
	Free State = "free"
)

// A Standing is what is known of a destination of an agent.
type Standing struct {
	Agent       string `json:"agent"`
	Destination string `json:"destination,omitempty"` // "" where the agent has one for all
	Source      string `json:"source,omitempty"`      // of a pool
	Rule        string `json:"rule,omitempty"`        // of shaping, that is in force

	State    State     `json:"state"`
	Until    time.Time `json:"until,omitzero"`     // when it changes: of Paused, the next attempt
	Reason   string    `json:"reason,omitempty"`   // the last words that made it so
	Failures int       `json:"failures,omitempty"` // attempts in a row that found nobody there

	Running int         `json:"running"` // attempts
	Limit   int         `json:"limit"`   // of those
	Active  int         `json:"active"`  // recipients in memory; others wait in the store
	Rates   []RateUsage `json:"rates,omitempty"`
}

// RateUsage is how much of a rate has been made use of.
type RateUsage struct {
	Of      string  `json:"of"` // messages or recipients
	Used    int     `json:"used"`
	Limit   int     `json:"limit"` // as it is now, if it is slowed
	Seconds float64 `json:"seconds"`
}

// A SiteFilter chooses destinations. Zero fields do not matter.
type SiteFilter struct {
	Agent, Destination, Source string
}

func (f *SiteFilter) chooses(k site) bool {
	return (f.Agent == "" || f.Agent == k.agent) && (f.Destination == "" || f.Destination == k.destination) &&
		(f.Source == "" || f.Source == k.source)
}

// Standings returns what is known of destinations, in the order of their names.
func (q *Queue) Standings(f SiteFilter) []Standing {
	var out []Standing
	q.eachSite(f, func(d *destination, now time.Time) { out = append(out, d.standing(now)) })
	slices.SortFunc(out, func(a, b Standing) int {
		return cmp.Or(cmp.Compare(a.Agent, b.Agent), cmp.Compare(a.Destination, b.Destination), cmp.Compare(a.Source, b.Source))
	})
	return out
}

// eachSite calls g for the destinations that a filter chooses, with q.mu held, but
// not for longer than it takes for some of them.
func (q *Queue) eachSite(f SiteFilter, g func(d *destination, now time.Time)) {
	var chosen []*destination
	q.mu.Lock()
	for k, d := range q.sched.sites {
		if f.chooses(k) {
			chosen = append(chosen, d)
		}
	}
	q.mu.Unlock()
	for some := range slices.Chunk(chosen, batch) {
		q.mu.Lock()
		now := time.Now()
		for _, d := range some {
			if q.sched.sites[d.site] == d {
				g(d, now)
			}
		}
		q.mu.Unlock()
	}
}

func (d *destination) standing(now time.Time) Standing {
	st := Standing{
		Agent: d.site.agent, Destination: d.site.destination, Source: d.site.source, Rule: d.terms.Name,
		Failures: d.failures, Running: d.running, Limit: d.limit(), Active: d.active,
	}
	st.State, st.Until, st.Reason = d.state(now)
	g := d.group
	if g == nil {
		return st
	}
	st.Limit = min(st.Limit, g.slowed(g.terms.schedule.PerDestination, now))
	rates := func(of string, rs []Rate, ws []window.Window) {
		for i, r := range rs {
			ws[i].Advance(now)
			st.Rates = append(st.Rates, RateUsage{Of: of, Used: ws[i].Sum(), Limit: g.slowed(r.N, now), Seconds: r.Per.Seconds()})
		}
	}
	rates("messages", g.terms.Messages, g.messages)
	rates("recipients", g.terms.Recipients, g.recipients)
	return st
}

// state says how a destination is treated, until when, and why.
func (d *destination) state(now time.Time) (s State, until time.Time, reason string) {
	g := d.group
	switch {
	case d.until.After(now):
		return Paused, d.until, d.reason
	case g != nil && g.paused.After(now):
		return Paused, g.paused, g.reason
	case d.failures > 0:
		return Probed, time.Time{}, d.reason
	case g != nil && g.slow.After(now):
		return Slowed, g.slow, g.reason
	case d.capped.After(now):
		return Narrowed, d.capped, d.reason
	case g != nil && g.wait(1, now) > 0:
		return Limited, now.Add(g.wait(1, now)), ""
	}
	return Free, time.Time{}, ""
}

// limit is how many attempts may run at once, whenever any may.
func (d *destination) limit() int {
	sc := &d.terms.schedule
	switch {
	case d.failures > 0:
		return 1
	case d.window > 0:
		return min(sc.PerDestination, int(d.window))
	}
	return min(sc.PerDestination, sc.First)
}

// Resume has destinations that are paused or have less than they may have treated
// as if nothing were known of them. Rates hold all the same. It returns how many
// there were.
func (q *Queue) Resume(f SiteFilter) (n int) {
	q.eachSite(f, func(d *destination, now time.Time) {
		switch s, _, _ := d.state(now); s {
		case Free, Limited:
			return
		}
		n++
		q.sched.resume(d, q.policy(), now)
	})
	if n > 0 {
		q.mu.Lock()
		q.nudge()
		q.mu.Unlock()
		q.log.Info("operator", "deed", "resume", "destinations", n)
	}
	return n
}

func (s *schedule) resume(d *destination, p *Policy, now time.Time) {
	d.failures, d.window, d.capped, d.reason = 0, 0, time.Time{}, ""
	d.until = time.Time{}
	if d.pause >= 0 {
		heap.Fix(&s.paused, d.pause)
	}
	if g := d.group; g != nil {
		g.paused, g.slow, g.slowness, g.reason = time.Time{}, time.Time{}, 0, ""
		if g.index >= 0 { // it is found out anew when it has room
			heap.Remove(&s.gates, g.index)
		}
		s.release(g)
		s.feed(g, p, now)
	}
	s.considerSite(d.site)
	if p != nil {
		s.fill(p, now)
		s.list(d, p, now)
	}
}
