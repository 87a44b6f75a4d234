package auth

import (
	"encoding/json"
	"errors"
	"strings"
	"unicode/utf8"
)

// bearer is OAUTHBEARER (RFC 7628) and XOAUTH2, which differ in how the client
// writes its message and in the words of a failure.
type bearer struct {
	*exchange
	parse func(message string) (claim, error)
}

// A claim is what the client's message says.
type claim struct {
	user  string // to act as, "" for whoever the token is of
	token string
}

// Next takes the one message of the exchange. A failure is told in JSON first.
func (b *bearer) Next(response []byte) (challenge []byte, done bool, err error) {
	switch {
	case b.over:
		return nil, false, errOver
	case response == nil:
		return []byte{}, false, nil
	case !utf8.Valid(response):
		return nil, false, errMalformed
	}
	c, err := b.parse(string(response))
	if err != nil {
		return nil, false, b.refuse(outcome{}, errMalformed)
	}
	if err := b.named(c.user); err != nil {
		return nil, false, err
	}
	if b.user == "" && c.user != "" {
		return b.failure(), false, b.refuse(outcome{}, errWrong)
	}
	b.secret = c.token
	o, err := b.h.checkToken(b.ctx, b.user, c.token)
	if err == nil && o.id == nil {
		return b.failure(), false, b.end(o, nil)
	}
	return nil, true, b.end(o, err)
}

// failure is the error of RFC 7628, section 3.2.2, or of XOAUTH2.
func (b *bearer) failure() []byte {
	f := struct {
		Status        string `json:"status"`
		Schemes       string `json:"schemes,omitempty"`
		Scope         string `json:"scope,omitempty"`
		Configuration string `json:"openid-configuration,omitempty"`
	}{Status: "invalid_token"}
	for _, src := range b.h.sources {
		if d, ok := src.(Discoverer); ok && f.Configuration == "" && f.Scope == "" {
			f.Configuration, f.Scope = d.Discovery()
		}
	}
	if b.mechanism == "XOAUTH2" {
		f.Status, f.Schemes, f.Configuration = "401", "bearer", ""
	}
	text, _ := json.Marshal(f) // of strings
	return text
}

var errClaim = errors.New("malformed")

// parseOAuthBearer reads a client's message: a GS2 header without channel
// binding, and pairs that end in a 0x01 each (RFC 7628, section 3.1).
func parseOAuthBearer(message string) (c claim, err error) {
	head, rest, _ := strings.Cut(message, "\x01")
	f := strings.Split(head, ",")
	if len(f) != 3 || f[0] != "n" && f[0] != "y" || f[2] != "" {
		return c, errClaim
	}
	if f[1] != "" {
		as, ok := strings.CutPrefix(f[1], "a=")
		c.user = strings.NewReplacer("=2C", ",", "=3D", "=").Replace(as)
		if !ok {
			return c, errClaim
		}
	}
	rest, ok := strings.CutSuffix(rest, "\x01\x01")
	if !ok {
		return c, errClaim
	}
	return c, c.pairs(rest)
}

// parseXOAuth2 reads "user=…^Aauth=Bearer …^A^A".
func parseXOAuth2(message string) (c claim, err error) {
	user, rest, _ := strings.Cut(message, "\x01")
	c.user, _ = strings.CutPrefix(user, "user=")
	rest, ok := strings.CutSuffix(rest, "\x01\x01")
	if !ok || c.user == "" || c.user == user {
		return c, errClaim
	}
	return c, c.pairs(rest)
}

// pairs reads key=value pairs. All but the token are of no use here, as the
// client's host and port are those of its own view of things.
func (c *claim) pairs(s string) error {
	for pair := range strings.SplitSeq(s, "\x01") {
		key, value, ok := strings.Cut(pair, "=")
		if !ok || key == "" {
			return errClaim
		}
		if key != "auth" {
			continue
		}
		scheme, token, _ := strings.Cut(value, " ")
		if c.token != "" || !strings.EqualFold(scheme, "Bearer") || !isToken(token) {
			return errClaim
		}
		c.token = token
	}
	if c.token == "" {
		return errClaim
	}
	return nil
}

// isToken reports whether s is a b64token (RFC 6750, section 2.1).
func isToken(s string) bool {
	body := strings.TrimRight(s, "=")
	return body != "" && !strings.ContainsFunc(body, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-._~+/", r)
	})
}
