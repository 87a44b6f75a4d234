package queue_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

// ruled is a policy of the scene with rules.
func (s *scene) ruled(rules ...queue.Rule) *queue.Policy {
	p := s.policy(queue.Schedule{})
	p.Rules = rules
	return p
}

// A meter sees how many attempts run at once, by domain, and when each began.
type meter struct {
	s         *scene
	now, most map[string]int
	began     map[string][]time.Time
}

// measure has attempts take a time, and come to what answer says, delivered if it
// is nil.
func (s *scene) measure(took time.Duration, answer func(d *queue.Delivery, r *mail.Recipient) queue.Status) *meter {
	m := &meter{s, map[string]int{}, map[string]int{}, map[string][]time.Time{}}
	s.does(func(d *queue.Delivery, r *mail.Recipient) queue.Status {
		keys := []string{r.Address.Domain, "all"}
		s.mu.Lock()
		for _, k := range keys {
			m.now[k]++
			m.most[k] = max(m.most[k], m.now[k])
			m.began[k] = append(m.began[k], time.Now())
		}
		s.mu.Unlock()
		time.Sleep(took)
		s.mu.Lock()
		for _, k := range keys {
			m.now[k]--
		}
		s.mu.Unlock()
		if answer != nil {
			return answer(d, r)
		}
		return queue.Status{Action: queue.Delivered}
	})
	return m
}

func (m *meter) nowOf(k string) int { m.s.mu.Lock(); defer m.s.mu.Unlock(); return m.now[k] }

func (m *meter) mostOf(k string) int { m.s.mu.Lock(); defer m.s.mu.Unlock(); return m.most[k] }

func (m *meter) beganOf(k string) []time.Time {
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	return slices.Clone(m.began[k])
}

// densest is how many of the moments are within one time.
func densest(ts []time.Time, per time.Duration) (most int) {
	ts = slices.SortedFunc(slices.Values(ts), time.Time.Compare)
	for i := range ts {
		n := 0
		for _, t := range ts[i:] {
			if t.Sub(ts[i]) < per {
				n++
			}
		}
		most = max(most, n)
	}
	return most
}

func (s *scene) acceptMany(n int, domains ...string) {
	for i := range n {
		for _, d := range domains {
			s.accept(object(s.t, content, fmt.Sprintf("x%d@%s a", i, d)))
		}
	}
}

// TestRuleConcurrency: each destination of a rule by itself, or all together, and
// what has no rule as the schedule has it.
func TestRuleConcurrency(t *testing.T) {
	for together, want := range map[bool]map[string]int{
		false: {"a.test": 3, "b.test": 3, "c.test": 20},
		true:  {"a.test": 3, "b.test": 3, "c.test": 20, "both": 3},
	} {
		play(t, queue.Schedule{}, func(t *testing.T, s *scene) {
			s.Attach(s.ruled(queue.Rule{Name: "ab", Domains: []string{"*.nowhere.test", "a.test", "b.test"}, Concurrency: 3, Together: together}))
			m := s.measure(10*time.Second, nil)
			s.acceptMany(60, "a.test", "b.test")
			pass(5 * time.Second)
			both := m.mostOf("all")
			s.acceptMany(500, "c.test")
			pass(time.Hour)
			if s.size() != 0 {
				t.Errorf("%d are left", s.size())
			}
			for d, n := range want {
				if got := m.mostOf(d); d != "both" && (got > n || got < n-1) {
					t.Errorf("together %v: %d at once to %s, want %d", together, got, d, n)
				}
			}
			if together && both != 3 || !together && both != 6 {
				t.Errorf("together %v: %d at once", together, both)
			}
		})
	}
}

// TestRuleFirst: how many attempts begin before any was answered.
func TestRuleFirst(t *testing.T) {
	play(t, queue.Schedule{}, func(t *testing.T, s *scene) {
		s.Attach(s.ruled(queue.Rule{Name: "r", Domains: []string{"a.test"}, First: 2, Concurrency: 50}))
		m := s.measure(time.Minute, nil)
		s.acceptMany(100, "a.test", "b.test")
		pass(time.Second)
		if m.mostOf("a.test") != 2 || m.mostOf("b.test") != 5 {
			t.Errorf("got %d and %d", m.mostOf("a.test"), m.mostOf("b.test"))
		}
		pass(2 * time.Hour)
		if m.mostOf("a.test") <= 10 || s.size() != 0 {
			t.Errorf("got %d, %d are left", m.mostOf("a.test"), s.size())
		}
	})
}

