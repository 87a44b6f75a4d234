// Package guard bounds guesses at secrets: how many are looked at from an
// address, from a network and for a user, how late a failure is answered, and
// who is banned for a while. It counts, and knows nothing of secrets, sessions
// or protocols.
//
// An address that has logged in as a user is known: attempts from its network
// to log in as him have a budget of their own. So whoever guesses at a user's
// password from elsewhere cannot lock him out where he is at home.
package guard

import (
	"context"
	"hash/maphash"
	"net/netip"
	"sync"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/pattern"
)

// A Policy is what a configuration wants. Zero values are none.
type Policy struct {
	// Address is for an IPv4 address or an IPv6 /64; Subnet for a /26 or a
	// /56; Network for a /21 or a /48.
	Address, Subnet, Network Budget
	// User is for a user, from wherever he is not known, and for each place
	// where he is.
	User Budget
	// Delay is that of the first failure. It doubles with each further tenth of
	// a budget that is used, to MaxDelay.
	Delay, MaxDelay time.Duration
	// Ban is how long the first ban of an address or a network lasts. Each
	// further one within a day of the last takes twice as long, to MaxBan.
	Ban, MaxBan time.Duration
	// Exempt are networks that are never banned, such as that of a webmail
	// server, from which all users come: each user there has a budget of his
	// own. Who has no address, on a unix socket, is exempt too.
	Exempt pattern.Networks
}

// A Scope is what a budget is for.
type Scope uint8

// The scopes.
const (
	Address Scope = iota
	Subnet
	Network
	User  // wherever he is not known
	Place // a user where he is known, or in a network that is exempt
	scopes
)

func (s Scope) String() string {
	return [scopes]string{"address", "subnet", "network", "user", "user_at_place"}[s]
}

const (
	levels   = 3
	patience = 5 * time.Second     // for attempts under way to end
	knownFor = 30 * 24 * time.Hour // after a login
	maxPlace = 1 << 16             // of each size, and of users
	maxBans  = 1 << 14
)

// prefixes are what an address is counted as: itself, and with its neighbours.
func prefixes(ip netip.Addr) (ps [levels]netip.Prefix) {
	ip = ip.Unmap().WithZone("")
	bits := [levels]int{64, 56, 48}
	if ip.Is4() {
		bits = [levels]int{32, 26, 21}
	}
	for i, b := range bits {
		ps[i], _ = ip.Prefix(b)
	}
	return ps
}

// A Guard is the memory of the process. It outlives configurations, each of
// which has a Policy. The memory is bounded, whoever comes.
type Guard struct {
	began time.Time // time is measured from here
	seed  maphash.Seed

	mu      sync.Mutex
	places  [levels]*table[netip.Prefix, count]
	users   *table[uint64, count]
	exempts *table[home, count] // users in networks that are exempt
	homes   *table[home, known] // users where they are known
	nearby  *table[netip.Prefix, known]
	bans    *table[netip.Prefix, ban]
	lifted  map[netip.Prefix]bool // and not yet so in storage
	settled chan struct{}         // closed and replaced when an attempt ends
	news    chan struct{}         // there is something to share
}

// A home is a user and a place. Of names only a hash is kept: some are
// passwords that were typed into the wrong field.
type home struct {
	user  uint64
	place netip.Prefix
}

// A known is what is counted where a user is known, and since when he is not
// any more unless he logs in again.
type known struct {
	count
	until time.Duration
}

// New returns a guard that knows nobody.
func New() *Guard {
	g := &Guard{
		began: time.Now(), seed: maphash.MakeSeed(),
		users: newTable[uint64, count](maxPlace), exempts: newTable[home, count](maxPlace),
		homes: newTable[home, known](maxPlace), nearby: newTable[netip.Prefix, known](maxPlace),
		bans: newTable[netip.Prefix, ban](maxBans), lifted: map[netip.Prefix]bool{},
		settled: make(chan struct{}), news: make(chan struct{}, 1),
	}
	for i := range g.places {
		g.places[i] = newTable[netip.Prefix, count](maxPlace)
	}
	return g
}

func (g *Guard) now() time.Duration { return time.Since(g.began) }

func homeOf(ip netip.Addr) netip.Prefix {
	ip = ip.Unmap().WithZone("")
	bits := 56
	if ip.Is4() {
		bits = 24
	}
	p, _ := ip.Prefix(bits)
	return p
}

func (g *Guard) home(ip netip.Addr, user string) home {
	return home{maphash.String(g.seed, user), homeOf(ip)}
}

func (p *Policy) exempt(ip netip.Addr) bool {
	return !ip.IsValid() || p.Exempt.Contain(ip)
}

// A bound is one of the budgets that an attempt is of.
type bound struct {
	*count // nil if nothing was counted yet, until room is made
	Budget
	scope Scope
	room  func() *count // makes room for it, or has it kept for longer
}

// bounds are those of an attempt: that of the user alone where he is known or
// everybody is welcome, and otherwise those of the address and its neighbours,
// and of the user from anywhere. They make no room in the tables: what is refused
// shall take none.
func (g *Guard) bounds(p *Policy, ip netip.Addr, user string, now time.Duration) []bound {
	h := g.home(ip, user)
	if p.exempt(ip) {
		if user == "" {
			return nil
		}
		return []bound{boundOf(g.exempts, h, p.User, Place)}
	}
	if k := g.homes.peek(h); k != nil && now < k.until {
		return []bound{{&k.count, p.User, Place, func() *count { return &g.homes.at(h).count }}}
	}
	var bs []bound
	for i, prefix := range prefixes(ip) {
		bs = append(bs, boundOf(g.places[i], prefix, p.places()[i], Scope(i)))
	}
	if user != "" {
		bs = append(bs, boundOf(g.users, h.user, p.User, User))
	}
	return bs
}

