package dkimkey

import (
	"bytes"
	"errors"

	msgauth "github.com/emersion/go-msgauth/dkim"

	"github.com/caddymail/caddy-smtp/smtpapp/dkimsign"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

// errProbe says that a signature was not found, where there is one.
var errProbe = errors.New("the verifier sees no signature")

// probe signs a message and has a verifier that is not ours check it by the
// record that DNS has: what it does not accept, others will not either, and
// better to hear of it here than from them. The message is small and of our own
// making, and DNS was asked before, so the verifier's lack of limits and of a
// context does not matter.
func probe(k dkimsign.Key, txt string) error {
	h := new(message.Header)
	h.Append("From", "postmaster@"+k.Domain)
	h.Append("Subject", "probe")
	m := message.New(h, message.NewBody([]byte("Can this be verified?\r\n")))
	if err := dkimsign.Sign(m, []dkimsign.Key{k}, dkimsign.Options{}); err != nil {
		return err
	}
	r, err := m.NewReader()
	if err != nil {
		return err
	}
	defer r.Close() //nolint:errcheck // it was only read
	var b bytes.Buffer
	if _, err := b.ReadFrom(r); err != nil {
		return err
	}
	vs, err := msgauth.VerifyWithOptions(&b, &msgauth.VerifyOptions{
		LookupTXT:        func(string) ([]string, error) { return []string{txt}, nil },
		MaxVerifications: 1,
	})
	switch {
	case err != nil:
		return err
	case len(vs) != 1:
		return errProbe
	}
	return vs[0].Err
}
