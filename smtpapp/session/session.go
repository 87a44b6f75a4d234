// Package session is the receiving side of SMTP: the facts about a client, the
// mail transaction, the stages at which handlers act, and the plan that says
// which of them take part. It reads the connection through package wire and
// knows nothing of Caddy, of the queue, or of any handler.
package session

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/authres"
	"github.com/caddymail/caddy-smtp/smtpapp/dns"
	"github.com/caddymail/caddy-smtp/smtpapp/login"
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
	// AuthservID, if set, is what it calls itself in Authentication-Results.
	AuthservID string
	// Postmaster is where mail for <postmaster> without a domain goes (RFC
	// 5321, section 4.5.1).
	Postmaster mail.Address
	// Plan says which handlers act at which stage.
	Plan *Plan
	// TLS is the configuration of STARTTLS; nil for no STARTTLS.
	TLS *tls.Config
	// LMTP is spoken in the place of SMTP (RFC 2033).
	LMTP bool
	// FutureRelease is how long users who logged in may have their mail held
	// (RFC 4865); 0 for not at all.
	FutureRelease time.Duration
	// Offers are the other extensions, each of which is off unless it is said.
	Offers Offers
	// Help is what HELP answers; "" for a few words.
	Help string
	// StrictNewlines refuses content with a LF that has no CR before it, in the
	// place of mending it.
	StrictNewlines bool
	// BareLF takes commands that end in LF alone.
	BareLF bool
	// PlaintextAuth offers AUTH on connections without TLS.
	PlaintextAuth bool
	// Trusted are the networks whose clients are our own users: their messages
	// may be refused for some recipients only, which strangers' may not.
	Trusted []netip.Prefix
	// Proxies may speak for clients of theirs.
	Proxies Proxies

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
	// PassesOn, if not nil, says whether an agent hands mail to other hosts, with
	// what was asked for along with it.
	PassesOn func(agent string) bool
	// Admission, if not nil, lets clients in.
	Admission Admission
	// Guard, if not nil, bounds guesses at secrets.
	Guard Guard
	// Flush, if not nil, begins to send the mail that waits for a domain, which
	// a client has asked for by ETRN (RFC 1985), or returns why not.
	Flush func(domain string) *mail.Reply
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
	FieldSize      int   // octets of a header field
	LineLength     int   // of a command, with its CRLF
	TextLine       int   // octets of a line of content, with its CRLF
	AuthLineLength int   // of AUTH and what follows it, with its CRLF

	// ErrorDelay is how late errors are answered once there were some, and
	// logins that failed.
	ErrorDelay time.Duration
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

// Admission says how many clients are let in, and how much they may send.
type Admission interface {
	// Enter lets a client in, who leaves by the function that it returns, or
	// returns the reply that refuses it. The address is the zero Addr on a unix
	// socket.
	Enter(ip netip.Addr) (leave func(), no *mail.Reply)
	// Message is asked before each message.
	Message(ip netip.Addr) (no *mail.Reply)
	// Crowded reports that there is little room left: clients get less time,
	// and fewer errors are forgiven.
	Crowded() bool
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
	// mechanism that did, and is there for an anonymous client too, which has no
	// User. Identity is what else is known of the user, nil where
	// there is none, and for messages of our own.
	User     string
	Method   string
	Identity *login.Identity

	// Results are what handlers found out about the client before the first
	// transaction; each transaction begins with them.
	Results []Result

	Log *slog.Logger

	cfg      *Config
	conn     *wire.Conn
	peer     net.Addr // of the connection, whomever it speaks for
	tx       *Transaction
	internal bool // a message of our own: see RouteTo
	engine
	protocol
}

// Server is the name of the server in the configuration.
func (s *Session) Server() string { return s.cfg.Server }

// Hostname is what the server calls itself.
func (s *Session) Hostname() string { return s.cfg.Hostname }

// Certificate is the one that the server showed under TLS, nil where it is not
// known: what channels are bound to (RFC 5929, section 4).
func (s *Session) Certificate() *x509.Certificate {
	if s.conn == nil {
		return nil
	}
	return s.conn.Certificate()
}

// RemoteIP returns the client's address, or the zero Addr on a unix socket.
func (s *Session) RemoteIP() netip.Addr { return addrOf(s.Remote) }

// Trusted reports whether the client is one of our own: authenticated, or in
// a network that the server trusts.
func (s *Session) Trusted() bool {
	return s.User != "" || s.fromTrusted()
}

// fromTrusted reports whether the client is in a network that the server trusts.
func (s *Session) fromTrusted() bool {
	if s.cfg == nil { // in a handler's own tests
		return false
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

func addrPortOf(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		return netip.AddrPortFrom(addrOf(a), t.AddrPort().Port())
	}
	return netip.AddrPort{}
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

	dns       *dns.Budget // for all stages
	expansion *expansion
	// commands are the recipients that each RCPT has made, in order: LMTP
	// answers content for each of them.
	commands [][]*mail.Recipient
	ends     *[]func(accepted bool) // shared by the forks
}

// OnEnd has f run when the message has been answered. accepted says that we
// have taken it, for some recipients at least. It is for handlers of the message
// stage: a transaction without content ends unnoticed.
func (tx *Transaction) OnEnd(f func(accepted bool)) {
	if tx.ends == nil {
		tx.ends = new([]func(bool))
	}
	*tx.ends = append(*tx.ends, f)
}

func (tx *Transaction) end(accepted bool) {
	if tx.ends == nil {
		return
	}
	for _, f := range *tx.ends {
		f(accepted)
	}
	tx.ends = nil
}

// A Result is what a handler found out (RFC 8601, section 2.3).
type Result struct {
	Method  string // "spf", "dkim", "dnsbl" …
	Value   string // "pass", "fail", "temperror" …
	Comment string // for people, beside the value
	Reason  string
	Props   []Property // what it is about, such as smtp.mailfrom
	Private bool       // not written into Authentication-Results
	Detail  any        // more of it, for handlers that know the type
}

// A Property says what a Result is about: ptype.property=value.
type Property = authres.Property

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
