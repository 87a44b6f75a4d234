package auth

import (
	"bytes"
	"errors"

	"github.com/emersion/go-sasl"

	"github.com/caddymail/caddy-smtp/smtpapp/login"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/scram"
)

// scramServer is SCRAM (RFC 5802), with a channel binding or without.
type scramServer struct {
	*exchange
	function string // hash
	srv      scram.Server

	account *login.Account // nil for a user that nobody knows
	source  any
	names   []string // of the secrets that the keys are of; none for fake ones
	asked   bool
}

// scramMechanism is SCRAM with a hash function, as -PLUS or not.
func scramMechanism(function string, plus bool) mechanism {
	m := mechanism{name: "SCRAM-" + function, needs: secrets(login.FormOf(function))}
	if plus {
		m.name, m.fits = m.name+"-PLUS", bindable
	}
	m.begin = func(x *exchange) sasl.Server {
		bound := scramMechanism(function, true)
		return &scramServer{exchange: x, function: function, srv: scram.Server{
			Plus: plus, Offered: x.h.offers(&bound) && bindable(x.s),
			Binding: func(kind string) []byte { return scram.Binding(kind, x.s.TLS, x.s.Certificate()) },
		}}
	}
	return m
}

// Next takes the client's two messages.
func (s *scramServer) Next(response []byte) (challenge []byte, done bool, err error) {
	switch {
	case s.over:
		return nil, false, errOver
	case s.asked:
		return s.final(response)
	case response == nil:
		return []byte{}, false, nil
	}
	s.asked = true
	user, authorize, err := s.srv.First(response)
	if err == nil && !mayActAs(user, authorize) {
		return nil, false, s.refuse(outcome{}, errWrong)
	}
	if err != nil {
		return nil, false, s.refuse(outcome{}, scramReply(err))
	}
	if err := s.named(user); err != nil {
		return nil, false, err
	}
	keys, err := s.keys()
	if err != nil {
		return nil, false, s.end(outcome{}, err)
	}
	return s.srv.Challenge(keys...), false, nil
}

// final ends the exchange. A failure is a reply alone, with the word that SCRAM
// has for it: in a challenge, where RFC 5802 would let it stand too, GNU SASL
// takes it for an error in the protocol, and never comes to the reply.
func (s *scramServer) final(response []byte) (challenge []byte, done bool, err error) {
	verifier, which, err := s.srv.Final(response)
	o := outcome{source: s.source}
	switch {
	case err == nil && which < len(s.names):
		o.id = s.account.Identity(s.user, s.names[which])
		return verifier, true, s.end(o, nil)
	case err == nil: // a fake password
		err = scram.ErrProof
	}
	return nil, false, s.refuse(o, scramReply(err))
}

func scramReply(err error) *mail.Reply {
	why, ok := errors.AsType[scram.Error](err)
	switch {
	case !ok:
		return errMalformed
	case why == scram.ErrBindingType || why == scram.ErrExtensions:
		return mail.Refuse(504, "5.5.4", "not supported (%s)", why)
	}
	return mail.Refuse(535, "5.7.8", "authentication credentials invalid (%s)", why)
}

// keys are what the user's proof is checked with: those of all secrets that
// share the salt of the first. A user that nobody knows, or who has none, is
// shown a salt that is always the same for that name.
func (s *scramServer) keys() ([]login.Keys, error) {
	salt, err := s.h.decoys.salt(s.ctx, s.function, s.user) // in any case, as it takes time
	if err != nil {
		return nil, err
	}
	if s.account, s.source, err = s.h.account(s.ctx, s.user); err != nil {
		return nil, err
	}
	var keys []login.Keys
	for _, secret := range secretsOf(s.account) {
		k := secret.Keys(s.function)
		if k == nil || len(keys) > 0 && (k.Iterations != keys[0].Iterations || !bytes.Equal(k.Salt, keys[0].Salt)) {
			continue
		}
		keys, s.names = append(keys, *k), append(s.names, secret.Name)
	}
	if len(keys) > 0 {
		return keys, nil
	}
	for _, secret := range secretsOf(s.account) {
		if secret.Plain != "" {
			s.names = []string{secret.Name}
			return s.derive(secret.Plain, salt)
		}
	}
	return s.fake(salt)
}

// derive makes keys of a password that is kept as it is.
func (s *scramServer) derive(password string, salt []byte) ([]login.Keys, error) {
	var keys login.Keys
	err := s.h.passwords.limited(s.ctx, func() (err error) {
		keys, err = login.DeriveKeys(s.function, password, salt[:16], login.Iterations)
		return err
	})
	return []login.Keys{keys}, err
}

// fake is keys like those that most users have, but that nobody has.
func (s *scramServer) fake(salt []byte) ([]login.Keys, error) {
	sample := s.h.sample()
	if like := sample.Keys(s.function); like != nil {
		fake := *like
		fake.Salt = salt[:min(len(like.Salt), len(salt))]
		return []login.Keys{fake}, nil
	}
	if sample.Plain != "" {
		return s.derive(sample.Plain, salt)
	}
	size := login.HashFunction(s.function)().Size()
	return []login.Keys{{
		Hash: s.function, Iterations: login.Iterations, Salt: salt[:16],
		StoredKey: make([]byte, size), ServerKey: make([]byte, size),
	}}, nil
}