// TestRuleRate: never more in any time of a rate, over several destinations and a
// reload; nor much less.
func TestRuleRate(t *testing.T) {
	play(t, queue.Schedule{}, func(t *testing.T, s *scene) {
		r := queue.Rule{Name: "r", Domains: []string{"a.test", "b.test"}, Together: true, Messages: []queue.Rate{{N: 12, Per: time.Minute}, {N: 200, Per: time.Hour}}}
		p := s.ruled(r)
		s.Attach(p)
		m := s.measure(time.Millisecond, nil)
		s.acceptMany(100, "a.test", "b.test")
		s.acceptMany(5, "c.test")
		pass(time.Second)
		if m.mostOf("c.test") == 0 || len(m.beganOf("c.test")) != 5 {
			t.Error("others wait too")
		}
		pass(5 * time.Minute)
		next := s.ruled(r)
		s.Attach(next)
		s.Detach(p)
		pass(15 * time.Minute)
		both := slices.Concat(m.beganOf("a.test"), m.beganOf("b.test"))
		if n := densest(both, time.Minute); n != 12 {
			t.Errorf("%d in a minute", n)
		}
		if len(both) != 200 || s.size() != 0 {
			t.Errorf("%d attempts in 20 minutes, %d are left", len(both), s.size())
		}
		s.acceptMany(1, "a.test")
		pass(time.Minute)
		if s.size() != 1 {
			t.Error("one more than in an hour may be")
		}
		if pass(time.Hour); s.size() != 0 {
			t.Error("it never goes")
		}
	})
}

// TestRuleRecipients: a message for more than there may be at once goes too.
func TestRuleRecipients(t *testing.T) {
	play(t, queue.Schedule{}, func(t *testing.T, s *scene) {
		s.Attach(s.ruled(queue.Rule{Name: "r", Domains: []string{"*"}, Recipients: []queue.Rate{{N: 10, Per: time.Minute}}}))
		m := s.measure(0, nil)
		var many []string
		for i := range 25 {
			many = append(many, fmt.Sprintf("x%d@a.test a", i))
		}
		s.accept(object(t, content, many...))
		s.acceptMany(1, "a.test")
		pass(time.Second)
		if n := len(m.beganOf("a.test")); n != 25 {
			t.Errorf("%d", n)
		}
		if pass(time.Minute + 5*time.Second); s.size() != 0 {
			t.Error("the other one never goes")
		}
		for range 4 {
			s.accept(object(t, content, many[:4]...))
		}
		pass(time.Hour)
		if n := densest(m.beganOf("a.test")[26:], time.Minute); n != 8 || s.size() != 0 {
			t.Errorf("%d in a minute, %d are left", n, s.size())
		}
	})
}

// TestRuleBacklog: what a rule holds back fills neither memory nor the way of
// others, and goes when it may.
func TestRuleBacklog(t *testing.T) {
	for _, together := range []bool{false, true} {
		play(t, queue.Schedule{}, func(t *testing.T, s *scene) {
			p := s.ruled(queue.Rule{Name: "r", Domains: []string{"*.slow.test"}, Together: together, Messages: []queue.Rate{{N: 6, Per: time.Minute}}})
			p.Schedule.Active = 200
			s.Attach(p)
			m := s.measure(time.Second, nil)
			for i := range 1500 {
				s.accept(object(t, content, fmt.Sprintf("x%d@d%d.slow.test a", i, i%100)))
			}
			for i := range 100 {
				s.acceptMany(1, fmt.Sprintf("e%d.test", i))
			}
			if n, _, _ := s.InMemory(); n > 220 {
				t.Errorf("%d recipients in memory", n)
			}
			pass(time.Minute)
			for i := range 100 {
				if d := fmt.Sprintf("e%d.test", i); len(m.beganOf(d)) != 1 {
					t.Fatalf("%s has waited", d)
				}
			}
			pass(10 * time.Hour)
			if s.size() != 0 {
				t.Errorf("together %v: %d are left", together, s.size())
			}
			if n, bins, sites := s.InMemory(); n+bins+sites != 0 {
				t.Errorf("%d recipients, %d bins and %d sites are left in memory", n, bins, sites)
			}
		})
	}
}

