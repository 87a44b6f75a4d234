package queue_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

// prioritized is a message of a priority to one recipient.
func prioritized(t *testing.T, priority int, to string) *message.Object {
	t.Helper()
	o := object(t, content, to+" a")
	o.Envelope.Priority = priority
	return o
}

// TestPriority: what is more urgent goes first, and within a priority what came
// first (RFC 6710); other destinations wait for none of it, and a restart
// changes nothing.
func TestPriority(t *testing.T) {
	sc := queue.Schedule{PerDestination: 1}
	play(t, sc, func(t *testing.T, s *scene) {
		var order []string
		s.does(func(_ *queue.Delivery, r *mail.Recipient) queue.Status {
			time.Sleep(time.Minute)
			s.mu.Lock()
			defer s.mu.Unlock()
			order = append(order, r.Address.Local)
			return queue.Status{Action: queue.Delivered}
		})
		s.accept(prioritized(t, 0, "first@a.test")) // is being tried before the others come
		pass(time.Second)
		for _, m := range []struct {
			priority int
			to       string
		}{{0, "c@a.test"}, {-9, "e@a.test"}, {9, "a@a.test"}, {0, "d@a.test"}, {3, "b@a.test"}} {
			s.accept(prioritized(t, m.priority, m.to))
			pass(time.Second)
		}
		s.accept(prioritized(t, -9, "other@b.test"))
		s.restart(sc)
		pass(time.Hour)
		at := slices.Index(order, "other")
		if at < 0 || at > 2 {
			t.Errorf("another destination's waited: %q", order)
		}
		if got := strings.Join(slices.Delete(order, at, at+1), " "); got != "first a b c d e" {
			t.Errorf("got %s", got)
		}
	})
}

// TestNothingStarves: what is least urgent has its turn, however much comes that
// is more so.
func TestNothingStarves(t *testing.T) {
	play(t, queue.Schedule{PerDestination: 1}, func(t *testing.T, s *scene) {
		s.does(func(*queue.Delivery, *mail.Recipient) queue.Status {
			time.Sleep(5 * time.Minute)
			return queue.Status{Action: queue.Delivered}
		})
		s.accept(prioritized(t, 9, "urgent@a.test"))
		pass(time.Second)
		s.accept(prioritized(t, 0, "patient@a.test"))
		began := time.Now()
		for range 300 { // a day; as many come as can be sent
			s.accept(prioritized(t, 9, "urgent@a.test"))
			pass(5 * time.Minute)
		}
		tries := s.triesOf("patient@a.test")
		if len(tries) != 1 {
			t.Fatalf("%d attempts in %v", len(tries), time.Since(began))
		}
		if d := tries[0].Sub(began); d < 8*time.Hour || d > 10*time.Hour {
			t.Errorf("it waited for %v, want 9 hours", d)
		}
	})
}

// TestPriorityOverBacklog: what is urgent does not wait until a backlog that is
// in the store has been read, and what is bulk does not stand in anyone's way.
func TestPriorityOverBacklog(t *testing.T) {
	sc := queue.Schedule{PerDestination: 1, Active: 40}
	play(t, sc, func(t *testing.T, s *scene) {
		s.does(func(*queue.Delivery, *mail.Recipient) queue.Status {
			time.Sleep(time.Second)
			return queue.Status{Action: queue.Delivered}
		})
		for _, m := range []struct {
			priority, n int
			to          string
		}{{-3, 300, "bulk"}, {0, 300, "plain"}, {4, 100, "urgent"}} {
			for i := range m.n {
				s.accept(prioritized(t, m.priority, fmt.Sprintf("%s%d@a.test", m.to, i)))
			}
		}
		pass(150 * time.Second)
		if n := s.count("urgent"); n < 90 {
			t.Errorf("%d of 100 urgent ones were tried, before %d others", n, s.count("plain")+s.count("bulk"))
		}
		pass(250 * time.Second)
		if n := s.count("plain"); n < 240 {
			t.Errorf("%d of 300 plain ones were tried, before %d bulk ones", n, s.count("bulk"))
		}
		pass(10 * time.Minute)
		if s.size() != 0 {
			t.Errorf("%d are left", s.size())
		}
	})
}
