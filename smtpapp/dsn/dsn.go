// Package dsn builds delivery status notifications (RFC 3461 to 3464, RFC 6522,
// RFC 6533) and reads those of others. It decides neither when one is due nor
// how it gets to the sender: that is the queue's business.
package dsn

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

// An Action is what became of a recipient (RFC 3464, section 2.3.3).
type Action uint8

// The actions. The zero Action asks for another attempt.
const (
	Delayed   Action = iota
	Delivered        // into the mailbox
	Relayed          // to a host that sends no notification of success
	Expanded         // to the members of a list
	Failed           // for good
	actions
)

// String returns the word that the Action field has for a.
func (a Action) String() string {
	if a >= actions {
		return "unknown"
	}
	return [...]string{"delayed", "delivered", "relayed", "expanded", "failed"}[a]
}

// Wanted reports whether the sender wants to hear that r has come to a
// (RFC 3461, section 4.1).
func Wanted(r *mail.Recipient, a Action) bool {
	switch a {
	case Failed:
		return r.Notify.Has(mail.NotifyFailure)
	case Delayed:
		return r.Notify.Has(mail.NotifyDelay)
	}
	return r.Notify.Has(mail.NotifySuccess)
}

// A Report is what a notification has to tell.
type Report struct {
	// Hostname is what this host calls itself.
	Hostname string
	// From is who the notification is from; the zero Address for postmaster at
	// Hostname.
	From mail.Address

	// To is who is told; the zero Address for the sender. Another one is told of
	// a double failure: that the sender of a failed message cannot be told.
	To mail.Address
	// Template makes the part that people read, and the subject; nil for
	// DefaultText.
	Template *Template
	// Returned is the most of a failed message that is given back, in octets, at
	// most MaxReturned; of a larger one its header is. Zero is 50,000, and
	// negative is the header always.
	Returned int64
	// Log hears of a template that fails; nil for nobody.
	Log *slog.Logger

	// Envelope and Content are those of the message that is reported on. The
	// recipients are those below. Content may be nil if it is lost.
	Envelope *mail.Envelope
	Content  *message.Message
	Arrived  time.Time

	Recipients []Recipient
}

// A Recipient is what became of one recipient.
type Recipient struct {
	*mail.Recipient

	Action Action
	// Reply has the last words of the remote host, or our own; nil for none.
	Reply *mail.Reply
	// RemoteMTA is the host that said so, "" for this one.
	RemoteMTA string
	// LastAttempt is when; zero for never.
	LastAttempt time.Time
	// Until is when a delayed recipient is given up; zero for unknown.
	Until time.Time
}

// address is the one the sender is told: where our own configuration sends his
// mail on to is not his to know (RFC 3464, section 4.2).
func (r *Recipient) address() mail.Address {
	if r.Expanded && !r.Given.IsNull() {
		return r.Given
	}
	return r.Address
}

// Errors of Build.
var (
	// ErrNullSender says that the message is a notification itself, on which
	// none may be sent (RFC 5321, section 6.1).
	ErrNullSender   = errors.New("no notification to the null reverse-path")
	errNoRecipients = errors.New("notification about no recipient")
)

// kind is what the notification as a whole is about: the worst of it.
func (r *Report) kind() Action {
	for _, k := range []Action{Failed, Delayed, Delivered, Relayed} {
		for i := range r.Recipients {
			if r.Recipients[i].Action == k {
				return k
			}
		}
	}
	return Expanded
}

// alphabet tells whether the notification needs the forms of RFC 6533. It does
// without where it can, since every host can take the others.
func (r *Report) alphabet() alphabet {
	if !r.to().IsASCII() {
		return wide
	}
	if !r.Envelope.UTF8 {
		return ascii
	}
	for i := range r.Recipients {
		if !r.Recipients[i].address().IsASCII() || !isASCII(r.Recipients[i].Original) {
			return wide
		}
	}
	if r.Content != nil && r.Content.Header.EightBit() {
		return wide
	}
	return ascii
}

func (r *Report) from() mail.Address {
	if r.From.IsNull() {
		return mail.Address{Local: "postmaster", Domain: r.Hostname}
	}
	return r.From
}

// to is who is told.
func (r *Report) to() mail.Address {
	if r.To.IsNull() {
		return r.Envelope.From
	}
	return r.To
}

// double reports whether somebody is told in the place of the sender.
func (r *Report) double() bool { return !r.To.IsNull() }

// Build returns the notification with its envelope: from the null reverse-path
// to the sender, or to who is told in his place. It is held in memory and small,
// whatever the size of the message that it is about.
func Build(r Report) (*message.Object, error) {
	switch {
	case r.to().IsNull():
		return nil, ErrNullSender
	case len(r.Recipients) == 0:
		return nil, errNoRecipients
	}
	w := newReportWriter(r.alphabet())
	words, err := r.words()
	if err != nil {
		return nil, fmt.Errorf("write notification: %w", err)
	}
	w.text("text/plain", "Notification", words.text)
	w.status(r.fields(w.alphabet))
	if r.Content != nil {
		w.returned(&r)
	}
	env := &mail.Envelope{
		Recipients: []*mail.Recipient{mail.NewRecipient(r.to())},
		UTF8:       w.alphabet == wide,
		RequireTLS: r.Envelope.RequireTLS, // RFC 8689, section 5
		Final:      r.double(),

		Priority: r.Envelope.Priority, Prioritized: r.Envelope.Prioritized, // RFC 6710
	}
	if w.alphabet == wide {
		env.Body = mail.Body8Bit
	}
	m := message.New(r.header(w, words), message.NewBody(w.close()))
	env.Size = m.Size()
	return &message.Object{Envelope: env, Content: m}, nil
}
