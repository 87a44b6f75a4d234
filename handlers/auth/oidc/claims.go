package oidc

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/login"
)

// claims are what a token says, or what is said of it.
type claims map[string]any

func parseClaims(b []byte) (claims, error) {
	var c claims
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if err := d.Decode(&c); err != nil || c == nil {
		return nil, errors.New("claims are not an object of JSON")
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("something follows the claims")
	}
	return c, nil
}

// list is a claim that has one text or several.
func (c claims) list(name string) []string {
	switch v := c[name].(type) {
	case string:
		return []string{v}
	case []any:
		var out []string
		for _, e := range v {
			if s, ok := e.(string); ok {
				out = append(out, s)
			}
		}
		return out
	}
	return nil
}

// at is a claim that is a time; ok says whether it may be relied on: it is false
// where there is one that cannot be read.
func (c claims) at(name string) (t time.Time, ok bool) {
	v, there := c[name]
	if !there {
		return time.Time{}, true
	}
	n, isNumber := v.(json.Number)
	f, err := n.Float64()
	if !isNumber || err != nil || f < 0 || f > 1<<40 {
		return time.Time{}, false
	}
	return time.Unix(int64(f), 0), true
}

// scopes are in one text or in a list, under either of two names.
func (c claims) scopes() []string {
	var out []string
	for _, s := range append(c.list("scope"), c.list("scp")...) {
		out = append(out, strings.Fields(s)...)
	}
	return out
}

// valid checks the claims that all tokens have (RFC 9068, section 4). What is
// said by the issuer itself may leave out who says it and until when.
func (s *Source) valid(c claims, now time.Time) bool {
	skew := time.Duration(s.Skew)
	exp, ok1 := c.at("exp")
	nbf, ok2 := c.at("nbf")
	iat, ok3 := c.at("iat")
	asked := s.Introspection != nil
	iss, hasIssuer := c["iss"]
	switch {
	case !ok1 || !ok2 || !ok3,
		exp.IsZero() && !asked,
		!exp.IsZero() && !now.Before(exp.Add(skew)),
		nbf.After(now.Add(skew)) || iat.After(now.Add(skew)),
		(hasIssuer || !asked) && iss != s.issuer.name:
		return false
	}
	if len(s.Audience) > 0 && !slices.ContainsFunc(c.list("aud"), func(a string) bool { return slices.Contains(s.Audience, a) }) {
		return false
	}
	has := c.scopes()
	return !slices.ContainsFunc(s.Scopes, func(want string) bool { return !slices.Contains(has, want) })
}

// verified reports whether a claim is to be relied on: all are but an email that
// the issuer has not verified, or that would be a pattern.
func (c claims) verified(name string) bool {
	if name != "email" {
		return true
	}
	v, there := c["email_verified"]
	email, _ := c[name].(string)
	return (!there || v == true || v == "true") && !strings.HasPrefix(strings.TrimSpace(email), "*@")
}

// identity is that of the user that the claims name, nil for none.
func (s *Source) identity(c claims) *login.Identity {
	name, _ := c[s.UserClaim].(string)
	if name == "" || !c.verified(s.UserClaim) {
		return nil
	}
	var addresses []string
	for _, a := range s.AddressClaims {
		if c.verified(a) {
			addresses = append(addresses, c.list(a)...)
		}
	}
	attributes := map[string]string{}
	for _, a := range s.Attributes {
		if text, ok := login.Text(c[a]); ok && c[a] != nil {
			attributes[a] = text
		}
	}
	id, err := login.NewIdentity("", name, addresses, attributes)
	if err != nil {
		return nil
	}
	return id
}
