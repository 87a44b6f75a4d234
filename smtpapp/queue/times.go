package queue

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

// A Schedule says when delivery is tried. Zero fields have defaults.
type Schedule struct {
	// Retry are the times between attempts; the last one repeats.
	Retry []time.Duration
	// Expire is how long delivery is tried; ExpireNull the same for mail with
	// the null reverse-path.
	Expire, ExpireNull time.Duration
	// DelayNotice is after what time the sender hears of a delay, once.
	DelayNotice time.Duration
	// Concurrency is how many attempts run at once, and PerDestination how
	// many of them to one destination.
	Concurrency, PerDestination int
}

func (s Schedule) withDefaults() Schedule {
	if len(s.Retry) == 0 {
		s.Retry = []time.Duration{
			time.Minute, 5 * time.Minute, 10 * time.Minute, 20 * time.Minute,
			40 * time.Minute, 80 * time.Minute, 160 * time.Minute, 4 * time.Hour,
		}
	}
	def := func(v *time.Duration, d time.Duration) {
		if *v <= 0 {
			*v = d
		}
	}
	def(&s.Expire, 5*24*time.Hour)
	def(&s.ExpireNull, 24*time.Hour)
	def(&s.DelayNotice, 4*time.Hour)
	if s.Concurrency <= 0 {
		s.Concurrency = 200
	}
	if s.PerDestination <= 0 {
		s.PerDestination = 20
	}
	return s
}

// deadline is when delivery of an entry has been tried for long enough.
func (s *Schedule) deadline(e *Entry) time.Time {
	if e.Envelope.From.IsNull() {
		return e.Queued.Add(s.ExpireNull)
	}
	return e.Queued.Add(s.Expire)
}

// late reports whether the sender is to be told of a recipient that waits.
func (s *Schedule) late(e *Entry, r *Recipient, now time.Time) bool {
	return !r.Noticed && !e.Envelope.From.IsNull() && now.Sub(e.Queued) >= s.DelayNotice
}

// speaks reports whether another failure would have any recipient's sender
// told of it.
func (s *Schedule) speaks(e *Entry, rcpts []*Recipient, now time.Time) bool {
	if !now.Before(s.deadline(e)) {
		return true
	}
	for _, r := range rcpts {
		if s.late(e, r, now) {
			return true
		}
	}
	return false
}

// again returns when a recipient is tried next. spread is one draw of jitter
// for all recipients of an attempt, which so stay together.
func (s *Schedule) again(e *Entry, r *Recipient, now time.Time, spread float64) time.Time {
	d := s.Retry[min(max(r.Attempts, 1), len(s.Retry))-1]
	due := now.Add(d + time.Duration(spread*float64(d)))
	if end := s.deadline(e); due.After(end) {
		return end
	}
	return due
}

// spread is the jitter: a fifth in either direction, so that attempts do not
// come all at once.
func spread() float64 { return 0.4*rand.Float64() - 0.2 }

// longest is the longest time between two attempts.
func (s *Schedule) longest() time.Duration { return slices.Max(s.Retry) * 6 / 5 }

// clamp bounds how far ahead a time in the store can be: a clock that was wrong
// must not park mail for years. Who was told to hold it knows better
// (RFC 4865).
func clamp(e *Entry, r *Recipient, latest, now time.Time) {
	if r.Due.After(latest) && r.Due.After(e.Envelope.HoldUntil) {
		r.Due = now
	}
}

// expired is the last word of a recipient whose time is over (RFC 3463,
// section 3.5).
func expired(last *mail.Reply) *mail.Reply {
	r := &mail.Reply{Code: 554, Enh: "5.4.7", Text: "delivery time expired"}
	if last != nil {
		r.Text += "; the last attempt ended with: " + last.Error()
	}
	return r
}
