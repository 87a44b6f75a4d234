package queue_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
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

// TestResultThatCannotBeWritten: until it is, nothing is tried again, as the
// mail has been delivered. Then it is not either.
func TestResultThatCannotBeWritten(t *testing.T) {
	play(t, queue.Schedule{}, func(t *testing.T, s *scene) {
		s.does(func(*queue.Delivery, *mail.Recipient) queue.Status { return queue.Status{Action: queue.Delivered} })
		var broken atomic.Bool
		broken.Store(true)
		s.store.Fail = func(c *queue.Change) error {
			if broken.Load() && len(c.Update) > 0 {
				return errors.New("input/output error")
			}
			return nil
		}
		s.accept(object(t, content, "x@a.test a"))
		pass(24 * time.Hour)
		if s.attempts() != 1 || s.size() != 1 {
			t.Errorf("%d attempts, %d entries", s.attempts(), s.size())
		}
		broken.Store(false)
		pass(time.Minute)
		if s.attempts() != 1 || s.size() != 0 {
			t.Errorf("%d attempts, %d entries", s.attempts(), s.size())
		}
	})
}

// TestAcceptThatCannotBeWritten leaves nothing that is tried.
func TestAcceptThatCannotBeWritten(t *testing.T) {
	play(t, queue.Schedule{}, func(t *testing.T, s *scene) {
		full := mail.Refuse(452, "4.3.1", "insufficient system storage")
		s.store.Fail = func(*queue.Change) error { return full }
		if _, err := s.Accept(t.Context(), []*message.Object{object(t, content, "x@a.test a")}); !errors.Is(err, full) {
			t.Errorf("got %v", err)
		}
		pass(time.Hour)
		if s.attempts() != 0 {
			t.Errorf("%d attempts", s.attempts())
		}
	})
}

// TestAcceptAndClose: who comes too late is told so, and never waits.
func TestAcceptAndClose(t *testing.T) {
	for range 20 {
		dir := t.TempDir()
		q := open(t, dir)
		q.Attach(policy(map[string]queue.Agent{}))
		var wg sync.WaitGroup
		var taken atomic.Int32
		for range 16 {
			wg.Go(func() {
				for {
					_, err := q.Accept(context.Background(), []*message.Object{object(t, content, "x@a.test a")})
					if err != nil {
						if r := mail.ReplyFor(err); r.Code != 421 {
							t.Errorf("got %v", err)
						}
						return
					}
					taken.Add(1)
				}
			})
		}
		time.Sleep(3 * time.Millisecond)
		q.close()
		wg.Wait()
		q = open(t, dir)
		if n := q.size(); n != int(taken.Load()) {
			t.Errorf("%d were taken, %d are there", taken.Load(), n)
		}
		q.close()
	}
}

// TestCloseCutsOff attempts that do not end in time; their mail is still there.
func TestCloseCutsOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := new(storetest.Memory)
		q, err := queue.Open(m.Open(), nil)
		if err != nil {
			t.Fatal(err)
		}
		q.Attach(policy(map[string]queue.Agent{"a": hanging{}}))
		if _, err := q.Accept(t.Context(), []*message.Object{object(t, content, "x@a.test a")}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		began := time.Now()
		if err := q.Close(ctx); err != nil || time.Since(began) != time.Minute {
			t.Errorf("closed after %v: %v", time.Since(began), err)
		}
		n := 0
		_ = m.Open().Each(t.Context(), "", func(*queue.Entry) bool { n++; return true })
		if n != 1 {
			t.Errorf("%d entries are there", n)
		}
	})
}

// hanging is an agent that delivers nothing until it is cut off.
type hanging struct{}

func (hanging) Deliver(ctx context.Context, _ *queue.Delivery) []queue.Status {
	<-ctx.Done()
	return nil
}

