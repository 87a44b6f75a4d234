// Package scram is the server's side of SCRAM (RFC 5802, RFC 7677) and of the
// channel bindings that its -PLUS mechanisms use (RFC 5929, RFC 9266). It reads
// and writes messages, and knows neither SMTP nor where keys come from.
package scram

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/caddymail/caddy-smtp/smtpapp/login"
)

// ErrMalformed is of a message that is not one.
var ErrMalformed = errors.New("malformed SCRAM message")

// An Error is why an exchange failed, in the words of RFC 5802, section 7.
type Error string

// The errors that a client that speaks the protocol can make.
const (
	ErrProof       Error = "invalid-proof"
	ErrMismatch    Error = "channel-bindings-dont-match"
	ErrDowngrade   Error = "server-does-support-channel-binding"
	ErrNoBinding   Error = "channel-binding-not-supported"
	ErrBindingType Error = "unsupported-channel-binding-type"
	ErrExtensions  Error = "extensions-not-supported"
	ErrOther       Error = "other-error"
)

// Error makes it an error.
func (e Error) Error() string { return string(e) }

// A Server is the server in one exchange: First, Challenge, Final.
type Server struct {
	// Plus is whether the mechanism's name ends in -PLUS; Offered is whether
	// one of those is offered to the client.
	Plus, Offered bool
	// Binding returns the data of a type of channel binding, nil if there is
	// none of that type.
	Binding func(kind string) []byte
	// Nonce is the server's part of the nonce. Default: a random one.
	Nonce string

	nonce string       // all of it
	bound []byte       // what the client must repeat: its header, and the channel
	said  []byte       // AuthMessage, so far
	keys  login.Keys   // of the challenge
	all   []login.Keys // what the proof may be made with
}

// First reads the client-first-message. authorize is the user to act for, ""
// for the same.
func (s *Server) First(message []byte) (user, authorize string, err error) {
	if !utf8.Valid(message) || bytes.IndexByte(message, 0) >= 0 {
		return "", "", ErrMalformed
	}
	f := strings.SplitN(string(message), ",", 3)
	if len(f) != 3 {
		return "", "", ErrMalformed
	}
	flag, as, bare := f[0], f[1], f[2]
	s.bound = []byte(flag + "," + as + ",")
	if err := s.bind(flag); err != nil {
		return "", "", err
	}
	if as != "" && as != "a=" { // GNU SASL writes it when there is none
		if authorize, err = name(as, "a="); err != nil {
			return "", "", err
		}
	}
	if strings.HasPrefix(bare, "m=") {
		return "", "", ErrExtensions
	}
	s.said = []byte(bare)
	given, rest, _ := strings.Cut(bare, ",")
	if user, err = name(given, "n="); err != nil {
		return "", "", err
	}
	nonce, _, _ := strings.Cut(rest, ",")
	nonce, ok := strings.CutPrefix(nonce, "r=")
	if !ok || nonce == "" || strings.ContainsFunc(nonce, func(r rune) bool { return r < '!' || r > '~' }) {
		return "", "", ErrMalformed
	}
	if s.Nonce == "" {
		s.Nonce = rand.Text()
	}
	s.nonce = nonce + s.Nonce
	return user, authorize, nil
}

// bind looks at the channel binding that the client wants (RFC 5802, section
// 6). One that says it could, but that we could not, was lied to by somebody
// in between.
func (s *Server) bind(flag string) error {
	kind, wants := strings.CutPrefix(flag, "p=")
	switch {
	case flag != "n" && flag != "y" && !wants:
		return ErrMalformed
	case flag == "y" && s.Offered || !wants && s.Plus:
		return ErrDowngrade
	case !wants:
		return nil
	case !s.Plus || s.Binding == nil:
		return ErrNoBinding
	}
	data := s.Binding(kind)
	if data == nil {
		return ErrBindingType
	}
	s.bound = append(s.bound, data...)
	return nil
}

// name is a saslname with a key before it.
func name(s, key string) (string, error) {
	s, ok := strings.CutPrefix(s, key)
	if !ok || s == "" {
		return "", ErrMalformed
	}
	if rest := strings.NewReplacer("=2C", "", "=3D", "").Replace(s); strings.Contains(rest, "=") {
		return "", ErrMalformed
	}
	return strings.NewReplacer("=2C", ",", "=3D", "=").Replace(s), nil
}

// Challenge is the server-first-message to a user with keys: at least one, all
// with one salt and as many iterations.
func (s *Server) Challenge(keys ...login.Keys) []byte {
	s.all, s.keys = keys, keys[0]
	first := fmt.Appendf(nil, "r=%s,s=%s,i=%d", s.nonce, base64.StdEncoding.EncodeToString(s.keys.Salt), s.keys.Iterations)
	s.said = append(append(s.said, ','), first...)
	return first
}

// Final reads the client-final-message. It returns the server-final-message,
// and which of the keys the proof was made with.
func (s *Server) Final(message []byte) (final []byte, which int, err error) {
	text := string(message)
	at := strings.LastIndex(text, ",p=")
	if at < 0 {
		return nil, 0, ErrMalformed
	}
	proof, err := base64.StdEncoding.DecodeString(text[at+3:])
	f := strings.SplitN(text[:at], ",", 3) // extensions follow the nonce
	if err != nil || len(f) < 2 || len(proof) != len(s.keys.StoredKey) {
		return nil, 0, ErrMalformed
	}
	bound, ok := strings.CutPrefix(f[0], "c=")
	nonce, ok2 := strings.CutPrefix(f[1], "r=")
	header, err := base64.StdEncoding.DecodeString(bound)
	switch {
	case !ok || !ok2 || err != nil:
		return nil, 0, ErrMalformed
	case !hmac.Equal(header, s.bound):
		return nil, 0, ErrMismatch
	case nonce != s.nonce:
		return nil, 0, ErrOther
	}
	return s.prove(append(append(s.said, ','), text[:at]...), proof)
}

// prove looks for the keys that the proof was made with. It does the same work
// whichever these are.
func (s *Server) prove(said, proof []byte) (final []byte, which int, err error) {
	which = -1
	h := login.HashFunction(s.keys.Hash)
	for i, k := range s.all {
		signature := hmac.New(h, k.StoredKey)
		signature.Write(said)
		client := make([]byte, len(proof))
		subtle.XORBytes(client, proof, signature.Sum(nil))
		stored := h()
		stored.Write(client)
		if hmac.Equal(stored.Sum(nil), k.StoredKey) && which < 0 {
			which = i
		}
	}
	verifier := hmac.New(h, s.all[max(which, 0)].ServerKey)
	verifier.Write(said)
	if which < 0 {
		return nil, 0, ErrProof
	}
	return []byte("v=" + base64.StdEncoding.EncodeToString(verifier.Sum(nil))), which, nil
}
