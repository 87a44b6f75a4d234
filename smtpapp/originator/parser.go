package originator

import (
	"errors"
	"strings"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

// A parser reads an address list (RFC 5322, section 3.4). After what it does not
// understand it goes on, so that it finds every address that some reader may
// see.
type parser struct {
	lexer
	field string
	o     *Originator
	out   []Mailbox

	group   bool // within one
	members int  // elements of the group so far
	closed  bool // a group has just ended
}

func (p *parser) problem(k Kind, text string) { p.o.add(k, p.field, text) }

// list reads the whole field.
func (p *parser) list() {
	for end := tokenKind(','); end != tokenEnd; {
		end = p.element()
		if len(p.out) > MaxMailboxes {
			p.out = p.out[:MaxMailboxes]
			p.problem(TooMany, "more addresses than are read")
			return
		}
	}
	if p.broken {
		p.problem(Malformed, "comment not closed, or nested too deeply")
	}
	if p.group {
		p.problem(Malformed, "group not closed")
	}
}

// element reads one element of the list with what ends it, which it returns.
func (p *parser) element() tokenKind {
	var w words
	for {
		t := p.next()
		switch t.kind {
		case '<':
			return p.nameAddr(&w, t)
		case ':':
			p.openGroup(&w)
			w = words{}
		case ';', ',', tokenEnd:
			p.addrSpec(&w, t)
			if t.kind == ';' {
				p.closeGroup()
			}
			return t.kind
		default:
			w.add(p.s, t)
		}
	}
}

func (p *parser) openGroup(w *words) {
	switch {
	case p.group:
		p.problem(Malformed, "group in a group")
	case !w.phrase():
		p.problem(Malformed, "unexpected ':'")
	}
	p.problem(Group, "group of addresses")
	p.group, p.members, p.closed = true, 0, false
}

func (p *parser) closeGroup() {
	switch {
	case !p.group:
		p.problem(Malformed, "unexpected ';'")
	case p.members == 0:
		p.problem(EmptyGroup, "group without members")
	}
	p.group, p.closed = false, true
}

// count counts an element, which an ended group must be parted from.
func (p *parser) count() {
	if p.closed {
		p.problem(Malformed, "something follows a group")
	}
	p.members++
	p.closed = false
}

// addrSpec takes the words before end for an address without brackets.
func (p *parser) addrSpec(w *words, end token) {
	if w.n == 0 {
		if lone := end.kind == ';' && p.members == 0 || p.closed; !lone {
			p.problem(Malformed, "an address is missing")
		}
		p.closed = p.closed && end.kind != ','
		return
	}
	p.count()
	if a, ok := p.address(w); ok {
		p.mailbox(a, p.comment)
	}
}

// nameAddr reads what begins with "<", after the words of its name, up to what
// ends the element.
func (p *parser) nameAddr(w *words, open token) tokenKind {
	p.count()
	if open.gap == gapComment || w.comment || w.lead == gapComment {
		p.problem(Comment, "comment before an address")
	}
	if w.n > 0 && !w.phrase() {
		p.problem(Malformed, "display name")
		if a, ok := p.address(w); w.at && ok {
			p.mailbox(a, "")
		}
	}
	name := p.s[w.start:w.end]
	for {
		a, found := p.angle()
		t := p.next()
		if name == "" {
			name = p.comment
		}
		if found {
			p.mailbox(a, name)
		}
		for t.kind != ',' && t.kind != ';' && t.kind != tokenEnd && t.kind != '<' {
			p.problem(Malformed, "something follows an address")
			t = p.next()
		}
		if t.kind != '<' {
			if t.kind == ';' {
				p.closeGroup()
			}
			return t.kind
		}
		p.problem(Malformed, "something follows an address")
	}
}

// angle reads the address in angle brackets and the closing one.
func (p *parser) angle() (mail.Address, bool) {
	var w words
	t := p.next()
	if t.kind == '@' || t.kind == ',' {
		p.problem(Route, "source route")
		for t.kind != ':' && t.kind != '>' && t.kind != tokenEnd {
			t = p.next()
		}
		if t.kind == ':' {
			t = p.next()
		}
	}
	for ; t.kind != '>'; t = p.next() {
		if t.kind == tokenEnd {
			p.problem(Malformed, "'<' without '>'")
			break
		}
		w.add(p.s, t)
	}
	if t.gap == gapComment {
		p.problem(Comment, "comment in an address")
	}
	if w.n == 0 {
		p.problem(Malformed, "an address is missing")
		return mail.Address{}, false
	}
	return p.address(&w)
}

// address parses words as an addr-spec.
func (p *parser) address(w *words) (mail.Address, bool) {
	if w.comment || w.lead == gapComment {
		p.problem(Comment, "comment in an address")
	}
	if w.space {
		p.problem(Malformed, "white space in an address")
	}
	if w.pair || w.junk {
		p.problem(Malformed, "not an address")
		return mail.Address{}, false
	}
	s := string(w.text)
	if strings.Contains(s, "=?") {
		p.problem(EncodedWord, "encoded word in an address")
	}
	a, err := mail.ParseAddress(s)
	switch {
	case errors.Is(err, mail.ErrNotUTF8): // which is known of the field
	case errors.Is(err, mail.ErrScript):
		p.problem(Misleading, "misleading characters in an address")
	case err != nil:
		p.problem(Malformed, "not an address")
	}
	if err != nil {
		return mail.Address{}, false
	}
	if strings.ContainsAny(a.Local, "@<>,;:()[]\\\" ") {
		p.problem(QuotedLocal, "quoted special characters in an address")
	}
	if strings.HasPrefix(a.Domain, "[") {
		p.problem(DomainLiteral, "domain literal")
	}
	return a, true
}

// mailbox adds an address with its name.
func (p *parser) mailbox(a mail.Address, raw string) {
	if len(p.out) > MaxMailboxes { // as the list will find
		return
	}
	m := Mailbox{Address: a}
	if len(raw) > maxName {
		p.problem(DisplayName, "very long display name")
	} else if raw != "" {
		m.Name = p.name(raw)
		if deceives(m.Name, a) {
			p.problem(DisplayName, "the display name shows another address")
		}
	}
	p.out = append(p.out, m)
}

// words are the tokens of a display name or an address.
type words struct {
	start, end int
	n          int
	last       tokenKind
	lead       gap  // before the first
	space      bool // between two of them
	comment    bool // likewise
	pair       bool // two words side by side, with nothing or white space between
	at, junk   bool
	literal    bool
	text       []byte // of all, without what is between, as far as an address goes
}

func (w *words) add(s string, t token) {
	if w.n++; w.n == 1 {
		w.start, w.lead = t.start, t.gap
	} else {
		w.space = w.space || t.gap == gapSpace
		w.comment = w.comment || t.gap == gapComment
		w.pair = w.pair || isWord(w.last) && isWord(t.kind)
	}
	w.end, w.last = t.end, t.kind
	switch t.kind {
	case tokenAtom, tokenQuoted, '.':
	case '@':
		w.at = true
	case tokenLiteral:
		w.literal = true
	default:
		w.junk = true
	}
	if len(w.text) <= mail.MaxPath {
		w.text = append(w.text, s[t.start:min(t.end, t.start+mail.MaxPath)]...)
	}
}

func isWord(k tokenKind) bool {
	return k == tokenAtom || k == tokenQuoted || k == tokenLiteral
}

// phrase reports whether they can be a name. Dots without quotes are obsolete
// (RFC 5322, section 4.1), but nobody misunderstands "John Q. Public".
func (w *words) phrase() bool { return w.n > 0 && !w.at && !w.junk && !w.literal }
