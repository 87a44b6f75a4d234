package dkim

import (
	"encoding/base64"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

// FieldName is the name of the header field of a signature.
const FieldName = "DKIM-Signature"

// A Signature is a DKIM-Signature field (RFC 6376, section 3.5).
type Signature struct {
	Domain   string // d=, as A-labels in lower case
	Selector string // s=, the same
	Identity string // i=, or its default, as it is written
	B        string // b= without white space

	Algorithm Algorithm // whatever a= says
	Canon     Canonicalizations
	Fields    []string  // h=, in lower case
	Length    int64     // l=, -1 for none
	Signed    time.Time // t=, or the zero Time
	Expires   time.Time // x=, or the zero Time

	value, bodyHash []byte
	raw             string
}

// Reasons that a field is no signature, or none that can be checked.
var (
	errVersion   = errors.New("not of version 1")
	errMissing   = errors.New("a tag is missing")
	errValue     = errors.New("a tag has a value that it cannot have")
	errFrom      = errors.New("the From field is not signed")
	errIdentity  = errors.New("i= is not of the domain of d=")
	errQuery     = errors.New("no known way to its key")
	errAlgorithm = errors.New("unknown or broken algorithm")
	errTimes     = errors.New("it expires before it was made")
)

// ParseSignature reads a DKIM-Signature field as it stands in the message. With
// an error, what could be read of it is there too.
func ParseSignature(raw string) (*Signature, error) {
	s := &Signature{raw: raw, Length: -1}
	_, value, _ := strings.Cut(raw, ":")
	tags, err := ParseTags(value)
	if err != nil {
		return s, err
	}
	s.names(tags)
	for _, name := range []string{"v", "a", "b", "bh", "d", "h", "s"} {
		if tags.Get(name) == "" {
			return s, errMissing
		}
	}
	if tags.Get("v") != "1" {
		return s, errVersion
	}
	if err := s.contents(tags); err != nil {
		return s, err
	}
	if err := s.limits(tags); err != nil {
		return s, err
	}
	return s, s.check(tags)
}

// names reads who signed with what.
func (s *Signature) names(tags Tags) {
	s.Domain, _ = mail.ParseDomain(strings.TrimSuffix(tags.Get("d"), "."))
	s.Selector, _ = mail.ParseDomain(strings.TrimSuffix(tags.Get("s"), "."))
	if strings.HasPrefix(s.Domain, "[") || strings.HasPrefix(s.Selector, "[") {
		s.Domain = ""
	}
	s.Algorithm = Algorithm(strings.ToLower(tags.Get("a")))
	s.B = Unspaced(tags.Get("b"))
	if s.Identity = tags.Get("i"); s.Identity == "" && s.Domain != "" {
		s.Identity = "@" + s.Domain
	}
}

// contents reads what was signed, and the signature itself.
func (s *Signature) contents(tags Tags) (err error) {
	if s.Domain == "" || s.Selector == "" {
		return errValue
	}
	if s.value, err = base64.StdEncoding.DecodeString(s.B); err != nil {
		return errValue
	}
	if s.bodyHash, err = base64.StdEncoding.DecodeString(Unspaced(tags.Get("bh"))); err != nil {
		return errValue
	}
	if s.Canon, err = ParseCanonicalizations(tags.Get("c")); err != nil {
		return errValue
	}
	for _, f := range List(tags.Get("h")) {
		s.Fields = append(s.Fields, strings.ToLower(f))
	}
	return nil
}

// limits reads l=, t= and x=.
func (s *Signature) limits(tags Tags) error {
	var numbers [3]int64
	for i, name := range []string{"l", "t", "x"} {
		v, ok := tags.Lookup(name)
		numbers[i] = -1
		if !ok {
			continue
		}
		if v == "" || strings.Trim(v, "0123456789") != "" || len(v) > 76 {
			return errValue
		}
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil { // so many digits are as good as infinity
			n = 1 << 62
		}
		numbers[i] = n
	}
	s.Length = numbers[0]
	if numbers[1] >= 0 {
		s.Signed = time.Unix(min(numbers[1], 1<<40), 0)
	}
	if numbers[2] >= 0 {
		s.Expires = time.Unix(min(numbers[2], 1<<40), 0)
	}
	if numbers[1] >= 0 && numbers[2] >= 0 && numbers[2] <= numbers[1] {
		return errTimes
	}
	return nil
}

// check holds a signature to RFC 6376, section 6.1.1.
func (s *Signature) check(tags Tags) error {
	switch {
	case s.Algorithm != RSASHA256 && s.Algorithm != Ed25519SHA256:
		return errAlgorithm
	case !slices.Contains(s.Fields, "from"):
		return errFrom
	case !within(s.identityDomain(), s.Domain):
		return errIdentity
	}
	if q, ok := tags.Lookup("q"); ok && !slices.Contains(List(q), "dns/txt") {
		return errQuery
	}
	return nil
}

// identityDomain is the domain of i=, "" if it has none.
func (s *Signature) identityDomain() string {
	i := strings.LastIndexByte(s.Identity, '@')
	if i < 0 {
		return ""
	}
	d, err := mail.ParseDomain(strings.TrimSuffix(Unspaced(s.Identity[i+1:]), "."))
	if err != nil {
		return ""
	}
	return d
}

func within(name, domain string) bool {
	return name == domain || strings.HasSuffix(name, "."+domain)
}

// unsigned is the field without the value of its b= tag and without its line
// break (RFC 6376, section 3.7).
func (s *Signature) unsigned() string {
	raw := strings.TrimSuffix(s.raw, "\r\n")
	for at := strings.IndexByte(raw, ':') + 1; at < len(raw); {
		end := len(raw)
		if i := strings.IndexByte(raw[at:], ';'); i >= 0 {
			end = at + i
		}
		if name, _, ok := strings.Cut(raw[at:end], "="); ok && trim(name) == "b" {
			return raw[:at+len(name)+1] + raw[end:]
		}
		at = end + 1
	}
	return raw
}
