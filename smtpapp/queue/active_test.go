package queue_test

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

// TestBounded: however much is queued, for whatever sites, the active set stays
// what it may be, and all of it is delivered in the end.
func TestBounded(t *testing.T) {
	const limit = 100
	play(t, queue.Schedule{Active: limit}, func(t *testing.T, s *scene) {
		s.does(func(d *queue.Delivery, r *mail.Recipient) queue.Status {
			time.Sleep(time.Duration(len(r.Address.Domain)%3) * time.Second)
			if d.Attempt == 1 {
				return later(nil, nil)
			}
			return taken(nil, nil)
		})
		most := 0
		check := func() {
			n, _, _ := s.InMemory()
			most = max(most, n)
		}
		for i := range 5000 {
			s.accept(object(t, content, fmt.Sprintf("x%d@s%d.test a", i, i%61*i%7)))
			check()
		}
		for range 3600 {
			pass(time.Second)
			check()
		}
		if s.size() != 0 {
			t.Errorf("%d are left", s.size())
		}
		if most > limit+20 || most < limit/2 {
			t.Errorf("up to %d recipients in memory, want about %d", most, limit)
		}
		if n, bins, sites := s.InMemory(); n+bins+sites != 0 {
			t.Errorf("%d recipients, %d bins and %d sites are left in memory", n, bins, sites)
		}
		if n := s.attempts(); n != 10_000 {
			t.Errorf("%d attempts, want 10000", n)
		}
	})
}

// TestDeadSitesLeave: mail for dead sites is not in memory, new or old.
func TestDeadSitesLeave(t *testing.T) {
	play(t, queue.Schedule{}, func(t *testing.T, s *scene) {
		for i := range 3000 {
			s.accept(object(t, content, fmt.Sprintf("x%d@dead%d.test a", i, i%10)))
		}
		pass(30 * time.Second)
		if n, _, _ := s.InMemory(); n > 10 { // one a site was being committed when it died
			t.Errorf("%d recipients are in memory", n)
		}
		s.accept(object(t, content, "x@dead1.test a"))
		if n, _, _ := s.InMemory(); n > 10 || len(s.triesOf("x@dead1.test")) != 0 {
			t.Error("new mail for a dead site is in memory")
		}
	})
}

// TestAlternates: at a slow site, new mail goes on beside a backlog, and the
// backlog beside new mail.
func TestAlternates(t *testing.T) {
	play(t, queue.Schedule{Retry: []time.Duration{time.Minute, time.Hour}}, func(t *testing.T, s *scene) {
		for i := range 2000 {
			s.accept(object(t, content, fmt.Sprintf("old%d@slow.test a", i)))
		}
		s.does(func(d *queue.Delivery, _ *mail.Recipient) queue.Status {
			time.Sleep(time.Second)
			return taken(nil, nil)
		})
		pass(80 * time.Second)
		oldBefore := s.count("old")
		for i := range 3000 {
			s.accept(object(t, content, fmt.Sprintf("new%d@slow.test a", i)))
		}
		pass(time.Minute)
		olds, news := s.count("old")-oldBefore, s.count("new")
		if news < 200 || olds < 200 || news > 3*olds || olds > 3*news {
			t.Errorf("in a minute %d new ones and %d old ones were tried", news, olds)
		}
	})
}

// count is how many of the recipients whose addresses begin with prefix were
// tried.
func (s *scene) count(prefix string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for to := range s.tries {
		if strings.HasPrefix(to, prefix) {
			n++
		}
	}
	return n
}

// TestManyDeadSites: thousands of dead sites, each of which takes half a minute
// to find out, cost a good one nothing (P12).
func TestManyDeadSites(t *testing.T) {
	play(t, queue.Schedule{}, func(t *testing.T, s *scene) {
		s.does(func(_ *queue.Delivery, r *mail.Recipient) queue.Status {
			if strings.HasPrefix(r.Address.Domain, "dead") {
				time.Sleep(30 * time.Second)
				return queue.Status{Unreachable: true}
			}
			return queue.Status{Action: queue.Delivered}
		})
		for i := range 5000 {
			s.accept(object(t, content, fmt.Sprintf("x%d@dead%d.test a", i, i)))
		}
		pass(30 * time.Minute)
		for i := range 100 {
			to := fmt.Sprintf("y%d@good.test", i)
			s.accept(object(t, content, to+" a"))
			pass(time.Second)
			if len(s.triesOf(to)) != 1 {
				t.Fatalf("%s waits behind dead sites", to)
			}
			pass(10 * time.Second)
		}
	})
}

