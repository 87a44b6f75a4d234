package queue_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
	"github.com/caddymail/caddy-smtp/smtpapp/queue/sqlstore"
)

// agent is an Agent made of a function, which remembers what it was given.
type agent struct {
	mu   sync.Mutex
	got  []string // "id to attempt"
	do   func(d *queue.Delivery, r *mail.Recipient) queue.Status
	dest func(r *mail.Recipient) string
	told chan string
}

func newAgent(do func(*queue.Delivery, *mail.Recipient) queue.Status) *agent {
	return &agent{do: do, told: make(chan string, 100_000)}
}

func (a *agent) Deliver(_ context.Context, d *queue.Delivery) []queue.Status {
	var ss []queue.Status
	for _, r := range d.Envelope.Recipients {
		line := fmt.Sprintf("%s %d", r.Address, d.Attempt)
		a.mu.Lock()
		a.got = append(a.got, line)
		a.mu.Unlock()
		s := a.do(d, r)
		ss = append(ss, s)
		a.told <- line
	}
	return ss
}

func (a *agent) Destination(_ *mail.Envelope, r *mail.Recipient) string {
	if a.dest == nil {
		return ""
	}
	return a.dest(r)
}

// wait waits for a line of an attempt.
func (a *agent) wait(t *testing.T, want string) {
	t.Helper()
	for {
		select {
		case got := <-a.told:
			if got == want {
				return
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("never tried: %s; got %q", want, a.got)
		}
	}
}

func delivered(*queue.Delivery, *mail.Recipient) queue.Status {
	return queue.Status{Action: queue.Delivered}
}

func address(s string) mail.Address {
	a, err := mail.ParseAddress(s)
	if err != nil {
		panic(err)
	}
	return a
}

// object is a message from s@from.test to recipients, each "address agent".
func object(t testing.TB, content string, to ...string) *message.Object {
	t.Helper()
	m, err := message.Parse([]byte(content))
	if err != nil {
		t.Fatal(err)
	}
	env := &mail.Envelope{From: address("s@from.test")}
	for _, r := range to {
		a, agent, _ := strings.Cut(r, " ")
		rc := mail.NewRecipient(address(a))
		rc.Claim(agent)
		env.Recipients = append(env.Recipients, rc)
	}
	return &message.Object{Envelope: env, Content: m}
}

const content = "From: s@from.test\r\nMessage-ID: <1@from.test>\r\nSubject: x\r\n\r\nbody\r\n"

type fixture struct {
	*queue.Queue
	t   *testing.T
	dir string
}

func open(t *testing.T, dir string) *fixture {
	t.Helper()
	s, err := sqlstore.Open(dir, sqlstore.Options{FreeSpace: -1})
	if err != nil {
		t.Fatal(err)
	}
	q, err := queue.Open(s, nil)
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{q, t, dir}
	t.Cleanup(f.close)
	return f
}

func (f *fixture) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := f.Close(ctx); err != nil {
		f.t.Error(err)
	}
}

func (f *fixture) accept(o ...*message.Object) string {
	f.t.Helper()
	id, err := f.Accept(f.t.Context(), o)
	if err != nil {
		f.t.Fatal(err)
	}
	return id
}

func (f *fixture) size() int {
	f.t.Helper()
	es, err := f.List(f.t.Context(), queue.Filter{Limit: 100_000})
	if err != nil {
		f.t.Fatal(err)
	}
	return len(es)
}

func (f *fixture) empty() {
	f.t.Helper()
	for end := time.Now().Add(10 * time.Second); f.size() > 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			f.t.Fatalf("%d entries are left", f.size())
		}
	}
}

func policy(agents map[string]queue.Agent, retry ...time.Duration) *queue.Policy {
	return &queue.Policy{
		Agents: agents, Hostname: "mx.test", Postmaster: address("postmaster@mx.test"),
		Schedule: queue.Schedule{Retry: retry}, FreeSpace: -1,
		Lease: func() (func(), bool) { return func() {}, true },
		Route: func(_ context.Context, _ *mail.Envelope, a mail.Address) []*mail.Recipient {
			r := mail.NewRecipient(a)
			r.Claim("dsn")
			return []*mail.Recipient{r}
		},
		Log: slog.New(slog.DiscardHandler),
	}
}

