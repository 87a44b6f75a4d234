// Package queue keeps accepted mail until each recipient is delivered, or its
// sender has been told. It owns the schedule: when which agent is given which
// recipients. It knows neither Caddy nor any agent.
package queue

import (
	"context"
	"log/slog"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/dsn"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

// Action is what became of a recipient, in the terms of RFC 3464, section 2.3.3.
type Action = dsn.Action

// The actions. The zero Action is Delayed: silence means try again.
const (
	Delayed   = dsn.Delayed
	Delivered = dsn.Delivered
	Relayed   = dsn.Relayed
	Expanded  = dsn.Expanded
	Failed    = dsn.Failed
)

// A Status is what an attempt did for one recipient.
type Status struct {
	Action    Action
	Reply     *mail.Reply // of the remote server, or the agent's own words
	RemoteMTA string      // the host that replied, "" if none did

	// Unreachable says that nobody was there to ask: the destination as a
	// whole is left alone for a while. With a Reply of 421, somebody was and has
	// no room now, which may be room for fewer attempts at once.
	Unreachable bool
	// InDoubt says that the content was sent and no reply came: it may have
	// been delivered.
	InDoubt bool
	// Busy says that there may be no more connections to the destination now, and
	// so none was made: this was no attempt.
	Busy bool
	// NotBefore is when the host wants to be asked again at the soonest. It makes
	// the next attempt of a delayed recipient later, never sooner.
	NotBefore time.Time

	// Notifies says that the host to which the message was relayed tells its
	// sender what becomes of it (RFC 3461), and KeepsTime that it keeps the time
	// that he has given (RFC 2852).
	Notifies, KeepsTime bool
}

// An Agent delivers. It returns a Status for each of the recipients, in order;
// a missing one is Delayed. It never retries.
type Agent interface {
	Deliver(ctx context.Context, d *Delivery) []Status
}

// A Router is an Agent whose recipients have destinations: those with the same
// one share attempts. Without it, all of an agent's recipients have one.
type Router interface {
	Destination(env *mail.Envelope, r *mail.Recipient) string
}

// A Sourcer is an Agent that sends from several sources, and names the one for a
// message: always the same while the agent is. What each of them has to do with a
// destination is its own, as its concurrency and rates.
type Sourcer interface {
	Agent
	ChooseSource(id string, env *mail.Envelope) string
}

// A Verifier is an Agent that can tell who exists. It returns a Reply such as
// 550 5.1.1 for who does not.
type Verifier interface {
	Verify(ctx context.Context, a mail.Address) error
}

// A Forwarder is an Agent that hands mail to other hosts, and with it what its
// sender has asked for, where they know of such things.
type Forwarder interface {
	Agent
	Forwards()
}

// A Delivery is one attempt: one message, and the recipients that share a
// destination.
type Delivery struct {
	ID       string // of the entry
	Envelope *mail.Envelope
	Content  *message.Message
	Attempt  int // 1 is the first
	Queued   time.Time
	Log      *slog.Logger
	Source   string // of a Sourcer
	Rule     *Rule  // that is in force for the destination, nil if none is

	// Taken, if not nil, is what Took calls.
	Taken func(rs []*mail.Recipient)
}

// Took says of recipients, as they are in the envelope, that the message has been
// delivered to them, before Deliver says so of all: should the process end in
// between, they are not tried again. It may be called from several goroutines.
func (d *Delivery) Took(rs ...*mail.Recipient) {
	if d.Taken != nil {
		d.Taken(rs)
	}
}

// A Policy is what one configuration says about delivery. It is not changed
// once it is attached.
type Policy struct {
	Agents     map[string]Agent
	Hostname   string
	Postmaster mail.Address
	Schedule   Schedule
	// Rules are what some destinations may have, the first that is for one.
	Rules []Rule
	// FreeSpace is what a store that is a Reserver keeps free.
	FreeSpace int64

	// Lease keeps the configuration in use for the length of an attempt. If
	// it fails, the attempt is not begun.
	Lease func() (release func(), ok bool)
	// Context, if not nil, ends attempts when it ends.
	Context context.Context
	// Route returns the recipients, with agents, that a DSN has which is for
	// somebody, about a message with an envelope.
	Route func(ctx context.Context, about *mail.Envelope, to mail.Address) []*mail.Recipient
	// Sign, if not nil, signs a DSN where it can.
	Sign func(ctx context.Context, m *message.Message)
	// Notices is what DSNs are like.
	Notices Notices

	Observe Observer // may be nil
	Log     *slog.Logger

	origin *Policy // what was attached
	base   *terms  // where no rule is
	terms  []*terms

	attended attended
}

// Notices are what DSNs of a configuration are like.
type Notices struct {
	// Template returns the one for whoever sent a message with a header, nil for
	// the built-in text; nil for always that. The header is nil if the message is
	// lost.
	Template func(h *message.Header) *dsn.Template
	// Returned is the most of a failed message that is given back, in octets; see
	// dsn.Report.
	Returned int64
	// Double is who is told of a double failure: of mail that is not delivered,
	// and whose sender cannot be told. The zero Address is nobody. He is never
	// told that what tells him so has failed.
	Double mail.Address
}

// An Observer hears of attempts, for metrics.
type Observer interface {
	AttemptEnded(agent string, action Action, took time.Duration)
	// Quarantined tells of an entry that waits for an operator now.
	Quarantined(id, agent, cause string)
}
