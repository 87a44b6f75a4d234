// Package arc reads, checks and extends the Authenticated Received Chain of a
// message (RFC 8617). It knows nothing of sessions and of whom we trust.
package arc

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/caddymail/caddy-smtp/smtpapp/dkim"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

// MaxSets is how many sets a chain may have (RFC 8617, section 4.2.1).
const MaxSets = 50

// Names of the fields of a set.
const (
	fieldResults   = "ARC-Authentication-Results"
	fieldSignature = "ARC-Message-Signature"
	fieldSeal      = "ARC-Seal"
)

// A Set is what one intermediary added (RFC 8617, section 4.2).
type Set struct {
	Instance int
	// Sealer is the domain of its seal.
	Sealer, Selector string
	// Results are what the intermediary found when it got the message: the
	// value of its ARC-Authentication-Results field without the instance.
	Results string

	// CV is what the intermediary found the chain before it to be.
	CV string
	// Trusted is for whoever verified the chain to set: that he believes the
	// sealer.
	Trusted bool

	results, signature, seal string // fields as they came
	ams, as                  *signature
}

// SignsAuthor reports whether the set's message signature covers From. One that
// does not, which is no error of the chain, would vouch for any author.
func (s *Set) SignsAuthor() bool { return s.ams != nil && slices.Contains(s.ams.fields, "from") }

// signature is an ARC-Message-Signature or an ARC-Seal.
type signature struct {
	algorithm        dkim.Algorithm
	domain, selector string
	value            []byte                   // b=
	canons           []dkim.Canonicalizations // c=, or what it may be where there is none
	bodyHash         []byte
	fields           []string // h=
	cv               string
}

// Errors of a chain that is not one.
var (
	errMany       = errors.New("more than 50 sets")
	errIncomplete = errors.New("sets are incomplete")
	errTwice      = errors.New("two fields of a set have one name")
	errInstance   = errors.New("invalid instance")
	errValidation = errors.New("a cv= tag that is out of place")
)

// read returns the sets of a header, the first one first. A chain whose last
// seal says that it had failed before needs no more than that (RFC 8617,
// section 5.2, step 2), which is why the sets are read from the last one.
func read(h *message.Header) ([]*Set, error) {
	var sets []*Set
	for f := range h.Fields() {
		name, ok := fieldName(f)
		if !ok {
			continue
		}
		n, err := instance(f, name)
		if err != nil {
			return nil, err
		}
		for len(sets) < n {
			sets = append(sets, &Set{Instance: len(sets) + 1})
		}
		p := sets[n-1].field(name)
		if *p != "" {
			return nil, fmt.Errorf("%w: %s i=%d", errTwice, name, n)
		}
		*p = f.Raw()
	}
	for i := len(sets) - 1; i >= 0; i-- {
		if err := sets[i].parse(); err != nil {
			return sets, fmt.Errorf("i=%d: %w", i+1, err)
		}
		if i == len(sets)-1 && sets[i].CV == "fail" {
			return sets, errFailedBefore
		}
		if want := validation(i + 1); sets[i].CV != want {
			return sets, fmt.Errorf("i=%d: %w", i+1, errValidation)
		}
	}
	return sets, nil
}

// validation is the cv= tag of a chain that passes (RFC 8617, section 5.2, step
// 3).
func validation(instance int) string {
	if instance == 1 {
		return "none"
	}
	return "pass"
}

func fieldName(f message.Field) (string, bool) {
	for _, n := range []string{fieldResults, fieldSignature, fieldSeal} {
		if f.Is(n) {
			return n, true
		}
	}
	return "", false
}

func (s *Set) field(name string) *string {
	switch name {
	case fieldResults:
		return &s.results
	case fieldSignature:
		return &s.signature
	}
	return &s.seal
}

// instance reads the i= tag, which is all that is needed to tell the sets
// apart. In ARC-Authentication-Results it comes first (RFC 8617, section 4.1.1).
func instance(f message.Field, name string) (int, error) {
	var v string
	if name == fieldResults {
		v, _, _ = cutInstance(f.Value())
	} else {
		tags, err := dkim.ParseTags(f.Value())
		if err != nil {
			return 0, fmt.Errorf("%s: %w", name, err)
		}
		v = tags.Get("i")
	}
	n, err := strconv.Atoi(v)
	switch {
	case err != nil || n < 1 || strconv.Itoa(n) != v:
		return 0, fmt.Errorf("%s: %w", name, errInstance)
	case n > MaxSets:
		return 0, errMany
	}
	return n, nil
}

