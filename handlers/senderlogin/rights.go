package senderlogin

import (
	"context"
	"fmt"
	"strings"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/pattern"
	"github.com/caddymail/caddy-smtp/smtpapp/placeholder"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

// rights are what a user may send as.
type rights struct {
	login     mail.Address // null if the login owns none
	own       []string     // as pattern.HasAddress takes them
	delegates []string     // likewise
	primary   mail.Address // null for none
	sep       string
	faulty    error // what a table or source has that is no address
}

// rights finds out what the user of a transaction may send as.
func (h *Handler) rights(ctx context.Context, tx *session.Transaction) (*rights, error) {
	r := &rights{sep: h.Subaddress}
	s := tx.Session
	if a, err := mail.ParseAddress(s.User); err == nil && on(h.Login) {
		r.login, r.primary = a, a
	}
	if s.Identity != nil {
		r.add(&r.own, s.Identity.Addresses, "the credential source")
	}
	r.addOwn(h.Own, s, tx)
	if err := r.addFrom(ctx, h.table, s.User, &r.own); err != nil {
		return nil, err
	}
	primary := r.primary
	err := r.addFrom(ctx, h.delegates, s.User, &r.delegates)
	r.primary = primary
	return r, err
}

// addFrom adds what a table has of the user.
func (r *rights) addFrom(ctx context.Context, t table, user string, to *[]string) error {
	if t == nil {
		return nil
	}
	values, _, err := t.Lookup(ctx, user)
	if err != nil {
		return fmt.Errorf("addresses of %s: %w", user, err)
	}
	r.add(to, values, "the table")
	return nil
}

// addOwn puts the user into the patterns of the configuration. What comes from
// him must not be a pattern itself, and where there is no address of it (his
// name has a domain already, an attribute is missing) he owns nothing by it.
func (r *rights) addOwn(own []string, s *session.Session, tx *session.Transaction) {
	if len(own) == 0 {
		return
	}
	repl := placeholder.New(s, tx, nil)
	for _, p := range own {
		v := repl.ReplaceAll(p, "")
		if strings.Count(v, "*") != strings.Count(p, "*") {
			continue
		}
		if n, err := prepare(v); err == nil {
			r.own = append(r.own, n)
			r.first(v)
		}
	}
}

// add adds patterns that somebody else looks after than the configuration's
// author. One that is wrong does no harm to the others.
func (r *rights) add(to *[]string, values []string, where string) {
	for _, v := range values {
		n, err := prepare(v)
		if err != nil {
			r.faulty = fmt.Errorf("%s: %w", where, err)
			continue
		}
		*to = append(*to, n)
		r.first(v)
	}
}

// first makes the first full address the primary one.
func (r *rights) first(v string) {
	if r.primary.IsNull() && !strings.Contains(v, "*") {
		r.primary, _ = mail.ParseAddress(v)
	}
}

// prepare puts a pattern into the form in which it is compared. A local part
// alone would be anybody's at other domains, and is none.
func prepare(v string) (string, error) {
	if strings.HasPrefix(v, "@") {
		v = "*" + v
	}
	if !strings.Contains(v, "@") && v != "*" && v != "<>" {
		return "", fmt.Errorf("'%s' is not an address: %w", v, mail.ErrSyntax)
	}
	one := []string{v}
	err := pattern.Addresses(one)
	return one[0], err
}

// owns reports whether an address is the user's.
func (r *rights) owns(a mail.Address) bool { return r.has(r.own, a) || !a.IsNull() && r.isLogin(a) }

// mayUse reports whether the user may send for that address, as delegate.
func (r *rights) mayUse(a mail.Address) bool { return r.has(r.delegates, a) }

func (r *rights) has(ps []string, a mail.Address) bool {
	return pattern.HasAddress(ps, a) || pattern.HasAddress(ps, r.untagged(a))
}

func (r *rights) isLogin(a mail.Address) bool {
	return same(r.login, a) || same(r.login, r.untagged(a))
}

func (r *rights) untagged(a mail.Address) mail.Address {
	a.Local, _ = a.Tag(r.sep)
	return a
}

// same compares addresses without the case of their local parts. Letters that
// only fold to one another, such as s and the long s, stay different.
func same(a, b mail.Address) bool {
	return a.Domain == b.Domain && lower(a.Local) == lower(b.Local)
}

// lower is not what strings.EqualFold compares by: see same.
func lower(s string) string { return strings.ToLower(s) }
