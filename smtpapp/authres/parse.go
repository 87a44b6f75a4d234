package authres

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/net/idna"
)

// ErrSyntax says that a value is not of an Authentication-Results field.
var ErrSyntax = errors.New("malformed Authentication-Results")

// MaxResults bounds what Parse reads.
const MaxResults = 500

// Parse reads the value of an Authentication-Results field, folded or not.
// Methods, results and the names of properties are in lower case. The version
// of a method must be 1, that of the field is in it: another is no business of
// ours (RFC 8601, section 2.2), so it has no Results.
func Parse(s string) (*Field, error) {
	r := reader{s: s}
	id, ok := r.word()
	if !ok || id == "" {
		return nil, fmt.Errorf("%w: authserv-id", ErrSyntax)
	}
	f := &Field{ID: id}
	if v := r.digits(); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n == 0 {
			return nil, fmt.Errorf("%w: version", ErrSyntax)
		}
		if f.Version = n; n != 1 {
			return f, nil
		}
	}
	for r.byte(';') {
		if r.end() && len(f.Results) > 0 {
			break // many end with a semicolon
		}
		res, none, ok := r.result()
		if none && r.end() && len(f.Results) == 0 {
			return f, nil
		}
		if !ok || none || len(f.Results) == MaxResults {
			return nil, fmt.Errorf("%w: result %d", ErrSyntax, len(f.Results)+1)
		}
		if res.Method != "" {
			f.Results = append(f.Results, res)
		}
	}
	if !r.end() {
		return nil, fmt.Errorf("%w after result %d", ErrSyntax, len(f.Results))
	}
	return f, nil
}

// ParseARC reads the value of an ARC-Authentication-Results field: an instance
// before all else (RFC 8617, section 4.1.1).
func ParseARC(s string) (instance int, f *Field, err error) {
	r := reader{s: s}
	if !strings.EqualFold(r.keyword(), "i") || !r.byte('=') {
		return 0, nil, fmt.Errorf("%w: instance", ErrSyntax)
	}
	n, err := strconv.Atoi(r.digits())
	if err != nil || n < 1 || n > 50 || !r.byte(';') {
		return 0, nil, fmt.Errorf("%w: instance", ErrSyntax)
	}
	f, err = Parse(r.s[r.at:])
	return n, f, err
}

// Claims reports whether some reader may take a field's value for one of id:
// names are compared without regard to case and to their form, and if nobody
// can tell whose it is, it may be anyone's.
func Claims(s, id string) bool {
	clean := strings.Map(func(r rune) rune {
		if isControl(r) && r != '\t' && r != '\r' && r != '\n' {
			return -1 // some readers do not see them
		}
		return r
	}, s)
	r := reader{s: clean}
	got, ok := r.word()
	return !ok || got == "" || fold(got) == fold(id)
}

// fold returns the form in which names are compared.
func fold(s string) string {
	s = strings.TrimSuffix(strings.TrimSpace(s), ".")
	if a, err := idna.Lookup.ToASCII(s); err == nil {
		s = a
	}
	return strings.ToLower(s)
}

// reader reads a structured field body (RFC 5322, section 3.2).
type reader struct {
	s   string
	at  int
	bad bool // a comment or a quoted string does not end
}

// result reads a method's result: methodspec, reasonspec and propspecs. What
// has a method of another version has no name. none is "none" alone.
func (r *reader) result() (res Result, none, ok bool) {
	method := strings.ToLower(r.keyword())
	if method == "" {
		return res, false, false
	}
	known := true
	if r.byte('/') {
		v := r.digits()
		known = v == "1"
		if v == "" {
			return res, false, false
		}
	}
	if !r.byte('=') {
		return res, method == "none", method == "none"
	}
	res.Method, res.Value = method, strings.ToLower(r.keyword())
	if res.Value == "" {
		return res, false, false
	}
	for r.skip(); r.at < len(r.s) && r.s[r.at] != ';'; r.skip() {
		if !r.spec(&res) {
			return res, false, false
		}
	}
	if !known {
		res = Result{}
	}
	return res, false, !r.bad
}

// spec reads one reasonspec or propspec.
func (r *reader) spec(res *Result) bool {
	typ := strings.ToLower(r.keyword())
	switch {
	case typ == "":
		return false
	case typ == "reason" && r.byte('='):
		v, ok := r.word()
		res.Reason = v
		return ok
	case !r.byte('.'):
		return false
	}
	name := strings.ToLower(r.keyword())
	if name == "" || !r.byte('=') {
		return false
	}
	v, ok := r.pvalue()
	res.Props = append(res.Props, Property{typ, name, v})
	return ok
}

// skip skips CFWS.
func (r *reader) skip() {
	depth := 0
	for ; r.at < len(r.s); r.at++ {
		switch c := r.s[r.at]; {
		case c == '(':
			depth++
		case depth > 0 && c == ')':
			depth--
		case depth > 0 && c == '\\':
			r.at++
		case depth == 0 && c != ' ' && c != '\t' && c != '\r' && c != '\n':
			return
		}
	}
	r.at = len(r.s)
	r.bad = r.bad || depth > 0
}

// end reports whether nothing is left. A comment that does not end is not
// nothing.
func (r *reader) end() bool {
	r.skip()
	return r.at == len(r.s) && !r.bad
}

// byte reads c, if it comes next.
func (r *reader) byte(c byte) bool {
	r.skip()
	if r.at < len(r.s) && r.s[r.at] == c {
		r.at++
		return true
	}
	return false
}

func (r *reader) while(is func(byte) bool) string {
	r.skip()
	from := r.at
	for r.at < len(r.s) && is(r.s[r.at]) {
		r.at++
	}
	return r.s[from:r.at]
}

func (r *reader) keyword() string { return r.while(isKeyword) }

func (r *reader) digits() string {
	return r.while(func(c byte) bool { return '0' <= c && c <= '9' })
}

// word reads a value: a token or a quoted string.
func (r *reader) word() (string, bool) {
	r.skip()
	if r.at < len(r.s) && r.s[r.at] == '"' {
		return r.quoted()
	}
	s := r.while(isToken)
	return s, s != "" && !r.bad
}

// pvalue reads the value of a property: as word does, and addresses. Many write
// base64 and times without quotes, which no reader can mistake: so what is not
// quoted goes to the next white space, comment or semicolon.
func (r *reader) pvalue() (string, bool) {
	r.skip()
	var s string
	if r.at < len(r.s) && r.s[r.at] == '"' {
		q, ok := r.quoted()
		if !ok || r.at == len(r.s) || r.s[r.at] != '@' {
			return q, ok
		}
		s = `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(q) + `"` // a quoted local part
	}
	from := r.at
	for r.at < len(r.s) && r.s[r.at] > ' ' && strings.IndexByte(`;("\`, r.s[r.at]) < 0 {
		r.at++
	}
	s += r.s[from:r.at]
	return s, s != "" && !r.bad
}

// quoted reads a quoted string (RFC 5322, section 3.2.4), whose line breaks are
// folding.
func (r *reader) quoted() (string, bool) {
	var b strings.Builder
	for r.at++; r.at < len(r.s); r.at++ {
		switch c := r.s[r.at]; c {
		case '"':
			r.at++
			return b.String(), true
		case '\r', '\n':
		case '\\':
			if r.at++; r.at == len(r.s) {
				return "", false
			}
			b.WriteByte(r.s[r.at])
		default:
			b.WriteByte(c)
		}
	}
	r.bad = true
	return "", false
}