// cutInstance splits "i=1; example.org; …" into the instance and the rest.
func cutInstance(v string) (instance, rest string, ok bool) {
	tag, rest, ok := strings.Cut(v, ";")
	name, instance, _ := strings.Cut(tag, "=")
	if !ok || strings.Trim(name, " \t") != "i" {
		return "", "", false
	}
	return strings.Trim(instance, " \t"), strings.Trim(rest, " \t"), true
}

// parse reads the fields of a set.
func (s *Set) parse() error {
	if s.results == "" || s.signature == "" || s.seal == "" {
		return errIncomplete
	}
	_, s.Results, _ = cutInstance(value(s.results))
	var err error
	if s.as, err = parseSignature(value(s.seal), true); err != nil {
		return fmt.Errorf("%s: %w", fieldSeal, err)
	}
	s.Sealer, s.Selector, s.CV = s.as.domain, s.as.selector, s.as.cv
	if s.ams, err = parseSignature(value(s.signature), false); err != nil {
		return fmt.Errorf("%s: %w", fieldSignature, err)
	}
	return nil
}

// value returns the unfolded value of a field.
func value(raw string) string {
	_, v, _ := strings.Cut(raw, ":")
	return strings.Trim(strings.ReplaceAll(v, "\r\n", ""), " \t")
}

// parseSignature reads the tags of a seal (RFC 8617, section 4.1.3) or of a
// message signature (section 4.1.2).
func parseSignature(v string, seal bool) (*signature, error) {
	tags, err := dkim.ParseTags(v)
	if err != nil {
		return nil, err
	}
	s := &signature{algorithm: dkim.Algorithm(tags.Get("a")), cv: tags.Get("cv")}
	if s.algorithm != dkim.RSASHA256 && s.algorithm != dkim.Ed25519SHA256 {
		return nil, errors.New("unknown algorithm")
	}
	if s.domain, err = parseDomain(tags.Get("d")); err != nil {
		return nil, errors.New("d= is not a domain")
	}
	if s.selector, err = parseDomain(tags.Get("s")); err != nil {
		return nil, errors.New("s= is not a selector")
	}
	if s.value, err = decode(tags.Get("b")); err != nil {
		return nil, errors.New("b= is not a signature")
	}
	if t, ok := tags.Lookup("t"); ok {
		if _, err := strconv.ParseUint(t, 10, 64); err != nil {
			return nil, errors.New("t= is not a time")
		}
	}
	if seal {
		return s, s.parseSeal(tags)
	}
	return s, s.parseMessage(tags)
}

func parseDomain(s string) (string, error) {
	if strings.HasPrefix(s, "[") {
		return "", mail.ErrSyntax
	}
	return mail.ParseDomain(s)
}

func (s *signature) parseSeal(tags dkim.Tags) error {
	if _, ok := tags.Lookup("h"); ok {
		return errors.New("a seal has no h=")
	}
	switch s.cv {
	case "none", "pass", "fail":
		return nil
	}
	return errValidation
}

func (s *signature) parseMessage(tags dkim.Tags) (err error) {
	if s.bodyHash, err = decode(tags.Get("bh")); err != nil {
		return errors.New("bh= is not a hash")
	}
	c, ok := tags.Lookup("c")
	canon, err := dkim.ParseCanonicalizations(c)
	if err != nil || ok && c == "" {
		return errors.New("unknown canonicalization")
	}
	s.canons = []dkim.Canonicalizations{canon}
	if !ok { // DKIM's default is simple, but the ARC test suite and so others sign with relaxed
		s.canons = append(s.canons, dkim.Canonicalizations{Header: dkim.Relaxed, Body: dkim.Relaxed})
	}
	h, ok := tags.Lookup("h")
	if !ok {
		return errors.New("no h=")
	}
	for _, name := range dkim.List(h) {
		if strings.EqualFold(name, fieldSeal) {
			return errors.New("h= has ARC-Seal") // RFC 8617, section 4.1.2
		}
		s.fields = append(s.fields, strings.ToLower(name))
	}
	return nil
}

func decode(s string) ([]byte, error) {
	b, err := base64.StdEncoding.DecodeString(dkim.Unspaced(s))
	if err == nil && len(b) == 0 {
		err = errors.New("empty")
	}
	return b, err
}
