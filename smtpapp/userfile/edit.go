package userfile

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/login"
)

// What an edit may fail with.
var (
	ErrNoUser = errors.New("there is no such user")
	ErrThere  = errors.New("is there already")
)

// Bytes is the text of the file.
func (f *File) Bytes() []byte { return []byte(strings.Join(f.lines, "")) }

// Of returns the entries of a user.
func (f *File) Of(user string) []*Entry {
	var es []*Entry
	for _, e := range f.Entries {
		if e.User == user {
			es = append(es, e)
		}
	}
	return es
}

// find returns the entry of a secret, nil if there is none.
func (f *File) find(user, name string) *Entry {
	for _, e := range f.Of(user) {
		if e.Name == name && e.Secret.Forms() != 0 {
			return e
		}
	}
	return nil
}

// Add adds a secret by a name, "" for the main one, and addresses of the user.
// It goes behind what there is of him.
func (f *File) Add(user string, s login.Secret, created time.Time, addresses []string) error {
	if f.find(user, s.Name) != nil {
		if s.Name == "" {
			return fmt.Errorf("user '%s' %w", user, ErrThere)
		}
		return fmt.Errorf("secret '%s' of user '%s' %w", s.Name, user, ErrThere)
	}
	if strings.Contains(user, ":") || user[0] == '#' {
		return errors.New("a name that begins with # or has a colon in it cannot be in this file")
	}
	words := []string{s.Text()}
	if s.Name != "" {
		words = append(words, "name="+s.Name)
	}
	words = append(words, "created="+created.UTC().Format(time.RFC3339))
	for _, a := range addresses {
		words = append(words, "address="+a)
	}
	at := len(f.lines)
	if of := f.Of(user); len(of) > 0 {
		own := f.own(of[len(of)-1])
		at = own[len(own)-1] + 1
	}
	return f.splice(at, []string{user + ":" + strings.Join(words, " ")})
}

// Replace puts another secret in the place of the one with that name. What else
// is on the line stays.
func (f *File) Replace(user string, s login.Secret, created time.Time) error {
	e := f.find(user, s.Name)
	switch {
	case e == nil && len(f.Of(user)) == 0:
		return fmt.Errorf("'%s': %w", user, ErrNoUser)
	case e == nil:
		return fmt.Errorf("user '%s' has no secret of that name", user)
	}
	words := []string{s.Text()}
	dated := false
	for _, w := range e.words {
		if strings.HasPrefix(w, "created=") {
			w, dated = "created="+created.UTC().Format(time.RFC3339), true
		}
		if isFact(w) {
			words = append(words, w)
		}
	}
	if !dated {
		words = append(words, "created="+created.UTC().Format(time.RFC3339))
	}
	return f.splice(e.line-1, []string{e.given + ":" + strings.Join(words, " ")}, e)
}

// Revoke removes a secret that has a name. What the user owns by its line stays
// his.
func (f *File) Revoke(user, name string) error {
	e := f.find(user, name)
	if e == nil || name == "" {
		return fmt.Errorf("user '%s' has no secret '%s'", user, name)
	}
	var facts []string
	for _, w := range e.words {
		if isFact(w) && !strings.HasPrefix(w, "name=") && !strings.HasPrefix(w, "created=") {
			facts = append(facts, w)
		}
	}
	if len(facts) == 0 {
		return f.splice(0, nil, e)
	}
	return f.splice(e.line-1, []string{e.given + ": " + strings.Join(facts, " ")}, e)
}

// Delete removes a user.
func (f *File) Delete(user string) error {
	of := f.Of(user)
	if len(of) == 0 {
		return fmt.Errorf("'%s': %w", user, ErrNoUser)
	}
	return f.splice(0, nil, of...)
}

// own are the indexes of the lines of an entry: comments in between are not.
func (f *File) own(e *Entry) []int {
	is := []int{e.line - 1}
	for i := e.line; i < len(f.lines) && !slices.ContainsFunc(f.Entries, func(o *Entry) bool { return o.line-1 == i }); i++ {
		if l := f.lines[i]; (l[0] == ' ' || l[0] == '\t') && strings.TrimSpace(l) != "" && strings.TrimSpace(l)[0] != '#' {
			is = append(is, i)
		}
	}
	return is
}

// splice puts lines before that of an index, and takes those of entries away.
func (f *File) splice(at int, texts []string, gone ...*Entry) error {
	eol := "\n"
	if len(f.lines) > 0 && strings.HasSuffix(f.lines[0], "\r\n") {
		eol = "\r\n"
	}
	drop := map[int]bool{}
	for _, e := range gone {
		for _, i := range f.own(e) {
			drop[i] = true
		}
	}
	var lines []string
	for i := range len(f.lines) + 1 {
		if i == at {
			for _, t := range texts {
				lines = append(lines, t+eol)
			}
		}
		if i == len(f.lines) || drop[i] {
			continue
		}
		l := f.lines[i]
		if !strings.HasSuffix(l, "\n") && len(texts) > 0 {
			l += eol
		}
		lines = append(lines, l)
	}
	n, err := Parse([]byte(strings.Join(lines, "")))
	if err == nil {
		*f = *n
	}
	return err
}
