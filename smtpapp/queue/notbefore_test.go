package queue

import (
	"testing"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

// TestNotBefore: a host may put an attempt off, but neither bring it forward nor
// keep mail for longer than it is kept.
func TestNotBefore(t *testing.T) {
	s := Schedule{Retry: []time.Duration{10 * time.Minute}, Expire: time.Hour}.withDefaults()
	now := time.Now()
	for asked, want := range map[time.Duration]time.Duration{0: 10 * time.Minute, time.Minute: 10 * time.Minute, 30 * time.Minute: 30 * time.Minute, 9 * time.Hour: time.Hour, -time.Hour: 10 * time.Minute} {
		e := &Entry{Queued: now, Envelope: &mail.Envelope{From: mail.Address{Local: "a", Domain: "b.test"}}}
		r := &Recipient{Recipient: new(mail.Recipient), Attempts: 1}
		if asked != 0 {
			r.Last.NotBefore = now.Add(asked)
		}
		judge(&s, e, r, now, now, 0)
		if got := r.Due.Sub(now); got != want || r.Done {
			t.Errorf("asked for %v: %v, want %v", asked, got, want)
		}
	}
}
