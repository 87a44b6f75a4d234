package nexthop

import (
	"slices"
	"testing"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/client/clienttest"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

func keeping(opts PoolOptions) func(*Sender) {
	return func(s *Sender) { s.Pool = NewPool(opts) }
}

// send sends n messages one after another and wants all of them relayed.
func send(t testing.TB, s *Sender, n int) {
	t.Helper()
	for range n {
		d := delivery(t, "x@o.test")
		if st := s.Send(t.Context(), d, d.Envelope.Recipients, hosts("a.mx.test")); st[0].Action != queue.Relayed {
			t.Fatalf("got %v", words(st))
		}
	}
}

func wait(t testing.TB, what string, done func() bool) {
	t.Helper()
	for range 500 {
		if done() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%s: never", what)
}

func TestConnectionsAreUsedAgain(t *testing.T) {
	for _, tc := range []struct {
		opts  PoolOptions
		conns int
	}{{PoolOptions{Idle: time.Minute, Max: 1}, 1}, {PoolOptions{}, 6}, {PoolOptions{Idle: time.Minute}, 6}, {PoolOptions{Idle: time.Minute, Max: 1, Uses: 2}, 3}} {
		srv := clienttest.Start(t, clienttest.Options{})
		s := sender(t, &world{at: map[string]*clienttest.Server{"192.0.2.1:25": srv}}, keeping(tc.opts))
		send(t, s, 6)
		if srv.Connections() != tc.conns || len(srv.Messages()) != 6 {
			t.Errorf("%+v: %d connections, %d messages", tc.opts, srv.Connections(), len(srv.Messages()))
		}
	}
}

// TestGoodbye is said when a connection was idle for long enough.
func TestGoodbye(t *testing.T) {
	srv := clienttest.Start(t, clienttest.Options{})
	s := sender(t, &world{at: map[string]*clienttest.Server{"192.0.2.1:25": srv}}, keeping(PoolOptions{Idle: 20 * time.Millisecond, Max: 1}))
	send(t, s, 1)
	wait(t, "QUIT", func() bool { return slices.Contains(srv.Commands(), "QUIT") })
	send(t, s, 1)
	if srv.Connections() != 2 {
		t.Errorf("%d connections", srv.Connections())
	}
}

// TestDeadConnection: one that the peer has closed meanwhile costs nothing.
func TestDeadConnection(t *testing.T) {
	for name, rules := range map[string][]clienttest.Rule{
		"closed after a reply": {{At: ".", Reply: "250 2.0.0 and bye", Close: true}},
		"closed at MAIL":       {{At: "MAIL", Times: 1}, {At: "MAIL", Close: true, Times: 1}},
		"421 between":          {{At: ".", Reply: "250 2.0.0 ok\n421 4.4.2 too slow", Times: 1}},
	} {
		srv := clienttest.Start(t, clienttest.Options{Extensions: []string{"8BITMIME"}}, rules...)
		s := sender(t, &world{at: map[string]*clienttest.Server{"192.0.2.1:25": srv}}, keeping(PoolOptions{Idle: time.Minute, Max: 1}))
		send(t, s, 1)
		time.Sleep(20 * time.Millisecond)
		send(t, s, 1)
		if srv.Connections() != 2 || len(srv.Messages()) < 1 {
			t.Errorf("%s: %d connections, %d messages", name, srv.Connections(), len(srv.Messages()))
		}
	}
}

// TestPolicyParts: a connection in clear text is no substitute for one with TLS.
func TestPolicyParts(t *testing.T) {
	cert, trust := clienttest.Certificate(t, "a.mx.test")
	srv := clienttest.Start(t, clienttest.Options{TLS: cert, Extensions: []string{"REQUIRETLS"}})
	s := sender(t, &world{at: map[string]*clienttest.Server{"192.0.2.1:25": srv}}, keeping(PoolOptions{Idle: time.Minute, Max: 9}),
		func(s *Sender) { s.TLS = TLS{Mode: TLSOff, Roots: trust.RootCAs} })
	send(t, s, 1)
	d := delivery(t, "x@o.test")
	d.Envelope.RequireTLS = true
	if st := s.Send(t.Context(), d, d.Envelope.Recipients, chosen("a.mx.test")); st[0].Action != queue.Relayed {
		t.Fatal(words(st))
	}
	if m := srv.Messages(); srv.Connections() != 2 || m[0].TLS || !m[1].TLS {
		t.Errorf("%d connections, %v", srv.Connections(), m)
	}
}

// TestClosedPool keeps nothing, and leaves no goroutine.
func TestClosedPool(t *testing.T) {
	srv := clienttest.Start(t, clienttest.Options{}, clienttest.Rule{At: "QUIT", Delay: time.Minute})
	s := sender(t, &world{at: map[string]*clienttest.Server{"192.0.2.1:25": srv}}, keeping(PoolOptions{Idle: time.Minute, Max: 1, Uses: 1}))
	send(t, s, 1) // says goodbye to one who doesn't answer
	began := time.Now()
	s.Pool.Close()
	s.Pool.Close()
	if time.Since(began) > time.Second {
		t.Error("Close waits for the peer")
	}
	send(t, s, 1)
	if len(s.Pool.idle) > 0 {
		t.Error("kept after Close")
	}
}
