package guard

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// remembered is how long a ban that is over makes the next one longer.
const remembered = day

// A Ban is an address or a network from which nobody may log in for a while,
// but for those who are known there.
type Ban struct {
	Network netip.Prefix `json:"network"`
	Scope   string       `json:"scope"`
	Since   time.Time    `json:"since"`
	Until   time.Time    `json:"until"`
	Strikes int          `json:"strikes"` // the how manieth it is in a row
}

// A ban is a Ban as the guard has it.
type ban struct {
	Ban
	until  time.Duration
	shared time.Duration // from when on it must be in storage unless it was lifted; 0 for not written yet
	told   time.Duration // when somebody was last told
}

func (g *Guard) banned(p netip.Prefix, now time.Duration) bool {
	b := g.bans.peek(p)
	return b != nil && now < b.until
}

// ban bans a prefix unless it is banned already, or nobody is.
func (g *Guard) ban(p *Policy, prefix netip.Prefix, scope Scope, now time.Duration) []Ban {
	if p.Ban <= 0 || g.banned(prefix, now) {
		return nil
	}
	b := g.bans.at(prefix)
	if b.Strikes > 0 && now-b.until > remembered {
		b.Strikes = 0
	}
	b.Strikes++
	length := p.Ban
	for i := 1; i < b.Strikes && length < p.MaxBan; i++ {
		length *= 2
	}
	length = min(length, max(p.MaxBan, p.Ban))
	b.Network, b.Scope = prefix, scope.String()
	b.Since = time.Now().Round(0).UTC()
	b.Until = b.Since.Add(length)
	b.until, b.shared = now+length, 0
	delete(g.lifted, prefix)
	g.wake()
	return []Ban{b.Ban}
}

// Banned reports whether an address is banned and nobody is known there: then
// there is nothing to talk about.
func (g *Guard) Banned(p *Policy, ip netip.Addr) bool {
	if p.exempt(ip) {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	if k := g.nearby.peek(homeOf(ip)); k != nil && now < k.until {
		return false
	}
	for _, prefix := range prefixes(ip) {
		if g.banned(prefix, now) {
			return true
		}
	}
	return false
}

// Bans returns those in force, by address.
func (g *Guard) Bans() []Ban {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	var bans []Ban
	g.bans.each(func(_ netip.Prefix, b *ban) {
		if now < b.until {
			bans = append(bans, b.Ban)
		}
	})
	slices.SortFunc(bans, func(a, b Ban) int {
		return cmp.Or(a.Network.Addr().Compare(b.Network.Addr()), cmp.Compare(a.Network.Bits(), b.Network.Bits()))
	})
	return bans
}

// Lift ends the bans that concern an address or a network, and forgets the
// failures that led to them. It returns what it has ended.
func (g *Guard) Lift(p netip.Prefix) []Ban {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	var lifted []Ban
	g.bans.each(func(network netip.Prefix, b *ban) {
		if network.Overlaps(p) && now < b.until {
			lifted = append(lifted, b.Ban)
			g.lifted[network] = true
			g.forget(network)
		}
	})
	if len(lifted) > 0 {
		g.wake()
	}
	return lifted
}

// forget makes a clean sheet of a network.
func (g *Guard) forget(network netip.Prefix) {
	g.bans.drop(network)
	for _, places := range g.places {
		places.each(func(place netip.Prefix, c *count) {
			if network.Overlaps(place) {
				open := c.open
				*c = count{open: open}
			}
		})
	}
}

func (g *Guard) wake() {
	select {
	case g.news <- struct{}{}:
	default:
	}
}
