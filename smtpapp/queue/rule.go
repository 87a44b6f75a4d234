package queue

import (
	"slices"
	"strings"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/pattern"
)

// A Rate is how many there may be in any time of a length.
type Rate struct {
	N   int
	Per time.Duration
}

// A Rule is what some destinations may have: what it says takes the place of
// what the Schedule says, zero fields do not. The first rule that is for a
// destination is in force for it, and no other.
type Rule struct {
	// Name tells the rule from others. What was counted under it goes on to count
	// under another policy.
	Name string
	// Domains are those that it is for, as pattern.Domains makes them; none for
	// all. A destination that is no domain, as that of a smarthost, is of none.
	Domains []string
	// Agents are patterns of names of agents, as pattern.Glob has them; none for
	// all.
	Agents []string
	// Together has what it is for counted together, and not each destination of
	// each agent by itself.
	Together bool

	// Concurrency is how many attempts run at once, and First how many do while
	// a destination has taken nothing yet.
	Concurrency, First int
	// Messages and Recipients bound attempts, and the recipients of these.
	Messages, Recipients []Rate
	// Retry, Expire and ExpireNull are as those of Schedule.
	Retry              []time.Duration
	Expire, ExpireNull time.Duration
}

// terms are a rule, or none, and the schedule that it makes.
type terms struct {
	Rule
	schedule Schedule
}

// compile works out what each rule comes to.
func (p *Policy) compile() {
	p.base = &terms{schedule: p.Schedule}
	p.terms = nil
	for _, r := range p.Rules {
		t := &terms{Rule: r, schedule: p.Schedule}
		s := &t.schedule
		if r.Concurrency > 0 {
			s.PerDestination = r.Concurrency
		}
		if r.First > 0 {
			s.First = r.First
		}
		if len(r.Retry) > 0 {
			s.Retry = r.Retry
		}
		if r.Expire > 0 {
			s.Expire = r.Expire
		}
		if r.ExpireNull > 0 {
			s.ExpireNull = r.ExpireNull
		}
		p.terms = append(p.terms, t)
	}
}

// plain are the terms where no policy was ever in force.
var plain = &terms{schedule: Schedule{}.withDefaults()}

// termsOf returns the terms of a site.
func (p *Policy) termsOf(k site) *terms {
	if p == nil || p.base == nil {
		return plain
	}
	for _, t := range p.terms {
		if t.isFor(k) {
			return t
		}
	}
	return p.base
}

func (r *Rule) isFor(k site) bool {
	if len(r.Domains) > 0 && (strings.Contains(k.destination, " ") || !pattern.HasDomain(r.Domains, k.destination)) {
		return false
	}
	return len(r.Agents) == 0 || slices.ContainsFunc(r.Agents, func(p string) bool { return pattern.Glob(p, k.agent) })
}

// longest is the longest time between two attempts that a policy knows.
func (p *Policy) longest() time.Duration {
	d := p.Schedule.longest()
	for _, t := range p.terms {
		d = max(d, t.schedule.longest())
	}
	return d
}
