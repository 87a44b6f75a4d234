package session

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

// Priorities say who may ask for which priority (RFC 6710), from -9 to 9. What
// nobody asked for has 0.
type Priorities struct {
	// Policy is the name of the policy that is announced, such as MIXER; "" for none.
	Policy string
	// Own and Others are the highest that our own users and other clients get.
	Own, Others int
	// Lowest is the lowest that is taken: lower ones are to come again later.
	Lowest int
	// Refuse refuses what asks for more than it gets, in the place of giving it
	// less.
	Refuse bool
	// Sizes are what messages of high priorities may have.
	Sizes []PrioritySize
	// Field has messages of our own users bring their priority in a header field,
	// where MAIL does not say it (RFC 6758).
	Field bool
}

// A PrioritySize is how many octets messages of a priority and those above it
// may have.
type PrioritySize struct {
	Priority int
	Size     int64
}

var (
	errLowPriority  = mail.Refuse(450, "4.7.15", "mail of this priority is not taken now")
	errPrioritySize = mail.Refuse(552, "5.7.16", "message too large for its priority")
)

// parsePriority reads RFC 6710's priority-value.
func parsePriority(v string) (n int, ok bool) {
	digit := strings.TrimPrefix(v, "-")
	if len(digit) != 1 || digit < "0" || digit > "9" || v == "-0" {
		return 0, false
	}
	n, err := strconv.Atoi(v)
	return n, err == nil
}

// priorityParam is MAIL's MT-PRIORITY. What it comes to is settled when the
// other parameters are known.
func (s *Session) priorityParam(env *mail.Envelope, v string, _ bool) *mail.Reply {
	if s.cfg.Offers.Priorities == nil {
		return errNoParam
	}
	n, ok := parsePriority(v)
	if !ok {
		return errParam
	}
	env.Priority, env.Prioritized = n, true
	return nil
}

// settlePriority gives a message the priority that its client may have.
func (s *Session) settlePriority(env *mail.Envelope) *mail.Reply {
	s.lowered = false
	p := s.cfg.Offers.Priorities
	if p == nil {
		return nil
	}
	if most := p.most(s); env.Priority > most {
		if p.Refuse && env.Prioritized {
			return mail.Refuse(550, "5.7.1", "a priority above %d is not for this client", most)
		}
		env.Priority, s.lowered = most, true
	}
	if env.Priority < p.Lowest {
		return errLowPriority
	}
	return p.fits(env, env.Size)
}

// most is the highest priority that a client may have.
func (p *Priorities) most(s *Session) int {
	if s.Trusted() {
		return p.Own
	}
	return p.Others
}

// fits refuses a message that is too large for its priority.
func (p *Priorities) fits(env *mail.Envelope, size int64) *mail.Reply {
	for _, l := range p.Sizes {
		if env.Priority >= l.Priority && size > l.Size {
			return errPrioritySize
		}
	}
	return nil
}

// lowered is the reply to MAIL of a message that has another priority than it
// was to have. Its text begins with the new one (RFC 6710, section 7).
func lowered(env *mail.Envelope) *mail.Reply {
	return &mail.Reply{Code: 250, Enh: "2.3.6", Text: fmt.Sprintf("%d is the new priority; sender %s ok", env.Priority, env.From.Path())}
}

// prioritize settles what the content has to do with the priority.
func (s *Session) prioritize(tx *Transaction, m *message.Message) *mail.Reply {
	p := s.cfg.Offers.Priorities
	if p == nil {
		return nil
	}
	env := tx.Envelope
	if p.Field && !env.Prioritized && s.Trusted() {
		if vs := m.Header.Values("MT-Priority"); len(vs) == 1 { // RFC 6758, section 3.1
			v, _, _ := strings.Cut(strings.TrimSpace(vs[0]), " ") // a comment may follow
			if n, ok := parsePriority(v); ok {
				env.Priority, env.Prioritized = min(n, p.Own), true
			}
		}
	}
	return p.fits(env, m.Size())
}
