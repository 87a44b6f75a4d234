package originator

import "strings"

// A token is a lexical token of RFC 5322, section 3.2, as it stands in the
// field.
type token struct {
	kind       tokenKind
	start, end int
	gap        gap // what there was before it
}

type tokenKind byte

// The kinds of tokens; a special is its own character.
const (
	tokenEnd     tokenKind = 0
	tokenAtom    tokenKind = 'a'
	tokenQuoted  tokenKind = '"'
	tokenLiteral tokenKind = '['
	tokenJunk    tokenKind = '!' // what can't be there
)

// A gap is what stands between two tokens.
type gap byte

const (
	gapNone gap = iota
	gapSpace
	gapComment
)

// A lexer splits an unfolded field body into tokens. It looks at each octet
// once, and never fails: what is no token is junk.
type lexer struct {
	s       string
	pos     int
	comment string // the last one before the latest token, without its parentheses
	broken  bool   // a comment was not closed, or nested too deeply
}

func (l *lexer) next() token {
	l.comment = ""
	g := l.skip()
	t := token{start: l.pos, gap: g}
	if l.pos == len(l.s) {
		t.end = l.pos
		return t
	}
	switch c := l.s[l.pos]; {
	case c == '"':
		t.kind = l.delimited('"', tokenQuoted)
	case c == '[':
		t.kind = l.delimited(']', tokenLiteral)
	case strings.IndexByte("<>@,;:.", c) >= 0:
		t.kind = tokenKind(c)
		l.pos++
	case isAtext(c):
		t.kind = tokenAtom
		for l.pos < len(l.s) && isAtext(l.s[l.pos]) {
			l.pos++
		}
	default:
		t.kind = tokenJunk
		l.pos++
	}
	t.end = l.pos
	return t
}

// delimited reads up to the delimiter, over quoted pairs.
func (l *lexer) delimited(end byte, k tokenKind) tokenKind {
	for l.pos++; l.pos < len(l.s); l.pos++ {
		switch c := l.s[l.pos]; {
		case c == end:
			l.pos++
			return k
		case c == '\\' && l.pos+1 < len(l.s):
			l.pos++
		}
	}
	return tokenJunk
}

// skip skips white space and comments.
func (l *lexer) skip() gap {
	g := gapNone
	for l.pos < len(l.s) {
		switch l.s[l.pos] {
		case ' ', '\t':
			g = max(g, gapSpace)
			l.pos++
		case '(':
			g = gapComment
			l.skipComment()
		default:
			return g
		}
	}
	return g
}

func (l *lexer) skipComment() {
	start := l.pos + 1
	depth := 0
	for ; l.pos < len(l.s); l.pos++ {
		switch l.s[l.pos] {
		case '\\':
			l.pos++
		case '(':
			if depth++; depth > maxNesting {
				l.broken = true
			}
		case ')':
			if depth--; depth == 0 {
				l.comment = l.s[start:l.pos]
				l.pos++
				return
			}
		}
	}
	l.pos = len(l.s)
	l.broken = true
}

// isAtext is RFC 5322's, section 3.2.3, with what RFC 6532 adds.
func isAtext(c byte) bool {
	switch {
	case c >= 0x80, c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		return true
	}
	return strings.IndexByte("!#$%&'*+-/=?^_`{|}~", c) >= 0
}
