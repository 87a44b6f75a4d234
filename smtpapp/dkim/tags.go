package dkim

import (
	"errors"
	"strings"
)

// Tags are a tag list: that of a signature, of a seal, or of a key record (RFC
// 6376, section 3.2). Names and values are told apart by case.
type Tags struct {
	names, values []string
}

// Errors of a tag list.
var (
	errTag   = errors.New("not a tag list")
	errTwice = errors.New("a tag stands twice")
)

// maxTags bounds a tag list. There are 15 tags.
const maxTags = 50

// ParseTags reads a tag list, folded or not. A tag that stands twice makes it
// invalid.
func ParseTags(s string) (Tags, error) {
	var t Tags
	for more := true; more; {
		var spec string
		spec, s, more = strings.Cut(s, ";")
		name, value, ok := strings.Cut(spec, "=")
		if !ok && !more && len(t.names) > 0 && trim(spec) == "" {
			break // what follows the last semicolon
		}
		name, value = trim(name), trim(value)
		if !ok || !isTagName(name) || !isTagValue(value) || len(t.names) == maxTags {
			return Tags{}, errTag
		}
		if _, twice := t.Lookup(name); twice {
			return Tags{}, errTwice
		}
		t.names, t.values = append(t.names, name), append(t.values, value)
	}
	return t, nil
}

// Lookup returns a tag's value without the white space around it, and whether
// it is there.
func (t Tags) Lookup(name string) (string, bool) {
	for i, n := range t.names {
		if n == name {
			return t.values[i], true
		}
	}
	return "", false
}

// Get returns a tag's value, "" if it is not there.
func (t Tags) Get(name string) string {
	v, _ := t.Lookup(name)
	return v
}

// First returns the name of the first tag.
func (t Tags) First() string {
	if len(t.names) == 0 {
		return ""
	}
	return t.names[0]
}

// Unspaced returns a value without any white space, as base64 is read (RFC
// 6376, section 2.10).
func Unspaced(v string) string {
	if strings.IndexFunc(v, func(r rune) bool { return r < 0x80 && isSpace(byte(r)) }) < 0 {
		return v
	}
	return strings.Map(func(r rune) rune {
		if r < 0x80 && isSpace(byte(r)) {
			return -1
		}
		return r
	}, v)
}

// List returns the parts of a value that colons separate, without the white
// space around each.
func List(v string) []string {
	parts := strings.Split(v, ":")
	for i, p := range parts {
		parts[i] = trim(p)
	}
	return parts
}

func trim(s string) string { return strings.Trim(s, " \t\r\n") }

func isTagName(s string) bool {
	for i := range len(s) {
		c := s[i] | 0x20
		if 'a' <= c && c <= 'z' || i > 0 && ('0' <= s[i] && s[i] <= '9' || s[i] == '_') {
			continue
		}
		return false
	}
	return s != ""
}

// isTagValue allows UTF-8 too (RFC 8616).
func isTagValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && !isSpace(c) || c == 0x7f {
			return false
		}
	}
	return true
}
