package sqldb

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// A statement is SQL in which @names are the database's own placeholders.
type statement struct {
	text string
	args []string // names in the order of the placeholders' numbers
}

// parseStatement finds the @names in SQL, outside of what is quoted and of
// comments. @user must be among them.
func parseStatement(text, database string, names ...string) (statement, error) {
	mark := "?"
	if database == postgres {
		mark = "$"
	}
	var b strings.Builder
	var st statement
	for i := 0; i < len(text); {
		if n := opaque(text, i, database); n > 0 {
			b.WriteString(text[i : i+n])
			i += n
			continue
		}
		n := 1
		for text[i] == '@' && i+n < len(text) && isWord(text[i+n]) {
			n++
		}
		if n == 1 {
			b.WriteByte(text[i])
			i++
			continue
		}
		name := text[i+1 : i+n]
		if !slices.Contains(names, name) {
			return st, fmt.Errorf("@%s is not one of @%s", name, strings.Join(names, ", @"))
		}
		if !slices.Contains(st.args, name) {
			st.args = append(st.args, name)
		}
		b.WriteString(mark + strconv.Itoa(slices.Index(st.args, name)+1))
		i += n
	}
	if !slices.Contains(st.args, "user") && !slices.Contains(st.args, "local") {
		return st, errors.New("there is neither @user nor @local in it")
	}
	st.text = b.String()
	return st, nil
}

// opaque is the length of what is quoted, or a comment, at text[i:].
func opaque(text string, i int, database string) int {
	s := text[i:]
	switch {
	case s[0] == '\'':
		escapes := database == postgres && i > 0 && (text[i-1] == 'E' || text[i-1] == 'e') && (i < 2 || !isWord(text[i-2]))
		return quoted(s, escapes)
	case s[0] == '"', s[0] == '`' && database == sqlite:
		return quoted(s, false)
	case strings.HasPrefix(s, "--"):
		return until(s, 2, "\n")
	case strings.HasPrefix(s, "/*"):
		return comment(s, database == postgres)
	case s[0] == '$' && database == postgres && (i == 0 || !isWord(text[i-1])):
		end := strings.IndexByte(s[1:], '$') + 2
		if end > 1 && (end == 2 || !isDigit(s[1])) && strings.IndexFunc(s[1:end-1], func(r rune) bool { return r < 128 && !isWord(byte(r)) }) < 0 {
			return until(s, end, s[:end])
		}
	}
	return 0
}

// quoted is the length of a quoted string. A quote that is doubled is two of
// them, one behind the other.
func quoted(s string, escapes bool) int {
	for i := 1; i < len(s); i++ {
		switch {
		case escapes && s[i] == '\\':
			i++
		case s[i] == s[0]:
			return i + 1
		}
	}
	return len(s)
}

func comment(s string, nests bool) int {
	depth := 1
	for i := 2; i < len(s); i++ {
		switch {
		case strings.HasPrefix(s[i:], "*/"):
			i++
			if depth--; depth == 0 {
				return i + 1
			}
		case nests && strings.HasPrefix(s[i:], "/*"):
			i++
			depth++
		}
	}
	return len(s)
}

func until(s string, from int, end string) int {
	if n := strings.Index(s[from:], end); n >= 0 {
		return from + n + len(end)
	}
	return len(s)
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func isWord(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || isDigit(c) || c == '_'
}

// bind returns values in the order of the placeholders.
func (st *statement) bind(values map[string]string) []any {
	out := make([]any, len(st.args))
	for i, name := range st.args {
		if v, ok := values[name]; ok {
			out[i] = v
		}
	}
	return out
}

// named are the values that a user's name gives.
func named(user string) map[string]string {
	local, domain := user, ""
	if i := strings.LastIndexByte(user, '@'); i >= 0 {
		local, domain = user[:i], user[i+1:]
	}
	return map[string]string{"user": user, "local": local, "domain": domain}
}
