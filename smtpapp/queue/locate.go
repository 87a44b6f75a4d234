package queue

import (
	"context"
	"slices"
	"time"
)

// A Locator is a Router that can tell the mail hosts of a destination, so that
// rules can be for these. It returns their names, best first, in lower case and
// without a final dot; none if they are not to be had now.
type Locator interface {
	Router
	Locate(ctx context.Context, destination string) []string
}

// A location is what is known of the hosts of a destination.
type location struct {
	hosts    []string  // that take its mail, where rules ask for them
	located  time.Time // when they were looked up
	locating bool
	unsure   bool // the terms may be others with the hosts known
}

// How long hosts hold that were looked up, and that were not to be had. DNS has
// its own times; the schedule need not know better.
const (
	hostsHold   = 10 * time.Minute
	noHostsHold = time.Minute
)

// find puts a site under its terms.
func (s *schedule) find(d *destination, p *Policy) {
	t, unsure := p.termsOf(d.site, d.hosts)
	d.unsure = unsure
	s.join(d, t)
}

// termsOf returns the terms of a site, as far as they are known.
func (s *schedule) termsOf(k site, p *Policy) *terms {
	if d := s.sites[k]; d != nil {
		return d.terms
	}
	t, _ := p.termsOf(k, nil)
	return t
}

// astray reports whether the hosts of a site are to be looked up before it can be
// told what it may have. It sees to that.
func (s *schedule) astray(d *destination, now time.Time) bool {
	hold := hostsHold
	if len(d.hosts) == 0 {
		hold = noHostsHold
	}
	if !d.unsure && len(d.hosts) == 0 || !d.located.IsZero() && now.Sub(d.located).Abs() < hold {
		return false
	}
	if !d.locating {
		d.locating = true
		s.astrays = append(s.astrays, d.site)
	}
	return true
}

// locate begins the look-ups that are due, as many at once as there may be
// attempts. q.mu is held.
func (q *Queue) locate(p *Policy) {
	s := &q.sched
	for len(s.astrays) > 0 && s.locating < p.Schedule.Concurrency {
		release, ok := p.Lease()
		if !ok {
			return
		}
		k := s.astrays[0]
		s.astrays = s.astrays[1:]
		s.locating++
		q.runs.Go(func() {
			defer release()
			hosts := q.hosts(p, k)
			q.mu.Lock()
			defer q.mu.Unlock()
			s.locating--
			if park := s.located(k, hosts, q.policy(), time.Now()); len(park) > 0 {
				q.runs.Go(func() { q.park(p, park) })
			}
			q.nudge()
		})
	}
}

func (q *Queue) hosts(p *Policy, k site) (hosts []string) {
	l, ok := p.Agents[k.agent].(Locator)
	if !ok {
		return nil
	}
	ctx, cancel := q.attemptContext(p)
	defer cancel()
	defer func() {
		if v := recover(); v != nil {
			p.Log.Error("panic in an agent", "agent", k.agent, "panic", v)
		}
	}()
	return l.Locate(ctx, k.destination)
}

// located notes which hosts a site has. What is ready leaves the active set if
// its new group has no space: what of that is not in the store's bins is returned.
func (s *schedule) located(k site, hosts []string, p *Policy, now time.Time) (park []*ticket) {
	d := s.sites[k]
	if d == nil {
		return nil
	}
	d.locating, d.located = false, now
	if !slices.Equal(d.hosts, hosts) {
		d.hosts = hosts
		s.find(d, p)
		if p != nil && s.space(d.group, p, now) < 0 {
			park = s.empty(d)
		}
	}
	s.list(d, p, now)
	s.drop(d)
	return park
}
