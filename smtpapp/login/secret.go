package login

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// A Secret is one that a user may log in with, in whatever forms it is kept.
// What is empty is not kept.
type Secret struct {
	// Name tells an app password or a device from others; "" is the main one.
	Name string
	// Hash is a password hash of bcrypt or Argon2id.
	Hash string
	// SCRAM are keys for SCRAM (RFC 5802, section 3), one for each hash
	// function at most.
	SCRAM []Keys
	// Plain is the password itself, for CRAM-MD5.
	Plain string
}

// Forms says in which forms a source keeps its users' secrets.
type Forms uint8

// The forms of a Secret. Hashes is whatever a password can be compared with,
// which all forms can; a password kept as it is has all forms.
const (
	Hashes Forms = 1 << iota
	SCRAMSHA1
	SCRAMSHA256
	Plain
)

const allForms = Hashes | SCRAMSHA1 | SCRAMSHA256 | Plain

// Forms are those that the secret has.
func (s *Secret) Forms() (f Forms) {
	if s.Plain != "" {
		return allForms
	}
	if s.Hash != "" {
		f |= Hashes
	}
	for _, k := range s.SCRAM {
		f |= Hashes | FormOf(k.Hash)
	}
	return f
}

// FormOf is the form of keys for SCRAM with a hash function.
func FormOf(function string) Forms {
	if function == SHA1 {
		return SCRAMSHA1
	}
	return SCRAMSHA256
}

// Verifier is what to compare a password with, for ParseHash to read; "" if
// there is nothing.
func (s *Secret) Verifier() string {
	switch {
	case s.Hash != "":
		return s.Hash
	case s.Plain != "":
		return plainMark + s.Plain
	case len(s.SCRAM) > 0:
		return s.SCRAM[len(s.SCRAM)-1].String()
	}
	return ""
}

// Keys returns the keys for a hash function of SCRAM, nil if there are none.
func (s *Secret) Keys(function string) *Keys {
	i := slices.IndexFunc(s.SCRAM, func(k Keys) bool { return k.Hash == function })
	if i < 0 {
		return nil
	}
	return &s.SCRAM[i]
}

// fakePassword is in the place of a password that a fake secret would have. It
// is no secret: nobody logs in with what is fake.
const fakePassword = "-"

// Fake is a secret of the same forms and the same cost. Its text is equal for
// all of one kind, but for the salts.
func (s *Secret) Fake() (f Secret) {
	if h, err := ParseHash(s.Hash); s.Hash != "" && err == nil {
		f.Hash = h.Fake
	}
	for _, k := range s.SCRAM {
		k.StoredKey, k.ServerKey = make([]byte, len(k.StoredKey)), make([]byte, len(k.ServerKey))
		f.SCRAM = append(f.SCRAM, k)
	}
	if s.Plain != "" {
		f.Plain = fakePassword
	}
	return f
}

// kind is equal for secrets of the same forms and the same cost.
func (s *Secret) kind() string {
	var kinds []string
	if h, err := ParseHash(s.Hash); s.Hash != "" && err == nil {
		kinds = append(kinds, h.Params)
	}
	for _, k := range s.SCRAM {
		kinds = append(kinds, fmt.Sprintf("SCRAM-%s$%d:%d", k.Hash, k.Iterations, len(k.Salt)))
	}
	if s.Plain != "" {
		kinds = append(kinds, plainMark)
	}
	return strings.Join(kinds, " ")
}

const (
	plainMark  = "{PLAIN}"
	base64Mark = "{PLAIN.b64}"
)

// wrappers are what Dovecot and LDAP put before a hash that says itself what
// it is (RFC 2307, section 5.3).
var wrappers = []string{"{CRYPT}", "{BLF-CRYPT}", "{ARGON2ID}", "{ARGON2}"}

// IsMark reports whether s in braces may stand in a secret, so that it is no
// placeholder.
func IsMark(s string) bool {
	s = "{" + s + "}"
	return s == plainMark || s == base64Mark || s == "{SCRAM-SHA-1}" || s == "{SCRAM-SHA-256}" || slices.Contains(wrappers, s)
}

// ParseSecret reads one secret, in one form or in several that are separated by
// spaces:
//
//	$2a$14$...                                      a hash of bcrypt
//	$argon2id$v=19$m=...                            a hash of Argon2id
//	SCRAM-SHA-256$<iterations>:<salt>$<key>:<key>   keys for SCRAM; SCRAM-SHA-1 too
//	{PLAIN}<password>                               the password itself
//	{PLAIN.b64}<base64>                             the same, where it has spaces
//
// Prefixes of Dovecot and LDAP, such as {BLF-CRYPT}, {ARGON2ID} and {CRYPT}, may
// stand before a hash. An error tells nothing of the secret.
func ParseSecret(s string) (Secret, error) {
	var secret Secret
	for f := range strings.FieldsSeq(s) {
		if err := secret.add(f); err != nil {
			return Secret{}, err
		}
	}
	if secret.Forms() == 0 {
		return Secret{}, errHash
	}
	return secret, nil
}

func (s *Secret) add(form string) error {
	for _, w := range wrappers {
		if h, ok := strings.CutPrefix(form, w); ok && strings.HasPrefix(h, "$") {
			form = h
		}
	}
	switch {
	case strings.HasPrefix(form, "SCRAM-") || strings.HasPrefix(form, "{SCRAM-"):
		k, err := ParseKeys(form)
		if err != nil {
			return err
		}
		if s.Keys(k.Hash) != nil {
			return fmt.Errorf("keys for SCRAM-%s are there twice", k.Hash)
		}
		s.SCRAM = append(s.SCRAM, k)
		slices.SortFunc(s.SCRAM, func(a, b Keys) int { return strings.Compare(a.Hash, b.Hash) })
		return nil
	case strings.HasPrefix(form, plainMark) || strings.HasPrefix(form, base64Mark):
		if s.Plain != "" {
			return errors.New("the password itself is there twice")
		}
		p, err := parsePlain(form)
		s.Plain = p
		return err
	}
	if s.Hash != "" {
		return errors.New("a password hash is there twice")
	}
	_, err := ParseHash(form)
	s.Hash = form
	return err
}

func parsePlain(form string) (string, error) {
	p, ok := strings.CutPrefix(form, plainMark)
	if !ok {
		b, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(form, base64Mark))
		if err != nil {
			return "", errors.New("password itself: not base64")
		}
		p = string(b)
	}
	if p == "" || len(p) > maxPassword || !utf8.ValidString(p) || strings.Contains(p, "\x00") {
		return "", fmt.Errorf("password itself: not text of 1 to %d octets", maxPassword)
	}
	return p, nil
}

// Text is what ParseSecret reads the same secret from, without its name.
func (s *Secret) Text() string {
	var forms []string
	if s.Hash != "" {
		forms = append(forms, s.Hash)
	}
	for _, k := range s.SCRAM {
		forms = append(forms, k.String())
	}
	switch {
	case s.Plain == "":
	case strings.ContainsFunc(s.Plain, func(r rune) bool { return r <= ' ' || r > '~' }):
		forms = append(forms, base64Mark+base64.StdEncoding.EncodeToString([]byte(s.Plain)))
	default:
		forms = append(forms, plainMark+s.Plain)
	}
	return strings.Join(forms, " ")
}
