package session

import (
	"errors"
	"io"
	"syscall"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/wire"
)

// mailCommand is MAIL (RFC 5321, section 4.1.1.2). The envelope waits for
// go-smtp to call back.
func (s *Session) mailCommand(arg string) (string, *mail.Reply) {
	if over(s.counts.messages+1, s.cfg.Limits.Messages) {
		return "", errManyMessage
	}
	if a := s.cfg.Admission; a != nil {
		if no := a.Message(s.RemoteIP()); no != nil {
			return "", no
		}
	}
	env, r := s.parseMail(arg)
	if r != nil {
		return "", r
	}
	s.sender = env
	return "MAIL FROM:<>", nil
}

func (s *Session) mailStage() *mail.Reply {
	env := s.sender
	s.sender = nil
	if err := s.stageMail(s.ctx, env); err != nil {
		return s.judgedStranger(mail.ReplyFor(err))
	}
	s.counts.messages++
	s.counts.recipients = 0
	s.refused, s.chunking, s.chunks = false, false, 0
	if s.lowered {
		return lowered(env)
	}
	return &mail.Reply{Code: 250, Enh: "2.1.0", Text: "sender " + env.From.Path() + " ok"}
}

// rcptCommand is RCPT (RFC 5321, section 4.1.1.3).
func (s *Session) rcptCommand(arg string) (string, *mail.Reply) {
	rc, r := s.parseRcpt(arg)
	if r != nil {
		s.refused = true
		return "", r
	}
	if over(s.counts.recipients+1, s.cfg.Limits.Recipients) {
		return "", errTooMany // RFC 5321, section 4.5.3.1.10
	}
	s.recipient = rc
	return "RCPT TO:<x@y>", nil
}

func (s *Session) rcptStage() *mail.Reply {
	rc := s.recipient
	s.recipient = nil
	if err := s.stageRcpt(s.ctx, rc); err != nil {
		s.refused = true
		return s.judgedStranger(mail.ReplyFor(err))
	}
	s.counts.recipients++
	return &mail.Reply{Code: 250, Enh: "2.1.5", Text: "recipient " + rc.Given.Path() + " ok"}
}

// judgedStranger counts a refusal by policy as an error of a stranger: so many
// of them are guesses at addresses. Our own users have typing errors.
func (s *Session) judgedStranger(r *mail.Reply) *mail.Reply {
	if s.Trusted() {
		return r
	}
	return s.judged(r)
}

// data is DATA (RFC 5321, section 4.1.1.4). The 354 is given when the session
// begins to read.
func (s *Session) data(string) (string, *mail.Reply) {
	if s.tx.Envelope.Body == mail.BodyBinary { // RFC 3030, section 3
		return "", errNotBinary
	}
	return "DATA", nil
}

// bdat is BDAT (RFC 3030, section 2), whose argument wire has read. For
// go-smtp all chunks are one DATA.
func (s *Session) bdat(string) (string, *mail.Reply) {
	if s.chunks++; over(s.chunks, s.cfg.Limits.Chunks) {
		return "", errManyChunks
	}
	s.chunking = true
	s.conn.Binary(s.tx.Envelope.Body == mail.BodyBinary)
	return "DATA", nil
}

// rset is RSET (RFC 5321, section 4.1.1.5).
func (s *Session) rset(string) (string, *mail.Reply) {
	return s.resets(&mail.Reply{Code: 250, Enh: "2.0.0", Text: "ok"})
}

// resets ends the transaction, if there is one, by way of go-smtp.
func (s *Session) resets(r *mail.Reply) (string, *mail.Reply) {
	if s.tx == nil {
		return "", r
	}
	return "RSET", r
}

// endTransaction drops the transaction, if there is one.
func (s *Session) endTransaction() {
	if s.tx != nil {
		s.counts.ended++
		s.reset()
	}
	s.chunking = false
}

// receive takes the content, DATA's or BDAT's. It returns nil if the client
// gave it up or is gone: nothing of it is kept then.
func (s *Session) receive() *mail.Reply {
	tx := s.tx
	defer func() {
		if s.tx == nil { // the engine has ended it
			s.counts.ended++
			s.chunking = false
		} else {
			s.endTransaction()
		}
	}()
	l := &s.cfg.Limits
	m, err := message.Receive(s.conn.Content(), message.Limits{
		Size: l.MessageSize, HeaderSize: l.HeaderSize, HeaderFields: l.HeaderFields, FieldSize: l.FieldSize,
	}, s.cfg.Spool)
	if err == nil && tx.Envelope.Body == mail.BodyBinary && m.Header.HasNUL() { // of other content, wire lets none through
		err = errors.Join(errHeaderNUL, m.Body().Discard())
	}
	if err != nil {
		if r := s.notReceived(tx, err); r != nil {
			return s.forEach(tx, r)
		}
		return nil
	}
	defer s.discard(m.Body()) // whatever a handler puts in its place
	r := s.stageMessage(s.ctx, m)
	if r.Code/100 == 2 {
		s.counts.errors, s.counts.nonMail = 0, 0
	}
	return r
}

func (s *Session) discard(b *message.Body) {
	if err := b.Discard(); err != nil {
		s.Log.Error("discarding spooled content", "error", err)
	}
}

// Replace puts content that is read from r in the place of a message, as a
// handler of the message stage may: where it is big it is spooled, as what came
// from the client was. r is trusted to be within limits.
func (tx *Transaction) Replace(m *message.Message, r io.Reader) error {
	s := tx.Session
	var sp message.Spool
	if s.cfg != nil { // nil in a handler's own tests
		sp = s.cfg.Spool
	}
	by, err := message.Receive(r, message.Limits{}, sp)
	if err != nil {
		return err
	}
	m.Replace(by)
	tx.OnEnd(func(bool) { s.discard(by.Body()) })
	return nil
}

// notReceived is the reply to content that could not be read to its end.
func (s *Session) notReceived(tx *Transaction, err error) *mail.Reply {
	if errors.Is(err, wire.ErrAborted) {
		return nil
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		s.Log.Info("connection lost in content", "transaction", tx.ID, "from", tx.Envelope.From.String())
		return nil
	}
	r, ok := errors.AsType[*mail.Reply](err)
	if !ok {
		s.Log.Error("receiving content", "transaction", tx.ID, "error", err)
		r = mail.ReplyFor(err)
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
			r = mail.Refuse(452, "4.3.1", "insufficient system storage")
		}
	}
	s.logRefusal(tx, nil, r)
	if s.cfg.Observe != nil {
		s.cfg.Observe.MessageEnded(tx, r)
	}
	return r
}