func TestDelivers(t *testing.T) {
	q := open(t, t.TempDir())
	var body atomic.Value
	a := newAgent(func(d *queue.Delivery, _ *mail.Recipient) queue.Status {
		r, _ := d.Content.NewReader()
		defer r.Close()
		b := new(strings.Builder)
		_, _ = fmt.Fprint(b, d.Content.Header.Get("Subject"))
		body.Store(b.String())
		return queue.Status{Action: queue.Delivered}
	})
	q.Attach(policy(map[string]queue.Agent{"a": a}))
	q.accept(object(t, content, "x@a.test a", "y@a.test a"))
	a.wait(t, "y@a.test 1")
	q.empty()
	if body.Load() != "x" {
		t.Errorf("got %q", body.Load())
	}
}

func TestRetriesOnlyWhoIsLeft(t *testing.T) {
	q := open(t, t.TempDir())
	a := newAgent(func(d *queue.Delivery, r *mail.Recipient) queue.Status {
		if r.Address.Local == "later" && d.Attempt < 3 {
			return queue.Status{Reply: mail.Refuse(451, "4.2.0", "not now")}
		}
		return queue.Status{Action: queue.Delivered}
	})
	q.Attach(policy(map[string]queue.Agent{"a": a}, 20*time.Millisecond))
	q.accept(object(t, content, "now@a.test a", "later@a.test a"))
	a.wait(t, "later@a.test 3")
	q.empty()
	if got := strings.Join(a.got, ", "); got != "now@a.test 1, later@a.test 1, later@a.test 2, later@a.test 3" {
		t.Errorf("got %s", got)
	}
}

// TestFailureDSN: one for the message, to its sender, and none about a DSN.
func TestFailureDSN(t *testing.T) {
	q := open(t, t.TempDir())
	bad := newAgent(func(*queue.Delivery, *mail.Recipient) queue.Status {
		return queue.Status{Action: queue.Failed, Reply: mail.Refuse(550, "5.1.1", "nobody here"), RemoteMTA: "far.test"}
	})
	var dsns atomic.Int32
	var text atomic.Value
	dsn := newAgent(func(d *queue.Delivery, r *mail.Recipient) queue.Status {
		dsns.Add(1)
		text.Store(fmt.Sprint(d.Envelope.From.IsNull(), r.Address, d.Content.Header.Get("Content-Type")))
		return queue.Status{Action: queue.Failed}
	})
	q.Attach(policy(map[string]queue.Agent{"a": bad, "dsn": dsn}))
	q.accept(object(t, content, "x@a.test a", "y@a.test a"))
	dsn.wait(t, "s@from.test 1")
	q.empty()
	if n := dsns.Load(); n != 1 {
		t.Errorf("%d DSNs, want 1", n)
	}
	if got := text.Load().(string); !strings.HasPrefix(got, "true s@from.test multipart/report") && !strings.Contains(got, "multipart/report") {
		t.Errorf("got %s", got)
	}
}

func TestNotifyNever(t *testing.T) {
	q := open(t, t.TempDir())
	bad := newAgent(func(*queue.Delivery, *mail.Recipient) queue.Status { return queue.Status{Action: queue.Failed} })
	dsn := newAgent(delivered)
	q.Attach(policy(map[string]queue.Agent{"a": bad, "dsn": dsn}))
	o := object(t, content, "x@a.test a")
	o.Envelope.Recipients[0].Notify = mail.NotifyNever
	q.accept(o)
	bad.wait(t, "x@a.test 1")
	q.empty()
	if len(dsn.got) > 0 {
		t.Errorf("got %q", dsn.got)
	}
}

// TestRefusedRecipient: a recipient that a message handler refused is not
// queued, and its sender hears of it.
func TestRefusedRecipient(t *testing.T) {
	q := open(t, t.TempDir())
	a, dsn := newAgent(delivered), newAgent(delivered)
	q.Attach(policy(map[string]queue.Agent{"a": a, "dsn": dsn}))
	o := object(t, content, "x@a.test a", "y@a.test a")
	o.Envelope.Recipients[0].Refused = mail.Refuse(550, "5.7.1", "no")
	q.accept(o)
	dsn.wait(t, "s@from.test 1")
	a.wait(t, "y@a.test 1")
	q.empty()
	if len(a.got) != 1 {
		t.Errorf("got %q", a.got)
	}
}

func TestExpires(t *testing.T) {
	q := open(t, t.TempDir())
	var last atomic.Value
	down := newAgent(func(*queue.Delivery, *mail.Recipient) queue.Status {
		return queue.Status{Unreachable: true, Reply: mail.Refuse(451, "4.4.1", "connection refused")}
	})
	dsn := newAgent(func(d *queue.Delivery, _ *mail.Recipient) queue.Status {
		b, _ := d.Content.Body().Bytes()
		last.Store(string(b))
		return queue.Status{Action: queue.Delivered}
	})
	p := policy(map[string]queue.Agent{"a": down, "dsn": dsn}, 20*time.Millisecond)
	p.Schedule.Expire = 150 * time.Millisecond
	q.Attach(p)
	q.accept(object(t, content, "x@a.test a"))
	dsn.wait(t, "s@from.test 1")
	q.empty()
	for _, part := range []string{"5.4.7", "connection refused", "Action: failed"} {
		if !strings.Contains(last.Load().(string), part) {
			t.Errorf("the DSN lacks %q:\n%s", part, last.Load())
		}
	}
	if len(down.got) < 3 {
		t.Errorf("only %d attempts", len(down.got))
	}
}