// TestBlackHoleAndTarpit: one site never answers, one is slow, and 98 good ones
// get what they would get alone (P12).
func TestBlackHoleAndTarpit(t *testing.T) {
	play(t, queue.Schedule{}, func(t *testing.T, s *scene) {
		var mu sync.Mutex
		running, most := map[string]int{}, map[string]int{}
		s.does(func(_ *queue.Delivery, r *mail.Recipient) queue.Status {
			k := r.Address.Domain
			mu.Lock()
			running[k]++
			most[k] = max(most[k], running[k])
			mu.Unlock()
			defer func() {
				mu.Lock()
				running[k]--
				mu.Unlock()
			}()
			switch k {
			case "s0.test":
				time.Sleep(5 * time.Minute)
				return queue.Status{Unreachable: true}
			case "s1.test":
				time.Sleep(2 * time.Minute)
			default:
				time.Sleep(100 * time.Millisecond)
			}
			return queue.Status{Action: queue.Delivered}
		})
		for i := range 20_000 {
			s.accept(object(t, content, fmt.Sprintf("x%d@s%d.test a", i, i%100)))
		}
		pass(30 * time.Second)
		if left := s.size() - 400; left > 1960 {
			t.Errorf("%d of 19600 wait after 30 s", left)
		}
		pass(time.Minute)
		if left := s.size() - 400; left > 0 {
			t.Errorf("%d of 19600 wait after 90 s", left)
		}
		mu.Lock()
		defer mu.Unlock()
		for k, n := range most {
			if n > 20 {
				t.Errorf("%s had %d attempts at once", k, n)
			}
		}
	})
}

// TestNoHerd: after an hour without the relay, and after a restart, it is not
// run over (P13).
func TestNoHerd(t *testing.T) {
	n := 5_000
	if os.Getenv("CADDY_SMTP_SOAK") != "" {
		n = 50_000
	}
	for _, restart := range []bool{false, true} {
		play(t, queue.Schedule{}, func(t *testing.T, s *scene) {
			for i := range n {
				s.accept(object(t, content, fmt.Sprintf("x%d@relay.test a", i)))
			}
			pass(time.Hour)
			var running, most, begun atomic.Int32
			s.does(func(*queue.Delivery, *mail.Recipient) queue.Status {
				begun.Add(1)
				if k := running.Add(1); k > most.Load() {
					most.Store(k)
				}
				time.Sleep(time.Second)
				running.Add(-1)
				return queue.Status{Action: queue.Delivered}
			})
			if restart {
				s.restart(queue.Schedule{})
			}
			for begun.Load() == 0 {
				pass(100 * time.Millisecond)
			}
			pass(900 * time.Millisecond)
			if k := most.Load(); k > 5 {
				t.Errorf("%d attempts at once in the first second", k)
			}
			pass(4 * time.Second)
			if k := most.Load(); k > 10 {
				t.Errorf("%d attempts at once in the first five seconds", k)
			}
			pass(time.Duration(n/10)*time.Second + 5*time.Hour)
			if k := most.Load(); s.size() != 0 || k != 20 {
				t.Errorf("%d are left; %d attempts at once, want 20", s.size(), k)
			}
		})
	}
}

// TestSpreadAfterRestart: what has become overdue while the process was away
// does not come all at once, though each site is another.
func TestSpreadAfterRestart(t *testing.T) {
	play(t, queue.Schedule{Concurrency: 1000}, func(t *testing.T, s *scene) {
		s.does(later)
		for i := range 300 {
			s.accept(object(t, content, fmt.Sprintf("x@s%d.test a", i)))
		}
		pass(time.Second)
		if err := s.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		pass(time.Hour)
		s.does(taken)
		s.open()
		s.Attach(s.policy(queue.Schedule{Concurrency: 1000}))
		began := time.Now()
		pass(time.Second)
		first := 300 - s.size()
		pass(30 * time.Second)
		half := 300 - s.size()
		if first > 30 || half < 75 || half > 225 {
			t.Errorf("%d were tried in the first second, %d in the first half minute", first, half)
		}
		pass(time.Until(began.Add(time.Minute + time.Second)))
		if s.size() != 0 {
			t.Errorf("%d were not tried in the first minute", s.size())
		}
	})
}

