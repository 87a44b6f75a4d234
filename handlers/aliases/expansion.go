package aliases

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

// The defaults.
const (
	maxDepth      = 20
	maxExpansions = 1000
)

var (
	errLoop    = mail.Refuse(550, "5.4.6", "alias leads back to itself")
	errDeep    = mail.Refuse(550, "5.4.6", "aliases nested too deeply")
	errTooMany = mail.Refuse(550, "5.4.6", "alias expands to too many addresses")
)

// An expansion follows the aliases of one recipient.
type expansion struct {
	h    *Handler
	ctx  context.Context // of the command
	seen []mail.Address  // each is followed once, whoever names it
	out  []mail.Address
}

// expand follows a, which the aliases on path have led to.
func (x *expansion) expand(a mail.Address, path []mail.Address) error {
	if len(x.seen) >= x.h.Addresses {
		return errTooMany
	}
	x.seen = append(x.seen, a)
	values, ok, err := x.lookup(a)
	if err != nil {
		return err
	}
	if !ok || len(values) == 0 {
		x.keep(a)
		return nil
	}
	if len(path) >= x.h.Depth {
		return errDeep
	}
	path = append(slices.Clone(path), a)
	for _, v := range values {
		if err := x.follow(a, v, path); err != nil {
			return err
		}
	}
	return nil
}

// follow goes on with one value of the alias a.
func (x *expansion) follow(a mail.Address, value string, path []mail.Address) error {
	to, err := target(value, a.Domain)
	if err != nil {
		return fmt.Errorf("alias %s: %w", a, err)
	}
	switch {
	case same(to, a), same(to, x.untagged(a)):
		x.keep(a)
		return nil
	case contains(path, to):
		return errLoop
	case contains(x.seen, to):
		return nil
	}
	return x.expand(to, path)
}

func (x *expansion) keep(a mail.Address) {
	if !contains(x.out, a) {
		x.out = append(x.out, a)
	}
}

// lookup returns what the first of a's keys has that is in the table.
func (x *expansion) lookup(a mail.Address) ([]string, bool, error) {
	for _, k := range x.keys(a) {
		v, ok, err := x.h.table.Lookup(x.ctx, k)
		if err != nil {
			return nil, false, fmt.Errorf("alias %s: %w", k, err)
		}
		if ok {
			return v, true, nil
		}
	}
	return nil, false, nil
}

func (x *expansion) keys(a mail.Address) []string {
	plain := x.untagged(a)
	keys := []string{a.String(), a.Unicode(), plain.String(), plain.Unicode(), a.Local, plain.Local}
	if a.Domain != "" {
		u := mail.Address{Local: "x", Domain: a.Domain}.Unicode()[1:]
		keys = append(keys, "@"+a.Domain, u, "*@"+a.Domain, "*"+u)
	}
	var once []string
	for _, k := range keys {
		if !slices.Contains(once, k) {
			once = append(once, k)
		}
	}
	return once
}

func (x *expansion) untagged(a mail.Address) mail.Address {
	a.Local, _ = a.Tag(x.h.TagSeparator)
	return a
}

// target parses a value: an address, or a local part at the domain. What means
// a program, a file or a list to other servers would be a local part to us.
func target(v, domain string) (mail.Address, error) {
	if strings.ContainsRune("|/:", rune((v + " ")[0])) {
		return mail.Address{}, fmt.Errorf("%w: '%s' is no mailbox", mail.ErrSyntax, v)
	}
	if a, err := mail.ParseAddress(v); err == nil || strings.Contains(v, "@") && !strings.HasPrefix(v, `"`) {
		return a, err
	}
	a, err := mail.ParseAddress(v + "@x.example")
	a.Domain = domain
	return a, err
}

func contains(as []mail.Address, a mail.Address) bool {
	return slices.ContainsFunc(as, func(b mail.Address) bool { return same(a, b) })
}

func same(a, b mail.Address) bool { return a.Domain == b.Domain && strings.EqualFold(a.Local, b.Local) }
