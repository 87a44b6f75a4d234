package auth

import (
	"context"
	"errors"
	"strconv"
	"strings"

	"github.com/caddymail/caddy-smtp/smtpapp/login"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

var (
	errWrong     = mail.Refuse(535, "5.7.8", "authentication credentials invalid")
	errBroken    = mail.Refuse(454, "4.7.0", "temporary authentication failure")
	errMalformed = mail.Refuse(501, "5.5.2", "malformed authentication response")
	errNoInitial = mail.Refuse(501, "5.5.4", "mechanism has no initial response")
	errOver      = mail.Refuse(501, "5.5.2", "the exchange is over")
)

// An exchange is one AUTH command.
type exchange struct {
	h         *Handler
	ctx       context.Context // of the command
	s         *session.Session
	mechanism string
	user      string // who the client says that it is, once it has; "" if that is no name
	secret    string // what sources were told, who may send it back
	over      bool
}

// An outcome is what an exchange has come to.
type outcome struct {
	id     *login.Identity // nil for a failure
	source any             // that knows the user
}

// named takes the name of the user that the client gives, before any source is
// asked. One that cannot be a name is nobody's: it costs the client as much as a
// wrong password. An error is the exchange's last word.
func (x *exchange) named(given string) error {
	name, err := login.Name(given)
	if err != nil {
		name = ""
	}
	x.user = name
	return x.s.Claim(x.ctx, name)
}

// end is how every exchange ends that the client has gone through with.
func (x *exchange) end(o outcome, err error) error {
	x.over = true
	switch {
	case err != nil:
		if r, ok := errors.AsType[*mail.Reply](err); ok { // the source knows better
			return r
		}
		x.h.log.Error("cannot authenticate", "session", x.s.ID, "mechanism", x.mechanism, "error", x.without(err))
		return errBroken
	case o.id == nil:
		return x.refuse(o, errWrong)
	}
	if r, ok := o.source.(Recorder); ok {
		r.LoggedIn(o.id)
	}
	x.s.Authenticated(o.id, x.mechanism)
	x.s.Results = append(x.s.Results, session.Result{
		Method: "auth", Value: "pass", Private: true, // who logs in is not for the recipients to know
		Props: []session.Property{{Type: "smtp", Name: "auth", Value: o.id.User}},
	})
	return nil
}

// without is the text of an error without the secret: what others have answered
// may be in it.
func (x *exchange) without(err error) string {
	if x.secret == "" {
		return err.Error()
	}
	quoted := strconv.Quote(x.secret)
	return strings.NewReplacer(x.secret, "[secret]", quoted[1:len(quoted)-1], "[secret]").Replace(err.Error())
}

// refuse logs a failure. A name that no source knows is not logged: it may be
// a password, typed into the wrong field.
func (x *exchange) refuse(o outcome, r *mail.Reply) error {
	x.over = true
	attrs := []any{"session", x.s.ID, "mechanism", x.mechanism, "remote", x.s.RemoteIP().String()}
	known := ""
	if o.source != nil && x.user != "" {
		known = x.user
		attrs = append(attrs, "user", known)
	}
	x.h.log.Info("authentication failed", attrs...)
	x.s.Mistaken(known)
	return r
}

// mayActAs reports whether a client may act for the user that it asks for: only
// for itself.
func mayActAs(user, authorize string) bool {
	if authorize == "" {
		return true
	}
	a, err := login.Name(authorize)
	b, err2 := login.Name(user)
	return err == nil && err2 == nil && a == b
}