// TestRuleRetry: a table and an end of its own, for some agents only.
func TestRuleRetry(t *testing.T) {
	play(t, queue.Schedule{}, func(t *testing.T, s *scene) {
		p := s.ruled(
			queue.Rule{Name: "other", Domains: []string{"a.test"}, Agents: []string{"x*"}, Expire: time.Minute},
			queue.Rule{Name: "r", Domains: []string{"a.test"}, Agents: []string{"a"}, Retry: []time.Duration{time.Hour}, Expire: 150 * time.Minute},
		)
		s.Attach(p)
		s.measure(0, later)
		s.accept(object(t, content, "x@a.test a"), object(t, content, "x@b.test a"))
		pass(3 * time.Hour)
		if n := len(s.triesOf("x@a.test")); n != 4 {
			t.Errorf("%d attempts, want 4", n)
		}
		if n := len(s.triesOf("x@b.test")); n < 6 {
			t.Errorf("%d attempts by the default table", n)
		}
		if es, _ := s.List(t.Context(), queue.Filter{}); len(es) == 0 || es[0].Recipients[0].Address.Domain != "b.test" {
			t.Errorf("got %+v", es)
		}
	})
}

// a located is an agent that tells the hosts of destinations.
type located struct {
	*scene
	asked atomic.Int32
	fail  atomic.Bool
}

func (l *located) Locate(_ context.Context, d string) []string {
	l.asked.Add(1)
	time.Sleep(100 * time.Millisecond)
	switch {
	case strings.HasSuffix(d, ".poison.test"):
		panic("poison")
	case l.fail.Load():
		return nil
	}
	return []string{"other.test", "mx1." + d[strings.Index(d, ".")+1:]}
}

// TestRuleHosts: domains with mail hosts in common are under one rule, and what
// has another rule before it is not looked up.
func TestRuleHosts(t *testing.T) {
	play(t, queue.Schedule{}, func(t *testing.T, s *scene) {
		l := &located{scene: s}
		p := s.ruled(
			queue.Rule{Name: "own", Domains: []string{"d3.big.test"}, Concurrency: 4},
			queue.Rule{Name: "big", Hosts: []string{"*.big.test"}, Concurrency: 2, Together: true},
		)
		p.Agents = map[string]queue.Agent{"a": l}
		s.Attach(p)
		m := s.measure(10*time.Second, nil)
		s.acceptMany(20, "d1.big.test", "d2.big.test", "d3.big.test", "d1.small.test")
		pass(30 * time.Second)
		if n := l.asked.Load(); n != 3 {
			t.Errorf("%d look-ups, want 3", n)
		}
		if m.mostOf("d3.big.test") != 4 || m.mostOf("d1.small.test") <= 5 {
			t.Errorf("got %d and %d", m.mostOf("d3.big.test"), m.mostOf("d1.small.test"))
		}
		pass(time.Hour)
		most := densest(slices.Concat(m.beganOf("d1.big.test"), m.beganOf("d2.big.test")), 10*time.Second)
		if most != 2 || s.size() != 0 {
			t.Errorf("%d at once, %d are left", most, s.size())
		}
		before := l.asked.Load()
		l.fail.Store(true)
		s.acceptMany(3, "d1.big.test", "x.poison.test")
		pass(time.Minute)
		if s.size() != 0 || l.asked.Load() != before+2 {
			t.Errorf("%d are left after %d look-ups", s.size(), l.asked.Load()-before)
		}
	})
}

// says has everybody told the same.
func says(action queue.Action, code int, enh, text string) func(*queue.Delivery, *mail.Recipient) queue.Status {
	return func(*queue.Delivery, *mail.Recipient) queue.Status {
		return queue.Status{Action: action, Reply: mail.Refuse(code, enh, "%s", text), RemoteMTA: "mx.test"}
	}
}

// TestReadings: what replies mean is what the rule says.
func TestReadings(t *testing.T) {
	rule := queue.Rule{Name: "r", Domains: []string{"*.r.test"}, Readings: []queue.Reading{
		{Pattern: regexp.MustCompile(`(?i)^554 5\.7\.1 .*blocked`), Later: true},
		{Pattern: regexp.MustCompile(`^452 4\.2\.2`), Never: true},
		{Pattern: regexp.MustCompile(`^4`), Later: true}, // which they are
	}}
	for domain, tc := range map[string]struct {
		answer func(*queue.Delivery, *mail.Recipient) queue.Status
		left   int
		dsn    string
	}{
		"later.r.test": {says(queue.Failed, 554, "5.7.1", "you are Blocked"), 1, ""},
		"other.test":   {says(queue.Failed, 554, "5.7.1", "you are Blocked"), 0, "Status: 5.7.1"},
		"never.r.test": {says(queue.Delayed, 452, "4.2.2", "mailbox full"), 0, "not tried again: 452 4.2.2 mailbox full"},
		"same.r.test":  {says(queue.Delayed, 451, "4.2.0", "not now"), 1, ""},
		"same2.r.test": {says(queue.Failed, 550, "5.1.1", "nobody"), 0, "Status: 5.1.1"},
	} {
		play(t, queue.Schedule{}, func(t *testing.T, s *scene) {
			s.Attach(s.ruled(rule))
			s.measure(0, func(d *queue.Delivery, r *mail.Recipient) queue.Status {
				if d.Envelope.From.IsNull() {
					return queue.Status{Action: queue.Delivered}
				}
				return tc.answer(d, r)
			})
			s.acceptMany(1, domain)
			pass(10 * time.Second)
			if s.size() != tc.left || len(s.reports()) != 1-tc.left {
				t.Errorf("%s: %d left, %d reports", domain, s.size(), len(s.reports()))
			}
			if tc.dsn != "" && !strings.Contains(strings.Join(s.reports(), ""), tc.dsn) {
				t.Errorf("%s: got\n%s", domain, s.reports())
			}
		})
	}
}

