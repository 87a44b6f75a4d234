package login

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// An Identity is who a client turned out to be, and what the source of
// credentials that says so knows about him.
type Identity struct {
	// User is the name, as Name has it.
	User string
	// Secret is the name of the secret that he logged in with, such as that of
	// an app password; "" for his main one, or where there are no names.
	Secret string
	// Addresses are those that he may send from, where the source knows:
	// addresses, *@domain for all of a domain.
	Addresses []string
	// Attributes are what else the source knows, by name.
	Attributes map[string]string
}

// An Account is what a source of credentials has of one user.
type Account struct {
	// User is his name where it is not the one that was asked for, such as that
	// of an alias; otherwise "".
	User       string
	Secrets    []Secret
	Addresses  []string          // as those of an Identity
	Attributes map[string]string // as those of an Identity
}

// Identity is that of the account's user, who logged in under a name with a
// secret of that name.
func (a *Account) Identity(user, secret string) *Identity {
	if a.User != "" {
		user = a.User
	}
	return &Identity{User: user, Secret: secret, Addresses: a.Addresses, Attributes: a.Attributes}
}

// Forms are those in which every mechanism finds a secret of the account.
func (a *Account) Forms() (f Forms) {
	for i := range a.Secrets {
		f |= a.Secrets[i].Forms()
	}
	return f
}

const (
	maxAddresses  = 1000
	maxAttributes = 100
	maxValue      = 4096 // octets
)

// NewIdentity is what a source outside of the process answers: his name, "" for
// the one that he was asked for under, and what else there is of him. It checks
// what such a source may not be trusted to keep to.
func NewIdentity(asked, user string, addresses []string, attributes map[string]string) (*Identity, error) {
	if user == "" {
		user = asked
	}
	name, err := Name(user)
	if err != nil {
		return nil, err
	}
	if len(addresses) > maxAddresses || len(attributes) > maxAttributes {
		return nil, fmt.Errorf("more than %d addresses or %d attributes of user '%s'", maxAddresses, maxAttributes, name)
	}
	id := &Identity{User: name, Attributes: attributes}
	for _, a := range addresses {
		if a = strings.TrimSpace(a); a != "" && len(a) <= MaxName+2 && utf8.ValidString(a) && !slices.Contains(id.Addresses, a) {
			id.Addresses = append(id.Addresses, a)
		}
	}
	for k, v := range attributes {
		if len(k) > MaxName || len(v) > maxValue {
			return nil, fmt.Errorf("an attribute of user '%s' has more than %d octets", name, maxValue)
		}
		if !utf8.ValidString(v) {
			return nil, fmt.Errorf("an attribute of user '%s' is no text", name)
		}
	}
	return id, nil
}
