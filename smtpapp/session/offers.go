package session

import (
	"fmt"
	"strings"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

// Offers are extensions that a server has if it is told to.
type Offers struct {
	// Priorities, if not nil, is MT-PRIORITY (RFC 6710).
	Priorities *Priorities
	// DeliverBy is DELIVERBY (RFC 2852), and LeastTime the least that a message
	// may be given before it is to be returned.
	DeliverBy bool
	LeastTime time.Duration
	// ValidSince is RRVS (RFC 7293): handlers can tell since when mailboxes have
	// their owners, or agents pass the question on.
	ValidSince bool
	// VRFY and EXPN say who is answered (RFC 5321, section 3.5). What strangers
	// hear of VRFY is the same for everyone and everything (section 7.3).
	VRFY, EXPN Audience
	// DSN, if not nil, says who may ask for notifications (RFC 3461), which is
	// otherwise everybody.
	DSN *Audience
}

// An Audience is whom a question is answered.
type Audience uint8

// The audiences: nobody, who logged in, and all whom the server trusts.
const (
	ForNobody Audience = iota
	ForUsers
	ForTrusted
)

// has reports whether the client is one of them.
func (a Audience) has(s *Session) bool {
	return a >= ForUsers && s.User != "" || a == ForTrusted && s.Trusted()
}

// dsn reports whether the client may ask for notifications.
func (o *Offers) dsn(s *Session) bool { return o.DSN == nil || o.DSN.has(s) }

// offers are their lines in the reply to EHLO.
func (s *Session) offers() (ext []string) {
	o := &s.cfg.Offers
	if o.dsn(s) {
		ext = append(ext, "DSN")
	}
	if p := o.Priorities; p != nil {
		ext = append(ext, strings.TrimSpace("MT-PRIORITY "+p.Policy))
	}
	switch {
	case o.DeliverBy && o.LeastTime > 0:
		ext = append(ext, fmt.Sprintf("DELIVERBY %d", o.leastTime()))
	case o.DeliverBy:
		ext = append(ext, "DELIVERBY")
	}
	if o.ValidSince {
		ext = append(ext, "RRVS")
	}
	if o.EXPN.has(s) {
		ext = append(ext, "EXPN")
	}
	if s.cfg.Help != "" {
		ext = append(ext, "HELP")
	}
	return ext
}

// leastTime is LeastTime in seconds, of which a fraction is one.
func (o *Offers) leastTime() int64 { return int64((o.LeastTime + time.Second - 1) / time.Second) }

// reconcile is for parameters of MAIL that have to do with one another, whatever
// their order.
func (s *Session) reconcile(env *mail.Envelope) *mail.Reply {
	if d := time.Until(env.HoldUntil); d > 0 && !env.DeliverBy.IsZero() {
		env.DeliverBy = env.DeliverBy.Add(d) // the time begins when the message may go
	}
	return s.settlePriority(env)
}
