package queue_test

import (
	"database/sql"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

// An observer writes down what it hears of quarantines.
type observer struct {
	mu    sync.Mutex
	heard []string
}

func (o *observer) AttemptEnded(string, queue.Action, time.Duration) {}

func (o *observer) Quarantined(id, agent, cause string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.heard = append(o.heard, id+" "+agent+" "+cause)
}

func (o *observer) said() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.heard)
}

// TestPanicsAreQuarantined: the third panic in a row over a recipient is the
// last; one that the agent survives between them begins the count anew.
func TestPanicsAreQuarantined(t *testing.T) {
	play(t, queue.Schedule{}, func(t *testing.T, s *scene) {
		o := new(observer)
		p := s.policy(queue.Schedule{})
		p.Observe = o
		s.Attach(p)
		s.does(func(d *queue.Delivery, r *mail.Recipient) queue.Status {
			if d.Attempt != 3 {
				panic("poison")
			}
			return later(d, r)
		})
		id := s.accept(object(t, content, "x@a.test a"))
		pass(3 * time.Hour)
		if n := len(s.triesOf("x@a.test")); n != 6 {
			t.Errorf("%d attempts, want 2 that panic, one that does not, and 3", n)
		}
		r := s.get(id).Recipients[0]
		if !r.Held || r.Reason == "" || r.Starts != 3 {
			t.Errorf("got %+v", r)
		}
		if got := o.said(); len(got) != 1 || got[0] != id+" a death" {
			t.Errorf("heard %q", got)
		}
		s.operate(queue.Operation{Deed: queue.Release}, byID(id))
		pass(time.Second)
		if r := s.get(id).Recipients[0]; r.Held || r.Starts != 1 {
			t.Errorf("released: got %+v", r)
		}
		s.does(taken)
		pass(10 * time.Hour)
		if s.size() != 0 || len(o.said()) != 1 {
			t.Error("it is still there")
		}
	})
}

// TestDamagedEntryIsHeld: an entry whose envelope is not what was stored is
// listed and held, wherever it waits, and the others are delivered. It can be
// deleted, and its sender, who is not known for sure, hears of nothing.
func TestDamagedEntryIsHeld(t *testing.T) {
	for name, damage := range map[string]string{
		"envelope":  "update entry set envelope = '{}' where id = ?",
		"recipient": "update recipient set detail = replace(detail, 'x', 'y') where entry = ?",
	} {
		for where, due := range map[string]time.Duration{"loose": 0, "bin": time.Hour} {
			t.Run(name+" "+where, func(t *testing.T) {
				dir := t.TempDir()
				q := open(t, dir)
				bad := object(t, content, "x@a.test a")
				if due > 0 {
					bad.Envelope.HoldUntil = time.Now().Add(due)
				}
				id := q.accept(bad)
				q.accept(object(t, content, "z@a.test a"))
				q.close()
				db, err := sql.Open("sqlite", filepath.Join(dir, "queue.db"))
				if err == nil {
					_, err = db.Exec(damage, id)
				}
				if err == nil && due > 0 {
					_, err = db.Exec("update recipient set due = 1 where entry = ?", id)
				}
				if err != nil {
					t.Fatal(err)
				}
				db.Close()

				q = open(t, dir)
				a, o := newAgent(delivered), new(observer)
				p := policy(map[string]queue.Agent{"a": a})
				p.Observe = o
				q.Attach(p)
				a.wait(t, "z@a.test 1")
				for end := time.Now().Add(5 * time.Second); len(o.said()) == 0 && time.Now().Before(end); {
					time.Sleep(time.Millisecond)
				}
				if got := o.said(); len(got) != 1 || got[0] != id+" a damage" {
					t.Errorf("heard %q", got)
				}
				held := true
				es, err := q.List(t.Context(), queue.Filter{Held: &held})
				if err != nil || len(es) != 1 || !es[0].Damaged {
					t.Fatalf("got %+v, %v", es, err)
				}
				if r := es[0].Recipients[0]; r.Address.String() != "x@a.test" || !strings.Contains(r.Reason, "damaged") || r.Bin != 0 {
					t.Errorf("got %+v", r)
				}
				if _, err := q.Operate(t.Context(), queue.Operation{Deed: queue.Delete, Report: true}, queue.Filter{IDs: []string{id}}, nil); err != nil {
					t.Error(err)
				}
				q.empty()
				if len(a.got) != 1 {
					t.Errorf("the agent got %q", a.got)
				}
			})
		}
	}
}

// TestDamagedEntryStaysHeld when an operator releases it: it is damaged still.
func TestDamagedEntryStaysHeld(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir)
	id := q.accept(object(t, content, "x@a.test a"))
	q.close()
	db, err := sql.Open("sqlite", filepath.Join(dir, "queue.db"))
	if err == nil {
		_, err = db.Exec("update entry set envelope = '{}'")
	}
	if err != nil {
		t.Fatal(err)
	}
	db.Close()
	q = open(t, dir)
	a, o := newAgent(delivered), new(observer)
	p := policy(map[string]queue.Agent{"a": a})
	p.Observe = o
	q.Attach(p)
	for n := 1; n <= 3; n++ {
		for end := time.Now().Add(5 * time.Second); len(o.said()) < n; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("heard %q", o.said())
			}
		}
		if err := q.Retry(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	if len(a.got) != 0 {
		t.Errorf("the agent got %q", a.got)
	}
}
