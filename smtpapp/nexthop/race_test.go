package nexthop

import (
	"context"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/client"
	"github.com/caddymail/caddy-smtp/smtpapp/client/clienttest"
	"github.com/caddymail/caddy-smtp/smtpapp/dns/dnstest"
)

func TestInterleave(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "192.0.2.1:25": "192.0.2.1:25", "/run/socket": "/run/socket",
		"[2001:db8::1]:25 [2001:db8::2]:25 192.0.2.1:25":  "[2001:db8::1]:25 192.0.2.1:25 [2001:db8::2]:25",
		"192.0.2.1:25 192.0.2.2:25 192.0.2.3:25 [::1]:25": "192.0.2.1:25 [::1]:25 192.0.2.2:25 192.0.2.3:25",
	} {
		if got := strings.Join(interleave(strings.Fields(in)), " "); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

// A track is what becomes of dials, by address: after how long, and whether one
// answers. What is not there never does.
type track map[string]struct {
	after  time.Duration
	answer bool
}

// TestRace: who is tried when, who wins, and that nothing is left of the others.
func TestRace(t *testing.T) {
	const ms = time.Millisecond
	for _, tc := range []struct {
		name   string
		track  track
		addrs  string
		won    string
		n      int
		failed int
		took   time.Duration
	}{
		{"the first", track{"a": {10 * ms, true}}, "a b", "a", 1, 0, 10 * ms},
		{"the first, although slower", track{"a": {240 * ms, true}, "b": {0, true}}, "a b", "a", 1, 0, 240 * ms},
		{"the second beside the first", track{"b": {10 * ms, true}}, "a b c", "b", 2, 0, 260 * ms},
		{"the first, overtaken by nobody", track{"a": {300 * ms, true}, "b": {100 * ms, true}}, "a b", "a", 2, 0, 300 * ms},
		{"at once, where one refuses", track{"a": {10 * ms, false}, "b": {10 * ms, true}}, "a b", "b", 2, 1, 20 * ms},
		{"the third", track{"c": {10 * ms, true}}, "a b c", "c", 3, 0, 510 * ms},
		{"nobody", track{"a": {10 * ms, false}, "b": {10 * ms, false}}, "a b", "", 2, 2, 20 * ms},
		{"nobody in time", track{}, "a b", "", 2, 2, 30*time.Second + 250*ms},
	} {
		synctest.Test(t, func(t *testing.T) {
			var open atomic.Int32
			s := &Sender{Client: client.Options{Dial: func(ctx context.Context, _, addr string) (net.Conn, error) {
				lane, ok := tc.track[addr]
				if !ok {
					lane.after = time.Hour
				}
				select {
				case <-time.After(lane.after):
				case <-ctx.Done():
					return nil, ctx.Err()
				}
				if !lane.answer {
					return nil, net.ErrClosed
				}
				open.Add(1)
				return &counted{open: &open}, nil
			}}}
			addrs, began := strings.Fields(tc.addrs), time.Now()
			won, conn, n, failed := s.race(t.Context(), "tcp", addrs)
			got := ""
			if won >= 0 {
				got = addrs[won]
				if open.Load() != 1 {
					t.Errorf("%s: %d connections are open", tc.name, open.Load())
				}
				_ = conn.Close()
			}
			if got != tc.won || n != tc.n || len(failed) != tc.failed || time.Since(began) != tc.took || open.Load() != 0 {
				t.Errorf("%s: won %q, dialled %d, failed %v, after %v", tc.name, got, n, failed, time.Since(began))
			}
		})
	}
}

// counted is a connection that nobody talks on.
type counted struct {
	net.Conn
	open *atomic.Int32
}

func (c *counted) Close() error {
	c.open.Add(-1)
	return nil
}

// TestBlackHole: a family that swallows everything costs a moment, not a timeout,
// and a winner that takes no mail is not the last word.
func TestBlackHole(t *testing.T) {
	fine := clienttest.Start(t, clienttest.Options{})
	busy := clienttest.Start(t, clienttest.Options{}, rule("MAIL", "451 4.3.2 busy"))
	z := &dnstest.Zone{Host: map[string][]string{"mx.test": {"2001:db8::1", "2001:db8::2", "192.0.2.1", "192.0.2.2"}}}
	w := &world{at: map[string]*clienttest.Server{"192.0.2.1:25": busy, "192.0.2.2:25": fine}}
	s := sender(t, w, func(s *Sender) {
		s.Resolver = z
		s.Client.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if strings.HasPrefix(addr, "[2001:") {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return w.dial(ctx, network, addr)
		}
	})
	d := delivery(t, "a@o.test")
	began := time.Now()
	if got := words(s.Send(t.Context(), d, d.Envelope.Recipients, hosts("mx.test"))); got != "relayed 250 2.0.0 mx.test" {
		t.Error(got)
	}
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("it took %v", took)
	}
	if !slices.Equal(w.dialed, []string{"192.0.2.1:25", "192.0.2.2:25"}) {
		t.Errorf("dialled %v", w.dialed)
	}
}
