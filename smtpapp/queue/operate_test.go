package queue_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

func (s *scene) operate(op queue.Operation, f queue.Filter) queue.Progress {
	s.t.Helper()
	p, err := s.Operate(s.t.Context(), op, f, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return p
}

func (s *scene) get(id string) *queue.Entry {
	s.t.Helper()
	e, err := s.Get(s.t.Context(), id)
	if err != nil {
		s.t.Fatal(err)
	}
	return e
}

func later(*queue.Delivery, *mail.Recipient) queue.Status {
	return queue.Status{Reply: mail.Refuse(451, "4.2.0", "Mailbox busy"), RemoteMTA: "far.test"}
}

func taken(*queue.Delivery, *mail.Recipient) queue.Status {
	return queue.Status{Action: queue.Delivered}
}

func byID(ids ...string) queue.Filter { return queue.Filter{IDs: ids} }

// TestHold: what is held is not tried, over a restart and past its time, until
// it is released.
func TestHold(t *testing.T) {
	play(t, queue.Schedule{}, func(t *testing.T, s *scene) {
		s.does(later)
		id := s.accept(object(t, content, "x@a.test a", "y@b.test a"))
		pass(time.Second)
		f := byID(id)
		f.Domain = "a.test"
		if p := s.operate(queue.Operation{Deed: queue.Hold}, f); p.Entries != 1 || p.Recipients != 1 || p.InAttempt != 0 {
			t.Errorf("got %+v", p)
		}
		pass(time.Hour)
		s.restart(queue.Schedule{})
		pass(6 * 24 * time.Hour)
		if got := s.triesOf("x@a.test"); len(got) != 1 {
			t.Errorf("tried %d times, want 1", len(got))
		}
		if got := s.triesOf("y@b.test"); len(got) < 20 {
			t.Errorf("the other was tried %d times", len(got))
		}
		e := s.get(id)
		if r := e.Recipients[0]; len(e.Recipients) != 1 || !r.Held || r.Reason != "by an operator" || r.Last.Reply.Text != "Mailbox busy" {
			t.Fatalf("got %+v", r)
		}
		s.does(taken)
		if p := s.operate(queue.Operation{Deed: queue.Retry}, queue.Filter{Domain: "a.test"}); p.Recipients != 0 {
			t.Errorf("a retry by filter has touched what is held: %+v", p)
		}
		s.operate(queue.Operation{Deed: queue.Release}, byID(id))
		pass(time.Second)
		if s.size() != 0 {
			t.Error("it is still there")
		}
	})
}

// TestDelete: with a DSN and without.
func TestDelete(t *testing.T) {
	for _, report := range []bool{false, true} {
		play(t, queue.Schedule{}, func(t *testing.T, s *scene) {
			s.does(later)
			for i := range 3 {
				s.accept(object(t, content, fmt.Sprintf("x%d@a.test a", i), "y@b.test a"))
			}
			pass(time.Second)
			s.does(nil)
			p := s.operate(queue.Operation{Deed: queue.Delete, Report: report}, queue.Filter{Domain: "a.test"})
			if p.Entries != 3 || p.Recipients != 3 {
				t.Errorf("got %+v", p)
			}
			pass(time.Second)
			want := 0
			if report {
				want = 3
			}
			if got := s.reports(); len(got) != want {
				t.Errorf("%d DSNs, want %d", len(got), want)
			} else if report && (!strings.Contains(got[0], "5.3.0") || !strings.Contains(got[0], "Mailbox busy") || strings.Contains(got[0], "y@b.test")) {
				t.Errorf("got %s", got[0])
			}
			for _, e := range s.list(queue.Filter{}) {
				if len(e.Recipients) != 1 || e.Recipients[0].Address.Domain != "b.test" {
					t.Errorf("got %+v", e)
				}
			}
			if n := s.size(); n != 3 {
				t.Errorf("%d entries, want 3", n)
			}
		})
	}
}

func (s *scene) list(f queue.Filter) []*queue.Entry {
	s.t.Helper()
	es, err := s.List(s.t.Context(), f)
	if err != nil {
		s.t.Fatal(err)
	}
	return es
}

// TestReassign: another agent has it from now on, and after a restart.
func TestReassign(t *testing.T) {
	play(t, queue.Schedule{}, func(t *testing.T, s *scene) {
		other := newAgent(later)
		attach := func() {
			p := s.policy(queue.Schedule{})
			p.Agents["b"] = other
			s.Attach(p)
		}
		attach()
		s.does(later)
		id := s.accept(object(t, content, "x@a.test a"))
		pass(time.Second)
		if _, err := s.Operate(t.Context(), queue.Operation{Deed: queue.Reassign, Agent: "c"}, byID(id), nil); !errors.Is(err, queue.ErrNoAgent) {
			t.Errorf("got %v, want ErrNoAgent", err)
		}
		s.operate(queue.Operation{Deed: queue.Reassign, Agent: "b"}, byID(id))
		pass(time.Second)
		if s.attempts() != 1 || len(other.got) != 1 {
			t.Errorf("%d and %q", s.attempts(), other.got)
		}
		s.restart(queue.Schedule{})
		attach()
		pass(time.Hour)
		if s.attempts() != 1 || len(other.got) < 3 {
			t.Errorf("after a restart: %d and %q", s.attempts(), other.got)
		}
	})
}

// TestDuringAttempt: an operation on what is being tried is done when that is
// over, to who is left.
func TestDuringAttempt(t *testing.T) {
	slow := func(d *queue.Delivery, r *mail.Recipient) queue.Status {
		if d.Envelope.From.IsNull() {
			return queue.Status{Action: queue.Delivered}
		}
		time.Sleep(time.Minute)
		if r.Address.Local == "good" {
			return queue.Status{Action: queue.Delivered}
		}
		return later(nil, nil)
	}
	for _, test := range []struct {
		name  string
		op    queue.Operation
		check func(t *testing.T, s *scene, id string)
	}{
		{"hold", queue.Operation{Deed: queue.Hold}, func(t *testing.T, s *scene, id string) {
			if r := s.get(id).Recipients[0]; !r.Held || r.Attempts != 1 || r.Wish != queue.NoWish {
				t.Errorf("got %+v", r)
			}
		}},
		{"delete", queue.Operation{Deed: queue.Delete}, func(t *testing.T, s *scene, _ string) {
			if s.size() != 0 || len(s.reports()) != 0 {
				t.Errorf("%d entries, %q", s.size(), s.reports())
			}
		}},
		{"report", queue.Operation{Deed: queue.Delete, Report: true}, func(t *testing.T, s *scene, _ string) {
			pass(10 * time.Minute)
			if s.size() != 0 || len(s.reports()) != 1 || strings.Contains(s.reports()[0], "good@") || strings.Contains(s.reports()[0], "far.test said") {
				t.Errorf("%d entries, %q", s.size(), s.reports())
			}
		}},
		{"retry", queue.Operation{Deed: queue.Retry}, func(t *testing.T, s *scene, _ string) {
			if n := len(s.triesOf("bad@a.test")); n != 2 {
				t.Errorf("%d attempts, want the second at once", n)
			}
		}},
		{"reassign", queue.Operation{Deed: queue.Reassign, Agent: "b"}, func(t *testing.T, s *scene, id string) {
			if r := s.get(id).Recipients[0]; r.Agent != "b" || len(s.triesOf("bad@a.test")) != 1 {
				t.Errorf("got %+v, %d attempts", r, len(s.triesOf("bad@a.test")))
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			play(t, queue.Schedule{}, func(t *testing.T, s *scene) {
				p := s.policy(queue.Schedule{})
				p.Agents["b"] = newAgent(later)
				s.Attach(p)
				s.does(slow)
				id := s.accept(object(t, content, "good@a.test a", "bad@a.test a"))
				pass(time.Second)
				if p := s.operate(test.op, byID(id)); p.Recipients != 2 || p.InAttempt != 2 {
					t.Errorf("got %+v", p)
				}
				if len(s.get(id).Recipients) != 2 {
					t.Error("it did not wait for the attempt")
				}
				pass(2*time.Minute + time.Second)
				if len(s.triesOf("good@a.test")) != 1 {
					t.Error("who was delivered to was tried again")
				}
				test.check(t, s, id)
			})
		})
	}
}

// TestWishSurvives: the process ends while an operation waits for an attempt.
func TestWishSurvives(t *testing.T) {
	play(t, queue.Schedule{}, func(t *testing.T, s *scene) {
		s.does(later)
		ids := []string{s.accept(object(t, content, "x@a.test a")), s.accept(object(t, content, "y@a.test a"))}
		pass(time.Second)
		for i, w := range []queue.Wish{queue.WishHold, queue.WishReport} {
			if err := s.store.Commit(t.Context(), &queue.Change{Mark: []queue.Mark{{Entry: ids[i], Wish: w}}}); err != nil {
				t.Fatal(err)
			}
		}
		before := s.attempts()
		s.does(nil)
		s.restart(queue.Schedule{})
		pass(2 * time.Hour)
		if n := s.attempts() - before; n != 1 || len(s.reports()) != 1 || !strings.Contains(s.reports()[0], "y@a.test") {
			t.Errorf("%d attempts, want that of the DSN; %q", n, s.reports())
		}
		if r := s.get(ids[0]).Recipients[0]; !r.Held || r.Wish != queue.NoWish || s.size() != 1 {
			t.Errorf("got %+v; %d entries", r, s.size())
		}
	})
}

// TestOperationFails: what could not be written is as it was before.
func TestOperationFails(t *testing.T) {
	play(t, queue.Schedule{}, func(t *testing.T, s *scene) {
		s.does(later)
		id := s.accept(object(t, content, "x@a.test a"))
		pass(time.Second)
		s.does(func(*queue.Delivery, *mail.Recipient) queue.Status {
			time.Sleep(30 * time.Second)
			return later(nil, nil)
		})
		running := s.accept(object(t, content, "y@a.test a"))
		pass(time.Second)
		s.store.SetFail(func(*queue.Change) error { return errors.New("disk on fire") })
		for _, deed := range []queue.Deed{queue.Hold, queue.Delete, queue.Release, queue.Retry} {
			if p, err := s.Operate(t.Context(), queue.Operation{Deed: deed}, byID(id, running), nil); err == nil && deed != queue.Release || p.Recipients != 0 {
				t.Errorf("%s: got %+v, %v", deed, p, err)
			}
		}
		s.store.SetFail(nil)
		pass(2 * time.Minute)
		for _, to := range []string{"x@a.test", "y@a.test"} {
			if n := len(s.triesOf(to)); n != 2 {
				t.Errorf("%s: %d attempts, want 2", to, n)
			}
		}
	})
}

// TestManyAtOnce: batches, with a word after each, and one commit a batch.
func TestManyAtOnce(t *testing.T) {
	play(t, queue.Schedule{}, func(t *testing.T, s *scene) {
		for i := range 1200 {
			s.accept(object(t, content, fmt.Sprintf("x%d@dead%d.test a", i, i%3)))
		}
		pass(time.Second)
		commits := 0
		s.store.SetFail(func(*queue.Change) error { commits++; return nil })
		var told []int
		p, err := s.Operate(t.Context(), queue.Operation{Deed: queue.Hold}, queue.Filter{}, func(p queue.Progress) { told = append(told, p.Entries) })
		if err != nil || p.Entries != 1200 || fmt.Sprint(told) != "[500 1000 1200]" || commits != 3 {
			t.Errorf("got %+v, %v, %v; %d commits", p, err, told, commits)
		}
		before := s.attempts()
		pass(24 * time.Hour)
		if n := s.attempts() - before; n != 0 {
			t.Errorf("%d attempts at what is held", n)
		}
		s.does(taken)
		held := true
		s.operate(queue.Operation{Deed: queue.Retry}, queue.Filter{Held: &held})
		pass(time.Hour)
		if s.size() != 0 {
			t.Errorf("%d are left", s.size())
		}
	})
}

// TestOperateUnderTraffic: operations of all kinds while mail comes and goes;
// nothing is delivered twice, nothing is lost.
func TestOperateUnderTraffic(t *testing.T) {
	q := open(t, t.TempDir())
	var mu sync.Mutex
	got := map[string]int{}
	a := newAgent(func(d *queue.Delivery, r *mail.Recipient) queue.Status {
		if d.Attempt == 1 {
			return queue.Status{Reply: mail.Refuse(451, "4.0.0", "greylisted")}
		}
		mu.Lock()
		defer mu.Unlock()
		got[r.Address.String()]++
		return queue.Status{Action: queue.Delivered}
	})
	q.Attach(policy(map[string]queue.Agent{"a": a}, 50*time.Millisecond))
	const n = 300
	var wg sync.WaitGroup
	for w := range 3 {
		wg.Go(func() {
			for i := range n / 3 {
				q.accept(object(t, content, fmt.Sprintf("x%d@s%d.test a", w*n+i, i%7)))
			}
		})
	}
	stop := make(chan struct{})
	var ops sync.WaitGroup
	for _, deed := range []queue.Deed{queue.Hold, queue.Release, queue.Retry} {
		ops.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := q.Operate(t.Context(), queue.Operation{Deed: deed}, queue.Filter{}, nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	time.Sleep(200 * time.Millisecond)
	close(stop)
	ops.Wait()
	if _, err := q.Operate(t.Context(), queue.Operation{Deed: queue.Release}, queue.Filter{}, nil); err != nil {
		t.Error(err)
	}
	q.empty()
	mu.Lock()
	defer mu.Unlock()
	if len(got) != n {
		t.Errorf("%d were delivered to, want %d", len(got), n)
	}
	for to, k := range got {
		if k != 1 {
			t.Errorf("%s: %d times", to, k)
		}
	}
}

func TestNothingThere(t *testing.T) {
	play(t, queue.Schedule{}, func(t *testing.T, s *scene) {
		id := s.accept(object(t, content, "x@dead.test a"))
		pass(time.Second)
		if _, err := s.Operate(t.Context(), queue.Operation{Deed: queue.Hold}, byID("nothing"), nil); !errors.Is(err, queue.ErrNotFound) {
			t.Errorf("got %v, want ErrNotFound", err)
		}
		if p := s.operate(queue.Operation{Deed: queue.Hold}, byID("nothing", id)); fmt.Sprint(p.Missing) != "[nothing]" || p.Entries != 1 {
			t.Errorf("got %+v", p)
		}
		if _, err := s.Operate(t.Context(), queue.Operation{Deed: "eat"}, queue.Filter{}, nil); err == nil {
			t.Error("an unknown deed was done")
		}
	})
}

func TestFilter(t *testing.T) {
	play(t, queue.Schedule{}, func(t *testing.T, s *scene) {
		s.does(later)
		old := s.accept(object(t, content, "x@a.test a"))
		pass(time.Hour)
		null := object(t, content, "y@b.test a")
		null.Envelope.From = mail.Address{}
		young := s.accept(null)
		pass(time.Second)
		s.operate(queue.Operation{Deed: queue.Hold}, byID(old))
		yes, no := true, false
		for _, test := range []struct {
			f    queue.Filter
			want []string
		}{
			{queue.Filter{}, []string{old, young}},
			{queue.Filter{Sender: "s@from.test"}, []string{old}},
			{queue.Filter{Sender: "<>"}, []string{young}},
			{queue.Filter{Recipient: "x@a.test"}, []string{old}},
			{queue.Filter{Domain: "b.test"}, []string{young}},
			{queue.Filter{Agent: "b"}, nil},
			{queue.Filter{Held: &yes}, []string{old}},
			{queue.Filter{Held: &no}, []string{young}},
			{queue.Filter{Older: 30 * time.Minute}, []string{old}},
			{queue.Filter{Younger: 30 * time.Minute}, []string{young}},
			{queue.Filter{Reply: "mailbox BUSY"}, []string{old, young}},
			{queue.Filter{Reply: "nobody"}, nil},
			{queue.Filter{IDs: []string{young}}, []string{young}},
			{queue.Filter{After: old}, []string{young}},
			{queue.Filter{Limit: 1}, []string{old}},
		} {
			var got []string
			for _, e := range s.list(test.f) {
				got = append(got, e.ID)
			}
			if fmt.Sprint(got) != fmt.Sprint(test.want) {
				t.Errorf("%+v: got %q, want %q", test.f, got, test.want)
			}
		}
	})
}

// TestHistory is bounded, in attempts and in the remote's words.
func TestHistory(t *testing.T) {
	play(t, queue.Schedule{Expire: 30 * 24 * time.Hour}, func(t *testing.T, s *scene) {
		began := time.Now()
		s.does(func(d *queue.Delivery, _ *mail.Recipient) queue.Status {
			time.Sleep(time.Second)
			return queue.Status{Reply: mail.Refuse(451, "4.2.0", "%d %s", d.Attempt, strings.Repeat("long ", 1000)), RemoteMTA: "far.test"}
		})
		id := s.accept(object(t, content, "x@a.test a"))
		pass(2 * time.Minute)
		h := s.get(id).Recipients[0].History
		if len(h) != 2 || !h[0].At.Equal(began) || h[0].Took != time.Second || h[0].Remote != "far.test" || h[0].Agent != "a" ||
			!strings.HasPrefix(h[0].Reply, "451 4.2.0 1 long") || len(h[0].Reply) > 600 {
			t.Errorf("got %+v", h)
		}
		pass(48 * time.Hour)
		r := s.get(id).Recipients[0]
		if h = r.History; len(h) != 10 || !strings.HasPrefix(h[9].Reply, fmt.Sprintf("451 4.2.0 %d long", r.Attempts)) {
			t.Errorf("%d remembered, the last of %d is %.20q", len(h), r.Attempts, h[len(h)-1].Reply)
		}
	})
}

// TestBeforeItIsScheduled: what an operator sees in the store, he can work on,
// though it is not in the schedule yet.
func TestBeforeItIsScheduled(t *testing.T) {
	for _, f := range []queue.Filter{{}, {IDs: []string{"x"}}} {
		play(t, queue.Schedule{}, func(t *testing.T, s *scene) {
			s.does(later)
			stored, goOn := make(chan bool), make(chan bool)
			s.store.After = func(c *queue.Change) {
				if len(c.Add) > 0 {
					close(stored)
					<-goOn
				}
			}
			go s.accept(object(t, content, "x@a.test a"))
			<-stored
			if f.IDs != nil {
				f.IDs = []string{s.list(queue.Filter{})[0].ID}
			}
			var p queue.Progress
			go func() { p = s.operate(queue.Operation{Deed: queue.Hold}, f) }()
			pass(time.Second)
			close(goOn)
			pass(time.Hour)
			if p.Recipients != 1 || s.attempts() > 1 || !s.list(queue.Filter{})[0].Recipients[0].Held {
				t.Errorf("%+v, %d attempts; want it to be held", p, s.attempts())
			}
		})
	}
}

// TestBeforeItWaits: an attempt has had its result stored, here that it is held,
// and does not know yet of whoever has read that.
func TestBeforeItWaits(t *testing.T) {
	play(t, queue.Schedule{}, func(t *testing.T, s *scene) {
		begun, end := make(chan bool), make(chan bool)
		s.does(func(d *queue.Delivery, r *mail.Recipient) queue.Status {
			if d.Attempt > 1 {
				return taken(d, r)
			}
			close(begun)
			<-end
			return later(d, r)
		})
		held, goOn := make(chan bool), make(chan bool)
		s.store.After = func(c *queue.Change) {
			if len(c.Update) > 0 && c.Update[0].Held {
				close(held)
				<-goOn
			}
		}
		id := s.accept(object(t, content, "x@a.test a"))
		<-begun
		s.operate(queue.Operation{Deed: queue.Hold}, byID(id))
		close(end)
		<-held
		if p := s.operate(queue.Operation{Deed: queue.Release}, byID(id)); p.Recipients != 1 {
			t.Errorf("got %+v", p)
		}
		close(goOn)
		pass(time.Second)
		if s.size() != 0 {
			t.Errorf("it was not tried again: %+v", s.get(id).Recipients[0])
		}
	})
}

// TestRetryAfterRestart: who asks for an attempt does not wait for what spreads those
// that a restart has made overdue.
func TestRetryAfterRestart(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir)
	a := newAgent(later)
	q.Attach(policy(map[string]queue.Agent{"a": a}, 10*time.Minute))
	id := q.accept(object(t, content, "x@a.test a"))
	a.wait(t, "x@a.test 1")
	q.close()
	makeDue(t, dir, "")
	q = open(t, dir)
	q.Attach(policy(map[string]queue.Agent{"a": a}, 10*time.Minute))
	for q.Loading() {
		time.Sleep(time.Millisecond)
	}
	if err := q.Retry(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	a.wait(t, "x@a.test 2")
}
