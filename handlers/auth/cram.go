package auth

import (
	"crypto/hmac"
	"crypto/md5"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/caddymail/caddy-smtp/smtpapp/login"
)

// cram is CRAM-MD5 (RFC 2195).
type cram struct {
	*exchange
	challenge string
}

// Next sends a challenge that is used once, and takes the digest of it.
func (c *cram) Next(response []byte) (challenge []byte, done bool, err error) {
	switch {
	case c.over:
		return nil, false, errOver
	case c.challenge == "" && response != nil:
		return nil, false, errNoInitial
	case c.challenge == "":
		c.challenge = fmt.Sprintf("<%s@%s>", rand.Text(), c.h.hostname)
		return []byte(c.challenge), false, nil
	}
	i := strings.LastIndexByte(string(response), ' ')
	if i < 0 {
		return nil, false, errMalformed
	}
	digest, err := hex.DecodeString(string(response[i+1:]))
	if err != nil || len(digest) != md5.Size {
		return nil, false, errMalformed
	}
	if err := c.named(string(response[:i])); err != nil {
		return nil, false, err
	}
	return nil, true, c.verify(digest)
}

func (c *cram) verify(digest []byte) error {
	a, src, err := c.h.account(c.ctx, c.user)
	if err != nil {
		return c.end(outcome{}, err)
	}
	o := outcome{source: src}
	compared := false
	for _, s := range secretsOf(a) {
		if s.Plain == "" {
			continue
		}
		compared = true
		if hmac.Equal(cramDigest(s.Plain, c.challenge), digest) {
			o.id = a.Identity(c.user, s.Name)
			break
		}
	}
	if !compared {
		_ = hmac.Equal(cramDigest("-", c.challenge), digest)
	}
	return c.end(o, nil)
}

func cramDigest(password, challenge string) []byte {
	m := hmac.New(md5.New, []byte(password))
	m.Write([]byte(challenge))
	return m.Sum(nil)
}

func secretsOf(a *login.Account) []login.Secret {
	if a == nil {
		return nil
	}
	return a.Secrets
}
