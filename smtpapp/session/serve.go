package session

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime/debug"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/wire"
)

// protocol is the part of a Session that speaks with the client.
type protocol struct {
	ctx      context.Context // of Serve; go-smtp hands none through
	implicit bool            // TLS comes before the greeting
	leave    func()          // gives the room back that Admission gave
	base     int             // how many Results the connection itself has
	counts   counts

	// What a command has established and go-smtp is about to ask for.
	sender    *mail.Envelope
	recipient *mail.Recipient
	exchange  *exchange                   // of AUTH, while it is open
	attempt   func(Outcome) time.Duration // of the exchange, once the client has claimed to be somebody
	mistaken  string                      // whom it has failed to be

	announced announcement // by XCLIENT
	forwarded forward      // by XFORWARD

	refused  bool // a recipient of the transaction was
	lowered  bool // its priority was
	chunking bool // its content has begun to come by BDAT
	chunks   int
}

// counts are what Limits bound.
type counts struct {
	errors, nonMail, messages, logins, ended int
	recipients                               int // of the transaction, as RCPT named them
}

var (
	errPanic       = &mail.Reply{Code: 421, Enh: "4.3.0", Text: "local error in processing", Close: true}
	errManyErrors  = &mail.Reply{Code: 421, Enh: "4.7.0", Text: "too many errors", Close: true}
	errManyOthers  = &mail.Reply{Code: 421, Enh: "4.7.0", Text: "too many commands that are not about mail", Close: true}
	errManyLogins  = &mail.Reply{Code: 421, Enh: "4.7.0", Text: "too many failed logins", Close: true}
	errManyMessage = &mail.Reply{Code: 421, Enh: "4.7.0", Text: "too many messages in this session", Close: true}
	errManyChunks  = &mail.Reply{Code: 421, Enh: "4.7.0", Text: "too many chunks", Close: true}
)

// New returns the session of a client that has just connected. Implicit TLS
// begins before the greeting.
func New(conn net.Conn, cfg *Config, implicitTLS bool) *Session {
	s := &Session{
		Remote: conn.RemoteAddr(), Local: conn.LocalAddr(), Began: time.Now(),
		cfg: cfg, peer: conn.RemoteAddr(), Log: cfg.Log,
	}
	if s.ID = rand.Text()[:12]; cfg.NewID != nil {
		s.ID = cfg.NewID()
	}
	if s.Log == nil {
		s.Log = slog.New(slog.DiscardHandler)
	}
	s.Log = s.Log.With("session", s.ID, "remote", conn.RemoteAddr().String())
	s.implicit, s.leave = implicitTLS, func() {}
	s.conn = wire.New(conn, wire.Config{
		Handler: dialogue{s}, Timeouts: cfg.Timeouts, Log: s.Log,
		LineLength: cfg.Limits.LineLength, AuthLineLength: cfg.Limits.AuthLineLength,
		MessageSize: cfg.Limits.MessageSize, TextLine: cfg.Limits.TextLine, Strict: cfg.StrictNewlines, BareLF: cfg.BareLF, Hurry: hurry(cfg.Admission),
	})
	return s
}

func hurry(a Admission) func() bool {
	if a == nil {
		return nil
	}
	return a.Crowded
}

// Drain has the client sent away between two transactions: see wire.Conn.
func (s *Session) Drain(exiting bool) { s.conn.Drain(exiting) }

