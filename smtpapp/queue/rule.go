package queue

import (
	"regexp"
	"slices"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
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
	// Domains are those that it is for, as pattern.Domains makes them, and Hosts,
	// of the same form, the mail hosts of those that it is for. A rule that has
	// neither is for all domains. Hosts are for agents that are Locators.
	Domains, Hosts []string
	// Agents are patterns of names of agents, as pattern.Glob has them; none for
	// all.
	Agents []string
	// Sources are patterns of the names of an agent's sources, of the same form;
	// none for all, and for what has none.
	Sources []string
	// Together has what it is for counted together, and not each destination of
	// each agent by itself. Each source of an agent has its own count.
	Together bool

	// Concurrency is how many attempts run at once, and First how many do while
	// a destination has taken nothing yet.
	Concurrency, First int
	// Messages and Recipients bound attempts, and the recipients of these.
	Messages, Recipients []Rate
	// PerAddress is how many connections there may be to one address of a mail
	// host, and PerConnection how many messages go over one. Agents keep to these.
	PerAddress, PerConnection int
	// Retry, Expire and ExpireNull are as those of Schedule.
	Retry              []time.Duration
	Expire, ExpireNull time.Duration
	// Readings say what replies mean; the first that knows a reply is in force.
	Readings []Reading
}

// A Reading is what replies mean that a destination gives to what it does not
// take. The zero Reading leaves it at what they say.
type Reading struct {
	// Pattern is looked for in "421 4.7.0 text".
	Pattern *regexp.Regexp
	// Elsewhere has the next host asked, whatever the reply is about.
	Elsewhere bool
	// Later makes a failure a delay, and Never a delay a failure.
	Later, Never bool
	// Pause is for how long no more attempts are begun, and Slow for how long
	// only half of what may be is made use of: of that half again if it is said
	// meanwhile, down to an eighth.
	Pause, Slow time.Duration
}

// Reading returns what a reply means by a rule, nil if that is not said. The
// rule may be nil.
func (r *Rule) Reading(reply *mail.Reply) *Reading {
	if r == nil || reply == nil || len(r.Readings) == 0 {
		return nil
	}
	text := reply.Error()
	for i := range r.Readings {
		if r.Readings[i].Pattern.MatchString(text) {
			return &r.Readings[i]
		}
	}
	return nil
}

// apply makes of a status what a reading says.
func (r *Reading) apply(s *Status) {
	switch {
	case r.Later && s.Action == Failed:
		s.Action = Delayed
	case r.Never && s.Action == Delayed:
		s.Action = Failed
		s.Reply = &mail.Reply{Code: 554, Enh: "5.4.0", Text: "not tried again: " + s.Reply.Error()}
	}
}

// terms are a rule, or none, and the schedule that it makes.
type terms struct {
	Rule
	schedule Schedule
}

// rule is what agents get to see, nil where there is none.
func (t *terms) rule() *Rule {
	if t.Name == "" {
		return nil
	}
	return &t.Rule
}

// compile works out what each rule comes to.
func (p *Policy) compile() {
	p.base = &terms{schedule: p.Schedule}
	p.terms = nil
	p.attended = make(attended, p.Schedule.Concurrency)
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

// termsOf returns the terms of a site whose mail is taken by hosts, as far as
// these are known, and whether it takes to know them to be sure.
func (p *Policy) termsOf(k site, hosts []string) (t *terms, unsure bool) {
	if p == nil || p.base == nil {
		return plain, false
	}
	_, locates := p.Agents[k.agent].(Locator)
	for _, t := range p.terms {
		if !named(t.Agents, k.agent) || !named(t.Sources, k.source) {
			continue
		}
		if len(t.Domains)+len(t.Hosts) == 0 || pattern.HasDomain(t.Domains, k.destination) {
			return t, unsure
		}
		if slices.ContainsFunc(hosts, func(h string) bool { return pattern.HasDomain(t.Hosts, h) }) {
			return t, unsure
		}
		unsure = unsure || locates && len(t.Hosts) > 0
	}
	return p.base, unsure
}

// named reports whether a name has one of patterns, or there are none.
func named(patterns []string, name string) bool {
	return len(patterns) == 0 || slices.ContainsFunc(patterns, func(p string) bool { return pattern.Glob(p, name) })
}

// longest is the longest time between two attempts that a policy knows.
func (p *Policy) longest() time.Duration {
	d := p.Schedule.longest()
	for _, t := range p.terms {
		d = max(d, t.schedule.longest())
	}
	return d
}
