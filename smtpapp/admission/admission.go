// Package admission decides how many clients are let in: at a time and by the
// minute, from one address, from one network, and in all. It counts, and knows
// nothing of what the clients do.
package admission

import (
	"net/netip"
	"sync"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

// Limits are those of one server. Zero is no limit.
type Limits struct {
	Connections int // at a time
	PerAddress  int // at a time; an IPv6 address stands for its /64
	PerNetwork  int // at a time, of an IPv4 /24 or an IPv6 /48
	Rate        int // connections of an address in a minute
	Messages    int // of an address in a minute
}

// maxCounted bounds the addresses and networks that are counted by the minute.
// The arrivals of others are not, while there are so many.
const maxCounted = 1 << 16

// A Gate counts the clients of one server. It outlives configurations, so that
// a reload lets nobody in twice. The zero Gate is ready to use.
type Gate struct {
	mu       sync.Mutex
	open     int
	at       map[netip.Prefix]int // open connections of an address or a network
	arrivals minute
	messages minute
}

var (
	errFull    = &mail.Reply{Code: 421, Enh: "4.3.2", Text: "too many connections, try again later", Close: true}
	errAddress = &mail.Reply{Code: 421, Enh: "4.7.0", Text: "too many connections from your address", Close: true}
	errNetwork = &mail.Reply{Code: 421, Enh: "4.7.0", Text: "too many connections from your network", Close: true}
	errRate    = &mail.Reply{Code: 421, Enh: "4.7.0", Text: "your address connects too often, try again later", Close: true}
	errMessage = &mail.Reply{Code: 450, Enh: "4.7.0", Text: "your address sends too many messages, try again in a minute"}
)

// Enter lets a client in, who must leave by the function that it returns, or
// returns the reply that refuses it. A client without an address, on a unix
// socket, and one that is exempt count among all, but not by themselves.
func (g *Gate) Enter(ip netip.Addr, exempt bool, l *Limits) (leave func(), no *mail.Reply) {
	addr, network := prefixes(ip)
	g.mu.Lock()
	defer g.mu.Unlock()
	if full(g.open, l.Connections) {
		return nil, errFull
	}
	counted := ip.IsValid() && !exempt
	if counted {
		if no := g.refuse(addr, network, l); no != nil {
			return nil, no
		}
		g.count(addr, 1)
		g.count(network, 1)
	}
	g.open++
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.open--
		if counted {
			g.count(addr, -1)
			g.count(network, -1)
		}
	}, nil
}

// refuse says what is against an arrival.
func (g *Gate) refuse(addr, network netip.Prefix, l *Limits) *mail.Reply {
	switch {
	case full(g.at[addr], l.PerAddress):
		return errAddress
	case full(g.at[network], l.PerNetwork):
		return errNetwork
	case !g.arrivals.allow(addr, time.Now(), l.Rate):
		return errRate
	}
	return nil
}

func (g *Gate) count(p netip.Prefix, n int) {
	if g.at == nil {
		g.at = map[netip.Prefix]int{}
	}
	if g.at[p] += n; g.at[p] == 0 {
		delete(g.at, p)
	}
}

// Message counts a message of an address, and returns the reply that refuses
// it if there were too many.
func (g *Gate) Message(ip netip.Addr, exempt bool, l *Limits) *mail.Reply {
	if exempt || !ip.IsValid() {
		return nil
	}
	addr, _ := prefixes(ip)
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.messages.allow(addr, time.Now(), l.Messages) {
		return errMessage
	}
	return nil
}

// Crowded reports that nine tenths of the room are taken: time to be short
// with those who take long.
func (g *Gate) Crowded(l *Limits) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return l.Connections > 0 && g.open >= l.Connections-l.Connections/10
}

// Open returns how many clients are in.
func (g *Gate) Open() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open
}

func full(n, limit int) bool { return limit > 0 && n >= limit }

// prefixes are what an address is counted as, alone and with its neighbours.
func prefixes(ip netip.Addr) (addr, network netip.Prefix) {
	ip = ip.Unmap().WithZone("")
	own, near := 64, 48
	if ip.Is4() {
		own, near = 32, 24
	}
	addr, _ = ip.Prefix(own)
	network, _ = ip.Prefix(near)
	return addr, network
}

// A minute counts what has happened in the last one: what was counted in this
// minute, and so much of the one before as is not yet over.
type minute struct {
	began     time.Time
	now, last map[netip.Prefix]int
}

// allow counts one more of p if that stays within limit. What is refused is
// not counted: who sends too much gets through as much as is allowed.
func (m *minute) allow(p netip.Prefix, t time.Time, limit int) bool {
	if limit <= 0 {
		return true
	}
	switch age := t.Sub(m.began); {
	case age >= 2*time.Minute || age < 0 || m.began.IsZero():
		m.began, m.last, m.now = t, nil, map[netip.Prefix]int{}
	case age >= time.Minute:
		m.began, m.last, m.now = m.began.Add(time.Minute), m.now, map[netip.Prefix]int{}
	}
	n, known := m.now[p]
	if !known && len(m.now) >= maxCounted {
		return true
	}
	left := 1 - t.Sub(m.began).Minutes()
	if float64(n+1)+float64(m.last[p])*left > float64(limit) {
		return false
	}
	m.now[p] = n + 1
	return true
}