// Serve speaks with the client until one of the two has had enough, or ctx
// ends. It closes the connection.
func (s *Session) Serve(ctx context.Context) (err error) {
	stop := s.conn.CutOff(ctx)
	defer stop()
	defer func() {
		if v := recover(); v != nil { // in what TLS asks the configuration
			s.Log.Error("panic in a session", "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
		}
		s.settle(Outcome{})
		if e := s.conn.Close(); err == nil {
			err = e
		}
		if s.cfg.Observe != nil {
			s.cfg.Observe.SessionEnded(s)
		}
	}()
	s.ctx = ctx
	no := s.enter()
	defer func() { s.leave() }()
	switch {
	case no != nil: // in clear even if TLS comes first: to begin that would cost too much
		s.conn.Greet(no)
		_ = s.conn.Await()
		return no
	case s.implicit:
		if s.TLS, err = s.conn.Handshake(ctx, s.cfg.TLS); err != nil {
			return err
		}
	}
	s.greet()
	for {
		for s.conn.Await() {
			s.dispatch()
		}
		st, err := s.conn.Upgrade(ctx)
		if st == nil {
			return err
		}
		s.forget()
		s.TLS = s.ownTLS(st)
	}
}

// enter asks for room for the client, in exchange for what it had under another
// address.
func (s *Session) enter() *mail.Reply {
	if no := s.admit(); no != nil {
		return no
	}
	if s.cfg.Admission == nil {
		return nil
	}
	s.leave()
	s.leave = func() {}
	leave, no := s.cfg.Admission.Enter(s.RemoteIP())
	if no != nil {
		s.Log.Debug("refused", "reply", no.Error()) // a flood would fill the log with it
		return no
	}
	s.leave = leave
	return nil
}

// greet sends the greeting, or the refusal of a handler.
func (s *Session) greet() { s.conn.Greet(s.guarded(s.welcome)) }

// welcome is the greeting, unless a handler refuses the client (RFC 5321,
// section 3.1: 554, and 421 for now).
func (s *Session) welcome() *mail.Reply {
	err := s.stageConnect(s.ctx)
	s.base = len(s.Results)
	if err == nil {
		protocol := " ESMTP ready"
		if s.cfg.LMTP {
			protocol = " LMTP ready"
		}
		return &mail.Reply{Code: 220, Text: s.cfg.Hostname + protocol}
	}
	no := *mail.ReplyFor(err)
	if no.Close = true; no.Permanent() {
		no.Code = 554
	} else {
		no.Code = 421
	}
	s.Log.Info("refused", "reply", no.Error())
	return &no
}

// dispatch lets go-smtp serve the connection for a transaction or a login. A
// server of its own for each keeps idle clients small, and lets it remember
// nothing.
func (s *Session) dispatch() {
	srv := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return dialogue{s}, nil }))
	srv.Domain = s.cfg.Hostname
	srv.AllowInsecureAuth = true // the AUTH command decides
	srv.MaxLineLength = 0        // as does wire
	srv.ErrorLog = libraryLog{s.Log}
	_ = srv.Serve(s.conn.Listener())
	_ = srv.Shutdown(context.Background()) // waits
}

// libraryLog takes what go-smtp has to say.
type libraryLog struct{ log *slog.Logger }

func (l libraryLog) Printf(format string, v ...any) {
	l.log.Warn("go-smtp", "error", fmt.Sprintf(format, v...))
}
func (l libraryLog) Println(v ...any) { l.log.Warn("go-smtp", "error", fmt.Sprint(v...)) }

// forget brings the session back to where it was at the greeting (RFC 3207,
// section 4.2).
func (s *Session) forget() {
	s.reset()
	s.Hello, s.ESMTP = "", false
	s.unauthenticated()
	s.Results = s.Results[:s.base:s.base]
}

// guarded runs f. If it panics, the session ends, and the process lives on.
func (s *Session) guarded(f func() *mail.Reply) (r *mail.Reply) {
	defer func() {
		if v := recover(); v != nil {
			s.Log.Error("panic in a session", "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
			r = errPanic
		}
	}()
	return f()
}

// dialogue is what wire and go-smtp know a session as. It keeps their methods
// away from handlers.
type dialogue struct{ s *Session }

// Reset is called by go-smtp when RSET or EHLO end a transaction, and after
// content.
func (d dialogue) Reset() { d.s.endTransaction() }

// Logout is called by go-smtp at the end.
func (d dialogue) Logout() error { return nil }

// Phase tells wire where the session stands.
func (d dialogue) Phase() wire.Phase {
	switch s := d.s; {
	case s.tx != nil:
		return wire.InTransaction
	case s.counts.ended > 0:
		return wire.Served
	case s.Hello == "":
		return wire.BeforeHello
	}
	return wire.Fresh
}

func (d dialogue) Mail(string, *smtp.MailOptions) error { return d.answer(d.s.mailStage) }
func (d dialogue) Rcpt(string, *smtp.RcptOptions) error { return d.answer(d.s.rcptStage) }
func (d dialogue) Data(io.Reader) error                 { return d.answer(d.s.receive) }

// answer runs one of go-smtp's calls. Its error is only for go-smtp's own
// books: the reply is wire's to send.
func (d dialogue) answer(f func() *mail.Reply) error {
	r := d.s.guarded(f)
	if r == nil { // the client is gone, or gave up
		return errAbsent
	}
	d.s.conn.Answer(r)
	if r.Code/100 != 2 {
		return errAbsent
	}
	return nil
}

var errAbsent = &smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 3, 0}, Message: "see wire"}
