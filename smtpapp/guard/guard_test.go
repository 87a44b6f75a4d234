package guard

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/pattern"
)

var asMox = Policy{
	Address: Budget{10, 50}, Subnet: Budget{30, 150}, Network: Budget{90, 450}, User: Budget{20, 200},
	Delay: time.Second, MaxDelay: 10 * time.Second, Ban: 5 * time.Minute, MaxBan: day,
}

// guess tries once with a wrong password and reports whether it was looked at.
func guess(t testing.TB, g *Guard, p *Policy, ip, user string) bool {
	t.Helper()
	a, _ := g.Begin(t.Context(), p, netip.MustParseAddr(ip), user)
	if a == nil {
		return false
	}
	a.End(Wrong, user)
	return true
}

func logIn(t testing.TB, g *Guard, p *Policy, ip, user string) bool {
	t.Helper()
	a, _ := g.Begin(t.Context(), p, netip.MustParseAddr(ip), user)
	if a != nil {
		a.End(Right, user)
	}
	return a != nil
}

func bubble(t *testing.T, f func(t *testing.T, g *Guard)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, New()) })
}

// most is the largest number of times that fall within a minute.
func most(times []time.Time) int {
	n := 0
	for i, j := 0, 0; j < len(times); j++ {
		for times[j].Sub(times[i]) >= time.Minute {
			i++
		}
		n = max(n, j-i+1)
	}
	return n
}

// TestGuessesFromOneAddress is promise P30: 10,000 guesses, one each 100 ms.
func TestGuessesFromOneAddress(t *testing.T) {
	for _, bans := range []bool{true, false} {
		bubble(t, func(t *testing.T, g *Guard) {
			p := asMox
			if !bans {
				p.Ban = 0
			}
			var looked []time.Time
			for i := range 10_000 {
				if guess(t, g, &p, "192.0.2.1", fmt.Sprint("user", i)) {
					looked = append(looked, time.Now())
				}
				time.Sleep(100 * time.Millisecond)
			}
			if n := most(looked); n > 10 || len(looked) > 50 || len(looked) < 10 {
				t.Errorf("bans %v: %d were looked at, %d within a minute", bans, len(looked), n)
			}
			if g.Banned(&p, netip.MustParseAddr("192.0.2.1")) != bans || g.Banned(&p, netip.MustParseAddr("192.0.2.2")) {
				t.Errorf("bans %v: bans %v", bans, g.Bans())
			}
			if !logIn(t, g, &p, "198.51.100.1", "alice") {
				t.Error("no login from elsewhere")
			}
		})
	}
}

// TestGuessesFromManyAddresses is P30's other half: 10,000 from 500 addresses of
// two networks at one user.
func TestGuessesFromManyAddresses(t *testing.T) {
	bubble(t, func(t *testing.T, g *Guard) {
		p := asMox
		p.User = Budget{}
		byAddress, byNetwork := map[string][]time.Time{}, map[int][]time.Time{}
		for i := range 10_000 {
			n := i % 500
			ip := fmt.Sprintf("10.%d.%d.%d", n%2, n/2/64, n/2%64)
			if guess(t, g, &p, ip, "alice") {
				byAddress[ip] = append(byAddress[ip], time.Now())
				byNetwork[n%2] = append(byNetwork[n%2], time.Now())
			}
			time.Sleep(10 * time.Millisecond)
		}
		for ip, looked := range byAddress {
			if n := most(looked); n > 10 {
				t.Errorf("%s: %d within a minute", ip, n)
			}
		}
		for net, looked := range byNetwork {
			if n := most(looked); n > 90 || n < 50 {
				t.Errorf("network %d: %d within a minute", net, n)
			}
			if !g.Banned(&p, netip.MustParseAddr(fmt.Sprintf("10.%d.1.200", net))) {
				t.Errorf("network %d is not banned: %v", net, g.Bans())
			}
		}
	})
}

