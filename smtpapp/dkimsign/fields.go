package dkimsign

import (
	"strings"

	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

// Fields are the names of the header fields that a signature covers. All fields
// of a name are signed. A name that is over-signed is listed once more than
// there are fields, so that another one that is put in later breaks the
// signature (RFC 6376, section 8.15).
type Fields struct {
	names   []string // in lower case with a colon, in their order in the h= tag
	written []string // as most write them
	over    []over
	none    []int // as many zeros
	// index has the names of each bucket.
	index [64][]uint8
}

type over uint8

const (
	never   over = iota
	present      // over-signed if there is one
	always
)

// DefaultFields cover what a reader is shown or decides by.
//
// Those that every message may have once are over-signed: a second one, or a
// first one where there was none, would change what is shown, how the body is
// read, to whom an answer goes, or which thread it is in. Sender and the List
// fields (RFC 2369, 2919, 8058) are not over-signed where there is none, since
// mailing lists add them and mean no harm; a second one would. Resent fields
// come in blocks, and whoever resends adds a further one (RFC 5322, section
// 3.6.6), so they are signed as they are. Trace fields and signatures change on
// the way and are left out (RFC 6376, section 5.4.1).
var DefaultFields = NewFields(
	[]string{
		"From", "Reply-To", "Subject", "Date", "To", "Cc", "Message-ID", "In-Reply-To", "References",
		"MIME-Version", "Content-Type", "Content-Transfer-Encoding",
	},
	[]string{
		"Sender", "Content-Disposition", "Content-ID", "Content-Description", "Content-Language",
		"List-ID", "List-Unsubscribe", "List-Unsubscribe-Post", "List-Post", "List-Help", "List-Subscribe",
		"List-Owner", "List-Archive", "Auto-Submitted", "Importance", "Priority", "Disposition-Notification-To",
		"Autocrypt", "Feedback-ID", "TLS-Required",
	},
	[]string{"Resent-From", "Resent-Sender", "Resent-Date", "Resent-To", "Resent-Cc", "Resent-Message-ID"},
)

// NewFields returns the fields that are always over-signed, those that are if
// there is one, and those that are only signed. From is always over-signed.
func NewFields(alwaysOver, presentOver, only []string) *Fields {
	f := new(Fields)
	f.add([]string{"From"}, always)
	f.add(alwaysOver, always)
	f.add(presentOver, present)
	f.add(only, never)
	return f
}

// With returns the fields and others, which are over-signed if there is one.
func (f *Fields) With(names ...string) *Fields { return f.and(names, present) }

// Also returns the fields and others, which are only signed.
func (f *Fields) Also(names ...string) *Fields { return f.and(names, never) }

func (f *Fields) and(names []string, o over) *Fields {
	g := new(Fields)
	for i, n := range f.written {
		g.add([]string{n}, f.over[i])
	}
	g.add(names, o)
	return g
}

func (f *Fields) add(names []string, o over) {
	for _, n := range names {
		if f.find(n) >= 0 {
			continue
		}
		h := bucket(n)
		f.index[h] = append(f.index[h], uint8(len(f.names)))
		f.names, f.over = append(f.names, strings.ToLower(n)+":"), append(f.over, o)
		f.written, f.none = append(f.written, n), append(f.none, 0)
	}
}

// find returns the index of a field's name, or -1. Most are written as here.
func (f *Fields) find(name string) int {
	for _, i := range f.index[bucket(name)] {
		if n := f.written[i]; n == name || len(n) == len(name) && strings.EqualFold(n, name) {
			return int(i)
		}
	}
	return -1
}

// bucket tells most names apart by their length and their last octet, without
// its case.
func bucket(name string) uint8 {
	if name == "" {
		return 0
	}
	return (5*uint8(len(name)) + name[len(name)-1] | 0x20) % 64
}

// picked is what of a header is signed, and room for its canonical form and for
// the field that is being made.
type picked struct {
	names []string // of the h= tag, each with a colon
	raws  []string // the fields in that order
	from  bool

	hits          []hit
	lowest        []int
	signed, field []byte
}

// A hit is a field, and the one above it of the same name, plus 1.
type hit struct {
	raw  string
	next int
}

// pick takes the fields of each name from the bottom, as verifiers do (RFC 6376,
// section 5.4.2).
func (f *Fields) pick(h *message.Header, p *picked) {
	p.names, p.raws, p.hits, p.lowest = p.names[:0], p.raws[:0], p.hits[:0], p.lowest[:0]
	p.lowest = append(p.lowest, f.none...)
	for fd := range h.Fields() {
		if i := f.find(fd.Name()); i >= 0 {
			p.hits = append(p.hits, hit{fd.Raw(), p.lowest[i]})
			p.lowest[i] = len(p.hits)
		}
	}
	for i, n := range f.names {
		for j := p.lowest[i]; j > 0; j = p.hits[j-1].next {
			p.raws = append(p.raws, p.hits[j-1].raw)
			p.names = append(p.names, n)
		}
		if f.over[i] == always || f.over[i] == present && p.lowest[i] > 0 {
			p.names = append(p.names, n)
		}
	}
	p.from = p.lowest[0] > 0
}
