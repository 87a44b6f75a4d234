package auth

import "bytes"

// password ends the exchange with a password of the user.
func (x *exchange) password(password string) error {
	x.secret = password
	o, err := x.h.check(x.ctx, x.user, password)
	return x.end(o, err)
}

// plain is PLAIN (RFC 4616).
type plain struct{ *exchange }

// Next takes the one message of the exchange.
func (p *plain) Next(response []byte) (challenge []byte, done bool, err error) {
	if p.over {
		return nil, false, errOver
	}
	if response == nil {
		return []byte{}, false, nil
	}
	parts := bytes.Split(response, []byte{0})
	if len(parts) != 3 {
		return nil, false, errMalformed
	}
	authorize, user := string(parts[0]), string(parts[1])
	if !mayActAs(user, authorize) {
		return nil, false, p.refuse(outcome{}, errWrong)
	}
	if err := p.named(user); err != nil {
		return nil, false, err
	}
	return nil, true, p.password(string(parts[2]))
}

// loginServer is LOGIN (draft-murchison-sasl-login).
type loginServer struct {
	*exchange
	asked bool // for the password
}

// Next takes the name, then the password.
func (l *loginServer) Next(response []byte) (challenge []byte, done bool, err error) {
	switch {
	case l.over:
		return nil, false, errOver
	case response == nil && !l.asked:
		return []byte("Username:"), false, nil
	case !l.asked:
		l.asked = true
		if err := l.named(string(response)); err != nil {
			return nil, false, err
		}
		return []byte("Password:"), false, nil
	}
	return nil, true, l.password(string(response))
}
