package spf

import (
	"errors"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

// Errors of a policy. Their texts may go to everyone.
var (
	errSyntax  = errors.New("syntax error in the policy")
	errTwice   = errors.New("a modifier stands twice in the policy")
	errRecords = errors.New("more than one policy")
	errNone    = errors.New("the policy names a domain that has none")
	errLookups = errors.New("the policy needs more than 10 look-ups")
	errVoid    = errors.New("the policy looks for more than 2 names that are not there")
	errMXs     = errors.New("the policy names a domain with more than 10 MX records")
	errDNS     = errors.New("temporary failure of DNS")
)

// A record is a policy (RFC 7208, section 4.6.1). All of it is read before any
// of it is evaluated: an error anywhere makes it void (section 4.6).
type record struct {
	directives []directive
	redirect   macroString
	redirects  bool
}

type directive struct {
	result    string // of a match
	mechanism string // in lower case
	spec      macroString
	hasSpec   bool
	network   netip.Prefix // of ip4 and ip6
	bits      [2]int       // of addresses of A and AAAA records
}

// maxRecord bounds a policy; section 3.4 wants it to fit into 512 octets.
const maxRecord = 16 << 10

var (
	modifier   = regexp.MustCompile(`^([A-Za-z][A-Za-z0-9._-]*)=`)
	dualCIDR   = regexp.MustCompile(`^(.*?)(?:/(0|[1-9][0-9]?))?(?://(0|[1-9][0-9]?[0-9]?))?$`)
	topLabel   = regexp.MustCompile(`\.(?:[A-Za-z0-9]*[A-Za-z][A-Za-z0-9]*|[A-Za-z0-9]+-[A-Za-z0-9-]*[A-Za-z0-9])\.?$`)
	oneLabel   = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9]*$`)
	qualifiers = map[byte]string{'+': Pass, '-': Fail, '~': SoftFail, '?': Neutral}
)

// isRecord reports whether a TXT record is a policy (section 4.5).
func isRecord(txt string) bool {
	v, rest := txt[:min(len(txt), 6)], txt[min(len(txt), 6):]
	return strings.EqualFold(v, "v=spf1") && (rest == "" || rest[0] == ' ')
}

// parseRecord reads a TXT record that is a policy.
func parseRecord(txt string) (*record, error) {
	if len(txt) > maxRecord {
		return nil, errSyntax
	}
	rec := new(record)
	seen := map[string]bool{}
	for term := range strings.SplitSeq(txt[len("v=spf1"):], " ") {
		if term == "" {
			continue
		}
		m := modifier.FindStringSubmatch(term)
		if m == nil {
			d, err := parseDirective(term)
			if err != nil {
				return nil, err
			}
			rec.directives = append(rec.directives, d)
			continue
		}
		name, value := strings.ToLower(m[1]), term[len(m[0]):]
		spec, err := parseMacros(value)
		if known := name == "redirect" || name == "exp"; err == nil && known {
			if seen[name] {
				return nil, errTwice
			}
			seen[name] = true
			err = spec.isDomain()
		}
		if err != nil {
			return nil, err
		}
		if name == "redirect" {
			rec.redirect, rec.redirects = spec, true
		}
	}
	return rec, nil
}

// parseDirective reads a mechanism with its qualifier (section 5).
func parseDirective(term string) (d directive, err error) {
	d.result = Pass
	if q, ok := qualifiers[term[0]]; ok {
		d.result, term = q, term[1:]
	}
	end := strings.IndexAny(term, ":/")
	if end < 0 {
		end = len(term)
	}
	rest := term[end:]
	switch d.mechanism = strings.ToLower(term[:end]); d.mechanism {
	case "all":
		if rest != "" {
			err = errSyntax
		}
	case "include", "exists":
		d.hasSpec = true
		d.spec, err = domainSpec(rest, d.mechanism)
	case "ptr":
		if d.hasSpec = rest != ""; d.hasSpec {
			d.spec, err = domainSpec(rest, d.mechanism)
		}
	case "a", "mx":
		err = d.addresses(rest)
	case "ip4", "ip6":
		err = d.ip(rest)
	default:
		err = errSyntax
	}
	return d, err
}

// domainSpec reads ":" domain-spec. The grammar has no name of one label; the
// suite of RFC 7208 wants that to be an error with `a`, and another list that it
// is none with `include` and `mx`, where it makes little difference.
func domainSpec(s, mechanism string) (macroString, error) {
	s, ok := strings.CutPrefix(s, ":")
	if !ok {
		return nil, errSyntax
	}
	m, err := parseMacros(s)
	if lenient := mechanism == "include" || mechanism == "mx"; lenient && oneLabel.MatchString(s) {
		return m, err
	}
	if err == nil {
		err = m.isDomain()
	}
	return m, err
}

// addresses reads [ ":" domain-spec ] [ dual-cidr-length ].
func (d *directive) addresses(rest string) (err error) {
	m := dualCIDR.FindStringSubmatch(rest)
	if m == nil {
		return errSyntax
	}
	d.bits = [2]int{32, 128}
	for i, limit := range d.bits {
		if m[i+2] == "" {
			continue
		}
		if d.bits[i], err = strconv.Atoi(m[i+2]); err != nil || d.bits[i] > limit {
			return errSyntax
		}
	}
	if d.hasSpec = m[1] != ""; d.hasSpec {
		d.spec, err = domainSpec(m[1], d.mechanism)
	}
	return err
}

// ip reads ":" and a network.
func (d *directive) ip(rest string) error {
	rest, ok := strings.CutPrefix(rest, ":")
	if !ok {
		return errSyntax
	}
	addr, bits, cidr := strings.Cut(rest, "/")
	ip, err := netip.ParseAddr(addr)
	if err != nil || ip.Zone() != "" || ip.Is4() != (d.mechanism == "ip4") {
		return errSyntax
	}
	n := ip.BitLen()
	if cidr {
		if n, err = strconv.Atoi(bits); err != nil || strconv.Itoa(n) != bits {
			return errSyntax
		}
	}
	if d.network, err = ip.Prefix(n); err != nil {
		return errSyntax
	}
	return nil
}
