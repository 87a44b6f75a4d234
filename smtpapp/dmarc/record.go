// Package dmarc finds out what the owner of an author's domain wants to be done
// with mail that is not his (RFC 9989, and RFC 7489 where that still says
// more), and whether a message is his. It knows nothing of sessions.
package dmarc

import (
	"errors"
	"strconv"
	"strings"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

// A Policy is what to do with a message that fails (RFC 9989, section 4.7).
type Policy string

// The policies.
const (
	PolicyNone Policy = "none"
	Quarantine Policy = "quarantine"
	Reject     Policy = "reject"
)

// lower is the policy one level below.
func (p Policy) lower() Policy {
	if p == Reject {
		return Quarantine
	}
	return PolicyNone
}

// level orders policies.
func (p Policy) level() int {
	switch p {
	case Reject:
		return 2
	case Quarantine:
		return 1
	}
	return 0
}

// A Record is a DMARC policy record.
type Record struct {
	// Domain is where it was found.
	Domain string

	Policy     Policy // p=
	Subdomains Policy // sp=, "" for that of p=
	Nonexist   Policy // np=, "" for that of sp=

	StrictDKIM, StrictSPF bool // adkim=s, aspf=s

	// PSD is the psd= tag: 'y' for a public suffix, 'n' for an organisational
	// domain, 'u' for neither.
	PSD byte
	// Testing is t=y: a policy one level below is to be applied.
	Testing bool
	// Percent is the pct= tag of RFC 7489, which RFC 9989 no longer has: to how
	// many of the messages that fail the policy is to be applied.
	Percent int

	FailureOptions string // fo=
	Reports        []URI  // rua=
}

// A URI is where aggregate reports go. Others than mailto are passed over.
type URI struct {
	Address mail.Address
	// Max is how many octets a report may have (RFC 7489, section 6.2), 0 for
	// no limit.
	Max int64
}

// ErrRecord says that a record is of no use: DMARC does not apply.
var ErrRecord = errors.New("policy record is not valid")

// Limits of what is read of a record.
const (
	maxTags = 100
	maxURIs = 10
)

// isRecord reports whether a TXT record is a DMARC record at all: its first tag
// must be its version (RFC 9989, section 4.7).
func isRecord(txt string) bool {
	first, _, _ := strings.Cut(txt, ";")
	name, value, ok := strings.Cut(first, "=")
	return ok && trim(name) == "v" && trim(value) == "DMARC1"
}

// Parse reads a record. Unknown tags are ignored, and what is not well formed
// counts as its default. Where the policy itself is wrong, the record still
// asks for reports if it names somebody to send them to (RFC 9989, section
// 4.10.1).
func Parse(txt string) (*Record, error) {
	if !isRecord(txt) {
		return nil, ErrRecord
	}
	r := &Record{Policy: PolicyNone, PSD: 'u', Percent: 100, FailureOptions: "0"}
	seen := map[string]bool{}
	wrong := false
	for spec := range strings.SplitSeq(txt, ";") {
		name, value, ok := strings.Cut(spec, "=")
		name, value = strings.ToLower(trim(name)), trim(value)
		if !ok || seen[name] || len(seen) == maxTags {
			continue
		}
		seen[name] = true
		if !r.tag(name, value) {
			wrong = true
		}
	}
	if wrong {
		if len(r.Reports) == 0 {
			return nil, ErrRecord
		}
		r.Policy, r.Subdomains, r.Nonexist = PolicyNone, "", ""
	}
	return r, nil
}

// tag takes one tag. It is false for a policy that is none.
func (r *Record) tag(name, value string) (ok bool) {
	low := strings.ToLower(value)
	switch name {
	case "p":
		return policy(low, &r.Policy)
	case "sp":
		return policy(low, &r.Subdomains)
	case "np":
		return policy(low, &r.Nonexist)
	case "adkim":
		r.StrictDKIM = low == "s"
	case "aspf":
		r.StrictSPF = low == "s"
	case "psd":
		if low == "y" || low == "n" {
			r.PSD = low[0]
		}
	case "t":
		r.Testing = low == "y"
	case "pct":
		if n, err := strconv.ParseUint(value, 10, 8); err == nil && n <= 100 {
			r.Percent = int(n)
		}
	case "fo":
		if len(low) <= 7 && strings.Trim(low, "01ds:") == "" && low != "" {
			r.FailureOptions = low
		}
	case "rua":
		r.Reports = parseURIs(value)
	}
	return true
}

func policy(s string, p *Policy) bool {
	switch Policy(s) {
	case PolicyNone, Quarantine, Reject:
		*p = Policy(s)
		return true
	}
	return false
}

// parseURIs reads mailto URIs, with a limit of size behind "!".
func parseURIs(s string) []URI {
	var us []URI
	for one := range strings.SplitSeq(s, ",") {
		scheme, rest, ok := strings.Cut(trim(one), ":")
		if !ok || !strings.EqualFold(scheme, "mailto") || len(us) == maxURIs {
			continue
		}
		var u URI
		rest, size, limited := strings.Cut(rest, "!")
		if limited {
			if u.Max, ok = parseSize(size); !ok {
				continue
			}
		}
		rest, _, _ = strings.Cut(rest, "?")
		a, err := mail.ParseAddress(unescape(rest))
		if err != nil || a.Domain == "" || strings.HasPrefix(a.Domain, "[") {
			continue
		}
		u.Address = a
		us = append(us, u)
	}
	return us
}

// parseSize reads octets, in units of k, m, g or t, which are powers of 1024
// (RFC 7489, section 6.4).
func parseSize(s string) (int64, bool) {
	s = strings.ToLower(s)
	shift := 0
	if n := len(s); n > 0 {
		if i := strings.IndexByte("kmgt", s[n-1]); i >= 0 {
			shift, s = 10*(i+1), s[:n-1]
		}
	}
	n, err := strconv.ParseUint(s, 10, 20)
	if err != nil || n == 0 {
		return 0, false
	}
	return int64(n) << shift, true
}

// unescape resolves percent-encoding (RFC 3986, section 2.1), and leaves alone
// what is none.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				b.WriteByte(byte(c))
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func trim(s string) string { return strings.Trim(s, " \t\r\n") }

// For returns the policy for an author's domain, which is the record's own or
// one below it that exists or not.
func (r *Record) For(domain string, exists bool) Policy {
	switch {
	case domain == r.Domain:
		return r.Policy
	case !exists && r.Nonexist != "":
		return r.Nonexist
	case r.Subdomains != "":
		return r.Subdomains
	}
	return r.Policy
}
