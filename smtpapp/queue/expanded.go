package queue

import (
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/dsn"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

// expand tells the sender who wants to hear of success that an address has led to
// several, in the commit that takes the message (RFC 3461, section 5.2.7). Of those
// he hears nothing but failure and delay: one message, one word of success.
func (q *Queue) expand(es []*Entry, now time.Time, c *Change) error {
	var p *Policy
	for _, l := range lists(es) {
		if p == nil {
			leased, release, err := q.lease()
			if err != nil {
				return err
			}
			defer release()
			p = leased
		}
		for _, r := range l.members {
			if r.Notify &^= mail.NotifySuccess; r.Notify == 0 {
				r.Notify = mail.NotifyNever
			}
		}
		first := dsn.Recipient{Recipient: l.members[0].Recipient, Action: Expanded, LastAttempt: now}
		q.send(p, l.entry, func() *message.Message { return l.entry.Content }, []dsn.Recipient{first}, c)
	}
	return nil
}

// A list is an address that our configuration has made several of.
type list struct {
	entry   *Entry // of its first member
	members []*Recipient
}

// lists are those of a message of whose success the sender wants to hear.
func lists(es []*Entry) (found []*list) {
	var all []*list
	by := map[mail.Address]*list{}
	for _, e := range es {
		for _, r := range e.Recipients {
			if !r.Expanded || r.Given.IsNull() || r.Notify&mail.NotifySuccess == 0 || e.Envelope.From.IsNull() {
				continue
			}
			l := by[r.Given]
			if l == nil {
				l = &list{entry: e}
				by[r.Given] = l
				all = append(all, l)
			}
			l.members = append(l.members, r)
		}
	}
	for _, l := range all {
		if len(l.members) > 1 {
			found = append(found, l)
		}
	}
	return found
}
