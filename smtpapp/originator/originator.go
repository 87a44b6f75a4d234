// Package originator is the one strict reading of who a message says it is
// from: From, Sender, Reply-To and the Resent fields (RFC 5322, sections 3.6.2
// and 3.6.6, RFC 6854 and RFC 6532). Programs that guess at what is not well
// formed guess differently, so that a check sees one author and the reader
// another. Whoever decides by these fields decides by this reading, and by the
// problems that it found. It knows nothing of envelopes, and refuses nothing.
package originator

import (
	"strings"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

// An Originator is what a header says of its author and senders.
type Originator struct {
	// From are the authors: of all From fields from the top, and of groups in
	// them.
	From []Mailbox
	// Sender is that of the topmost Sender field that has one, or nil.
	Sender *Mailbox
	// ReplyTo is where answers shall go.
	ReplyTo []Mailbox
	// Resent are the blocks of Resent fields, the latest first.
	Resent []Resent
	// Problems are what readers may stumble over, each kind once for a field
	// name.
	Problems []Problem
}

// A Resent is a block of Resent fields (RFC 5322, section 3.6.6).
type Resent struct {
	From   []Mailbox
	Sender *Mailbox
}

// A Mailbox is an address and the name that is shown with it.
type Mailbox struct {
	// Name is the display name, or the comment that stands for it, decoded; ""
	// for none. Octets in charsets other than UTF-8 and ISO 8859-1 are U+FFFD.
	Name    string
	Address mail.Address
}

// Bounds. What is beyond them is a problem, and not read.
const (
	MaxMailboxes = 100  // of one kind of field
	maxBlocks    = 20   // of Resent fields
	maxName      = 1000 // octets of a display name that is decoded
	maxNesting   = 20   // of comments
)

// once are the fields that a header may have only one of (RFC 5322, section
// 3.6), by their names in lower case.
var once = map[string]bool{
	"from": true, "sender": true, "reply-to": true, "to": true, "cc": true, "bcc": true, "date": true,
	"subject": true, "message-id": true, "in-reply-to": true, "references": true,
}

// resentFields are those of a Resent block (RFC 5322, section 3.6.6), likewise.
var resentFields = map[string]bool{
	"resent-from": true, "resent-sender": true, "resent-to": true, "resent-cc": true, "resent-bcc": true,
	"resent-date": true, "resent-message-id": true,
}

// Read reads the originator fields of a header.
func Read(h *message.Header) *Originator {
	r := &reading{o: new(Originator), count: map[string]int{}}
	for f := range h.Fields() {
		r.field(f)
	}
	o := r.o
	switch {
	case r.count["from"] == 0:
		o.add(NoFrom, "From", "no From field")
	case len(o.From) > 1:
		o.add(SeveralAddresses, "From", "several authors")
		if o.Sender == nil {
			o.add(NoSender, "From", "several authors and no Sender")
		}
	}
	return o
}

// Author returns the only author, if there is just one and every reader sees
// the same.
func (o *Originator) Author() (mail.Address, bool) {
	if len(o.From) != 1 || o.has(func(p Problem) bool { return p.Kind.Ambiguous() && (p.Field == "From" || p.Field == "") }) {
		return mail.Address{}, false
	}
	return o.From[0].Address, true
}

// Domains returns the domains of all authors, each once.
func (o *Originator) Domains() []string {
	var ds []string
	seen := map[string]bool{}
	for _, m := range o.From {
		if d := m.Address.Domain; !seen[d] {
			seen[d] = true
			ds = append(ds, d)
		}
	}
	return ds
}

// Has reports whether a problem of that kind was found.
func (o *Originator) Has(k Kind) bool {
	return o.has(func(p Problem) bool { return p.Kind == k })
}

// Ambiguous returns the first problem over which readers disagree on who the
// originators are.
func (o *Originator) Ambiguous() (Problem, bool) {
	for _, p := range o.Problems {
		if p.Kind.Ambiguous() {
			return p, true
		}
	}
	return Problem{}, false
}

func (o *Originator) has(is func(Problem) bool) bool {
	for _, p := range o.Problems {
		if is(p) {
			return true
		}
	}
	return false
}

// add adds a problem, unless its kind is known of the field.
func (o *Originator) add(k Kind, field, text string) {
	if !o.has(func(p Problem) bool { return p.Kind == k && p.Field == field }) {
		o.Problems = append(o.Problems, Problem{k, field, text})
	}
}

// A reading goes through the fields of a header from the top.
type reading struct {
	o     *Originator
	count map[string]int  // of the fields in once
	block map[string]bool // Resent fields of the current block, nil outside of one
}

func (r *reading) field(f message.Field) {
	name := strings.ToLower(f.Name())
	resent := resentFields[name]
	if !resent {
		r.block = nil
	}
	if !once[name] && !resent {
		r.shape(f, "")
		return
	}
	r.shape(f, canonical(name))
	if resent {
		r.resent(f, name)
		return
	}
	if r.count[name]++; r.count[name] == 2 {
		r.repeated(name)
	}
	switch name {
	case "from":
		r.o.From = r.mailboxes(f, "From", r.o.From)
	case "sender":
		ms := r.single(f, "Sender")
		if r.o.Sender == nil && len(ms) > 0 {
			r.o.Sender = &ms[0]
		}
	case "reply-to":
		r.o.ReplyTo = r.mailboxes(f, "Reply-To", r.o.ReplyTo)
	}
}

// shape looks at how a field is written, apart from what is in it. The name is
// "" for a field that says nothing of originators, but may hide one that does.
func (r *reading) shape(f message.Field, name string) {
	if strings.IndexByte(f.Raw(), 0) >= 0 {
		r.o.add(NUL, name, "NUL in the header")
	}
	if name != "" && f.Malformed() {
		r.o.add(SpaceBeforeColon, name, "white space before the colon")
	}
	if blankLine(f.Raw()) {
		r.o.add(BlankLine, name, "a line of nothing but white space in the header")
	}
}

func (r *reading) repeated(name string) {
	switch name {
	case "from":
		r.o.add(SeveralFrom, "From", "more than one From field")
	case "sender":
		r.o.add(SeveralSender, "Sender", "more than one Sender field")
	default:
		r.o.add(Duplicate, canonical(name), "more than one "+canonical(name)+" field")
	}
}

// resent reads one of the Resent fields. A block ends where a field is there
// for the second time, and at any other field.
func (r *reading) resent(f message.Field, name string) {
	if r.block == nil || r.block[name] {
		r.block = map[string]bool{}
	}
	r.block[name] = true
	if name != "resent-from" && name != "resent-sender" {
		return
	}
	if !r.block["resent-from"] || !r.block["resent-sender"] { // the first of the two in its block
		if len(r.o.Resent) == maxBlocks {
			r.o.add(TooMany, "Resent-From", "resent too often")
			return
		}
		r.o.Resent = append(r.o.Resent, Resent{})
	}
	b := &r.o.Resent[len(r.o.Resent)-1]
	if name == "resent-from" {
		b.From = r.mailboxes(f, "Resent-From", nil)
	} else if ms := r.single(f, "Resent-Sender"); len(ms) > 0 {
		b.Sender = &ms[0]
	}
}

// single reads a field that has one mailbox.
func (r *reading) single(f message.Field, name string) []Mailbox {
	ms := r.mailboxes(f, name, nil)
	if len(ms) > 1 {
		r.o.add(Malformed, name, "more than one address")
	}
	return ms
}

// mailboxes appends the mailboxes of a field to ms.
func (r *reading) mailboxes(f message.Field, name string, ms []Mailbox) []Mailbox {
	v := f.Value()
	r.octets(v, name)
	p := &parser{lexer: lexer{s: v}, field: name, o: r.o, out: ms}
	p.list()
	return p.out
}

// octets looks for what may not be in a field, whatever the syntax.
func (r *reading) octets(v, name string) {
	eight := false
	for i := range len(v) {
		switch c := v[i]; {
		case c != 0 && c < ' ' && c != '\t' || c == 0x7f:
			r.o.add(Control, name, "control character")
		case c >= 0x80:
			eight = true
		}
	}
	if eight {
		r.o.add(EightBit, name, "characters that are not ASCII")
		if strings.ToValidUTF8(v, "") != v {
			r.o.add(NotUTF8, name, "octets that are not UTF-8")
		}
	}
}

// blankLine reports a line with nothing but white space below a field's first,
// which some readers take for the end of the header (RFC 5322, section 4.2).
func blankLine(raw string) bool {
	for {
		i := strings.Index(raw, "\r\n")
		if i < 0 || i+2 == len(raw) {
			return false
		}
		raw = raw[i+2:]
		line, _, _ := strings.Cut(raw, "\r\n")
		if strings.Trim(line, " \t") == "" {
			return true
		}
	}
}

// canonical writes a name in lower case as RFC 5322 does.
func canonical(name string) string {
	switch name {
	case "message-id":
		return "Message-ID"
	case "resent-message-id":
		return "Resent-Message-ID"
	}
	b := []byte(name)
	up := true
	for i, c := range b {
		if up && 'a' <= c && c <= 'z' {
			b[i] = c - 'a' + 'A'
		}
		up = c == '-'
	}
	return string(b)
}
