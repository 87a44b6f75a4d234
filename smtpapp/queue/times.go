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
	// First is how many attempts a destination gets at once before it has taken
	// anything: after an outage it is not run over.
	First int
	// Active is how many recipients are in memory. What is more waits in the
	// store until there is room.
	Active int
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
	if s.First <= 0 {
		s.First = 5
	}
	if s.Active <= 0 {
		s.Active = 20_000
	}
	return s
}

// deadline is when delivery of an entry has been tried for long enough.
func (s *Schedule) deadline(e *Entry) time.Time {
	end := e.begins().Add(s.Expire)
	if e.Envelope.From.IsNull() {
		end = e.begins().Add(s.ExpireNull)
	}
	if by := e.Envelope.DeliverBy; e.Envelope.DeliverByReturn && by.Before(end) {
		return by
	}
	return end
}

// begins is when delivery may first be tried.
func (e *Entry) begins() time.Time {
	if h := e.Envelope.HoldUntil; h.After(e.Queued) {
		return h
	}
	return e.Queued
}

// late reports whether the sender is to be told of a recipient that waits.
func (s *Schedule) late(e *Entry, r *Recipient, now time.Time) bool {
	return !r.Noticed && !e.Envelope.From.IsNull() && !now.Before(s.notice(e))
}

// notice is when the sender is to be told of a delay. One who has said when he
// wants to be told is told then, and only then.
func (s *Schedule) notice(e *Entry) time.Time {
	if by, ok := e.notifyBy(); ok {
		return by
	}
	return e.begins().Add(s.DelayNotice)
}

// speaks returns when a recipient's sender is to be told if it is not delivered
// to: of the delay, or of the end.
func (s *Schedule) speaks(e *Entry, r *Recipient) time.Time {
	end := s.deadline(e)
	if notice := s.notice(e); !r.Noticed && !e.Envelope.From.IsNull() && notice.Before(end) {
		return notice
	}
	return end
}

// again returns when a recipient is tried next. spread is one draw of jitter
// for all recipients of an attempt, which so stay together.
func (s *Schedule) again(e *Entry, r *Recipient, now time.Time, spread float64) time.Time {
	d := s.Retry[min(max(r.Attempts, 1), len(s.Retry))-1]
	due := now.Add(d + time.Duration(spread*float64(d)))
	if by := e.Envelope.DeliverBy; by.After(now) && due.After(by) { // not a moment later does the sender hear of it
		due = by
	}
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

// expired is the last word of a recipient whose time is over (RFC 3463,
// section 3.5).
func expired(last *mail.Reply) *mail.Reply {
	r := &mail.Reply{Code: 554, Enh: "5.4.7", Text: "delivery time expired"}
	if last != nil {
		r.Text += "; the last attempt ended with: " + last.Error()
	}
	return r
}
