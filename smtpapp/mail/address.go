// Package mail holds the words that every other package speaks: addresses,
// envelopes, recipients and replies, as RFC 5321 and RFC 3461 name them. It
// does no input or output and knows none of the other packages.
package mail

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
	"golang.org/x/text/unicode/bidi"
	"golang.org/x/text/unicode/norm"
)

// Limits of RFC 5321, section 4.5.3.1, in octets.
const (
	MaxLocalPart = 64
	MaxDomain    = 255
	MaxPath      = 256 // with its angle brackets
)

// An Address is a mailbox. The zero Address is the null reverse-path.
type Address struct {
	// Local is the local part without its quoting, in Unicode form NFC.
	// It compares octet by octet: its case is the business of whoever owns
	// the domain.
	Local string

	// Domain is in lower case, an internationalised one as A-labels, so that
	// equal domains are equal strings. An address literal keeps its brackets.
	Domain string
}

// Errors that ParseAddress wraps; session tells them apart in its replies.
var (
	ErrSyntax  = errors.New("syntax error in address")
	ErrNotUTF8 = errors.New("address is not valid UTF-8")
	ErrLength  = errors.New("address too long")
	ErrScript  = errors.New("misleading characters in address")
)

// IsNull reports whether a is the null reverse-path.
func (a Address) IsNull() bool { return a == Address{} }

// IsASCII reports whether a can be sent without SMTPUTF8. Domains always can.
func (a Address) IsASCII() bool { return isASCII(a.Local) }

// String returns the mailbox as RFC 5321 writes it, its local part quoted
// where it must be, and "" for the null reverse-path.
func (a Address) String() string {
	switch {
	case a.IsNull():
		return ""
	case a.Domain == "": // only <postmaster>, RFC 5321, 4.5.1
		return quoteLocal(a.Local)
	}
	return quoteLocal(a.Local) + "@" + a.Domain
}

// Path returns a in angle brackets.
func (a Address) Path() string { return "<" + a.String() + ">" }

// Unicode returns the address for people: its domain as U-labels.
func (a Address) Unicode() string {
	return strings.TrimSuffix(quoteLocal(a.Local)+"@"+unicodeDomain(a.Domain), "@")
}

// unicodeDomain returns a domain with its A-labels as U-labels.
func unicodeDomain(d string) string {
	u, err := idna.Display.ToUnicode(d)
	if err != nil {
		return d
	}
	return u
}

// ParseAddress parses a mailbox without angle brackets: a dot-string or a
// quoted-string, "@", and a domain or an address literal (RFC 5321, section
// 4.1.2, with the characters that RFC 6531 adds). Nothing is guessed: "%" and
// "!" in a local part mean themselves.
func ParseAddress(s string) (Address, error) {
	if len(s) > MaxPath-2 {
		return Address{}, fmt.Errorf("%w: over %d octets", ErrLength, MaxPath-2)
	}
	if !utf8.ValidString(s) {
		return Address{}, ErrNotUTF8
	}
	local, rest, err := cutLocal(s)
	if err != nil {
		return Address{}, err
	}
	dom, ok := strings.CutPrefix(rest, "@")
	if !ok {
		return Address{}, fmt.Errorf("%w: no domain", ErrSyntax)
	}
	d, err := ParseDomain(dom)
	if err != nil {
		return Address{}, err
	}
	return Address{local, d}, nil
}

// cutLocal splits the local part, unquoted and normalised, off s.
func cutLocal(s string) (local, rest string, err error) {
	if strings.HasPrefix(s, `"`) {
		local, rest, err = cutQuoted(s)
	} else {
		local, rest, err = cutDotString(s)
	}
	if err != nil {
		return "", "", err
	}
	// A rewritten sender (SRS) is longer than he was, and RFC 5321, section 4.5.3.1,
	// wants no limit where none is needed: that of the path is enough for him.
	if max(len(s)-len(rest), len(local)) > MaxLocalPart && !rewritten(local) { // with its quotes
		return "", "", fmt.Errorf("%w: local part over %d octets", ErrLength, MaxLocalPart)
	}
	if !isASCII(local) {
		local = norm.NFC.String(local)
		if strings.ContainsFunc(local, misleading) {
			return "", "", ErrScript
		}
	}
	return local, rest, nil
}

func cutDotString(s string) (local, rest string, err error) {
	end := 0
	for end < len(s) && (isAtext(s[end]) || s[end] == '.') {
		end++
	}
	local, rest = s[:end], s[end:]
	if local == "" || local[0] == '.' || local[end-1] == '.' || strings.Contains(local, "..") {
		return "", "", fmt.Errorf("%w: local part", ErrSyntax)
	}
	return local, rest, nil
}

