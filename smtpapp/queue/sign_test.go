package queue_test

import (
	"context"
	"testing"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

// TestDSNsAreSigned: the policy may sign what the queue writes, and nothing
// that it was given.
func TestDSNsAreSigned(t *testing.T) {
	q := open(t, t.TempDir())
	got := make(chan string, 2)
	see := func(d *queue.Delivery, s queue.Status) queue.Status {
		got <- d.Content.Header.Get("X-Signed")
		return s
	}
	bad := newAgent(func(d *queue.Delivery, _ *mail.Recipient) queue.Status {
		return see(d, queue.Status{Action: queue.Failed, Reply: mail.Refuse(550, "5.1.1", "nobody here")})
	})
	dsn := newAgent(func(d *queue.Delivery, _ *mail.Recipient) queue.Status {
		return see(d, queue.Status{Action: queue.Delivered})
	})
	p := policy(map[string]queue.Agent{"a": bad, "dsn": dsn})
	p.Sign = func(_ context.Context, m *message.Message) {
		if m.Header.Get("From") != "" && m.Header.Get("Auto-Submitted") != "" { // it is complete
			m.Header.Prepend("X-Signed", "yes")
		}
	}
	q.Attach(p)
	q.accept(object(t, content, "x@a.test a"))
	dsn.wait(t, "s@from.test 1")
	q.empty()
	if first, second := <-got, <-got; first != "" || second != "yes" {
		t.Errorf("the message is signed: %q, the DSN: %q", first, second)
	}
}