// TestPolicyEnds: attempts end with the context of their policy, as when a
// configuration is torn down.
func TestPolicyEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, err := queue.Open(new(storetest.Memory).Open(), nil)
		if err != nil {
			t.Fatal(err)
		}
		p := policy(map[string]queue.Agent{"a": hanging{}})
		ctx, end := context.WithCancel(t.Context())
		var leases atomic.Int32
		p.Context = ctx
		p.Lease = func() (func(), bool) { leases.Add(1); return func() { leases.Add(-1) }, true }
		q.Attach(p)
		if _, err := q.Accept(t.Context(), []*message.Object{object(t, content, "x@a.test a")}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		q.Detach(p)
		end()
		synctest.Wait()
		if leases.Load() != 0 {
			t.Error("the attempt goes on")
		}
		if err := q.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestMemoryIsBounded: content that cannot be delivered now is not kept.
func TestMemoryIsBounded(t *testing.T) {
	q := open(t, t.TempDir())
	a := newAgent(func(*queue.Delivery, *mail.Recipient) queue.Status { return queue.Status{Unreachable: true} })
	a.dest = func(r *mail.Recipient) string { return r.Address.Domain }
	q.Attach(policy(map[string]queue.Agent{"a": a}))
	big := content + strings.Repeat("x", 30_000)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			for i := range 150 {
				q.accept(object(t, big, fmt.Sprintf("x@dead%d.test %s", i%3, []string{"a", "none"}[i%2])))
			}
		})
	}
	wg.Wait()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	if m.HeapAlloc > 45<<20 {
		t.Errorf("%d MiB for 90 MiB of mail that waits", m.HeapAlloc>>20)
	}
}

// TestDamagedContent is held and reported, delivers nothing, and keeps nobody
// from anything. Retry releases it once it has been repaired.
func TestDamagedContent(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"missing":   os.Remove,
		"truncated": func(path string) error { return os.Truncate(path, 1000) },
		"changed": func(path string) error {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.WriteAt([]byte("!"), 60_000)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			q := open(t, dir)
			m, err := message.Receive(strings.NewReader("Subject: large\r\n\r\n"+strings.Repeat("0123456789\r\n", 10_000)), message.Limits{}, q)
			if err != nil {
				t.Fatal(err)
			}
			o := object(t, content, "x@a.test a")
			o.Content = m
			id := q.accept(o)
			q.close()
			path := filepath.Join(dir, "content", id)
			whole, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := damage(path); err != nil {
				t.Fatal(err)
			}

			q = open(t, dir)
			var took atomic.Int32
			a := newAgent(func(d *queue.Delivery, _ *mail.Recipient) queue.Status {
				r, err := d.Content.NewReader()
				if err != nil {
					return queue.Status{}
				}
				defer r.Close()
				if !readable(r) {
					return queue.Status{Reply: mail.Refuse(451, "4.3.0", "cannot read it")}
				}
				took.Add(1)
				return queue.Status{Action: queue.Delivered}
			})
			q.Attach(policy(map[string]queue.Agent{"a": a}, time.Millisecond))
			q.accept(object(t, content, "y@a.test a"))
			a.wait(t, "y@a.test 1")
			var e *queue.Entry
			for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
				if e, err = q.Get(t.Context(), id); err != nil {
					t.Fatal(err)
				}
				if e.Recipients[0].Held {
					break
				}
				if time.Now().After(end) {
					t.Fatal("it is not held")
				}
			}
			if r := e.Recipients[0].Last.Reply; r == nil || !strings.Contains(r.Text, "damaged") || strings.Contains(r.Text, dir) {
				t.Errorf("the reason is %v", r)
			}
			if n := len(a.got); n > 2 || took.Load() != 1 {
				t.Errorf("%d attempts, %d delivered", n, took.Load())
			}
			if err := os.WriteFile(path, whole, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := q.Retry(t.Context(), id); err != nil {
				t.Fatal(err)
			}
			q.empty()
			if took.Load() != 2 {
				t.Error("it was not delivered once it was whole again")
			}
		})
	}
}

func readable(r interface{ Read([]byte) (int, error) }) bool {
	buf := make([]byte, 4096)
	for {
		if _, err := r.Read(buf); err != nil {
			return err.Error() == "EOF"
		}
	}
}

