// Package convert rewrites content for next hops that take less than it has: no
// 8-bit octets, none that are binary, or no header in UTF-8 (RFC 6152, section
// 3; RFC 3030, section 3; RFC 6531, section 3.2). Each MIME part is encoded by
// itself, so that whoever reads the message finds the same parts with the same
// content. It reads a message as often as it needs and holds no more of it than
// a part's header. The same message always becomes the same, whatever the
// attempt. It knows nothing of hosts and queues.
package convert

import (
	"bufio"
	"fmt"
	"io"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

// A Target is what a next hop takes.
type Target struct {
	// EightBit takes 8-bit octets in lines of text (8BITMIME).
	EightBit bool

	// UTF8 takes header fields as they are (SMTPUTF8). Without it they are made
	// ASCII, those of parts too.
	UTF8 bool

	// LongLines takes lines of more than 998 octets, which RFC 5321, section
	// 4.5.3.1.6, does not let anybody count on.
	LongLines bool
}

// Bounds of what is taken apart. What is over them is not converted.
const (
	maxLine   = 998 // octets without CRLF
	maxDepth  = 50  // parts within parts
	maxParts  = 10_000
	maxHeader = 64 << 10 // octets of the header of a part
	bufSize   = 4 << 10
)

// Why content cannot be converted (RFC 3463, section 3.7; RFC 6531, section 3.5).
var (
	errSigned    = mail.Refuse(554, "5.6.2", "to convert the message for the next hop would break its signature")
	errEncoding  = mail.Refuse(554, "5.6.3", "the next hop cannot take this content, whose encoding is not known")
	errPartial   = mail.Refuse(554, "5.6.3", "the next hop cannot take this content, which is of a kind that cannot be encoded")
	errMalformed = mail.Refuse(554, "5.6.5", "the message cannot be converted for the next hop: it is not well-formed MIME")
	errComplex   = mail.Refuse(554, "5.6.5", "the message cannot be converted for the next hop: it has too many parts, or too deep ones")
	errAddress   = mail.Refuse(550, "5.6.7", "an address in the header needs SMTPUTF8, which the next hop does not support")
)

// A Content is a message as a Target takes it.
type Content struct {
	m      *message.Message
	binary bool
	target Target
	plan   []deed
	eight  bool // 8-bit octets are left
	size   int64
}

// New decides how to convert a message. With binary, octets of the body mean
// themselves, as BODY=BINARYMIME has it. It returns nil if the target takes the
// message as it is, and a *mail.Reply if it cannot be converted; other errors
// are of reading it.
func New(m *message.Message, binary bool, t Target) (*Content, error) {
	a := &analyst{target: t}
	w, err := walk(m, binary, a)
	if err != nil {
		return nil, err
	}
	defer func() { _ = w.close() }()
	for !w.done {
		if err := w.step(); err != nil {
			return nil, err
		}
	}
	if !a.changes {
		return nil, nil
	}
	c := &Content{m: m, binary: binary, target: t, plan: a.plan, eight: a.eight}
	r, err := c.NewReader()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	c.size, err = io.Copy(io.Discard, r)
	return c, err
}

// Body is what the content is now.
func (c *Content) Body() mail.Body {
	if c.eight {
		return mail.Body8Bit
	}
	return mail.Body7Bit
}

// Size returns the octets of the converted content.
func (c *Content) Size() int64 { return c.size }

// NewReader reads the converted content from its start.
func (c *Content) NewReader() (io.ReadCloser, error) {
	wr := &writer{plan: c.plan, target: c.target}
	w, err := walk(c.m, c.binary, wr)
	if err != nil {
		return nil, err
	}
	return &reader{w: w, out: wr}, nil
}

// reader is converted content, made as it is read.
type reader struct {
	w   *walker
	out *writer
}

func (r *reader) Read(p []byte) (int, error) {
	for r.out.buf.Len() == 0 {
		if r.w.done {
			return 0, io.EOF
		}
		if err := r.w.step(); err != nil {
			return 0, err
		}
	}
	return r.out.buf.Read(p)
}

func (r *reader) Close() error { return r.w.close() }

// walk begins to take a message apart.
func walk(m *message.Message, binary bool, v visitor) (*walker, error) {
	body, err := m.Body().NewReader()
	if err != nil {
		return nil, fmt.Errorf("read content: %w", err)
	}
	w := &walker{visitor: v, body: body, in: lines{r: bufio.NewReaderSize(body, bufSize), binary: binary, start: true}}
	if err := w.begin(m.Header); err != nil {
		return nil, err
	}
	return w, nil
}