func TestDelayNoticeOnce(t *testing.T) {
	q := open(t, t.TempDir())
	down := newAgent(func(*queue.Delivery, *mail.Recipient) queue.Status { return queue.Status{} })
	dsn := newAgent(delivered)
	p := policy(map[string]queue.Agent{"a": down, "dsn": dsn}, 10*time.Millisecond)
	p.Schedule.DelayNotice = 30 * time.Millisecond
	q.Attach(p)
	q.accept(object(t, content, "x@a.test a"))
	dsn.wait(t, "s@from.test 1")
	time.Sleep(100 * time.Millisecond)
	if len(dsn.got) != 1 {
		t.Errorf("%d notices, want 1", len(dsn.got))
	}
}

// TestSurvivesReopen: what was accepted is there, with its content, large or
// small, and nothing else is.
func TestSurvivesReopen(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir)
	large := strings.Repeat("0123456789\r\n", 10_000)
	m, err := message.Receive(strings.NewReader("Subject: large\r\n\r\n"+large), message.Limits{}, q)
	if err != nil {
		t.Fatal(err)
	}
	if m.Body().File() == nil {
		t.Fatal("it is not in a file")
	}
	o := object(t, content, "x@a.test a")
	o.Content = m
	fork := object(t, content, "y@b.test b")
	fork.Content = m.Fork()
	fork.Content.Header.Prepend("X-Fork", "yes")
	q.accept(o, fork)
	if err := m.Body().Discard(); err != nil {
		t.Fatal(err)
	}
	q.accept(object(t, content, "z@a.test a"))
	q.close()

	q = open(t, dir)
	if n := q.size(); n != 3 {
		t.Fatalf("%d entries, want 3", n)
	}
	got := map[string]string{}
	var mu sync.Mutex
	read := func(d *queue.Delivery, r *mail.Recipient) queue.Status {
		rd, err := d.Content.NewReader()
		if err != nil {
			t.Error(err)
			return queue.Status{}
		}
		defer rd.Close()
		b := new(strings.Builder)
		if _, err := fmt.Fprint(b, readAll(t, rd)); err != nil {
			t.Error(err)
		}
		mu.Lock()
		got[r.Address.Local] = b.String()
		mu.Unlock()
		return queue.Status{Action: queue.Delivered}
	}
	a, b := newAgent(read), newAgent(read)
	q.Attach(policy(map[string]queue.Agent{"a": a, "b": b}))
	q.empty()
	for local, want := range map[string]string{"x": "Subject: large\r\n\r\n" + large, "y": "X-Fork: yes\r\nSubject: large\r\n\r\n" + large, "z": content} {
		if got[local] != want {
			t.Errorf("%s: got %d octets, want %d", local, len(got[local]), len(want))
		}
	}
	q.close()
	left(t, dir)
}

// TestMissingAgentWaits, and is tried when a policy has it.
func TestMissingAgentWaits(t *testing.T) {
	q := open(t, t.TempDir())
	q.Attach(policy(map[string]queue.Agent{}))
	q.accept(object(t, content, "x@a.test a"))
	time.Sleep(50 * time.Millisecond)
	if q.size() != 1 {
		t.Fatal("it is gone")
	}
	a := newAgent(delivered)
	q.Attach(policy(map[string]queue.Agent{"a": a}))
	a.wait(t, "x@a.test 1")
	q.empty()
}

