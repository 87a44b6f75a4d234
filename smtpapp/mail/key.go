package mail

import (
	"strings"

	"golang.org/x/text/unicode/norm"
)

// Key puts an address, a domain, or what else a table has for a key, into the
// form in which they are compared: Unicode form NFC, a domain as Address.Domain
// has it (RFC 6530, section 10.1; RFC 5890, section 2.3.2.4). "*.", "." and "@"
// may stand before a domain, and "*" anywhere. What has neither letters beyond
// ASCII nor A-labels is returned as it is.
func Key(s string) string {
	if isASCII(s) && !containsFold(s, "xn--") {
		return s
	}
	s = norm.NFC.String(s)
	local, domain := "", s
	if i := strings.LastIndexByte(s, '@'); i >= 0 {
		local, domain = s[:i+1], s[i+1:]
	}
	labels := strings.Split(domain, ".")
	for i, l := range labels {
		if local == "" && len(labels) == 1 {
			break // a name
		}
		if isASCII(l) && !containsFold(l, "xn--") {
			continue
		}
		if d, err := ParseDomain(l); err == nil {
			labels[i] = d
		}
	}
	return local + strings.Join(labels, ".")
}

// UnicodeKey is Key with U-labels, for patterns that people have written.
func UnicodeKey(s string) string {
	if !containsFold(s, "xn--") {
		return norm.NFC.String(s)
	}
	local, domain := "", s
	if i := strings.LastIndexByte(s, '@'); i >= 0 {
		local, domain = s[:i+1], s[i+1:]
	}
	return norm.NFC.String(local) + unicodeDomain(domain)
}

func containsFold(s, sub string) bool { return strings.Contains(strings.ToLower(s), sub) }
