package auth

import (
	"bytes"
	"context"
	"slices"
	"strings"

	"github.com/emersion/go-sasl"

	"github.com/caddymail/caddy-smtp/smtpapp/login"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

// A mechanism is a SASL mechanism, and what a source must do for it.
type mechanism struct {
	name   string
	serves func(source any) bool
	begin  func(x *exchange) sasl.Server
}

// mechanisms are all there are, best first.
var mechanisms = []mechanism{
	{"PLAIN", servesPasswords, func(x *exchange) sasl.Server { return &plain{exchange: x} }},
	{"LOGIN", servesPasswords, func(x *exchange) sasl.Server { return &loginServer{exchange: x} }},
}

func find(name string) *mechanism {
	i := slices.IndexFunc(mechanisms, func(m mechanism) bool { return strings.EqualFold(m.name, name) })
	if i < 0 {
		return nil
	}
	return &mechanisms[i]
}

var (
	errWrong     = mail.Refuse(535, "5.7.8", "authentication credentials invalid")
	errBroken    = mail.Refuse(454, "4.7.0", "temporary authentication failure")
	errMalformed = mail.Refuse(501, "5.5.2", "malformed authentication response")
)

// An exchange is one AUTH command.
type exchange struct {
	h         *Handler
	ctx       context.Context // of the command
	s         *session.Session
	mechanism string
	over      bool
}

// password ends the exchange with a name and a password.
func (x *exchange) password(user, password string) error {
	x.over = true
	if user == "" || password == "" {
		return x.refuse("", errWrong)
	}
	name, err := login.Name(user)
	if err != nil {
		name = "" // nobody's: it costs the client as much as a wrong password
	}
	v, err := x.h.check(x.ctx, name, password)
	switch {
	case err != nil:
		x.h.log.Error("cannot authenticate", "session", x.s.ID, "error", err)
		return errBroken
	case v == right:
		x.accept(name)
		return nil
	case v == wrong:
		return x.refuse(name, errWrong)
	}
	return x.refuse("", errWrong)
}

func (x *exchange) accept(user string) {
	x.s.Authenticated(user, x.mechanism)
	x.s.Results = append(x.s.Results, session.Result{
		Method: "auth", Value: "pass", Private: true, // who logs in is not for the recipients to know
		Props: []session.Property{{Type: "smtp", Name: "auth", Value: user}},
	})
}

// refuse logs a failure. A name that no source knows is not logged: it may be
// a password, typed into the wrong field.
func (x *exchange) refuse(user string, r *mail.Reply) error {
	attrs := []any{"session", x.s.ID, "mechanism", x.mechanism, "remote", x.s.RemoteIP().String()}
	if user != "" {
		attrs = append(attrs, "user", user)
	}
	x.h.log.Info("authentication failed", attrs...)
	return r
}

// plain is PLAIN (RFC 4616).
type plain struct{ *exchange }

// Next takes the one message of the exchange.
func (p *plain) Next(response []byte) (challenge []byte, done bool, err error) {
	if p.over {
		return nil, false, sasl.ErrUnexpectedClientResponse
	}
	if response == nil {
		return []byte{}, false, nil
	}
	parts := bytes.Split(response, []byte{0})
	if len(parts) != 3 {
		return nil, false, errMalformed
	}
	authorize, user := string(parts[0]), string(parts[1])
	if authorize != "" && !sameUser(authorize, user) {
		return nil, false, p.refuse("", errWrong)
	}
	return nil, true, p.password(user, string(parts[2]))
}

func sameUser(a, b string) bool {
	na, err := login.Name(a)
	nb, err2 := login.Name(b)
	return err == nil && err2 == nil && na == nb
}

// loginServer is LOGIN (draft-murchison-sasl-login).
type loginServer struct {
	*exchange
	user  string
	asked bool // for the password
}

// Next takes the name, then the password.
func (l *loginServer) Next(response []byte) (challenge []byte, done bool, err error) {
	switch {
	case l.over:
		return nil, false, sasl.ErrUnexpectedClientResponse
	case response == nil && !l.asked:
		return []byte("Username:"), false, nil
	case !l.asked:
		l.user, l.asked = string(response), true
		return []byte("Password:"), false, nil
	}
	return nil, true, l.password(l.user, string(response))
}