// TestPolicies: the newest is in force, and the one before it when it goes. An
// attempt ends under the one it began with, on a lease.
func TestPolicies(t *testing.T) {
	q := open(t, t.TempDir())
	begun, finish := make(chan bool), make(chan bool)
	slow := newAgent(func(*queue.Delivery, *mail.Recipient) queue.Status {
		begun <- true
		<-finish
		return queue.Status{Action: queue.Delivered}
	})
	var leases atomic.Int32
	old := policy(map[string]queue.Agent{"a": slow})
	old.Lease = func() (func(), bool) { leases.Add(1); return func() { leases.Add(-1) }, true }
	q.Attach(old)
	q.accept(object(t, content, "x@a.test a"))
	<-begun
	fast := newAgent(delivered)
	newer := policy(map[string]queue.Agent{"a": fast})
	q.Attach(newer)
	q.Detach(old)
	q.accept(object(t, content, "y@a.test a"))
	fast.wait(t, "y@a.test 1")
	if leases.Load() != 1 {
		t.Errorf("%d leases, want that of the attempt", leases.Load())
	}
	finish <- true
	q.empty()
	if len(fast.got) != 1 || len(slow.got) != 1 {
		t.Errorf("got %q and %q", slow.got, fast.got)
	}
	for end := time.Now().Add(5 * time.Second); leases.Load() > 0 && time.Now().Before(end); time.Sleep(time.Millisecond) {
	}
	if leases.Load() != 0 {
		t.Error("a lease was kept")
	}

	third := policy(map[string]queue.Agent{})
	q.Attach(third)
	q.Detach(third) // as after a failed reload
	q.accept(object(t, content, "z@a.test a"))
	fast.wait(t, "z@a.test 1")
	q.empty()
}

func TestPanickingAgent(t *testing.T) {
	q := open(t, t.TempDir())
	a := newAgent(func(d *queue.Delivery, _ *mail.Recipient) queue.Status {
		if d.Attempt == 1 {
			panic("poison")
		}
		return queue.Status{Action: queue.Delivered}
	})
	q.Attach(policy(map[string]queue.Agent{"a": a}, 10*time.Millisecond))
	q.accept(object(t, content, "x@a.test a"))
	a.wait(t, "x@a.test 2")
	q.empty()
}

// TestDeadSiteDoesNotBlock: a site where nobody is and one that hangs cost the
// others nothing.
func TestDeadSiteDoesNotBlock(t *testing.T) {
	q := open(t, t.TempDir())
	hang := make(chan bool)
	defer close(hang)
	a := newAgent(func(_ *queue.Delivery, r *mail.Recipient) queue.Status {
		switch r.Address.Domain {
		case "dead.test":
			return queue.Status{Unreachable: true}
		case "hang.test":
			<-hang
		}
		return queue.Status{Action: queue.Delivered}
	})
	a.dest = func(r *mail.Recipient) string { return r.Address.Domain }
	p := policy(map[string]queue.Agent{"a": a}, time.Hour)
	p.Schedule.Concurrency, p.Schedule.PerDestination = 10, 5
	q.Attach(p)
	for i := range 50 {
		q.accept(object(t, content, fmt.Sprintf("x%d@dead.test a", i)), object(t, content, fmt.Sprintf("x%d@hang.test a", i)))
	}
	for i := range 50 {
		q.accept(object(t, content, fmt.Sprintf("x%d@good.test a", i)))
	}
	a.wait(t, "x49@good.test 1")
	dead := 0
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, l := range a.got {
		if strings.Contains(l, "dead.test") {
			dead++
		}
	}
	if dead > 5 { // what begins before it is known to be dead
		t.Errorf("a dead site was tried %d times, want a probe", dead)
	}
}

func TestSecondProcessIsRefused(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	if _, err := sqlstore.Open(dir, sqlstore.Options{}); err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("got %v", err)
	}
}

func TestRetryAndGet(t *testing.T) {
	q := open(t, t.TempDir())
	a := newAgent(func(d *queue.Delivery, _ *mail.Recipient) queue.Status {
		if d.Attempt == 1 {
			return queue.Status{Reply: mail.Refuse(450, "4.2.1", "busy"), RemoteMTA: "far.test"}
		}
		return queue.Status{Action: queue.Delivered}
	})
	q.Attach(policy(map[string]queue.Agent{"a": a}, time.Hour))
	id := q.accept(object(t, content, "x@a.test a"))
	a.wait(t, "x@a.test 1")
	var e *queue.Entry
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		var err error
		if e, err = q.Get(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if e.Recipients[0].Attempts == 1 {
			break
		}
	}
	if r := e.Recipients[0]; r.Attempts != 1 || r.Last.Reply == nil || r.Last.Reply.Text != "busy" || r.Last.RemoteMTA != "far.test" || time.Until(r.Due) < 40*time.Minute {
		t.Errorf("got %+v", r)
	}
	for end := time.Now().Add(5 * time.Second); q.Retry(t.Context(), id) != nil && time.Now().Before(end); time.Sleep(time.Millisecond) {
	}
	a.wait(t, "x@a.test 2")
	q.empty()
	if err := q.Retry(t.Context(), id); err != queue.ErrNotFound {
		t.Errorf("got %v", err)
	}
}
