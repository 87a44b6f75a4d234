// Package login has what every source of credentials needs: names of users in
// one form, and the forms in which secrets are kept, taken apart. It knows no
// source, and no mechanism.
package login

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/text/secure/precis"
)

// MaxName is how many octets the name of a user may have.
const MaxName = 254

// Name puts the name of a user into the form in which names are compared
// (RFC 8265, UsernameCaseMapped): lower case, NFC, no spaces or controls.
func Name(s string) (string, error) {
	if s == "" || len(s) > MaxName {
		return "", fmt.Errorf("name of a user is not 1 to %d octets", MaxName)
	}
	n, err := precis.UsernameCaseMapped.String(s)
	if err != nil {
		return "", fmt.Errorf("not the name of a user: %w", err)
	}
	return n, nil
}

// Users are users' accounts by their names, as Name has them.
type Users map[string]*Account

// Add adds a secret of a user, in the text that ParseSecret reads. secret is its
// name, "" for the main one; nothing is added twice.
func (u Users) Add(user, secret, text string) error {
	n, err := Name(user)
	if err != nil {
		return err
	}
	s, err := ParseSecret(text)
	if err != nil {
		return fmt.Errorf("user '%s': %w", n, err)
	}
	s.Name = secret
	a := u[n]
	if a == nil {
		a = new(Account)
		u[n] = a
	}
	if slices.ContainsFunc(a.Secrets, func(o Secret) bool { return o.Name == secret }) {
		if secret == "" {
			return fmt.Errorf("user '%s' is there twice", n)
		}
		return fmt.Errorf("user '%s' has two secrets named '%s'", n, secret)
	}
	a.Secrets = append(a.Secrets, s)
	return nil
}

// Forms are those in which every user has a secret.
func (u Users) Forms() Forms {
	f := allForms
	for _, a := range u {
		f &= a.Forms()
	}
	return f
}

// AnyForms are those in which some user has a secret.
func (u Users) AnyForms() (f Forms) {
	for _, a := range u {
		f |= a.Forms()
	}
	return f
}

// Sample returns a secret as most users have it, for ParseSecret, but one that
// nobody has; "" if there are none. The password of an unknown user is compared
// with it.
func (u Users) Sample() string {
	count := map[string]int{}
	example := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(u)) {
		for i := range u[name].Secrets {
			s := &u[name].Secrets[i]
			k := s.kind()
			if count[k]++; count[k] == 1 {
				fake := s.Fake()
				example[k] = fake.Text()
			}
		}
	}
	best := ""
	for _, k := range slices.Sorted(maps.Keys(count)) {
		if best == "" || count[k] > count[best] {
			best = k
		}
	}
	return example[best]
}

var errHash = errors.New("not a password hash of a kind that is known; 'caddy hash-password' makes one")

// cut splits "$a$b$c" into a, b and c.
func cut(s string) []string {
	rest, ok := strings.CutPrefix(s, "$")
	if !ok {
		return nil
	}
	return strings.Split(rest, "$")
}
