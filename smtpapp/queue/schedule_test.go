package queue_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
	"github.com/caddymail/caddy-smtp/smtpapp/queue/storetest"
)

// A scene is a queue over a store in memory, in a bubble of its own time.
type scene struct {
	*queue.Queue
	t     *testing.T
	store *storetest.Memory

	mu    sync.Mutex
	tries map[string][]time.Time // by recipient
	dsns  []string               // the reports
	calls int

	// answer is what an attempt comes to; nil for a dead site.
	answer func(d *queue.Delivery, r *mail.Recipient) queue.Status
}

// play runs f in a bubble, with a queue that the scene is the only agent of.
func play(t *testing.T, sc queue.Schedule, f func(t *testing.T, s *scene)) {
	synctest.Test(t, func(t *testing.T) {
		s := &scene{t: t, store: new(storetest.Memory), tries: map[string][]time.Time{}}
		s.open()
		s.Attach(s.policy(sc))
		defer func() {
			if err := s.Close(context.Background()); err != nil {
				t.Error(err)
			}
		}()
		f(t, s)
	})
}

func (s *scene) open() {
	q, err := queue.Open(s.store.Open(), slog.New(slog.DiscardHandler))
	if err != nil {
		s.t.Fatal(err)
	}
	s.Queue = q
	synctest.Wait()
}

func (s *scene) policy(sc queue.Schedule) *queue.Policy {
	p := policy(map[string]queue.Agent{"a": s})
	p.Schedule = sc
	p.Route = func(_ context.Context, _ *mail.Envelope, to mail.Address) []*mail.Recipient {
		r := mail.NewRecipient(to)
		r.Claim("a")
		return []*mail.Recipient{r}
	}
	return p
}

// Deliver takes DSNs, and does with the rest what answer says.
func (s *scene) Deliver(_ context.Context, d *queue.Delivery) []queue.Status {
	s.mu.Lock()
	s.calls++
	answer := s.answer
	s.mu.Unlock()
	var ss []queue.Status
	for _, r := range d.Envelope.Recipients {
		s.mu.Lock()
		s.tries[r.Address.String()] = append(s.tries[r.Address.String()], time.Now())
		if d.Envelope.From.IsNull() {
			b, _ := d.Content.Body().Bytes()
			s.dsns = append(s.dsns, string(b))
		}
		s.mu.Unlock()
		switch {
		case answer != nil:
			ss = append(ss, answer(d, r))
		case d.Envelope.From.IsNull():
			ss = append(ss, queue.Status{Action: queue.Delivered})
		default:
			ss = append(ss, queue.Status{Unreachable: true, Reply: mail.Refuse(451, "4.4.1", "nobody there")})
		}
	}
	return ss
}

func (s *scene) Destination(_ *mail.Envelope, r *mail.Recipient) string { return r.Address.Domain }

func (s *scene) accept(o ...*message.Object) string {
	s.t.Helper()
	id, err := s.Accept(s.t.Context(), o)
	if err != nil {
		s.t.Fatal(err)
	}
	return id
}

func (s *scene) size() int {
	s.t.Helper()
	es, err := s.List(s.t.Context(), queue.Filter{Limit: 1_000_000})
	if err != nil {
		s.t.Fatal(err)
	}
	return len(es)
}

func (s *scene) attempts() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls
}

func (s *scene) reports() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.dsns)
}

func (s *scene) triesOf(to string) []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.tries[to])
}

// does has attempts come to what f says from now on.
func (s *scene) does(f func(d *queue.Delivery, r *mail.Recipient) queue.Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = f
}

