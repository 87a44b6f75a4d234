// Package session is the receiving side of SMTP: the facts about a client, the
// mail transaction, the stages at which handlers act, and the plan that says
// which of them take part. It reads the connection through package wire and
// knows nothing of Caddy, of the queue, or of any handler.
package session

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/wire"
)

// A Config is what all sessions of one server share. It is not changed once a
// session uses it.
type Config struct {
	// Server is the name of the server in the configuration.
	Server string
	// Hostname is what the server calls itself in its greeting, in trace
	// fields and in Authentication-Results.
	Hostname string
	// Postmaster is where mail for <postmaster> without a domain goes (RFC
	// 5321, section 4.5.1).
	Postmaster mail.Address
	// Plan says which handlers act at which stage.
	Plan *Plan
	// TLS is the configuration of STARTTLS; nil for no STARTTLS.
	TLS *tls.Config
	// PlaintextAuth offers AUTH on connections without TLS.
	PlaintextAuth bool
	// Trusted are the networks whose clients are our own users: their messages
	// may be refused for some recipients only, which strangers' may not.
	Trusted []netip.Prefix

	Limits   Limits
	Timeouts wire.Timeouts

	// NewID makes the id of a transaction.
	NewID func() string
	// Accept makes messages durable.
	Accept Acceptor
	// Verify says whether an agent has a recipient.
	Verify Verifier
	// Spool is where content is kept while it arrives.
	Spool message.Spool
	// Observe, if not nil, hears of what ended.
	Observe Observer

	Log *slog.Logger
}

// Limits bound what one session may ask for. Zero is no limit.
type Limits struct {
	MessageSize    int64 // octets of content, announced by SIZE
	Recipients     int   // of one message
	Messages       int   // of one session
	Hops           int   // Received fields
	HeaderSize     int   // octets of a header block
	HeaderFields   int   // of a header block
	SoftErrors     int   // after which each further error is answered late
	HardErrors     int   // after which the session ends
	NonMail        int   // commands that are not of a transaction, in a row
	FailedAuth     int   // after which the session ends
	Chunks         int   // of one message sent by BDAT
	LineLength     int   // of a command, with its CRLF
	AuthLineLength int   // of AUTH and what follows it, with its CRLF
}

// An Acceptor takes responsibility for messages: when Accept returns nil, they
// are on disk. The objects are the forks of one content; they are stored all
// or none. The id names them in the reply and in the log.
type Acceptor interface {
	Accept(ctx context.Context, objects []*message.Object) (id string, err error)
}

// A Verifier says whether the named agent has a mailbox or a way for a. It
// returns nil, or a Reply such as 550 5.1.1.
type Verifier interface {
	Verify(ctx context.Context, agent string, a mail.Address) error
}

// An Observer hears of what a session did, for metrics.
type Observer interface {
	SessionEnded(s *Session)
	// MessageEnded is told how a transaction that had content was answered.
	MessageEnded(tx *Transaction, r *mail.Reply)
}

// A Session is one connection of a client. Its fields are set before the stage
// they belong to and then left alone; handlers only read them.
type Session struct {
	ID     string // in the log and in placeholders
	Remote net.Addr
	Local  net.Addr
	Began  time.Time

	Hello string               // the name given in EHLO or HELO
	ESMTP bool                 // it was EHLO
	TLS   *tls.ConnectionState // nil without TLS

	// User is the identity that AUTH established, "" for none; Method is the
	// mechanism that did.
	User   string
	Method string

	// Results are what handlers found out about the client before the first
	// transaction; each transaction begins with them.
	Results []Result

	Log *slog.Logger

	cfg      *Config
	conn     *wire.Conn
	tx       *Transaction
	internal bool // a message of our own: see RouteTo
	engine
	protocol
}

// Server is the name of the server in the configuration.
func (s *Session) Server() string { return s.cfg.Server }

// Hostname is what the server calls itself.
func (s *Session) Hostname() string { return s.cfg.Hostname }

// RemoteIP returns the client's address, or the zero Addr on a unix socket.
func (s *Session) RemoteIP() netip.Addr { return addrOf(s.Remote) }

// Trusted reports whether the client is one of our own: authenticated, or in
// a network that the server trusts.
func (s *Session) Trusted() bool {
	if s.User != "" {
		return true
	}
	ip := s.RemoteIP()
	for _, p := range s.cfg.Trusted {
		if p.Contains(ip) {
			return true
		}
	}
	return false
}

func addrOf(a net.Addr) netip.Addr {
	if t, ok := a.(*net.TCPAddr); ok {
		return t.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// A Transaction is one mail transaction (RFC 5321, section 3.3). At the
// message stage each group of recipients that is treated alike has its own.
type Transaction struct {
	ID       string // in the reply, in Received, in the queue and in the log
	Session  *Session
	Envelope *mail.Envelope
	Began    time.Time

	// Results are the policy results so far: handlers append, later handlers,
	// matchers and placeholders read, and the session writes one
	// Authentication-Results field of them.
	Results []Result

	expansion *expansion
}

// A Result is what a handler found out (RFC 8601, section 2.3).
type Result struct {
	Method  string // "spf", "dkim", "dnsbl" …
	Value   string // "pass", "fail", "temperror" …
	Reason  string
	Props   []Property // what it is about, such as smtp.mailfrom
	Private bool       // not written into Authentication-Results
}

// A Property says what a Result is about: ptype.property=value.
type Property struct{ Type, Name, Value string }

// Find returns the results of a method, oldest first.
func (tx *Transaction) Find(method string) []Result {
	var rs []Result
	for _, r := range tx.Results {
		if r.Method == method {
			rs = append(rs, r)
		}
	}
	return rs
}