func boundOf[K comparable](t *table[K, count], k K, b Budget, s Scope) bound {
	return bound{t.peek(k), b, s, func() *count { return t.at(k) }}
}

// full is that of the count, if there is one.
func (b *bound) full(now time.Duration) (full, perhaps bool) {
	if b.count == nil {
		return false, false
	}
	return b.count.full(now, b.Budget)
}

func (p *Policy) places() [levels]Budget { return [levels]Budget{p.Address, p.Subnet, p.Network} }

// A Refusal says why no attempt is let in.
type Refusal struct {
	Scope Scope
	// User is for whom there were too many, if that is a user: see End.
	User string
	// Banned: the address is, at Scope.
	Banned bool
	// Again: it was refused for the same within the last minute.
	Again bool
	// Bans are new.
	Bans []Ban
}

// An Attempt was let in, and must End.
type Attempt struct {
	g      *Guard
	p      *Policy
	ip     netip.Addr
	user   string
	bounds []bound
}

// Begin lets an attempt in to log in as user, "" where the client does not say,
// or says why not. While others are under way that might use a budget up, it
// waits a little for how they end.
func (g *Guard) Begin(ctx context.Context, p *Policy, ip netip.Addr, user string) (*Attempt, *Refusal) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		a, no, settled := g.begin(p, ip, user)
		if a != nil || settled == nil {
			return a, no
		}
		select {
		case <-settled:
		case <-ctx.Done():
			return nil, no
		}
	}
}

// begin tells also for what to wait, if that can help.
func (g *Guard) begin(p *Policy, ip netip.Addr, user string) (*Attempt, *Refusal, <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	if no := g.refused(p, ip, user, now); no != nil {
		return nil, no, nil
	}
	bs := g.bounds(p, ip, user, now)
	var busy *Refusal
	for _, b := range bs {
		full, perhaps := b.full(now)
		if full {
			b.room() // it is kept for longer
			no := &Refusal{Scope: b.scope, User: b.known, Again: again(&b.told, now)}
			if b.scope < levels {
				no.Bans = g.ban(p, prefixes(ip)[b.scope], b.scope, now)
				no.Banned = len(no.Bans) > 0
			}
			return nil, no, nil
		}
		if perhaps && busy == nil {
			busy = &Refusal{Scope: b.scope, Again: true}
		}
	}
	if busy != nil {
		return nil, busy, g.settled
	}
	for i := range bs {
		bs[i].count = bs[i].room()
		bs[i].open++
	}
	return &Attempt{g, p, ip, user, bs}, nil, nil
}

// refused refuses who is banned, unless he is known there. It makes no room for
// him in the tables, where others would have to make way.
func (g *Guard) refused(p *Policy, ip netip.Addr, user string, now time.Duration) *Refusal {
	if p.exempt(ip) {
		return nil
	}
	if k := g.homes.peek(g.home(ip, user)); k != nil && now < k.until {
		return nil
	}
	for i, prefix := range prefixes(ip) {
		if b := g.bans.peek(prefix); b != nil && now < b.until {
			return &Refusal{Scope: Scope(i), Banned: true, Again: again(&b.told, now)}
		}
	}
	return nil
}

// again reports whether somebody was told within the last minute.
func again(told *time.Duration, now time.Duration) bool {
	if *told > 0 && now-*told < time.Minute {
		return true
	}
	*told = max(now, 1)
	return false
}

// A Verdict is what came of an attempt.
type Verdict uint8

// The verdicts. Void is one that told nothing about the secret.
const (
	Void Verdict = iota
	Wrong
	Right
)

// End counts the attempt. user is whom the client has tried to be, "" if there
// is no such user. It says how late a failure should be answered, and what bans
// it has brought.
func (a *Attempt) End(v Verdict, user string) (delay time.Duration, bans []Ban) {
	g := a.g
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	tenths := 1
	for _, b := range a.bounds {
		b.open--
		if v != Wrong {
			continue
		}
		b.add(now)
		tenths = max(tenths, b.tenths(now, b.Budget))
		if b.scope >= User && user != "" {
			b.known = user
		}
		if full, _ := b.full(now); full && b.scope < levels {
			bans = append(bans, g.ban(a.p, prefixes(a.ip)[b.scope], b.scope, now)...)
		}
	}
	if v == Right && a.user != "" && !a.p.exempt(a.ip) {
		h := g.home(a.ip, a.user)
		g.homes.at(h).until = now + knownFor
		g.nearby.at(h.place).until = now + knownFor
	}
	close(g.settled)
	g.settled = make(chan struct{})
	if v != Wrong {
		return 0, nil
	}
	return a.p.delay(tenths), bans
}

// delay doubles with each tenth.
func (p *Policy) delay(tenths int) time.Duration {
	d := p.Delay
	for i := 1; i < tenths && d < p.MaxDelay; i++ {
		d *= 2
	}
	return min(d, p.MaxDelay)
}