// TestUserIsNotLockedOut: guesses from everywhere use a user's budget up, but not
// where he is at home.
func TestUserIsNotLockedOut(t *testing.T) {
	bubble(t, func(t *testing.T, g *Guard) {
		p := asMox
		logIn(t, g, &p, "198.51.100.7", "alice")
		looked := 0
		for i := range 1000 {
			if guess(t, g, &p, fmt.Sprintf("10.%d.0.1", i%250), "alice") {
				looked++
			}
		}
		if looked > 20 {
			t.Errorf("%d guesses were looked at", looked)
		}
		if logIn(t, g, &p, "203.0.113.1", "alice") {
			t.Error("a stranger may go on")
		}
		a, no := g.Begin(t.Context(), &p, netip.MustParseAddr("203.0.113.1"), "alice")
		if a != nil || no.Scope != User || no.User != "alice" || no.Banned || !no.Again {
			t.Errorf("%+v", no)
		}
		if !logIn(t, g, &p, "198.51.100.200", "alice") || !logIn(t, g, &p, "203.0.113.1", "bob") {
			t.Error("locked out")
		}
		// There he has a budget of his own, which bans nobody.
		n := 0
		for guess(t, g, &p, "198.51.100.7", "alice") {
			n++
		}
		if n != 20 || !logIn(t, g, &p, "198.51.100.7", "bob") || len(g.Bans()) != 0 {
			t.Errorf("%d guesses at home, bans %v", n, g.Bans())
		}
		time.Sleep(2 * time.Minute)
		if !logIn(t, g, &p, "198.51.100.7", "alice") {
			t.Error("locked out for more than a minute")
		}
		time.Sleep(knownFor)
		for i := range 1000 {
			guess(t, g, &p, fmt.Sprintf("10.%d.0.1", i%250), "alice")
		}
		if logIn(t, g, &p, "198.51.100.7", "alice") {
			t.Error("known for ever")
		}
	})
}

// TestKnownAmongGuessers: a ban of an address does not concern who is known there.
func TestKnownAmongGuessers(t *testing.T) {
	bubble(t, func(t *testing.T, g *Guard) {
		p := asMox
		home := netip.MustParseAddr("2001:db8::1")
		logIn(t, g, &p, home.String(), "alice")
		for guess(t, g, &p, "2001:db8::bad", "bob") {
			continue
		}
		if len(g.Bans()) != 1 || g.Banned(&p, home) || !logIn(t, g, &p, home.String(), "alice") {
			t.Error(g.Bans())
		}
		if a, no := g.Begin(t.Context(), &p, home, "bob"); a != nil || !no.Banned || no.Scope != Address {
			t.Errorf("%+v", no)
		}
		time.Sleep(knownFor)
		for guess(t, g, &p, "2001:db8::bad", "bob") {
			continue
		}
		if !g.Banned(&p, home) {
			t.Error("nobody is known there any more")
		}
	})
}

// TestExempt: users behind a webmail server have a budget each, the server none.
func TestExempt(t *testing.T) {
	bubble(t, func(t *testing.T, g *Guard) {
		p := asMox
		var err error
		if p.Exempt, err = pattern.ParseNetworks([]string{"10.0.0.0/8", "::1", "127.0.0.1"}); err != nil {
			t.Fatal(err)
		}
		for _, ip := range []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::ffff:127.0.0.1"), netip.MustParseAddr("::1"), {}} {
			n := 0
			for ; ; n++ {
				a, _ := g.Begin(t.Context(), &p, ip, fmt.Sprint("alice", ip))
				if a == nil {
					break
				}
				a.End(Wrong, "")
			}
			a, _ := g.Begin(t.Context(), &p, ip, "bob")
			b, _ := g.Begin(t.Context(), &p, ip, "")
			if n != 20 || a == nil || b == nil || g.Banned(&p, ip) {
				t.Errorf("%v: %d guesses; bob %v", ip, n, a)
				continue
			}
			a.End(Right, "bob")
			b.End(Wrong, "")
		}
	})
}

// TestDelay grows with what is used of a budget, not with who knocks.
func TestDelay(t *testing.T) {
	bubble(t, func(t *testing.T, g *Guard) {
		p := asMox
		var got []time.Duration
		for range 6 {
			a, _ := g.Begin(t.Context(), &p, netip.MustParseAddr("192.0.2.1"), "alice")
			d, _ := a.End(Wrong, "alice")
			got = append(got, d/time.Second)
		}
		if fmt.Sprint(got) != "[1ns 2ns 4ns 8ns 10ns 10ns]" {
			t.Error(got)
		}
		a, _ := g.Begin(t.Context(), &p, netip.MustParseAddr("198.51.100.1"), "alice") // a fresh address, the same user
		if d, _ := a.End(Wrong, "alice"); d < 8*time.Second/2 {
			t.Error(d)
		}
		a, _ = g.Begin(t.Context(), &p, netip.MustParseAddr("198.51.100.1"), "bob")
		if d, _ := a.End(Right, "bob"); d != 0 {
			t.Error(d)
		}
	})
}

