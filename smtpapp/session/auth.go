package session

import (
	"encoding/base64"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/emersion/go-sasl"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

var (
	errBase64    = mail.Refuse(501, "5.5.2", "not base64")
	errCancelled = mail.Refuse(501, "5.7.0", "authentication cancelled")
	errLogin     = mail.Refuse(535, "5.7.8", "authentication failed")
)

func (s *Session) authAllowed() bool { return s.TLS != nil || s.cfg.PlaintextAuth }

// auth is AUTH (RFC 4954, section 4).
func (s *Session) auth(arg string) (string, *mail.Reply) {
	mech, ir, hasIR := strings.Cut(arg, " ")
	mech, ir = strings.ToUpper(mech), strings.Trim(ir, " ")
	switch {
	case !s.ESMTP:
		return "", errHello
	case s.Method != "":
		return "", mail.Refuse(503, "5.5.1", "you are authenticated already")
	case len(s.authHandlers(s.ctx)) == 0:
		return "", mail.Refuse(502, "5.5.1", "nobody can log in here")
	case !s.authAllowed():
		return "", mail.Refuse(538, "5.7.11", "encryption is required: STARTTLS first")
	case mech == "":
		return "", mail.Refuse(501, "5.5.4", "a mechanism is wanted")
	case !slices.Contains(s.mechanisms(), mech):
		return "", s.notOffered(mech)
	case hasIR && !isBase64(ir):
		return "", errBase64
	}
	return strings.TrimRight("AUTH "+mech+" "+ir, " "), nil
}

// notOffered is the reply to a mechanism that no handler offers here.
func (s *Session) notOffered(mech string) *mail.Reply {
	for _, h := range s.authHandlers(s.ctx) {
		if e, ok := h.(AuthExplainer); ok {
			if r := e.NotOffered(s, mech); r != nil {
				return r
			}
		}
	}
	return mail.Refuse(504, "5.5.4", "mechanism is not offered")
}

// Response is what follows a 334. go-smtp sees only what it can decode; of
// anything else it is told that the exchange is over.
func (d dialogue) Response(line string) (forward string, r *mail.Reply) {
	switch {
	case line == "":
		return "=", nil // the same for go-smtp, but not nothing for wire
	case line == "*":
		return "*", d.s.abandon(errCancelled)
	case !isBase64(line):
		return "*", d.s.abandon(errBase64)
	}
	return line, nil
}

// abandon ends the exchange that is open, if one is: with r, or with what it
// has come to already.
func (s *Session) abandon(r *mail.Reply) *mail.Reply {
	x := s.exchange
	if x == nil {
		return s.judged(r)
	}
	s.settle(Outcome{})
	s.exchange = nil
	s.unauthenticated()
	if x.verdict != nil {
		return x.verdict
	}
	return s.judged(r)
}

// isBase64 reports whether s is base64, or "=" for an empty initial response.
func isBase64(s string) bool {
	_, err := base64.StdEncoding.DecodeString(s)
	return err == nil || s == "="
}

// AuthMechanisms is there for go-smtp, whose EHLO reply nobody sees.
func (d dialogue) AuthMechanisms() []string { return nil }

// Auth begins an exchange for go-smtp.
func (d dialogue) Auth(mech string) (srv sasl.Server, err error) {
	r := d.s.guarded(func() *mail.Reply {
		srv, err = d.s.authenticate(d.s.ctx, mech)
		if err != nil {
			return d.s.loginFailed(mech, err)
		}
		return nil
	})
	if r != nil {
		d.s.conn.Answer(r)
		return nil, errAbsent
	}
	d.s.exchange = &exchange{s: d.s, srv: srv, mech: mech}
	return d.s.exchange, nil
}

// An exchange is the server's side of SASL. It answers with our replies, and
// gives a mechanism that has a last word the room for it that SMTP has not:
// go-smtp would drop it (RFC 4954, section 4: as a 334, to which the client's
// response is empty). So it is with the last word of one that failed, which
// comes with an error (RFC 7628, section 3.2.3).
type exchange struct {
	s       *Session
	srv     sasl.Server
	mech    string
	last    bool
	verdict *mail.Reply // once it has failed, to whatever the client says next
}

// Next is one step, in go-smtp's words.
func (x *exchange) Next(response []byte) (challenge []byte, done bool, err error) {
	r := x.s.guarded(func() *mail.Reply { return x.step(response) })
	x.s.conn.Answer(r)
	switch r.Code {
	case 334:
		return nil, false, nil
	case 235:
		x.s.exchange = nil
		return nil, true, nil
	}
	x.s.settle(Outcome{})
	x.s.exchange = nil
	x.s.unauthenticated()
	return nil, false, errAbsent
}

func (x *exchange) step(response []byte) *mail.Reply {
	if x.verdict != nil {
		return x.verdict
	}
	if x.last {
		if len(response) > 0 {
			return x.s.judged(mail.Refuse(501, "5.5.2", "an empty response is wanted"))
		}
		return x.success()
	}
	began := time.Now()
	challenge, done, err := x.srv.Next(response)
	if err != nil {
		x.s.even(began)
		r := x.s.loginFailed(x.mech, err)
		if len(challenge) == 0 || r.Close {
			return r
		}
		x.verdict = r
		return challenged(challenge)
	}
	if done && len(challenge) == 0 {
		return x.success()
	}
	x.last = done
	return challenged(challenge)
}

func challenged(b []byte) *mail.Reply {
	return &mail.Reply{Code: 334, Text: base64.StdEncoding.EncodeToString(b)}
}

// failureStep is what the time that a login takes to fail is a multiple of, so
// that it tells nothing of whether there is such a user, how many secrets he
// has, and what they cost to compare.
const failureStep = 500 * time.Millisecond

// even waits until the next multiple of failureStep since began.
func (s *Session) even(began time.Time) {
	s.Pause(failureStep - time.Since(began)%failureStep)
}

func (x *exchange) success() *mail.Reply {
	if x.s.Method == "" {
		return x.s.loginFailed(x.mech, errLogin)
	}
	x.s.settle(Outcome{Verdict: Right, Mechanism: x.mech, User: x.s.User})
	return &mail.Reply{Code: 235, Enh: "2.7.0", Text: "authentication succeeded"}
}

// loginFailed is the reply to a login that failed, a while later. A failure
// that is not the client's is not counted.
func (s *Session) loginFailed(mech string, err error) *mail.Reply {
	r, ok := errors.AsType[*mail.Reply](err)
	switch {
	case ok:
	case strings.HasPrefix(err.Error(), "sasl: "): // go-sasl could not read the response
		r = errLogin
	default:
		s.Log.Error("authentication handler failed", "mechanism", mech, "error", err)
		r = mail.Refuse(454, "4.7.0", "temporary authentication failure")
	}
	if r.Temporary() {
		s.settle(Outcome{})
		return r
	}
	s.Log.Info("login failed", "mechanism", mech, "helo", s.Hello, "reply", r.Error())
	s.counts.logins++
	s.Pause(max(s.cfg.Limits.ErrorDelay, s.failed(mech)))
	if n := s.cfg.Limits.FailedAuth; n > 0 && s.counts.logins >= n {
		return errManyLogins
	}
	return r
}
