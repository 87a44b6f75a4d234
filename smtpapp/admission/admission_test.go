package admission

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

func ip(format string, args ...any) netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf(format, args...))
}

// enter has n clients come in, and returns how many were let and what the last
// one heard.
func enter(g *Gate, l *Limits, n int, addr func(i int) netip.Addr) (in int, leave []func(), last *mail.Reply) {
	for i := range n {
		out, no := g.Enter(addr(i), false, l)
		if no != nil {
			last = no
			continue
		}
		in++
		leave = append(leave, out)
	}
	return in, leave, last
}

// TestAtATime: 60 connections from one address, 200 from a /24, 500 from a /64
// and from a /48.
func TestAtATime(t *testing.T) {
	l := &Limits{Connections: 1000, PerAddress: 30, PerNetwork: 90}
	for name, c := range map[string]struct {
		n    int
		addr func(i int) netip.Addr
		in   int
		no   *mail.Reply
	}{
		"an address":        {60, func(int) netip.Addr { return ip("192.0.2.1") }, 30, errAddress},
		"a mapped address":  {60, func(int) netip.Addr { return ip("::ffff:192.0.2.1") }, 30, errAddress},
		"a /24":             {200, func(i int) netip.Addr { return ip("192.0.2.%d", i) }, 90, errNetwork},
		"a /64":             {500, func(i int) netip.Addr { return ip("2001:db8::%x", i) }, 30, errAddress},
		"a /48":             {500, func(i int) netip.Addr { return ip("2001:db8:0:%x::1", i) }, 90, errNetwork},
		"many of anywhere":  {1500, func(i int) netip.Addr { return ip("10.%d.%d.1", i/256, i%256) }, 1000, errFull},
		"many on a socket":  {1500, func(int) netip.Addr { return netip.Addr{} }, 1000, errFull},
		"few of many zones": {60, func(i int) netip.Addr { return ip("fe80::1%%eth%d", i) }, 30, errAddress},
	} {
		g := new(Gate)
		in, leave, no := enter(g, l, c.n, c.addr)
		if in != c.in || no != c.no || g.Open() != in {
			t.Errorf("%s: %d came in, want %d; the last heard %v", name, in, c.in, no)
		}
		for _, out := range leave {
			out()
		}
		if g.Open() != 0 || len(g.at) != 0 {
			t.Errorf("%s: all have left, but %d are in, %d counted", name, g.Open(), len(g.at))
		}
		if _, no := g.Enter(c.addr(0), false, l); no != nil {
			t.Errorf("%s: there is room, but %v", name, no)
		}
	}
}

func TestExempt(t *testing.T) {
	l, g := &Limits{PerAddress: 1, Rate: 1, Messages: 1}, new(Gate)
	for range 10 {
		if _, no := g.Enter(ip("127.0.0.1"), true, l); no != nil {
			t.Fatal(no)
		}
		if no := g.Message(ip("127.0.0.1"), true, l); no != nil {
			t.Fatal(no)
		}
	}
	if g.Open() != 10 {
		t.Errorf("%d are in", g.Open())
	}
}

func TestNoLimits(t *testing.T) {
	l, g := new(Limits), new(Gate)
	if in, _, no := enter(g, l, 5000, func(int) netip.Addr { return ip("192.0.2.1") }); in != 5000 {
		t.Errorf("%d came in: %v", in, no)
	}
	if g.Crowded(l) {
		t.Error("crowded")
	}
}

func TestCrowded(t *testing.T) {
	l, g := &Limits{Connections: 100}, new(Gate)
	_, leave, _ := enter(g, l, 89, func(int) netip.Addr { return netip.Addr{} })
	if g.Crowded(l) {
		t.Error("crowded with 89 of 100")
	}
	enter(g, l, 1, func(int) netip.Addr { return netip.Addr{} })
	if !g.Crowded(l) {
		t.Error("not crowded with 90 of 100")
	}
	leave[0]()
	if g.Crowded(l) {
		t.Error("still crowded")
	}
}

// TestByTheMinute: so many in a minute and not more, wherever the minute begins.
func TestByTheMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, g := &Limits{Rate: 300, Messages: 500}, new(Gate)
		in := 0
		for range 6 * 600 { // ten a second for six minutes
			if leave, no := g.Enter(ip("192.0.2.1"), false, l); no == nil {
				in++
				leave()
			} else if no != errRate {
				t.Fatal(no)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if in < 5*300 || in > 6*300+20 {
			t.Errorf("%d came in within six minutes", in)
		}
		if leave, no := g.Enter(ip("192.0.2.2"), false, l); no != nil {
			t.Error("another address is refused:", no)
		} else {
			leave()
		}
		time.Sleep(2 * time.Minute)
		sent := 0
		for range 1000 {
			if g.Message(ip("192.0.2.1"), false, l) == nil {
				sent++
			}
		}
		if sent != 500 {
			t.Errorf("%d messages were let through", sent)
		}
	})
}

// TestBounded: somebody with a network of his own cannot make us count forever.
func TestBounded(t *testing.T) {
	l, g := &Limits{Rate: 1}, new(Gate)
	for i := range maxCounted + 1000 {
		leave, no := g.Enter(ip("2001:db8:%x:%x::1", i>>16, i&0xffff), false, l)
		if no != nil {
			t.Fatal(no)
		}
		leave()
	}
	if n := len(g.arrivals.now); n != maxCounted {
		t.Errorf("%d addresses are counted", n)
	}
	if _, no := g.Enter(ip("2001:db8::1"), false, l); no != errRate {
		t.Errorf("one that is counted hears %v", no)
	}
}

// TestClockStepsBack starts the count anew.
func TestClockStepsBack(t *testing.T) {
	var m minute
	now := time.Now()
	p, _ := prefixes(ip("192.0.2.1"))
	for range 5 {
		m.allow(p, now, 5)
	}
	if m.allow(p, now, 5) || !m.allow(p, now.Add(-time.Hour), 5) {
		t.Error("the count goes on")
	}
}