// TestReloadsWhileDelivering: every recipient is tried once at a time and
// delivered once, whatever comes and goes.
func TestReloadsWhileDelivering(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir)
	var mu sync.Mutex
	running, done := map[string]bool{}, map[string]int{}
	a := newAgent(nil)
	a.dest = func(r *mail.Recipient) string { return r.Address.Domain }
	a.do = func(d *queue.Delivery, r *mail.Recipient) queue.Status {
		k := d.ID + " " + r.Address.String()
		mu.Lock()
		if running[k] {
			t.Errorf("%s is tried twice at once", k)
		}
		running[k] = true
		mu.Unlock()
		time.Sleep(100 * time.Microsecond)
		mu.Lock()
		defer mu.Unlock()
		delete(running, k)
		if d.Attempt == 1 && len(k)%2 == 0 {
			return queue.Status{Unreachable: len(k)%4 == 0}
		}
		done[k]++
		return queue.Status{Action: queue.Delivered}
	}
	old := policy(map[string]queue.Agent{"a": a}, 3*time.Millisecond)
	q.Attach(old)
	var accepting sync.WaitGroup
	for i := range 4 {
		accepting.Go(func() {
			for j := range 50 {
				var to []string
				for k := range 10 {
					to = append(to, fmt.Sprintf("x%d.%d@d%d.test a", i, j*k, k%4))
				}
				q.accept(object(t, content, to...))
			}
		})
	}
	for range 50 {
		p := policy(map[string]queue.Agent{"a": a}, 3*time.Millisecond)
		q.Attach(p)
		q.Detach(old)
		old = p
		time.Sleep(2 * time.Millisecond)
	}
	accepting.Wait()
	q.empty()
	mu.Lock()
	defer mu.Unlock()
	for k, n := range done {
		if _, rcpt, _ := strings.Cut(k, " "); n != 1 && !strings.Contains(rcpt, ".0@") { // j*0 is in there more than once
			t.Errorf("%s was delivered %d times", k, n)
		}
	}
}

// TestLoadsBesideWork: what is read at the start and what comes meanwhile are
// each tried once.
func TestLoadsBesideWork(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir)
	const n = 3000
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			for range n / 10 {
				q.accept(object(t, content, "old@a.test a"))
			}
		})
	}
	wg.Wait()
	q.close()
	q = open(t, dir)
	var tries atomic.Int32
	a := newAgent(func(*queue.Delivery, *mail.Recipient) queue.Status {
		tries.Add(1)
		return queue.Status{Action: queue.Delivered}
	})
	q.Attach(policy(map[string]queue.Agent{"a": a}))
	for range 200 {
		q.accept(object(t, content, "new@a.test a"))
	}
	q.empty()
	if tries.Load() != n+200 {
		t.Errorf("%d attempts, want %d", tries.Load(), n+200)
	}
}

// TestRefusedWithoutPolicy: where nobody can tell the sender, the client keeps
// the message.
func TestRefusedWithoutPolicy(t *testing.T) {
	q := open(t, t.TempDir())
	o := object(t, content, "x@a.test a", "y@a.test a")
	o.Envelope.Recipients[0].Refused = mail.Refuse(550, "5.7.1", "no")
	if _, err := q.Accept(t.Context(), []*message.Object{o}); err == nil || !mail.ReplyFor(err).Temporary() {
		t.Errorf("got %v", err)
	}
	p := policy(map[string]queue.Agent{"a": newAgent(delivered), "dsn": newAgent(delivered)})
	q.Attach(p)
	q.Detach(p) // the session that sends it holds a lease still
	q.accept(o)
	if n := q.size(); n != 2 {
		t.Errorf("%d entries, want that of y and a DSN", n)
	}
}

// TestPanickingRoute loses the DSN, and nothing else.
func TestPanickingRoute(t *testing.T) {
	q := open(t, t.TempDir())
	p := policy(map[string]queue.Agent{"a": newAgent(func(*queue.Delivery, *mail.Recipient) queue.Status {
		return queue.Status{Action: queue.Failed}
	})})
	p.Route = func(context.Context, *mail.Envelope, mail.Address) []*mail.Recipient { panic("poison") }
	p.Log = slog.New(slog.DiscardHandler)
	q.Attach(p)
	q.accept(object(t, content, "x@a.test a"))
	q.empty()
}

// TestSpooledContentIsReturned with the DSN, though its spool file is closed.
func TestSpooledContentIsReturned(t *testing.T) {
	q := open(t, t.TempDir())
	bad := newAgent(func(*queue.Delivery, *mail.Recipient) queue.Status { return queue.Status{Action: queue.Failed} })
	var size atomic.Int64
	dsn := newAgent(func(d *queue.Delivery, _ *mail.Recipient) queue.Status {
		size.Store(d.Content.Size())
		return queue.Status{Action: queue.Delivered}
	})
	q.Attach(policy(map[string]queue.Agent{"a": bad, "dsn": dsn}))
	m, err := message.Receive(strings.NewReader("Subject: x\r\n\r\n"+strings.Repeat("0123456789\r\n", 3000)), message.Limits{}, q)
	if err != nil {
		t.Fatal(err)
	}
	o := object(t, content, "x@a.test a")
	o.Content = m
	q.accept(o)
	dsn.wait(t, "s@from.test 1")
	if size.Load() < 36_000 {
		t.Errorf("the DSN has %d octets, the message is not in it", size.Load())
	}
}
