package convert

import (
	"bytes"
	"io"

	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

// A visitor hears of what a message is made of, in its order.
type visitor interface {
	// entity begins the message, a part, or a message that a part has.
	entity(e *entity) error
	// data is a fragment of the body of what is not a container.
	data(f fragment) error
	// end ends that body. If it is delimited, the end of its last line belongs to
	// what comes next.
	end(delimited bool) error
	// aside is a fragment that no reader is shown: before the first part, or
	// behind the last.
	aside(f fragment, signed bool) error
	// delimiter is a line between parts, or behind the last.
	delimiter(boundary string, closes bool, f fragment, signed bool)
}

// A level is a multipart that the walker is in.
type level struct {
	boundary string
	nested   int  // messages within messages around it, and multiparts
	signed   bool // it is, or something around it
	digest   bool // its parts are messages unless they say otherwise
}

type state uint8

const (
	inHeader state = iota
	inBody
	inAside
)

// A walker takes a message apart.
type walker struct {
	visitor visitor
	body    io.Closer
	in      lines
	done    bool

	state  state
	stack  []level
	header []byte
	midway bool // the last fragment of the header has not ended its line
	parts  int

	// Of the entity that is read, or comes next.
	nested  int
	signed  bool
	message bool // its default type is message/rfc822
	inner   bool // it is a message of its own, not a part
}

func (w *walker) close() error { return w.body.Close() }

// begin takes the header of the message itself, which was read before.
func (w *walker) begin(h *message.Header) error { return w.enter(&entity{header: h, top: true}) }

// step reads on by a fragment.
func (w *walker) step() error {
	f, err := w.in.next()
	if err != nil {
		return err
	}
	if b, closes, depth := w.delimiter(f); depth >= 0 {
		if err = w.leave(true); err == nil {
			w.part(depth, b, closes, f)
		}
	} else {
		err = w.read(f)
	}
	if err == nil && f.last {
		w.done = true
		err = w.leave(false)
	}
	return err
}

// delimiter tells whether a fragment is a delimiter of some multipart. The
// outermost that it fits is meant (RFC 2046, section 5.1.2).
func (w *walker) delimiter(f fragment) (boundary string, closes bool, depth int) {
	if !f.start || !f.eol && !f.last || !bytes.HasPrefix(f.data, []byte("--")) {
		return "", false, -1
	}
	line := bytes.TrimRight(f.data[2:], " \t")
	for i := range w.stack {
		b := w.stack[i].boundary
		if len(line) < len(b) || string(line[:len(b)]) != b {
			continue
		}
		switch rest := line[len(b):]; string(rest) {
		case "":
			return b, false, i
		case "--":
			return b, true, i
		}
	}
	return "", false, -1
}

// part goes on with the next part of the multipart at depth, or behind its last.
func (w *walker) part(depth int, boundary string, closes bool, f fragment) {
	l := w.stack[depth]
	w.visitor.delimiter(boundary, closes, f, l.signed)
	w.stack = w.stack[:depth+1]
	w.nested, w.signed, w.message, w.inner = l.nested, l.signed, l.digest, false
	w.state = inHeader
	if closes {
		w.stack = w.stack[:depth]
		w.state = inAside
	}
}

// leave ends what is being read.
func (w *walker) leave(delimited bool) error {
	was := w.state
	w.state = inAside
	switch was {
	case inHeader:
		if err := w.parse(true); err != nil {
			return err
		}
		return w.leave(delimited) // of what the header began
	case inBody:
		return w.visitor.end(delimited)
	}
	return nil
}

// read takes a fragment that is no delimiter.
func (w *walker) read(f fragment) error {
	switch w.state {
	case inAside:
		return w.visitor.aside(f, len(w.stack) > 0 && w.stack[len(w.stack)-1].signed)
	case inBody:
		return w.visitor.data(f)
	}
	switch {
	case f.last && len(f.data) == 0:
		return nil
	case w.midway, f.start && continues(f.data) && len(w.header) > 0, f.start && isField(f.data):
		if len(w.header)+len(f.data) > maxHeader {
			return errComplex
		}
		w.header = append(w.header, f.data...)
		if w.midway = !f.eol && !f.last; !w.midway {
			w.header = append(w.header, "\r\n"...)
		}
		return nil
	case len(f.data) == 0 && f.eol:
		return w.parse(false)
	}
	if err := w.parse(true); err != nil {
		return err
	}
	return w.read(f)
}

// parse ends the header that was read.
func (w *walker) parse(cut bool) error {
	h, rest, err := message.ParseHeader(w.header)
	if err != nil || len(rest) > 0 || h.HasNUL() {
		return errMalformed
	}
	w.header, w.midway = w.header[:0], false
	return w.enter(&entity{header: h, cut: cut, inner: w.inner, implied: w.message})
}

// enter begins the body behind a header.
func (w *walker) enter(e *entity) error {
	if w.parts++; w.parts > maxParts {
		return errComplex
	}
	e.signed = w.signed
	e.classify()
	if e.kind == multipart || e.kind == nestedMessage {
		if w.nested++; w.nested > maxDepth {
			return errComplex
		}
	}
	if err := w.visitor.entity(e); err != nil {
		return err
	}
	switch e.kind {
	case multipart:
		w.stack = append(w.stack, level{e.boundary, w.nested, w.signed || e.subtype == "signed", e.subtype == "digest"})
		w.state = inAside
	case nestedMessage:
		w.message, w.inner = false, true
		w.state = inHeader
	default:
		w.state = inBody
	}
	return nil
}

func continues(line []byte) bool { return len(line) > 0 && (line[0] == ' ' || line[0] == '\t') }

// isField reports whether a line begins a header field (RFC 5322, section 2.2).
func isField(line []byte) bool {
	line = line[:min(len(line), maxLine)]
	i := 0
	for i < len(line) && line[i] > ' ' && line[i] < 0x7f && line[i] != ':' {
		i++
	}
	name := i
	for i < len(line) && (line[i] == ' ' || line[i] == '\t') {
		i++
	}
	return name > 0 && i < len(line) && line[i] == ':'
}
