package watchfile

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Lines calls fn for each logical line of b, with the number of its first: a
// line that begins with white space continues the one before it. Empty lines
// and those that begin with "#" are left out. Control characters other than TAB
// are an error.
func Lines(b []byte, fn func(n int, line string) error) error {
	if !utf8.Valid(b) {
		return errors.New("not UTF-8")
	}
	var cur string
	var at int
	flush := func() error {
		if cur == "" {
			return nil
		}
		if err := fn(at, cur); err != nil {
			return fmt.Errorf("line %d: %w", at, err)
		}
		cur = ""
		return nil
	}
	n := 0
	for line := range strings.Lines(strings.TrimPrefix(string(b), "\ufeff")) {
		n++
		text := strings.TrimSpace(line)
		switch {
		case text == "" || text[0] == '#':
		case strings.ContainsFunc(text, isControl): // a CR alone would be part of a key
			return fmt.Errorf("line %d: has a control character", n)
		case line[0] == ' ' || line[0] == '\t':
			if cur == "" {
				return fmt.Errorf("line %d: continues nothing", n)
			}
			cur += " " + text
		default:
			if err := flush(); err != nil {
				return err
			}
			cur, at = text, n
		}
	}
	return flush()
}

func isControl(r rune) bool { return unicode.IsControl(r) && r != '\t' }