// TestPause: nothing more is begun for a time, not after a reload either, and
// others go on.
func TestPause(t *testing.T) {
	play(t, queue.Schedule{}, func(t *testing.T, s *scene) {
		rule := queue.Rule{Name: "r", Domains: []string{"a.test", "b.test"}, Together: true, Concurrency: 2, Readings: []queue.Reading{
			{Pattern: regexp.MustCompile(`4\.7\.28`), Pause: 30 * time.Minute},
		}}
		p := s.ruled(rule)
		s.Attach(p)
		var answered atomic.Bool
		m := s.measure(time.Second, func(d *queue.Delivery, r *mail.Recipient) queue.Status {
			if !answered.Swap(true) {
				return says(queue.Delayed, 421, "4.7.28", "unusual rate")(d, r)
			}
			return queue.Status{Action: queue.Delivered}
		})
		s.acceptMany(20, "a.test", "b.test")
		pass(5 * time.Minute)
		n := len(m.beganOf("all"))
		if n != 2 && n != 3 { // one may begin when the other of two ends that are at once comes first
			t.Errorf("%d attempts, want 2", n)
		}
		s.acceptMany(1, "c.test")
		s.Attach(s.ruled(rule))
		s.Detach(p)
		pass(24 * time.Minute)
		if got := len(m.beganOf("all")); got != n+1 {
			t.Errorf("%d attempts, want %d", got, n+1)
		}
		if pass(5 * time.Minute); s.size() != 0 {
			t.Errorf("%d are left", s.size())
		}
	})
}

// TestSlow: half as many at once and in a time, and half again, until nobody has
// said it for a while.
func TestSlow(t *testing.T) {
	play(t, queue.Schedule{}, func(t *testing.T, s *scene) {
		s.Attach(s.ruled(queue.Rule{
			Name: "r", Domains: []string{"a.test"}, Concurrency: 8, First: 8, Messages: []queue.Rate{{N: 48, Per: time.Minute}},
			Readings: []queue.Reading{{Pattern: regexp.MustCompile(`slow down`), Slow: 10 * time.Minute}},
		}))
		var slow atomic.Bool
		m := s.measure(10*time.Second, func(d *queue.Delivery, r *mail.Recipient) queue.Status {
			if slow.Swap(false) {
				return says(queue.Delayed, 451, "4.7.1", "please slow down")(d, r)
			}
			return queue.Status{Action: queue.Delivered}
		})
		s.acceptMany(2000, "a.test")
		most := func(d time.Duration) int {
			seen := 0
			for range int(d / time.Second) {
				pass(time.Second)
				seen = max(seen, m.nowOf("a.test"))
			}
			return seen
		}
		got := []int{most(time.Minute)}
		for range 5 {
			slow.Store(true)
			pass(time.Minute)
			got = append(got, most(time.Minute))
		}
		pass(10 * time.Minute)
		if got = append(got, most(time.Minute)); !slices.Equal(got, []int{8, 4, 2, 1, 1, 1, 8}) {
			t.Errorf("at once: %v", got)
		}
	})
}