// TestBansGrow, and are forgotten.
func TestBansGrow(t *testing.T) {
	bubble(t, func(t *testing.T, g *Guard) {
		p := asMox
		p.Address.Day = 0
		ip := netip.MustParseAddr("192.0.2.1")
		ban := func() time.Duration {
			for {
				a, no := g.Begin(t.Context(), &p, ip, "")
				if a == nil {
					t.Fatalf("%+v", no)
				}
				if _, bans := a.End(Wrong, ""); len(bans) > 0 {
					if bans[0].Network.String() != "192.0.2.1/32" || bans[0].Scope != "address" || g.Bans()[0] != bans[0] {
						t.Error(bans)
					}
					return bans[0].Until.Sub(bans[0].Since)
				}
			}
		}
		for i, want := range []int{5, 10, 20, 40, 80, 160, 320, 640, 1280, 1440, 1440} {
			if i == 3 {
				time.Sleep(12 * time.Hour)
			}
			got := ban()
			if got != time.Duration(want)*time.Minute {
				t.Errorf("ban %d: %v", i+1, got)
			}
			time.Sleep(got - time.Second)
			if !g.Banned(&p, ip) {
				t.Error("over before its time")
			}
			if time.Sleep(2 * time.Second); g.Banned(&p, ip) || len(g.Bans()) != 0 {
				t.Error("not over")
			}
			time.Sleep(time.Minute)
		}
		time.Sleep(remembered)
		if got := ban(); got != 5*time.Minute {
			t.Error("remembered:", got)
		}
	})
}

// TestDayBudget: who waits between guesses gets as many as a day has.
func TestDayBudget(t *testing.T) {
	bubble(t, func(t *testing.T, g *Guard) {
		p := asMox
		n := 0
		for range 24 * 60 {
			if guess(t, g, &p, "192.0.2.1", "") {
				n++
			}
			time.Sleep(time.Minute)
		}
		if n != 50 {
			t.Errorf("%d in a day", n)
		}
	})
}

// TestManyAtOnce: attempts under way count as if they failed, so that nobody
// gets more answers by asking all at once; who only waits gets his turn.
func TestManyAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, g *Guard) {
		p := asMox
		ip := netip.MustParseAddr("192.0.2.1")
		var looked, right atomic.Int32
		var wg sync.WaitGroup
		for i := range 200 {
			wg.Go(func() {
				a, _ := g.Begin(t.Context(), &p, ip, fmt.Sprint(i))
				if a == nil {
					return
				}
				time.Sleep(100 * time.Millisecond) // a hash
				looked.Add(1)
				a.End(Wrong, "")
			})
		}
		wg.Wait()
		if looked.Load() != 10 {
			t.Errorf("%d were looked at", looked.Load())
		}
		ip = netip.MustParseAddr("198.51.100.1") // an office in the morning
		for i := range 100 {
			wg.Go(func() {
				if a, _ := g.Begin(t.Context(), &p, ip, fmt.Sprint(i)); a != nil {
					time.Sleep(100 * time.Millisecond)
					a.End(Right, fmt.Sprint(i))
					right.Add(1)
				}
			})
		}
		wg.Wait()
		if right.Load() != 100 {
			t.Errorf("%d of 100 could log in", right.Load())
		}
		// Attempts that do not end keep nobody for ever, nor one that goes away.
		for range 10 {
			g.Begin(t.Context(), &p, netip.MustParseAddr("203.0.113.1"), "")
		}
		began := time.Now()
		if a, no := g.Begin(t.Context(), &p, netip.MustParseAddr("203.0.113.1"), ""); a != nil || no.Banned || time.Since(began) != patience {
			t.Error(a, no, time.Since(began))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if a, _ := g.Begin(ctx, &p, netip.MustParseAddr("203.0.113.1"), ""); a != nil || time.Since(began) != patience+time.Second {
			t.Error(a, time.Since(began))
		}
	})
}

// TestVoid attempts use nothing up.
func TestVoid(t *testing.T) {
	g, p := New(), asMox
	for range 100 {
		a, no := g.Begin(t.Context(), &p, netip.MustParseAddr("192.0.2.1"), "alice")
		if a == nil {
			t.Fatalf("%+v", no)
		}
		a.End(Void, "")
	}
}

