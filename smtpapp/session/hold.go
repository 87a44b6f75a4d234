package session

import (
	"strconv"
	"strings"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

// Bounds of RFC 4865, section 4: HOLDFOR has nine digits at most.
const maxHoldDigits = 9

var (
	errHoldTwice  = mail.Refuse(501, "5.5.4", "HOLDFOR and HOLDUNTIL exclude each other")
	errHoldLong   = mail.Refuse(501, "5.5.4", "the message would be held for longer than is announced")
	errHoldNotOwn = mail.Refuse(530, "5.7.0", "authentication required to have mail held")
)

// holdFor is MAIL's HOLDFOR, in seconds (RFC 4865, section 4).
func (s *Session) holdFor(env *mail.Envelope, v string, _ bool) *mail.Reply {
	if v == "" || len(v) > maxHoldDigits || strings.Trim(v, "0123456789") != "" {
		return errParam
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		return errParam
	}
	return s.hold(env, time.Now().Add(time.Duration(n)*time.Second))
}

// holdUntil is MAIL's HOLDUNTIL. A time that is over holds nothing.
func (s *Session) holdUntil(env *mail.Envelope, v string, _ bool) *mail.Reply {
	t, err := time.Parse(time.RFC3339, strings.ToUpper(v))
	if err != nil {
		return errParam
	}
	return s.hold(env, t)
}

func (s *Session) hold(env *mail.Envelope, until time.Time) *mail.Reply {
	d := s.cfg.FutureRelease
	switch {
	case d <= 0:
		return errNoParam
	case s.User == "":
		return errHoldNotOwn
	case !env.HoldUntil.IsZero():
		return errHoldTwice
	case time.Until(until) > d:
		return errHoldLong
	}
	env.HoldUntil = until.UTC()
	return nil
}