// TestNewMailAtOnceAfterRestart: what was accepted just before.
func TestNewMailAtOnceAfterRestart(t *testing.T) {
	play(t, queue.Schedule{}, func(t *testing.T, s *scene) {
		s.Detach(nil)
		p := s.policy(queue.Schedule{})
		if err := s.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.open() // without a policy
		for i := range 50 {
			s.accept(object(t, content, fmt.Sprintf("x%d@s%d.test a", i, i%5)))
		}
		if err := s.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.does(taken)
		s.open()
		s.Attach(p)
		pass(time.Second)
		if s.size() != 0 {
			t.Errorf("%d of 50 were not tried at once", s.size())
		}
	})
}

// TestClockGoesBack: while the process runs. What was to be tried by the old
// time is tried by the new one, and nothing all at once.
func TestClockGoesBack(t *testing.T) {
	play(t, queue.Schedule{}, func(t *testing.T, s *scene) {
		s.does(later)
		held := object(t, content, "held@a.test a")
		held.Envelope.HoldUntil = time.Now().Add(20 * 24 * time.Hour)
		s.accept(held)
		for i := range 1200 {
			s.accept(object(t, content, fmt.Sprintf("x%d@a.test a", i)))
		}
		pass(5 * time.Second)
		for _, e := range s.list(queue.Filter{Limit: 10_000}) {
			if e.Envelope.HoldUntil.IsZero() {
				e.Recipients[0].Due = time.Now().Add(10 * 365 * 24 * time.Hour)
				if err := s.store.Commit(t.Context(), &queue.Change{Update: e.Recipients}); err != nil {
					t.Fatal(err)
				}
			}
		}
		s.ClockWasSet()
		before := s.attempts()
		s.does(taken)
		pass(5 * time.Second)
		if n := s.attempts() - before; n > 400 {
			t.Errorf("%d of 1200 in five seconds", n)
		}
		pass(time.Minute)
		if s.size() != 1 || len(s.triesOf("held@a.test")) != 0 {
			t.Errorf("%d are left, want the one that is to be held", s.size())
		}
	})
}

func TestJumped(t *testing.T) {
	now := time.Now()
	if queue.Jumped(now, now.Add(time.Hour)) {
		t.Error("an hour that has passed is no jump")
	}
	wall := now.Round(0)
	for _, d := range []time.Duration{time.Hour, -time.Hour} {
		if queue.Jumped(wall, wall.Add(d)) {
			t.Error("without a monotonic clock there is no jump")
		}
	}
}

// TestOneAttemptAfterTheDeadline: one that has begun before does not count.
func TestOneAttemptAfterTheDeadline(t *testing.T) {
	play(t, queue.Schedule{Expire: time.Hour, Retry: []time.Duration{50 * time.Minute}}, func(t *testing.T, s *scene) {
		began := time.Now()
		s.does(func(d *queue.Delivery, _ *mail.Recipient) queue.Status {
			if d.Attempt == 2 {
				time.Sleep(time.Until(began.Add(61 * time.Minute)))
			}
			if d.Envelope.From.IsNull() {
				return taken(nil, nil)
			}
			return later(nil, nil)
		})
		s.accept(object(t, content, "x@a.test a"))
		pass(62 * time.Minute)
		tries := s.triesOf("x@a.test")
		if len(tries) != 3 || len(s.reports()) != 1 || s.size() != 0 {
			t.Errorf("%d attempts, %d DSNs, %d entries; want 3, 1, 0", len(tries), len(s.reports()), s.size())
		}
	})
}