// TestBounded: no number of clients makes the guard grow.
func TestBounded(t *testing.T) {
	g, p := New(), asMox
	p.Address.Minute, p.Subnet, p.Network = 1, Budget{}, Budget{}
	for i := range maxPlace + maxPlace/4 {
		a := netip.AddrFrom16([16]byte{0x20, 1, byte(i >> 16), byte(i >> 8), byte(i)})
		if at, _ := g.Begin(t.Context(), &p, a, fmt.Sprint(i)); at != nil {
			if i%3 == 0 {
				at.End(Right, fmt.Sprint(i))
			} else {
				at.End(Wrong, "")
			}
		}
	}
	for i, n := range []int{len(g.places[0].items), len(g.places[2].items), len(g.users.items), len(g.homes.items), len(g.bans.items)} {
		if n > maxPlace || i == 4 && n > maxBans {
			t.Errorf("%d: %d things", i, n)
		}
	}
	if g.places[0].order.Len() != len(g.places[0].items) {
		t.Error("list and map differ")
	}
}

// TestRefusedPushNobodyOut: tables have room for so many, and what is refused in
// any case takes none of it, whether there are bans or not.
func TestRefusedPushNobodyOut(t *testing.T) {
	for _, bans := range []bool{true, false} {
		bubble(t, func(t *testing.T, g *Guard) {
			p := asMox
			if !bans {
				p.Ban = 0
			}
			for i := range 5 {
				guess(t, g, &p, fmt.Sprintf("198.51.%d.1", i), "victim")
			}
			for g.places[Address].peek(prefixes(netip.MustParseAddr("192.0.2.1"))[0]).sumOfDay(g.now()) < p.Address.Day {
				guess(t, g, &p, "192.0.2.1", "somebody")
				time.Sleep(time.Minute)
			}
			for i := range maxPlace + 1 {
				if guess(t, g, &p, "192.0.2.1", fmt.Sprint("nobody", i)) {
					t.Fatal("looked at")
				}
			}
			if g.Banned(&p, netip.MustParseAddr("192.0.2.1")) != bans {
				t.Error("bans", bans)
			}
			if n := g.users.peek(g.home(netip.Addr{}, "victim").user).sumOfDay(g.now()); n != 5 {
				t.Error("who is refused has made the guard forget what it knew of a user")
			}
		})
	}
}

func (c *count) sumOfDay(now time.Duration) int {
	if c == nil {
		return 0
	}
	return c.day.sum(now, day)
}

// TestLift ends bans and what led to them.
func TestLift(t *testing.T) {
	bubble(t, func(t *testing.T, g *Guard) {
		p := asMox
		for _, ip := range []string{"192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4", "203.0.113.9"} {
			for guess(t, g, &p, ip, "") {
				continue
			}
		}
		if n := len(g.Bans()); n != 5 { // 192.0.2.1, .2, .3, their /26, and the other
			t.Fatal(g.Bans())
		}
		if got := g.Lift(netip.MustParsePrefix("198.51.100.1/32")); len(got) != 0 {
			t.Error(got)
		}
		if got := g.Lift(netip.MustParsePrefix("192.0.2.4/32")); len(got) != 1 || got[0].Scope != "subnet" {
			t.Error(got)
		}
		if !guess(t, g, &p, "192.0.2.4", "") {
			t.Error("not lifted")
		}
		if got := g.Lift(netip.MustParsePrefix("192.0.2.0/24")); len(got) != 3 || len(g.Bans()) != 1 {
			t.Error(got, g.Bans())
		}
		if !guess(t, g, &p, "192.0.2.1", "") {
			t.Error("not lifted")
		}
	})
}

// TestUnlimited: what is not limited is not refused.
func TestUnlimited(t *testing.T) {
	g := New()
	p := &Policy{Ban: time.Hour}
	for range 1000 {
		if !guess(t, g, p, "192.0.2.1", "alice") {
			t.Fatal("refused")
		}
	}
	if len(g.Bans()) != 0 {
		t.Error(g.Bans())
	}
}

func BenchmarkAttempt(b *testing.B) {
	g, p := New(), asMox
	p.Ban = 0
	i := 0
	for b.Loop() {
		i++
		a, _ := g.Begin(b.Context(), &p, netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), "alice")
		if a != nil {
			a.End(Wrong, "")
		}
	}
}
