package auth

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// external is EXTERNAL (RFC 4422, appendix A): the client is who its
// certificate says.
type external struct{ *exchange }

// Next takes the one message of the exchange: the user to act for, or nothing.
func (e *external) Next(response []byte) (challenge []byte, done bool, err error) {
	switch {
	case e.over:
		return nil, false, errOver
	case response == nil:
		return []byte{}, false, nil
	case !utf8.Valid(response) || strings.Contains(string(response), "\x00"):
		return nil, false, errMalformed
	}
	if err := e.named(""); err != nil { // who it is, its certificate says
		return nil, false, err
	}
	o, err := e.h.checkCertificate(e.ctx, e.s.TLS)
	if o.id != nil {
		e.user = o.id.User
		if !mayActAs(o.id.User, string(response)) {
			o.id = nil
		}
	}
	return nil, true, e.end(o, err)
}

// anonymous is ANONYMOUS (RFC 4505).
type anonymous struct{ *exchange }

const maxTrace = 255 // characters

// Next takes the one message of the exchange: what the client says of itself.
func (a *anonymous) Next(response []byte) (challenge []byte, done bool, err error) {
	switch {
	case a.over:
		return nil, false, errOver
	case response == nil:
		return []byte{}, false, nil
	case !utf8.Valid(response) || utf8.RuneCount(response) > maxTrace:
		return nil, false, errMalformed
	}
	trace := strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, string(response))
	a.over = true
	a.h.log.Info("anonymous login", "session", a.s.ID, "remote", a.s.RemoteIP().String(), "trace", trace)
	a.s.Anonymous()
	return nil, true, nil
}
