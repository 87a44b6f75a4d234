// Package pattern is how configurations name sets of addresses and domains. It
// knows nothing of who asks.
package pattern

import (
	"fmt"
	"slices"
	"strings"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

// Glob reports whether s is p, in which each "*" stands for any run of
// characters. Case does not matter, nor whether domains have U-labels or A-labels.
func Glob(p, s string) bool {
	return glob(strings.ToLower(p), strings.ToLower(s)) || glob(strings.ToLower(mail.Key(p)), strings.ToLower(mail.Key(s)))
}

func glob(p, s string) bool {
	first, rest, star := strings.Cut(p, "*")
	s, ok := strings.CutPrefix(s, first)
	if !star || !ok {
		return ok && s == ""
	}
	for {
		part, more, star := strings.Cut(rest, "*")
		if !star {
			return strings.HasSuffix(s, part)
		}
		i := strings.Index(s, part)
		if i < 0 {
			return false
		}
		s, rest = s[i+len(part):], more
	}
}

// Domains puts domains into the form that HasDomain takes, in place: "*.d" is
// every domain below d, "*" every domain there is. U-labels become A-labels.
func Domains(ds []string) error {
	for i, d := range ds {
		n, err := domain(d)
		if err != nil {
			return err
		}
		ds[i] = n
	}
	slices.Sort(ds)
	return nil
}

func domain(d string) (string, error) {
	if d == "*" {
		return d, nil
	}
	base, wild := strings.CutPrefix(d, "*.")
	n, err := mail.ParseDomain(base)
	if err != nil {
		return "", fmt.Errorf("'%s' is not a domain: %w", d, err)
	}
	if wild {
		n = "*." + n
	}
	return n, nil
}

// HasDomain reports whether a domain, as mail.Address has it, is one of those
// that Domains prepared.
func HasDomain(ds []string, d string) bool {
	if d == "" {
		return false
	}
	if in(ds, d) || in(ds, "*") {
		return true
	}
	for {
		_, parent, ok := strings.Cut(d, ".")
		if !ok {
			return false
		}
		if in(ds, "*."+parent) {
			return true
		}
		d = parent
	}
}

func in(sorted []string, s string) bool {
	_, ok := slices.BinarySearch(sorted, s)
	return ok
}

// Addresses puts patterns of addresses into the form that HasAddress takes, in
// place. "<>" is the null reverse-path, "postmaster" a local part at any
// domain, and in "*@example.org", "info@*" and "news-*@*.example.org" each "*"
// stands for any run of characters.
func Addresses(ps []string) error {
	for i, p := range ps {
		n, err := address(p)
		if err != nil {
			return err
		}
		ps[i] = n
	}
	return nil
}

func address(p string) (string, error) {
	if p == "<>" {
		return p, nil
	}
	local, dom, ok := cutAddress(p)
	if !ok {
		dom = "*"
	}
	dom, err := domain(dom)
	if err != nil {
		return "", fmt.Errorf("'%s' is not an address: %w", p, err)
	}
	plain := strings.ReplaceAll(local, "*", "x")
	if _, err := mail.ParseAddress(plain + "@x.example"); err != nil {
		return "", fmt.Errorf("'%s' is not an address: %w", p, err)
	}
	if a, err := mail.ParseAddress(local + "@x.example"); err == nil {
		local = a.Local // without its quotes, in NFC
	}
	return strings.ToLower(local) + "@" + dom, nil
}

func cutAddress(p string) (local, dom string, ok bool) {
	i := strings.LastIndexByte(p, '@')
	if i < 0 {
		return p, "", false
	}
	return p[:i], p[i+1:], true
}

// HasAddress reports whether an address is one of those that Addresses
// prepared. The case of the local part does not matter.
func HasAddress(ps []string, a mail.Address) bool {
	if a.IsNull() {
		return slices.Contains(ps, "<>")
	}
	lower := strings.ToLower(a.Local)
	for _, p := range ps {
		local, dom, ok := cutAddress(p)
		if ok && matchDomain(dom, a.Domain) && glob(local, lower) {
			return true
		}
	}
	return false
}

// matchDomain takes the empty domain of <postmaster> for any.
func matchDomain(p, d string) bool {
	if base, ok := strings.CutPrefix(p, "*."); ok {
		return strings.HasSuffix(d, "."+base)
	}
	return p == "*" || p == d
}