// TestAgentGoes: mail of an agent that no policy has waits outside of memory,
// and goes on when it is back.
func TestAgentGoes(t *testing.T) {
	play(t, queue.Schedule{Active: 50}, func(t *testing.T, s *scene) {
		s.does(func(*queue.Delivery, *mail.Recipient) queue.Status {
			time.Sleep(time.Minute)
			return taken(nil, nil)
		})
		for i := range 200 {
			s.accept(object(t, content, fmt.Sprintf("x%d@a.test a", i)))
		}
		pass(time.Second)
		without := policy(map[string]queue.Agent{"b": newAgent(taken)})
		s.Attach(without)
		pass(2 * time.Minute)
		if n, _, _ := s.InMemory(); n != 0 {
			t.Errorf("%d are in memory", n)
		}
		s.accept(object(t, content, "y@b.test b"))
		pass(time.Second)
		left := s.size()
		if left < 180 || left > 195 {
			t.Errorf("%d are left, want what had not begun", left)
		}
		s.does(taken)
		s.Attach(s.policy(queue.Schedule{Active: 50}))
		pass(time.Minute)
		if s.size() != 0 {
			t.Errorf("%d are left", s.size())
		}
	})
}

// TestManyDeferred: a long queue costs little memory, and a start little time
// (P10). CADDY_SMTP_SOAK has a million recipients.
func TestManyDeferred(t *testing.T) {
	n, sites := 20_000, 10_000
	switch {
	case os.Getenv("CADDY_SMTP_SOAK") != "":
		n = 1_000_000
	case raceEnabled: // the store is ten times as slow, and no part of what may race
		n, sites = 2_000, 1_000
	}
	dir := t.TempDir()
	q := open(t, dir)
	a := newAgent(delivered)
	a.dest = func(r *mail.Recipient) string { return r.Address.Domain }
	q.Attach(policy(map[string]queue.Agent{"a": a}))
	var wg sync.WaitGroup
	for w := range 20 {
		wg.Go(func() {
			for i := range n / 20 / 100 {
				id := queue.NewID()
				var os []*message.Object
				for j := range 100 {
					o := object(t, content, fmt.Sprintf("x@dead%d.test a", (w*n/20+i*100+j)%sites))
					o.ID, o.Envelope.HoldUntil = id, time.Now().Add(4*time.Hour)
					os = append(os, o)
				}
				q.accept(os...)
			}
		})
	}
	wg.Wait()
	q.close()
	before := heap()
	began := time.Now()
	q = open(t, dir)
	q.Attach(policy(map[string]queue.Agent{"a": a}))
	q.accept(object(t, content, "x@good.test none"))
	if took := time.Since(began); took > time.Second && !raceEnabled {
		t.Errorf("the first message was taken after %v", took)
	}
	for q.Loading() {
		time.Sleep(10 * time.Millisecond)
	}
	took := time.Since(began)
	count, bins, _ := q.InMemory()
	used := heap() - before
	t.Logf("%d entries: loaded after %v, %d KiB, %d bins", n, took, used>>10, bins)
	if count != 0 || bins < sites || used > 16<<20 {
		t.Errorf("%d recipients, %d bins, %d KiB", count, bins, used>>10)
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestLimitedConnections: a site that takes six connections at once and refuses
// the others is not left alone for that, and is seldom asked for more.
func TestLimitedConnections(t *testing.T) {
	play(t, queue.Schedule{}, func(t *testing.T, s *scene) {
		var running, refused atomic.Int32
		s.does(func(*queue.Delivery, *mail.Recipient) queue.Status {
			defer running.Add(-1)
			if running.Add(1) > 6 {
				time.Sleep(100 * time.Millisecond)
				refused.Add(1)
				return queue.Status{Reply: mail.Refuse(421, "4.7.0", "too many connections"), Unreachable: true}
			}
			time.Sleep(time.Second)
			return queue.Status{Action: queue.Delivered}
		})
		const n = 3000
		for i := range n {
			s.accept(object(t, content, fmt.Sprintf("x%d@a.test a", i)))
		}
		pass(n / 6 * time.Second * 5 / 4)
		if left := s.size(); left > n/20 {
			t.Errorf("%d of %d wait after the time that five connections take", left, n)
		}
		if k := refused.Load(); k > n/20 {
			t.Errorf("%d of %d attempts were refused", k, n)
		}
		pass(time.Hour)
		if s.size() != 0 {
			t.Errorf("%d are left", s.size())
		}
	})
}