// pass lets time go by, and then whatever is under way come to its end.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// TestFiveDays: the default table, from the first retry to the DSN.
func TestFiveDays(t *testing.T) {
	play(t, queue.Schedule{}, func(t *testing.T, s *scene) {
		began := time.Now()
		s.accept(object(t, content, "x@dead.test a"))
		pass(4*time.Hour - time.Minute)
		if len(s.reports()) != 0 {
			t.Fatal("a notice came before 4 h")
		}
		pass(5 * time.Hour)
		if len(s.reports()) != 1 || !strings.Contains(s.reports()[0], "Action: delayed") || !strings.Contains(s.reports()[0], "4.4.1") {
			t.Fatalf("got %q, want one notice", s.reports())
		}
		pass(5*24*time.Hour - 9*time.Hour + 16*time.Minute) // the pause of a dead site is 15 at most
		if len(s.reports()) != 2 || !strings.Contains(s.reports()[1], "Action: failed") || !strings.Contains(s.reports()[1], "5.4.7") {
			t.Fatalf("got %q, want a notice and a failure", s.reports())
		}
		if s.size() != 0 {
			t.Error("it is still there")
		}
		tries := s.triesOf("x@dead.test")
		table := []int{1, 5, 10, 20, 40, 80, 160, 240} // minutes
		for i := 1; i < len(tries)-1; i++ {
			want, got := time.Duration(table[min(i-1, len(table)-1)])*time.Minute, tries[i].Sub(tries[i-1])
			if got < want*8/10 || got > want*12/10 {
				t.Errorf("try %d came after %v, want %v and a fifth at most", i+1, got, want)
			}
		}
		if last := tries[len(tries)-1].Sub(began); last < 5*24*time.Hour || len(tries) < 30 {
			t.Errorf("%d tries, the last after %v", len(tries), last)
		}
	})
}

// TestDeadSiteEndsInTime: of a long queue for a dead site every entry comes to
// its notice and its end, though there is one probe a minute.
func TestDeadSiteEndsInTime(t *testing.T) {
	play(t, queue.Schedule{}, func(t *testing.T, s *scene) {
		const n = 1000
		for i := range n {
			s.accept(object(t, content, fmt.Sprintf("x%d@dead.test a", i)))
		}
		pass(time.Hour)
		if probes := s.attempts(); probes > 70 {
			t.Errorf("%d attempts in an hour at a dead site", probes)
		}
		pass(4 * time.Hour)
		if len(s.reports()) != n {
			t.Errorf("%d notices of delay after 5 h, want %d", len(s.reports()), n)
		}
		pass(5 * 24 * time.Hour)
		if len(s.reports()) != 2*n || s.size() != 0 {
			t.Errorf("%d DSNs, want %d; %d entries are left", len(s.reports()), 2*n, s.size())
		}
	})
}

// TestDeadSiteCostsOthersNothing: not even when its backlog is large.
func TestDeadSiteCostsOthersNothing(t *testing.T) {
	play(t, queue.Schedule{}, func(t *testing.T, s *scene) {
		s.does(func(_ *queue.Delivery, r *mail.Recipient) queue.Status {
			if strings.HasPrefix(r.Address.Domain, "dead") {
				time.Sleep(30 * time.Second) // to find out
				return queue.Status{Unreachable: true}
			}
			return queue.Status{Action: queue.Delivered}
		})
		for i := range 1000 {
			s.accept(object(t, content, fmt.Sprintf("x%d@dead%d.test a", i, i%10)))
		}
		pass(10 * time.Minute)
		for i := range 1000 {
			s.accept(object(t, content, fmt.Sprintf("y%d@good%d.test a", i, i%98)))
		}
		pass(time.Second)
		if left := s.size() - 1000; left != 0 {
			t.Errorf("%d of 1000 wait behind dead sites", left)
		}
	})
}

// TestComesBack: what waited for a dead site is delivered once it lives again,
// not all at once.
func TestComesBack(t *testing.T) {
	play(t, queue.Schedule{Concurrency: 1000, PerDestination: 20}, func(t *testing.T, s *scene) {
		var running, most atomic.Int32
		alive := func(*queue.Delivery, *mail.Recipient) queue.Status {
			if n := running.Add(1); n > most.Load() {
				most.Store(n)
			}
			time.Sleep(time.Second)
			running.Add(-1)
			return queue.Status{Action: queue.Delivered}
		}
		for i := range 2000 {
			s.accept(object(t, content, fmt.Sprintf("x%d@far.test a", i)))
		}
		pass(time.Hour)
		s.does(alive)
		for running.Load() == 0 {
			pass(time.Second)
		}
		pass(2 * time.Second)
		if n := most.Load(); n > 7 {
			t.Errorf("%d attempts at once in its first seconds", n)
		}
		pass(time.Hour)
		if s.size() != 0 || most.Load() != 20 {
			t.Errorf("%d are left; %d attempts at once, want 20", s.size(), most.Load())
		}
	})
}

