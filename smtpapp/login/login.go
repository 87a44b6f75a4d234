// Package login has what every source of credentials needs: names of users in
// one form, and password hashes taken apart. It checks no password and knows no
// source.
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

// Users are users' password hashes by their names, as Name has them.
type Users map[string]string

// Add adds a user. Nothing is added twice.
func (u Users) Add(name, hash string) error {
	n, err := Name(name)
	if err != nil {
		return err
	}
	if _, ok := u[n]; ok {
		return fmt.Errorf("user '%s' is there twice", n)
	}
	if _, err := ParseHash(hash); err != nil {
		return fmt.Errorf("user '%s': %w", n, err)
	}
	u[n] = hash
	return nil
}

// Sample returns a hash as most users have it, "" if there are none: what to
// compare the password of an unknown user with.
func (u Users) Sample() string {
	count := map[string]int{}
	example := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(u)) {
		h, err := ParseHash(u[name])
		if err != nil {
			continue
		}
		count[h.Params]++
		example[h.Params] = u[name]
	}
	best := ""
	for _, p := range slices.Sorted(maps.Keys(count)) {
		if best == "" || count[p] > count[best] {
			best = p
		}
	}
	return example[best]
}

var errHash = errors.New("not a password hash of a kind that is known; make one with 'caddy hash-password'")

// cut splits "$a$b$c" into a, b and c.
func cut(s string) []string {
	rest, ok := strings.CutPrefix(s, "$")
	if !ok {
		return nil
	}
	return strings.Split(rest, "$")
}
