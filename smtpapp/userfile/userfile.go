// Package userfile reads and edits files of users: a line for each secret,
//
//	alice@example.org:$argon2id$... SCRAM-SHA-256$... address=alice@example.org
//	alice@example.org:$argon2id$... name=phone created=2026-11-25T12:00:00Z
//
// A line is the name of a user, a colon, and words with spaces between them:
// forms of one secret, as login.ParseSecret reads them, and key=value. name tells
// an app password or a device from the user's main secret, which has none; created
// is when the secret was made (RFC 3339); address, which may be there several times,
// is one that the user may send from, *@example.org for all of a domain. These are
// of the secret, but for addresses. Any other key is an attribute of the user.
// Lines that begin with "#" are comments, those that begin with a space go on with
// the line before.
//
// The package knows nothing of who reads the file for what.
package userfile

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/login"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/watchfile"
)

// MaxSize is how many octets a file may have.
const MaxSize = 64 << 20

const maxSecrets = 100 // of one user

// A File is what a file says.
type File struct {
	Entries []*Entry

	lines []string // with their ends
}

// An Entry is a line.
type Entry struct {
	User    string // as login.Name has it
	Name    string // of the secret; "" for the main one
	Secret  login.Secret
	Created time.Time // zero if it is not said
	// Addresses and Attributes are those on this line.
	Addresses  []string
	Attributes map[string]string

	line  int      // the number of its first
	given string   // the name as it is written
	words []string // behind the colon
}

var (
	keyValue = regexp.MustCompile(`^[a-z][a-z0-9_.-]*=`)
	// names of secrets are words that show up in logs and lists.
	secretName = regexp.MustCompile(`^[\p{L}\p{N}][\p{L}\p{N}._@+-]{0,63}$`)
)

// CheckName reports what is wrong with the name of a secret.
func CheckName(name string) error {
	if !secretName.MatchString(name) {
		return fmt.Errorf("name of a secret is not 1 to 64 letters, digits and . _ @ + - (it begins with a letter or a digit)")
	}
	return nil
}

// CheckAddress reports what is wrong with an address that a user may send from.
func CheckAddress(a string) error {
	var err error
	if domain, ok := strings.CutPrefix(a, "*@"); ok {
		_, err = mail.ParseDomain(domain)
	} else {
		_, err = mail.ParseAddress(a)
	}
	if err != nil || strings.ContainsAny(a, " \t") {
		return fmt.Errorf("'%s' is neither an address nor *@domain", a)
	}
	return nil
}

// Parse reads a file. Errors have the number of the line, and nothing secret.
func Parse(b []byte) (*File, error) {
	f := &File{lines: strings.SplitAfter(string(b), "\n")}
	if f.lines[len(f.lines)-1] == "" {
		f.lines = f.lines[:len(f.lines)-1]
	}
	err := watchfile.Lines(b, func(n int, line string) error {
		e, err := parseEntry(line)
		if err != nil {
			return err
		}
		e.line = n
		f.Entries = append(f.Entries, e)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if _, err := f.Users(); err != nil {
		return nil, err
	}
	return f, nil
}

func parseEntry(line string) (*Entry, error) {
	given, rest, ok := strings.Cut(line, ":")
	if !ok {
		return nil, errors.New("not user:secret")
	}
	user, err := login.Name(given)
	if err != nil {
		return nil, err
	}
	e := &Entry{User: user, given: given, words: strings.Fields(rest), Attributes: map[string]string{}}
	var forms []string
	for _, w := range e.words {
		if !isFact(w) {
			forms = append(forms, w)
			continue
		}
		key, value, _ := strings.Cut(w, "=")
		if err := e.fact(key, value); err != nil {
			return nil, fmt.Errorf("user '%s': %w", user, err)
		}
	}
	if len(forms) == 0 {
		if e.Name != "" || !e.Created.IsZero() {
			return nil, fmt.Errorf("user '%s': a name or a time of creation without a secret", user)
		}
		return e, nil
	}
	if e.Secret, err = login.ParseSecret(strings.Join(forms, " ")); err != nil {
		return nil, fmt.Errorf("user '%s': %w", user, err)
	}
	e.Secret.Name = e.Name
	return e, nil
}

// isFact tells key=value from a form of a secret.
func isFact(word string) bool { return keyValue.MatchString(word) }

func (e *Entry) fact(key, value string) (err error) {
	if value == "" {
		return fmt.Errorf("'%s' has no value", key)
	}
	switch key {
	case "name":
		if e.Name != "" {
			return errors.New("a name is there twice")
		}
		e.Name = value
		return CheckName(value)
	case "created":
		if e.Created, err = time.Parse(time.RFC3339, value); err != nil {
			return errors.New("created is not a time such as 2026-11-25T12:00:00Z")
		}
		return nil
	case "address":
		e.Addresses = append(e.Addresses, value)
		return CheckAddress(value)
	}
	if _, ok := e.Attributes[key]; ok {
		return fmt.Errorf("'%s' is there twice", key)
	}
	e.Attributes[key] = value
	return nil
}

// Users puts the lines of each user together.
func (f *File) Users() (login.Users, error) {
	users := login.Users{}
	for _, e := range f.Entries {
		if err := e.join(users); err != nil {
			return nil, fmt.Errorf("line %d: %w", e.line, err)
		}
	}
	for _, e := range f.Entries {
		if len(users[e.User].Secrets) == 0 {
			return nil, fmt.Errorf("line %d: user '%s' has no secret", e.line, e.User)
		}
	}
	return users, nil
}

func (e *Entry) join(users login.Users) error {
	if e.Secret.Forms() != 0 {
		if err := users.Add(e.User, e.Name, e.Secret.Text()); err != nil {
			return err
		}
	}
	a := users[e.User]
	if a == nil {
		a = new(login.Account)
		users[e.User] = a
	}
	if len(a.Secrets) > maxSecrets {
		return fmt.Errorf("user '%s' has more than %d secrets", e.User, maxSecrets)
	}
	for _, addr := range e.Addresses {
		if !slices.Contains(a.Addresses, addr) {
			a.Addresses = append(a.Addresses, addr)
		}
	}
	for k, v := range e.Attributes {
		if old, ok := a.Attributes[k]; ok && old != v {
			return fmt.Errorf("user '%s' has two values for '%s'", e.User, k)
		}
		if a.Attributes == nil {
			a.Attributes = map[string]string{}
		}
		a.Attributes[k] = v
	}
	return nil
}

// Plain reports whether the file has a password as it is.
func (f *File) Plain() bool {
	return slices.ContainsFunc(f.Entries, func(e *Entry) bool { return e.Secret.Plain != "" })
}
