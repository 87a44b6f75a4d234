package session

import (
	"slices"
	"strings"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

// unrefused drops from groups the recipients that are refused, and leaves those
// that have any left, traced. An RCPT whose recipients are many, by an alias,
// is refused if one of them is, as it would be at RCPT: the client tries all
// of it again, or tells the sender, so none of it is ours to deliver unless
// another RCPT had it too.
func (s *Session) unrefused(tx *Transaction, groups []*group) []*group {
	taken := map[*mail.Recipient]bool{}
	for _, made := range tx.commands {
		if refusalOf(made) == nil {
			for _, rc := range made {
				taken[rc] = true
			}
		}
	}
	var left []*group
	for _, g := range groups {
		env := *g.tx.Envelope
		env.Recipients = slices.DeleteFunc(slices.Clone(env.Recipients), func(rc *mail.Recipient) bool { return !taken[rc] })
		if len(env.Recipients) > 0 {
			g.tx.Envelope = &env
			s.trace(g)
			left = append(left, g)
		}
	}
	return left
}

// forEach is the reply to content: in SMTP r alone, in LMTP one for each RCPT
// in their order, which is its refusal where it has one (RFC 2033, section
// 4.2).
func (s *Session) forEach(tx *Transaction, r *mail.Reply) *mail.Reply {
	if !s.cfg.LMTP {
		return r
	}
	var all *mail.Reply
	for _, made := range slices.Backward(tx.commands) {
		one := *r
		if no := refusalOf(made); no != nil && r.Code/100 == 2 {
			one = *no
		}
		one.Close = r.Close && all == nil // behind the others
		one.Next = all
		all = &one
	}
	return all
}

// refusalOf is the reply of an RCPT one of whose recipients was refused, nil if
// none was. One that may pass goes first: it keeps the message.
func refusalOf(made []*mail.Recipient) (no *mail.Reply) {
	for _, rc := range made {
		if rc.Refused != nil && (no == nil || rc.Refused.Temporary()) {
			no = rc.Refused
		}
	}
	return no
}

// allOf is a reply and those that follow it, without repetition, for the log.
func allOf(r *mail.Reply) string {
	var texts []string
	for ; r != nil; r = r.Next {
		if t := r.Error(); !slices.Contains(texts, t) {
			texts = append(texts, t)
		}
	}
	return strings.Join(texts, "; ")
}
