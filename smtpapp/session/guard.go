package session

import (
	"context"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

// A Guard bounds how often clients may guess at secrets.
type Guard interface {
	// Admit returns the reply that sends a client away which has just come, or
	// nil.
	Admit(s *Session) *mail.Reply
	// Attempt is asked when a client claims to be a user, "" where it does not
	// say, before anything is looked at that could tell whether it is. It may
	// wait. A *mail.Reply refuses; otherwise end is called once, with what came
	// of it, and says how much later the reply to a failure should be.
	Attempt(ctx context.Context, s *Session, user string) (end func(Outcome) time.Duration, err error)
}

// An Outcome is what came of an attempt to log in.
type Outcome struct {
	Verdict   Verdict
	Mechanism string
	// User is who logged in, or whom the client failed to be, if there is such a
	// user: other names are not to be shown, as they may be passwords that were
	// typed into the wrong field.
	User string
}

// A Verdict is whether a secret was right.
type Verdict uint8

// The verdicts. Void is an attempt that told the client nothing: it gave up, or
// the fault was ours.
const (
	Void Verdict = iota
	Wrong
	Right
)

// Claim says who the client claims to be, "" if it does not say. A mechanism
// calls it with each name before it has a source look at anything; an error is
// the exchange's last word.
func (s *Session) Claim(ctx context.Context, user string) error {
	s.settle(Outcome{})
	if s.cfg == nil || s.cfg.Guard == nil {
		return nil
	}
	end, err := s.cfg.Guard.Attempt(ctx, s, user)
	if err != nil {
		return s.fault("guard", StageAuth, err)
	}
	s.attempt, s.mistaken = end, ""
	return nil
}

// Mistaken says for which user of ours, "" for none, a secret was wrong.
func (s *Session) Mistaken(user string) { s.mistaken = user }

// settle ends the attempt that is open, if one is.
func (s *Session) settle(o Outcome) time.Duration {
	end := s.attempt
	if end == nil {
		return 0
	}
	s.attempt = nil
	return end(o)
}

// failed counts a login that failed. A handler that does not say whom its client
// claims to be leaves the address to go by.
func (s *Session) failed(mech string) time.Duration {
	if s.attempt == nil && s.Claim(s.ctx, "") != nil {
		return 0
	}
	return s.settle(Outcome{Verdict: Wrong, Mechanism: mech, User: s.mistaken})
}

// admit has the guard's word on a client that has just come.
func (s *Session) admit() *mail.Reply {
	if s.cfg.Guard == nil {
		return nil
	}
	no := s.cfg.Guard.Admit(s)
	if no != nil {
		s.Log.Debug("refused", "reply", no.Error())
	}
	return no
}
