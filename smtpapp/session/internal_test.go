package session

import (
	"context"
	"testing"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

// TestSubmit: a message of our own goes through the RCPT and the message stage
// as that of one of our users, and handlers can tell that it is ours.
func TestSubmit(t *testing.T) {
	var user string
	var internal bool
	look := func(_ context.Context, tx *Transaction, m *message.Message) error {
		user, internal = tx.Session.User, tx.Session.Internal()
		m.Header.Prepend("X-Seen", "yes")
		return nil
	}
	s, q := newTest(t, false,
		line(nil, h("look", messageFunc(look))),
		line(domain("refused.test"), h("refuse", messageFunc(func(context.Context, *Transaction, *message.Message) error {
			return mail.Refuse(451, "4.3.0", "not now")
		}))),
		line(domain("panic.test"), h("panic", messageFunc(func(context.Context, *Transaction, *message.Message) error { panic("no") }))),
		line(domain("panic.test"), h("deliver", claims{"a", true})),
		line(domain("a.test"), h("deliver", claims{"a", true})),
		line(domain("refused.test"), h("deliver", claims{"a", true})))
	from := mail.Address{Local: "reports", Domain: "example.test"}
	submit := func(d string) error {
		m, err := message.Parse([]byte("From: reports@example.test\r\n\r\nx\r\n"))
		if err != nil {
			t.Fatal(err)
		}
		return Submit(t.Context(), s.cfg, from, mail.Address{Local: "x", Domain: d}, m)
	}
	if err := submit("a.test"); err != nil {
		t.Fatal(err)
	}
	if user == "" || !internal || len(q.objects) != 1 {
		t.Fatalf("user %q, internal %v, %d objects", user, internal, len(q.objects))
	}
	o := q.objects[0]
	if o.Envelope.From != from || o.Envelope.Recipients[0].Agent != "a" || o.Content.Header.Get("X-Seen") != "yes" || o.Content.Header.Hops() != 1 {
		t.Errorf("%+v", o)
	}
	if err := submit("nowhere.test"); mail.ReplyFor(err).Code != 550 {
		t.Errorf("no route: %v", err)
	}
	if err := submit("refused.test"); mail.ReplyFor(err).Code != 451 {
		t.Errorf("refused: %v", err)
	}
	if err := submit("panic.test"); !mail.ReplyFor(err).Temporary() {
		t.Errorf("panic: %v", err)
	}
	if len(q.objects) != 1 {
		t.Errorf("%d objects", len(q.objects))
	}
}

type messageFunc func(context.Context, *Transaction, *message.Message) error

func (f messageFunc) HandleMessage(ctx context.Context, tx *Transaction, m *message.Message) error {
	return f(ctx, tx, m)
}
