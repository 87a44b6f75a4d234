package client

import (
	"strconv"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

// untimely returns the reply for a message that the peer would not promise to
// deliver or return in time (RFC 2852, section 4.1.4.1). By LMTP it is there.
func (s *sending) untimely() *mail.Reply {
	env := s.tx.Envelope
	if !env.DeliverByReturn || env.DeliverBy.IsZero() || s.c.opts.LMTP {
		return nil
	}
	if !s.c.ext.Has("DELIVERBY") {
		return mail.Refuse(554, "5.4.7", "next hop does not support DELIVERBY")
	}
	if left := remaining(env.DeliverBy); left < max(s.leastTime(), 1) {
		return mail.Refuse(554, "5.4.7", "next hop needs more time for delivery than is left")
	}
	return nil
}

// leastTime is the least that the peer promises to deliver in, in seconds.
func (s *sending) leastTime() int64 {
	p := s.c.ext["DELIVERBY"]
	if len(p) == 0 {
		return 0
	}
	digits := p[0]
	for i := range len(digits) { // extension tokens may follow behind a comma
		if !digit(digits[i]) {
			digits = digits[:i]
			break
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// remaining is the time that is left in seconds, as many as a BY can have.
func remaining(until time.Time) int64 {
	const most = 999_999_999
	d := time.Until(until)
	n := int64(d / time.Second)
	if d > 0 && d%time.Second > 0 {
		n++
	}
	return min(max(n, -most), most)
}

// timeParam is BY (RFC 2852, section 4).
func (s *sending) timeParam() string {
	env := s.tx.Envelope
	if env.DeliverBy.IsZero() || !s.c.ext.Has("DELIVERBY") || s.c.opts.LMTP {
		return ""
	}
	p := " BY=" + strconv.FormatInt(remaining(env.DeliverBy), 10) + ";N"
	if env.DeliverByReturn {
		p = p[:len(p)-1] + "R"
	}
	if env.DeliverByTrace {
		p += "T"
	}
	return p
}

// priorityParam is MT-PRIORITY. A priority of 0 is said too (RFC 6758, section 3.2).
func (s *sending) priorityParam() string {
	if !s.c.ext.Has("MT-PRIORITY") {
		return ""
	}
	return " MT-PRIORITY=" + strconv.Itoa(s.tx.Envelope.Priority)
}

// authParam is AUTH (RFC 4954, section 5): who has submitted the message, if he
// was believed, and to a peer that knows us in any case that nobody is known.
func (s *sending) authParam() string {
	id := s.tx.Envelope.Auth
	if !s.c.ext.Has("AUTH") || id == "" && !s.c.loggedIn {
		return ""
	}
	if x := xtext(id); id != "" && id != "<>" && len(x) <= 500 && printable(id) {
		return " AUTH=" + x
	}
	return " AUTH=<>"
}

// ownerParam is RRVS (RFC 7293, section 3.1).
func (s *sending) ownerParam(r *mail.Recipient) string {
	if r.RRVS.IsZero() || !s.c.ext.Has("RRVS") {
		return ""
	}
	action := ";C"
	if r.RRVSReject {
		action = ";R"
	}
	return " RRVS=" + r.RRVS.UTC().Format(time.RFC3339) + action
}

// notifyFor is a recipient's NOTIFY. A sender who wants to hear of it when the
// time he gave is over hears of delays at least from a peer that knows nothing of
// that time (RFC 2852, section 4.1.4.2).
func (s *sending) notifyFor(r *mail.Recipient) mail.Notify {
	env := s.tx.Envelope
	if env.DeliverBy.IsZero() || env.DeliverByReturn || s.c.ext.Has("DELIVERBY") || s.c.opts.LMTP || r.Notify.Has(mail.NotifyNever) {
		return r.Notify
	}
	if r.Notify == 0 {
		return mail.NotifyFailure | mail.NotifyDelay
	}
	return r.Notify | mail.NotifyDelay
}
