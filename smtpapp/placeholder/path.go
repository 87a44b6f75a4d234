package placeholder

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/mda"
)

// A Path is that of a mailbox: a directory, and below it a part that depends on
// the recipient.
type Path struct {
	Fixed string   // absolute
	parts []string // names of directories, with placeholders
	lower bool     // local parts are put into lower case
}

// Constant reports whether all recipients have the same.
func (p *Path) Constant() bool { return len(p.parts) == 0 }

// pathKeys are the placeholders of a path. A sender has no say in it.
var pathKeys = []string{"smtp.rcpt", "smtp.rcpt.local", "smtp.rcpt.domain", "smtp.rcpt.tag"}

// maxName is the longest name of a directory that file systems take, in octets.
const maxName = 255

// ParsePath reads the path of a configuration. Local parts are put into lower
// case if lower says so.
func ParsePath(path string, lower bool) (*Path, error) {
	return parseFilled(path, lower, fromEnvironment)
}

// CheckPath reads a path as ParsePath does while a Caddyfile is adapted, which
// may be on another machine.
func CheckPath(path string) error {
	_, err := parseFilled(path, true, unknownYet)
	return err
}

func parseFilled(path string, lower bool, value func(string, any) (any, error)) (*Path, error) {
	path, err := fill(path, value)
	if err != nil {
		return nil, err
	}
	return parsePath(path, lower)
}

// fill replaces the placeholders of path that have nothing to do with mail, by
// what value makes of theirs.
func fill(path string, value func(key string, v any) (any, error)) (string, error) {
	return caddy.NewReplacer().ReplaceFunc(path, func(key string, v any) (any, error) {
		if strings.HasPrefix(key, "smtp.") {
			return "{" + key + "}", nil
		}
		return value(key, v)
	})
}

// fromEnvironment is the value of a placeholder such as {env.HOME}. Without
// one, the path would be another than was meant.
func fromEnvironment(key string, v any) (any, error) {
	if caddy.ToString(v) == "" {
		return nil, fmt.Errorf("placeholder {%s} is empty or not known", key)
	}
	return v, nil
}

// unknownYet stands for a value that is not there yet.
func unknownYet(string, any) (any, error) { return "x", nil }

// parsePath reads a path that was filled.
func parsePath(path string, lower bool) (*Path, error) {
	if path == "" {
		return nil, errors.New("no path")
	}
	fixed, variable, err := cutFixed(path)
	if err != nil {
		return nil, err
	}
	t := &Path{lower: lower}
	if t.Fixed, err = filepath.Abs(fixed); err != nil {
		return nil, err
	}
	for part := range strings.SplitSeq(variable, "/") {
		switch part {
		case "", ".":
			continue
		case "..":
			return nil, fmt.Errorf("'..' behind a placeholder in '%s'", path)
		}
		t.parts = append(t.parts, part)
	}
	return t, t.check()
}

// cutFixed splits path before the first name with a placeholder.
func cutFixed(path string) (fixed, variable string, err error) {
	i := strings.Index(path, "{smtp.")
	if i < 0 {
		i = len(path)
	} else if i = strings.LastIndexByte(path[:i], '/') + 1; i == 0 {
		return "", "", fmt.Errorf("no directory before the placeholders of '%s'", path)
	}
	if strings.ContainsAny(path[:i], "{}") {
		return "", "", fmt.Errorf("stray brace in '%s'", path)
	}
	return path[:i], path[i:], nil
}

// check finds out whether all placeholders are known ones.
func (t *Path) check() error {
	for _, part := range t.parts {
		var name string
		left, err := caddy.NewEmptyReplacer().ReplaceFunc(part, func(key string, _ any) (any, error) {
			if !slices.Contains(pathKeys, key) {
				name = key
			}
			return "", nil
		})
		if err != nil || name != "" || strings.ContainsAny(left, "{}") {
			return fmt.Errorf("'%s': placeholders of a path are {%s}", part, strings.Join(pathKeys, "}, {"))
		}
	}
	return nil
}

// Fold returns the address as the path has it.
func (t *Path) Fold(a mail.Address) mail.Address {
	if t.lower {
		a.Local = strings.ToLower(a.Local)
	}
	return a
}

// Expand returns the path of r's mailbox below the fixed directory. Each value
// is no more than a part of one name: no address makes another path than the
// configuration has.
func (t *Path) Expand(r *mail.Recipient) (string, error) {
	if strings.ContainsFunc(r.Address.String(), unicode.IsControl) {
		return "", mda.ErrNoMailbox
	}
	to := *r
	to.Address = t.Fold(r.Address)
	repl := ForDelivery(&mail.Envelope{}, &to, "")
	parts := make([]string, 0, len(t.parts))
	for _, part := range t.parts {
		name, err := repl.ReplaceFunc(part, func(_ string, v any) (any, error) {
			if s, ok := v.(string); !ok || !Harmless(s) {
				return nil, mda.ErrNoMailbox
			}
			return v, nil
		})
		if err != nil || len(name) > maxName {
			return "", mda.ErrNoMailbox
		}
		parts = append(parts, name)
	}
	if len(parts) == 0 {
		return ".", nil
	}
	return filepath.Join(parts...), nil
}

// Harmless reports whether a value can be a name of its own: not "", "." or
// "..", not hidden, without a separator, NUL or another control character.
func Harmless(s string) bool {
	return s != "" && s[0] != '.' && !strings.ContainsFunc(s, func(r rune) bool {
		return r == '/' || r == filepath.Separator || unicode.IsControl(r)
	})
}
