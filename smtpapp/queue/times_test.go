package queue

import (
	"testing"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

// TestHeldMailHasItsTime: what a sender has had held is tried for as long as any
// other, from when it may be tried, and its delay counts from there.
func TestHeldMailHasItsTime(t *testing.T) {
	now := time.Now()
	s := Schedule{}.withDefaults()
	env := &mail.Envelope{From: mail.Address{Local: "s", Domain: "x.test"}, HoldUntil: now.Add(10 * 24 * time.Hour)}
	e, r := &Entry{Queued: now, Envelope: env}, new(Recipient)
	if got, want := s.deadline(e), env.HoldUntil.Add(s.Expire); !got.Equal(want) {
		t.Errorf("deadline %v, want %v", got, want)
	}
	if s.late(e, r, env.HoldUntil.Add(time.Hour)) || !s.late(e, r, env.HoldUntil.Add(s.DelayNotice)) {
		t.Error("its delay does not count from when it may be tried")
	}
	env.HoldUntil = now.Add(-time.Hour)
	if got, want := s.deadline(e), now.Add(s.Expire); !got.Equal(want) {
		t.Errorf("held until before: deadline %v, want %v", got, want)
	}
}