// TestStaysTogether: recipients who were tried together are tried together
// again, however many they are.
func TestStaysTogether(t *testing.T) {
	play(t, queue.Schedule{}, func(t *testing.T, s *scene) {
		s.does(func(d *queue.Delivery, _ *mail.Recipient) queue.Status {
			if d.Attempt < 4 {
				return queue.Status{}
			}
			return queue.Status{Action: queue.Delivered}
		})
		var to []string
		for i := range 1000 {
			to = append(to, fmt.Sprintf("x%d@a.test a", i))
		}
		s.accept(object(t, content, to...))
		pass(time.Hour)
		if s.attempts() != 4 || s.size() != 0 {
			t.Errorf("%d attempts, want 4; %d are left", s.attempts(), s.size())
		}
	})
}

// TestHoldUntil: RFC 4865, over a restart too, and for longer than any retry.
func TestHoldUntil(t *testing.T) {
	play(t, queue.Schedule{}, func(t *testing.T, s *scene) {
		s.does(func(*queue.Delivery, *mail.Recipient) queue.Status { return queue.Status{Action: queue.Delivered} })
		o := object(t, content, "x@a.test a")
		o.Envelope.HoldUntil = time.Now().Add(10 * 24 * time.Hour)
		s.accept(o)
		s.restart(queue.Schedule{})
		pass(10*24*time.Hour - time.Minute)
		if s.attempts() != 0 {
			t.Fatal("it was not held")
		}
		pass(time.Minute)
		if s.attempts() != 1 || s.size() != 0 {
			t.Errorf("%d attempts, %d left", s.attempts(), s.size())
		}
	})
}

func (s *scene) restart(sc queue.Schedule) {
	s.t.Helper()
	if err := s.Close(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	s.open()
	s.Attach(s.policy(sc))
	synctest.Wait()
}

// TestClockWasWrong: a time in the store that is far ahead is not believed.
func TestClockWasWrong(t *testing.T) {
	play(t, queue.Schedule{}, func(t *testing.T, s *scene) {
		s.accept(object(t, content, "x@dead.test a"))
		pass(time.Second)
		es, err := s.List(t.Context(), queue.Filter{})
		if err != nil || len(es) != 1 {
			t.Fatal(es, err)
		}
		es[0].Recipients[0].Due = time.Now().Add(10 * 365 * 24 * time.Hour)
		if err := s.store.Commit(t.Context(), &queue.Change{Update: es[0].Recipients}); err != nil {
			t.Fatal(err)
		}
		before := s.attempts()
		s.restart(queue.Schedule{})
		pass(time.Minute)
		if n := s.attempts() - before; n < 1 || n > 2 {
			t.Errorf("%d attempts in the minute after the restart, want 1", n)
		}
	})
}

// TestClockJumpsAhead: mail whose time is over all of a sudden has another
// attempt first.
func TestClockJumpsAhead(t *testing.T) {
	play(t, queue.Schedule{}, func(t *testing.T, s *scene) {
		s.accept(object(t, content, "x@far.test a"))
		pass(time.Second)
		if err := s.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		pass(6 * 24 * time.Hour)
		s.does(func(*queue.Delivery, *mail.Recipient) queue.Status { return queue.Status{Action: queue.Delivered} })
		s.open()
		s.Attach(s.policy(queue.Schedule{}))
		pass(time.Minute)
		if len(s.reports()) != 0 || s.size() != 0 {
			t.Errorf("got %q", s.reports())
		}
	})
}

// TestDoubleFailure: a DSN that cannot be delivered ends.
func TestDoubleFailure(t *testing.T) {
	play(t, queue.Schedule{}, func(t *testing.T, s *scene) {
		s.does(func(*queue.Delivery, *mail.Recipient) queue.Status {
			return queue.Status{Action: queue.Failed, Reply: mail.Refuse(550, "5.1.1", "no")}
		})
		s.accept(object(t, content, "x@a.test a"))
		pass(time.Second)
		if len(s.reports()) != 1 || s.size() != 0 {
			t.Errorf("%d DSNs, %d entries; want one DSN and an end", len(s.reports()), s.size())
		}
	})
	play(t, queue.Schedule{}, func(t *testing.T, s *scene) {
		s.does(func(d *queue.Delivery, _ *mail.Recipient) queue.Status {
			if d.Envelope.From.IsNull() {
				return queue.Status{Unreachable: true}
			}
			return queue.Status{Action: queue.Failed}
		})
		s.accept(object(t, content, "x@a.test a"))
		pass(25 * time.Hour)
		if s.size() != 0 || len(s.triesOf("s@from.test")) < 8 {
			t.Errorf("%d entries after a day, %d attempts", s.size(), len(s.triesOf("s@from.test")))
		}
	})
}
