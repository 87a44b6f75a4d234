package session

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/dns/dnstest"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

// asks looks a name up that nobody answers for, at every stage, often.
type asks struct{ zone *dnstest.Zone }

func (a asks) ask(ctx context.Context) {
	for range 10 {
		_, _ = a.zone.LookupTXT(ctx, "silent.test")
	}
}

func (a asks) HandleHello(ctx context.Context, _ *Session) error    { a.ask(ctx); return nil }
func (a asks) HandleMail(ctx context.Context, _ *Transaction) error { a.ask(ctx); return nil }
func (a asks) HandleRcpt(ctx context.Context, _ *Transaction, _ *mail.Recipient) error {
	a.ask(ctx)
	return nil
}
func (a asks) HandleMessage(ctx context.Context, _ *Transaction, _ *message.Message) error {
	a.ask(ctx)
	return nil
}

// TestTimeForDNS: all handlers of all stages of a message share what time there
// is for DNS, and the next message has its own.
func TestTimeForDNS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		zone := &dnstest.Zone{Silent: map[string]bool{"silent.test": true}}
		s, _ := newTest(t, false, line(nil, h("a", asks{zone})), line(nil, h("b", asks{zone})), line(nil, h("deliver", claims{"a", true})))
		began := time.Now()
		if err := s.stageHello(t.Context()); err != nil || time.Since(began) != dnsTime {
			t.Errorf("EHLO: %v after %v", err, time.Since(began))
		}
		for range 2 {
			began = time.Now()
			send(t, s, hello, "x@a.test", "y@a.test")
			if d := time.Since(began); d != dnsTime {
				t.Errorf("a message took %v", d)
			}
		}
	})
}
