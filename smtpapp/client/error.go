package client

import (
	"context"
	"errors"
	"fmt"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

// A Phase is the step of a connection at which something went wrong.
type Phase string

// The phases. PhaseContent is the caller's content, not the network.
const (
	PhaseConnect  Phase = "connect"
	PhaseGreeting Phase = "greeting"
	PhaseHello    Phase = "hello"
	PhaseStartTLS Phase = "starttls"
	PhaseAuth     Phase = "auth"
	PhaseMail     Phase = "mail"
	PhaseRcpt     Phase = "rcpt"
	PhaseData     Phase = "data"
	PhaseContent  Phase = "content"
	PhaseDot      Phase = "dot"
	PhaseReset    Phase = "reset"
	PhaseQuit     Phase = "quit"
)

// An Error is a failure that no reply of the peer explains: of the network, of
// a peer that doesn't keep to the protocol, or on our side. The connection is
// of no more use.
type Error struct {
	Phase Phase

	// InDoubt says that the whole content had left, its end included, and no
	// reply came: the peer may have taken the mail or not (RFC 1047).
	InDoubt bool

	Err error
}

func (e *Error) Error() string {
	if e.InDoubt {
		return fmt.Sprintf("smtp client: %s: no reply to the content: %v", e.Phase, e.Err)
	}
	return fmt.Sprintf("smtp client: %s: %v", e.Phase, e.Err)
}

// Unwrap returns e.Err.
func (e *Error) Unwrap() error { return e.Err }

// A RefusedError is a reply of the peer by which it refuses something other
// than mail: the connection, EHLO, STARTTLS, authentication or RSET. It wraps
// the *mail.Reply.
type RefusedError struct {
	Phase Phase
	Reply *mail.Reply
}

func (e *RefusedError) Error() string { return fmt.Sprintf("smtp client: %s: %v", e.Phase, e.Reply) }

// Unwrap returns e.Reply.
func (e *RefusedError) Unwrap() error { return e.Reply }

// What an Error may wrap, network errors aside.
var (
	ErrProtocol    = errors.New("peer breaks the protocol")
	ErrUnsolicited = fmt.Errorf("%w: it spoke out of turn", ErrProtocol)
	ErrNotOffered  = errors.New("peer doesn't offer it")
	ErrPlaintext   = errors.New("no password without TLS")
	ErrUnusable    = errors.New("connection is not usable")
	ErrLine        = errors.New("line end in a command")
)

// abort closes the connection and says why.
func (c *Conn) abort(p Phase, err error) *Error {
	c.Close()
	return &Error{Phase: p, Err: err}
}

// fail closes the connection and says why, the context's end before its
// consequences.
func (c *Conn) fail(ctx context.Context, p Phase, err error) *Error {
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return c.abort(p, err)
}
