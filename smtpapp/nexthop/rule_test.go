package nexthop

import (
	"regexp"
	"sync"
	"testing"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/client/clienttest"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

// TestPerConnection: as many messages on one connection as the rule allows.
func TestPerConnection(t *testing.T) {
	srv := clienttest.Start(t, clienttest.Options{})
	s := sender(t, &world{at: map[string]*clienttest.Server{"192.0.2.1:25": srv}}, keeping(PoolOptions{Idle: time.Minute, Max: 9, Uses: 100}))
	for range 6 {
		d := delivery(t, "x@o.test")
		d.Rule = &queue.Rule{PerConnection: 2}
		if st := s.Send(t.Context(), d, d.Envelope.Recipients, hosts("a.mx.test")); st[0].Action != queue.Relayed {
			t.Fatalf("got %v", words(st))
		}
	}
	if n := srv.Connections(); n != 3 {
		t.Errorf("%d connections", n)
	}
}

// TestPerAddress: no more connections than the rule allows, from each source, and
// the next address instead; who gets none has made no attempt.
func TestPerAddress(t *testing.T) {
	a := clienttest.Start(t, clienttest.Options{}, clienttest.Rule{At: ".", Delay: 300 * time.Millisecond})
	b := clienttest.Start(t, clienttest.Options{}, clienttest.Rule{At: ".", Delay: 300 * time.Millisecond})
	w := &world{at: map[string]*clienttest.Server{"192.0.2.1:25": a, "192.0.2.3:25": b}}
	s := sender(t, w, keeping(PoolOptions{Idle: 30 * time.Millisecond, Max: 9}))
	busy, taken := 0, 0
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			d := delivery(t, "x@o.test")
			d.Rule = &queue.Rule{PerAddress: 2}
			st := s.Send(t.Context(), d, d.Envelope.Recipients, hosts("a.mx.test", "c.mx.test"))[0]
			mu.Lock()
			defer mu.Unlock()
			switch {
			case st.Action == queue.Relayed:
				taken++
			case st.Busy && st.Reply.Enh == "4.4.5" && st.RemoteMTA == "":
				busy++
			default:
				t.Errorf("got %+v", st)
			}
		})
	}
	wg.Wait()
	if a.Most() != 2 || b.Most() != 2 || taken != 4 || busy != 6 {
		t.Errorf("%d and %d at once, %d taken, %d busy", a.Most(), b.Most(), taken, busy)
	}
	wait(t, "the end of idle connections", func() bool {
		s.Pool.open.mu.Lock()
		defer s.Pool.open.mu.Unlock()
		return len(s.Pool.open.n) == 0
	})
}

// TestBusyOrSilent: a host that is down is no reason not to wait for one that is
// busy; words of a host are.
func TestBusyOrSilent(t *testing.T) {
	a := clienttest.Start(t, clienttest.Options{})
	b := clienttest.Start(t, clienttest.Options{}, rule("MAIL", "451 4.7.1 later"))
	s := sender(t, &world{at: map[string]*clienttest.Server{"192.0.2.1:25": a, "192.0.2.3:25": b}}, keeping(PoolOptions{Idle: time.Minute, Max: 9}))
	if !s.Pool.open.more("{[] }192.0.2.1:25", 1) { // somebody has it
		t.Fatal("the only one is too many")
	}
	for want, names := range map[string][]string{
		"delayed 451 4.4.5 ":          {"gone.mx.test", "plain.test", "a.mx.test"},
		"delayed 451 4.7.1 c.mx.test": {"a.mx.test", "c.mx.test"},
	} {
		d := delivery(t, "x@o.test")
		d.Rule = &queue.Rule{PerAddress: 1}
		st := s.Send(t.Context(), d, d.Envelope.Recipients, hosts(names...))
		if words(st) != want || st[0].Busy != (want == "delayed 451 4.4.5 ") {
			t.Errorf("got %s, busy %v, want %s", words(st), st[0].Busy, want)
		}
	}
}

// TestElsewhere: what a rule says that another host may see in another way.
func TestElsewhere(t *testing.T) {
	r := &queue.Rule{Readings: []queue.Reading{
		{Pattern: regexp.MustCompile("listed"), Elsewhere: true}, {Pattern: regexp.MustCompile("^550"), Later: true},
	}}
	for name, tc := range map[string]struct {
		first, second []clienttest.Rule
		want          string
	}{
		"the other takes it":   {[]clienttest.Rule{rule("RCPT", "550 5.7.1 you are listed")}, nil, "relayed 250 2.0.0 c.mx.test\nrelayed 250 2.0.0 c.mx.test"},
		"after content":        {[]clienttest.Rule{rule(".", "554 5.7.1 you are listed")}, nil, "relayed 250 2.0.0 c.mx.test\nrelayed 250 2.0.0 c.mx.test"},
		"another reply":        {[]clienttest.Rule{rule("RCPT", "550 5.1.1 nobody")}, nil, "failed 550 5.1.1 a.mx.test\nfailed 550 5.1.1 a.mx.test"},
		"all say so":           {[]clienttest.Rule{rule("RCPT", "550 5.7.1 you are listed")}, []clienttest.Rule{rule("RCPT", "550 5.7.2 you are listed")}, "failed 550 5.7.2 c.mx.test\nfailed 550 5.7.2 c.mx.test"},
		"one of them":          {[]clienttest.Rule{{At: "RCPT TO:<y", Reply: "550 5.7.1 you are listed"}}, nil, "relayed 250 2.0.0 a.mx.test\nrelayed 250 2.0.0 c.mx.test"},
		"of a host that fails": {[]clienttest.Rule{rule("RCPT", "550 5.7.1 you are listed")}, []clienttest.Rule{rule("EHLO", "421 4.3.2 busy")}, "delayed 421 4.3.2 c.mx.test\ndelayed 421 4.3.2 c.mx.test"},
	} {
		a := clienttest.Start(t, clienttest.Options{}, tc.first...)
		b := clienttest.Start(t, clienttest.Options{}, tc.second...)
		s := sender(t, &world{at: map[string]*clienttest.Server{"192.0.2.1:25": a, "192.0.2.3:25": b}})
		d := delivery(t, "x@o.test", "y@o.test")
		d.Rule = r
		if got := words(s.Send(t.Context(), d, d.Envelope.Recipients, hosts("a.mx.test", "c.mx.test"))); got != tc.want {
			t.Errorf("%s: got\n%s", name, got)
		}
	}
}

// TestBoundsOfAttempt: how many addresses are dialled and sessions had.
func TestBoundsOfAttempt(t *testing.T) {
	for _, tc := range []struct{ addresses, sessions, connections, dialed int }{{0, 0, 2, 2}, {0, 3, 3, 3}, {1, 0, 1, 1}} {
		srv := clienttest.Start(t, clienttest.Options{}, rule("MAIL", "451 4.7.1 later"))
		w := &world{at: map[string]*clienttest.Server{"192.0.2.1:25": srv, "192.0.2.3:25": srv, "192.0.2.9:25": srv}}
		s := sender(t, w, func(s *Sender) { s.Addresses, s.Sessions = tc.addresses, tc.sessions })
		d := delivery(t, "x@o.test")
		s.Send(t.Context(), d, d.Envelope.Recipients, hosts("a.mx.test", "c.mx.test", "plain.test"))
		if srv.Connections() != tc.connections || len(w.dialed) != tc.dialed {
			t.Errorf("%+v: %d connections, dialled %v", tc, srv.Connections(), w.dialed)
		}
	}
}