func cutQuoted(s string) (local, rest string, err error) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '"':
			if b.Len() == 0 {
				return "", "", fmt.Errorf("%w: empty local part", ErrSyntax)
			}
			return b.String(), s[i+1:], nil
		case c == '\\' && i+1 < len(s):
			i++
			c = s[i]
			if c < ' ' || c >= 0x7f {
				return "", "", fmt.Errorf("%w: quoted local part", ErrSyntax)
			}
		case c < ' ' || c == 0x7f:
			return "", "", fmt.Errorf("%w: quoted local part", ErrSyntax)
		}
		b.WriteByte(c)
	}
	return "", "", fmt.Errorf("%w: quote not closed", ErrSyntax)
}

// ParseDomain checks a domain or address literal and returns it in the form
// of Address.Domain.
func ParseDomain(s string) (string, error) {
	if strings.HasPrefix(s, "[") {
		return parseLiteral(s)
	}
	if len(s) > MaxDomain {
		return "", fmt.Errorf("%w: domain over %d octets", ErrLength, MaxDomain)
	}
	if !utf8.ValidString(s) {
		return "", ErrNotUTF8
	}
	if isASCII(s) {
		d := strings.ToLower(s)
		if !isHostname(d) {
			return "", fmt.Errorf("%w: domain", ErrSyntax)
		}
		if !strings.Contains(d, "xn--") {
			return d, nil
		}
	} else if mixesScripts(s) {
		return "", ErrScript
	}
	d, err := idna.Lookup.ToASCII(norm.NFC.String(s)) // IDNA2008 with the bidi rule (RFC 5893)
	if err != nil {
		return "", fmt.Errorf("%w: %s", ErrScript, "domain")
	}
	if len(d) > MaxDomain || !isHostname(d) {
		return "", fmt.Errorf("%w: domain", ErrSyntax)
	}
	return d, nil
}

// parseLiteral parses an address literal (RFC 5321, section 4.1.3).
func parseLiteral(s string) (string, error) {
	in, ok := strings.CutSuffix(s[1:], "]")
	if v6, is6 := cutPrefixFold(in, "IPv6:"); ok && is6 {
		if ip, err := netip.ParseAddr(v6); err == nil && ip.Is6() && ip.Zone() == "" {
			return "[IPv6:" + ip.String() + "]", nil
		}
	} else if ip, err := netip.ParseAddr(in); ok && err == nil && ip.Is4() {
		return "[" + ip.String() + "]", nil
	}
	return "", fmt.Errorf("%w: address literal", ErrSyntax)
}

// isHostname reports whether s is a domain as RFC 5321 has it: labels of
// letters, digits and inner hyphens. Underscores are taken too, since hosts
// that send mail have them.
func isHostname(s string) bool {
	if s == "" {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			c := label[i]
			if c != '-' && c != '_' && (c < '0' || c > '9') && (c < 'a' || c > 'z') {
				return false
			}
		}
	}
	return true
}

// rewritten reports whether a local part looks like that of a forwarder.
func rewritten(local string) bool {
	return len(local) > 5 && (strings.EqualFold(local[:5], "SRS0=") || strings.EqualFold(local[:5], "SRS1="))
}

func isAtext(c byte) bool {
	switch {
	case c >= 0x80, c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		return true
	}
	return strings.IndexByte("!#$%&'*+-/=?^_`{|}~", c) >= 0
}

func quoteLocal(l string) string {
	plain := l != "" && l[0] != '.' && l[len(l)-1] != '.' && !strings.Contains(l, "..")
	for i := 0; plain && i < len(l); i++ {
		plain = isAtext(l[i]) || l[i] == '.'
	}
	if plain {
		return l
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(l) + `"`
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// misleading reports control and direction-changing characters, which have
// no place in a name that people read.
func misleading(r rune) bool {
	if r < 0x80 {
		return false
	}
	if r < 0xa0 || r == 0x2028 || r == 0x2029 || r == 0xfeff || r >= 0x200b && r <= 0x200f {
		return true
	}
	p, _ := bidi.LookupRune(r)
	switch p.Class() {
	case bidi.LRO, bidi.RLO, bidi.LRE, bidi.RLE, bidi.PDF, bidi.LRI, bidi.RLI, bidi.FSI, bidi.PDI:
		return true
	}
	return false
}

func cutPrefixFold(s, prefix string) (string, bool) {
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return s, false
	}
	return s[len(prefix):], true
}