// TestBusy: where no connection was to be had, nothing was tried: it is not
// counted, and comes at once when there is one.
func TestBusy(t *testing.T) {
	play(t, queue.Schedule{}, func(t *testing.T, s *scene) {
		s.Attach(s.ruled(queue.Rule{Name: "r", Domains: []string{"a.test", "b.test"}, Messages: []queue.Rate{{N: 100, Per: time.Hour}}}))
		var open, busy int
		attempts := map[string]int{}
		s.does(func(d *queue.Delivery, r *mail.Recipient) queue.Status {
			s.mu.Lock()
			if open == 2 {
				busy++
				s.mu.Unlock()
				return queue.Status{Busy: true, Reply: mail.Refuse(451, "4.4.5", "too many connections")}
			}
			open++
			attempts[r.Address.String()] = d.Attempt
			s.mu.Unlock()
			time.Sleep(time.Second)
			s.mu.Lock()
			open--
			s.mu.Unlock()
			return queue.Status{Action: queue.Delivered}
		})
		s.acceptMany(45, "a.test", "b.test")
		pass(70 * time.Second)
		if n := s.size(); n != 0 {
			t.Errorf("%d are left", n)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if busy > 40 {
			t.Errorf("%d times it was busy", busy)
		}
		for k, n := range maps.All(attempts) {
			if n != 1 {
				t.Errorf("%s: attempt %d", k, n)
			}
		}
	})
}

// TestRulesNeverStall: whatever rules are in force, come and go, and whatever is
// answered, all of it is delivered in the end, and nothing is left in memory.
func TestRulesNeverStall(t *testing.T) {
	for seed := range uint64(12) {
		play(t, queue.Schedule{}, func(t *testing.T, s *scene) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			l := &located{scene: s}
			var last *queue.Policy
			renew := func() {
				var rules []queue.Rule
				for i := range 1 + rnd.IntN(4) {
					r := queue.Rule{
						Name: fmt.Sprint("r", i), Together: rnd.IntN(2) == 0, Concurrency: 1 + rnd.IntN(5), First: 1,
						Readings: []queue.Reading{
							{Pattern: regexp.MustCompile("slow"), Slow: time.Duration(1+rnd.IntN(20)) * time.Minute},
							{Pattern: regexp.MustCompile("pause"), Pause: time.Duration(1+rnd.IntN(20)) * time.Minute},
						},
					}
					switch rnd.IntN(3) {
					case 0:
						r.Domains = []string{"*." + fmt.Sprint("h", rnd.IntN(3)) + ".test"}
					case 1:
						r.Hosts = []string{"mx1." + fmt.Sprint("h", rnd.IntN(3)) + ".test"}
					}
					if rnd.IntN(2) == 0 {
						r.Messages = []queue.Rate{{N: 1 + rnd.IntN(30), Per: time.Minute}}
					}
					if rnd.IntN(2) == 0 {
						r.Recipients = []queue.Rate{{N: 1 + rnd.IntN(30), Per: time.Minute}, {N: 2000, Per: time.Hour}}
					}
					rules = append(rules, r)
				}
				p := s.ruled(rules...)
				p.Agents = map[string]queue.Agent{"a": l}
				p.Schedule.Active = 50 + rnd.IntN(200)
				s.Attach(p)
				if last != nil {
					s.Detach(last)
				}
				last = p
			}
			renew()
			var mu sync.Mutex
			chance := rand.New(rand.NewPCG(seed, 2))
			s.measure(time.Second, func(*queue.Delivery, *mail.Recipient) queue.Status {
				mu.Lock()
				defer mu.Unlock()
				switch chance.IntN(12) {
				case 0:
					return queue.Status{Reply: mail.Refuse(451, "4.7.0", "slow")}
				case 1:
					return queue.Status{Reply: mail.Refuse(451, "4.7.0", "pause")}
				case 2:
					return queue.Status{Busy: true, Reply: mail.Refuse(451, "4.4.5", "busy")}
				case 3:
					return queue.Status{Unreachable: true, Reply: mail.Refuse(451, "4.4.1", "nobody there")}
				}
				return queue.Status{Action: queue.Delivered}
			})
			for i := range 400 {
				var to []string
				for j := range 1 + rnd.IntN(3) {
					to = append(to, fmt.Sprintf("x%d@d%d.h%d.test a", j, rnd.IntN(8), rnd.IntN(4)))
				}
				s.accept(object(t, content, to...))
				if i%80 == 79 {
					pass(time.Duration(rnd.IntN(300)) * time.Second)
					renew()
				}
			}
			for range 60 {
				if pass(time.Hour); s.size() == 0 {
					break
				}
			}
			if n := s.size(); n != 0 {
				t.Errorf("seed %d: %d are left", seed, n)
			}
			pass(2 * time.Hour)
			if n, bins, sites := s.InMemory(); n+bins+sites != 0 {
				t.Errorf("seed %d: %d recipients, %d bins and %d sites are left in memory", seed, n, bins, sites)
			}
		})
	}
}
