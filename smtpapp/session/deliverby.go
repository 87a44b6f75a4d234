package session

import (
	"strconv"
	"strings"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

var (
	errSoon      = mail.Refuse(501, "5.5.4", "a message that is to be returned needs some time")
	errUnvouched = mail.Refuse(550, "5.7.19", "it is not known since when the mailbox has its owner")
)

// deliverBy is MAIL's BY: by-time ";" by-mode [by-trace] (RFC 2852, section 4).
func (s *Session) deliverBy(env *mail.Envelope, v string, _ bool) *mail.Reply {
	o := &s.cfg.Offers
	if !o.DeliverBy {
		return errNoParam
	}
	number, mode, ok := strings.Cut(strings.ToUpper(v), ";")
	digits := strings.TrimLeft(number, "+-")
	if !ok || len(digits) < 1 || len(digits) > 9 || len(number)-len(digits) > 1 || strings.Trim(digits, "0123456789") != "" {
		return errParam
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil {
		return errParam
	}
	switch mode {
	case "R", "RT":
		if n <= 0 {
			return errSoon
		}
		if least := o.leastTime(); n < least {
			return mail.Refuse(555, "5.5.4", "the time is less than the %d seconds that are announced", least)
		}
	case "N", "NT":
	default:
		return errParam
	}
	env.DeliverBy = time.Now().Add(time.Duration(n) * time.Second).UTC()
	env.DeliverByReturn, env.DeliverByTrace = mode[0] == 'R', len(mode) == 2
	env.DeliverByTold = n <= 0
	return nil
}

// validSince is RCPT's RRVS: date-time [";" ("C" / "R")] (RFC 7293, section 3.1).
func (s *Session) validSince(rc *mail.Recipient, v string, _ bool) *mail.Reply {
	if !s.cfg.Offers.ValidSince {
		return errNoParam
	}
	date, action, given := strings.Cut(strings.ToUpper(v), ";")
	t, err := time.Parse(time.RFC3339, date)
	if err != nil || t.IsZero() || given && action != "C" && action != "R" {
		return errParam
	}
	rc.RRVS, rc.RRVSReject = t.UTC(), action == "R"
	return nil
}

// PassesOn reports whether an agent hands mail to other hosts, with what was asked
// for along with it.
func (s *Session) PassesOn(agent string) bool {
	return s.cfg != nil && s.cfg.PassesOn != nil && s.cfg.PassesOn(agent)
}

// unvouched refuses recipients for whom a demand was made that no handler has
// found to be met: unless they are thrown away, or their agent passes it on for
// the very address that it is about.
func (s *Session) unvouched(cs []candidate) error {
	for _, c := range cs {
		if c.r.RRVS.IsZero() || c.r.Discarded {
			continue
		}
		if c.r.Expanded || !s.PassesOn(c.r.Agent) {
			return errUnvouched
		}
	}
	return nil
}
