package session

import (
	"context"
	"slices"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

// A group is recipients that have been treated alike so far: they share a view
// of the transaction and of the header.
type group struct {
	tx   *Transaction
	m    *message.Message
	d    decisions // of routes that do not look at the recipient
	next int       // the step to go on from
}

// runMessage takes the message through its handlers. A route that applies to
// some recipients only parts them into groups. Either every recipient shares
// the reply, or (for our own users) those of a group that was refused have it
// noted, to hear of it by DSN. In LMTP each has a reply of its own.
func (s *Session) runMessage(ctx context.Context, tx *Transaction, m *message.Message) ([]*group, *mail.Reply) {
	work := []*group{{tx: tx, m: m, d: s.cfg.Plan.decisions()}}
	var done []*group
	var first *mail.Reply
	taken := false
	for len(work) > 0 {
		g := work[len(work)-1]
		work = work[:len(work)-1]
		rest, err := s.runGroup(ctx, g)
		work = append(work, rest...)
		if err != nil {
			r := mail.ReplyFor(err)
			if first == nil {
				first = r
			}
			if !s.Trusted() && !s.cfg.LMTP {
				return nil, r // nothing is queued yet: all share it
			}
			for _, rc := range g.tx.Envelope.Recipients {
				rc.Refused = r
			}
		} else {
			taken = true
		}
		done = append(done, g)
	}
	if s.cfg.LMTP {
		return s.unrefused(tx, done), nil
	}
	if !taken || first != nil && first.Temporary() {
		return nil, first // a fault that may pass: let the client keep it whole
	}
	for _, g := range done {
		s.trace(g)
	}
	return done, nil
}

// runGroup takes a group to the end of the plan. The groups that it leaves on
// the way are returned.
func (s *Session) runGroup(ctx context.Context, g *group) (left []*group, err error) {
	steps := s.cfg.Plan.steps[StageMessage]
	for ; g.next < len(steps); g.next++ {
		st := steps[g.next]
		ok, away, err := s.split(ctx, g, st.route)
		if away != nil {
			left = append(left, away)
		}
		if err == nil && ok {
			err = st.handler.(MessageHandler).HandleMessage(ctx, g.tx, g.m)
		}
		if err != nil {
			return left, s.fault(st.name, StageMessage, err)
		}
	}
	return left, nil
}

// split decides whether a route applies to the group. If only to some, those
// stay and the others leave as a group that goes on behind this step.
func (s *Session) split(ctx context.Context, g *group, rt *route) (ok bool, away *group, err error) {
	at := Point{Session: s, Transaction: g.tx, Message: g.m}
	if !rt.perRecipient {
		ok, err := g.d.active(ctx, rt, &at)
		return ok, nil, err
	}
	var in, out []*mail.Recipient
	for _, r := range g.tx.Envelope.Recipients {
		d := s.decided[r]
		d.merge(g.d)
		at.Recipient = r
		ok, err := d.active(ctx, rt, &at)
		switch {
		case err != nil:
			return false, nil, err
		case ok:
			in = append(in, r)
		default:
			out = append(out, r)
		}
	}
	if len(in) > 0 && len(out) > 0 {
		away = g.fork(out)
		g.tx = g.tx.with(in)
	}
	return len(in) > 0, away, nil
}

// fork returns a group of some of the recipients that goes on behind g's step.
func (g *group) fork(to []*mail.Recipient) *group {
	d := make(decisions, len(g.d))
	copy(d, g.d)
	return &group{tx: g.tx.with(to), m: g.m.Fork(), d: d, next: g.next + 1}
}

// with returns the transaction as it is for some of its recipients.
func (tx *Transaction) with(to []*mail.Recipient) *Transaction {
	t, env := *tx, *tx.Envelope
	env.Recipients = to
	t.Envelope = &env
	t.Results = append([]Result(nil), tx.Results...)
	return &t
}

// need leaves of what the client declared only what the message needs. Clients
// say SMTPUTF8 and 8BITMIME because they are offered, and a next hop without
// them would otherwise be no way for plain ASCII (RFC 6531, section 3.6).
func need(env *mail.Envelope, m *message.Message) {
	eight := m.Header.EightBit()
	if env.UTF8 && env.From.IsASCII() && !eight {
		env.UTF8 = slices.ContainsFunc(env.Recipients, func(r *mail.Recipient) bool { return !r.Address.IsASCII() })
	}
	if env.Body == mail.Body8Bit && !eight && !m.Body().EightBit() {
		env.Body = mail.Body7Bit
	}
}

// object is what the queue gets of a group; nil if all of it was discarded.
func (g *group) object() *message.Object {
	var to []*mail.Recipient
	for _, r := range g.tx.Envelope.Recipients {
		if !r.Discarded {
			to = append(to, r)
		}
	}
	if len(to) == 0 {
		return nil
	}
	env := *g.tx.Envelope
	env.Recipients = to
	need(&env, g.m)
	return &message.Object{ID: g.tx.ID, Envelope: &env, Content: g.m}
}
