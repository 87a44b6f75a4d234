package session

import (
	"context"

	"github.com/emersion/go-sasl"

	"github.com/caddymail/caddy-smtp/smtpapp/login"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

// A Stage is a point of a session at which handlers act. Later stages know
// all that earlier ones do.
type Stage uint8

// The stages, in order.
const (
	StageConnect Stage = iota // before the greeting
	StageHello                // EHLO or HELO
	StageAuth                 // AUTH, after STARTTLS if there was one
	StageMail                 // MAIL
	StageRcpt                 // each RCPT
	StageMessage              // content is complete
	stages
)

// String names the stage as the RFCs name its command.
func (s Stage) String() string {
	return [...]string{"connect", "EHLO", "AUTH", "MAIL", "RCPT", "message"}[s]
}

// The stage interfaces. A handler implements one or more of them. A nil error
// passes on, a *mail.Reply refuses with that reply, and anything else is a
// fault of ours: 451 4.3.0, and a line in the log.
type (
	// A ConnectHandler acts before the greeting. Its refusal ends the session.
	ConnectHandler interface {
		HandleConnect(ctx context.Context, s *Session) error
	}

	// A HelloHandler acts on EHLO and HELO.
	HelloHandler interface {
		HandleHello(ctx context.Context, s *Session) error
	}

	// An AuthHandler offers SASL mechanisms.
	AuthHandler interface {
		// Mechanisms are those it can serve on this connection, best first.
		Mechanisms(s *Session) []string
		// Authenticate begins an exchange. When it is done, the server that it
		// returns has called Session.Authenticated.
		Authenticate(ctx context.Context, s *Session, mechanism string) (sasl.Server, error)
	}

	// A MailHandler acts on MAIL.
	MailHandler interface {
		HandleMail(ctx context.Context, tx *Transaction) error
	}

	// An RcptHandler acts on one recipient. It may claim it, rewrite its
	// address, or put others in its place with Transaction.Expand.
	RcptHandler interface {
		HandleRcpt(ctx context.Context, tx *Transaction, r *mail.Recipient) error
	}

	// A MessageHandler acts on the complete content. It may change the header.
	MessageHandler interface {
		HandleMessage(ctx context.Context, tx *Transaction, m *message.Message) error
	}
)

// An AuthExplainer is an AuthHandler that may have a better reply to a mechanism
// that it does not offer than 504, such as 534 to one that is too weak; nil for
// none.
type AuthExplainer interface {
	NotOffered(s *Session, mechanism string) *mail.Reply
}

// Authenticated records the identity that a SASL exchange established.
func (s *Session) Authenticated(id *login.Identity, mechanism string) {
	s.User, s.Method, s.Identity = id.User, mechanism, id
}

// Anonymous records that the client has logged in as nobody (RFC 4505). It is no
// user of ours by that: it has no name, and nothing that is for those who have
// one is for it.
func (s *Session) Anonymous() { s.User, s.Method, s.Identity = "", "ANONYMOUS", nil }

// unauthenticated takes back what an exchange that failed may have recorded.
func (s *Session) unauthenticated() { s.User, s.Method, s.Identity = "", "", nil }

// What a handler may say about itself, for the plan.
type (
	// A Starter acts from another stage on than the first that it implements
	// and its route can decide at. It is told that stage, and whether its
	// route has a matcher at all.
	Starter interface {
		StartsAt(route Stage, conditional bool) Stage
	}

	// An Annotator says that it never refuses a message, so that recipients it
	// treats differently can share a transaction.
	Annotator interface{ OnlyAnnotates() bool }

	// A Sealer is a message handler that seals the content as it then is: it
	// runs after all that do not, wherever it stands in the configuration, and
	// after those of a lower Seal.
	Sealer interface{ Seals() Seal }

	// A Claimer claims recipients for the agents it names. All says that it
	// claims every recipient that its route lets through.
	Claimer interface {
		Agents() []string
		ClaimsAll() bool
	}
)

// A Seal is what a message handler seals the content with. Later ones cover
// earlier ones.
type Seal uint8

// The seals, in order.
const (
	Unsealed  Seal = iota // nothing: a handler as any other
	Signature             // DKIM-Signature (RFC 6376, section 5)
	ARCSeal               // ARC-Seal, over the results and signatures so far (RFC 8617, section 5.1)
)

// A Matcher says whether a route applies.
type Matcher interface {
	// Stage is the first stage at which it can decide. It is known before the
	// matcher is provisioned.
	Stage() Stage
	// Match decides. An error is a fault of ours.
	Match(ctx context.Context, at *Point) (bool, error)
}

// A RecipientMatcher looks at the recipient: routes that have one fork the
// message.
type RecipientMatcher interface{ PerRecipient() bool }

// A Point is what a matcher decides on. What its stage does not know is nil.
type Point struct {
	Session     *Session
	Transaction *Transaction
	Recipient   *mail.Recipient
	Message     *message.Message
}
