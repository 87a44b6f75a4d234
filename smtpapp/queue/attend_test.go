package queue_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

// attendant is an agent that may deliver before the reply.
type attendant struct {
	*agent
	now func(d *queue.Delivery) bool
}

func (a attendant) DeliverNow(_ context.Context, d *queue.Delivery) bool { return a.now(d) }

// TestAttend: what can be delivered before the reply is, once and without the
// queue; all else is the queue's.
func TestAttend(t *testing.T) {
	in := func(d time.Duration) time.Time { return time.Now().Add(d) }
	null := func(o *message.Object) { o.Envelope.From = mail.Address{} }
	notify := func(n mail.Notify) func(*message.Object) {
		return func(o *message.Object) { o.Envelope.Recipients[0].Notify = n }
	}
	for name, c := range map[string]struct {
		to     string
		change func(*message.Object)
		rules  []queue.Rule
		refuse bool // the agent does
		now    bool
	}{
		"plain":         {now: true},
		"null":          {now: true, change: null},
		"never":         {now: true, change: notify(mail.NotifyNever)},
		"failure":       {now: true, change: notify(mail.NotifyFailure | mail.NotifyDelay)},
		"success":       {change: notify(mail.NotifySuccess)},
		"two":           {to: "a@x.test local, b@x.test local"},
		"two agents":    {to: "a@x.test local, b@x.test far"},
		"another agent": {to: "a@x.test far"},
		"refused":       {refuse: true},
		"deliver by":    {change: func(o *message.Object) { o.Envelope.DeliverBy = in(time.Hour) }},
		"hold":          {change: func(o *message.Object) { o.Envelope.HoldUntil = in(300 * time.Millisecond) }},
		"past hold":     {now: true, change: func(o *message.Object) { o.Envelope.HoldUntil = in(-time.Hour) }},
		"rule":          {rules: []queue.Rule{{Name: "r", Agents: []string{"local"}, Concurrency: 1}}},
		"others' rule":  {now: true, rules: []queue.Rule{{Name: "r", Agents: []string{"far"}, Concurrency: 1}}},
	} {
		t.Run(name, func(t *testing.T) {
			f := open(t, t.TempDir())
			var direct atomic.Int32
			local := attendant{newAgent(delivered), func(*queue.Delivery) bool {
				direct.Add(1)
				return !c.refuse
			}}
			far := newAgent(delivered)
			p := policy(map[string]queue.Agent{"local": local, "far": far, "dsn": newAgent(delivered)})
			p.Rules = c.rules
			f.Attach(p)
			if c.to == "" {
				c.to = "a@x.test local"
			}
			to := strings.Split(c.to, ", ")
			o := object(t, content, to...)
			if c.change != nil {
				c.change(o)
			}
			if id := f.accept(o); id == "" {
				t.Error("no id")
			}
			f.empty()
			want := len(to)
			if c.now {
				want = 0
			}
			if got := len(local.got) + len(far.got); got != want {
				t.Errorf("%d attempts of the queue, want %d", got, want)
			}
			if called := direct.Load() > 0; called != (c.now || c.refuse) {
				t.Errorf("asked to deliver at once: %v", called)
			}
		})
	}
}

// TestAttendPanic: an agent that panics before the reply has the queue try.
func TestAttendPanic(t *testing.T) {
	f := open(t, t.TempDir())
	local := attendant{newAgent(delivered), func(*queue.Delivery) bool { panic("now") }}
	f.Attach(policy(map[string]queue.Agent{"local": local}))
	f.accept(object(t, content, "a@x.test local"))
	local.wait(t, "a@x.test 1")
}

// TestAttendDead: while nobody is there for the queue, nothing is tried before a
// reply either.
func TestAttendDead(t *testing.T) {
	f := open(t, t.TempDir())
	var now atomic.Int32
	dead := attendant{newAgent(func(*queue.Delivery, *mail.Recipient) queue.Status {
		return queue.Status{Unreachable: true, Reply: &mail.Reply{Code: 451, Enh: "4.4.1", Text: "nobody there"}}
	}), func(*queue.Delivery) bool {
		now.Add(1)
		return false
	}}
	f.Attach(policy(map[string]queue.Agent{"local": dead}))
	f.accept(object(t, content, "a@x.test local"))
	dead.wait(t, "a@x.test 1")
	for end := time.Now().Add(10 * time.Second); f.Paused() == 0 && time.Now().Before(end); {
		time.Sleep(5 * time.Millisecond)
	}
	f.accept(object(t, content, "b@x.test local"))
	if n := now.Load(); n != 1 {
		t.Errorf("tried %d times", n)
	}
}

// TestAttendLog: it is logged and counted as any delivery, under its id.
func TestAttendLog(t *testing.T) {
	f := open(t, t.TempDir())
	var got *queue.Delivery
	local := attendant{newAgent(delivered), func(d *queue.Delivery) bool {
		got = d
		return true
	}}
	var seen counts
	p := policy(map[string]queue.Agent{"local": local})
	p.Observe = &seen
	f.Attach(p)
	id := f.accept(object(t, content, "a@x.test local"))
	if got.ID != id || got.Attempt != 1 || got.Envelope.From.String() != "s@from.test" || len(got.Envelope.Recipients) != 1 || got.Queued.IsZero() {
		t.Errorf("delivery %+v", got)
	}
	if s := fmt.Sprint(seen.all); s != "[local delivered]" {
		t.Errorf("observed %s", s)
	}
}

type counts struct{ all []string }

func (c *counts) AttemptEnded(agent string, a queue.Action, _ time.Duration) {
	c.all = append(c.all, agent+" "+a.String())
}

func (*counts) Quarantined(string, string, string) {}
