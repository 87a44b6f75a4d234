// Package message is the content of a mail object (RFC 5321, section 2.3.1):
// a header that handlers edit and a body that is kept as it came, in memory
// while it is small and in a file from then on. It can be read as often as
// anyone likes.
package message

import (
	"io"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

// An Object is a mail object: an envelope and its content.
type Object struct {
	// ID is the transaction's. Forks of one content share it.
	ID       string
	Envelope *mail.Envelope
	Content  *Message
}

// A Message is content: a header block and a body. Forks share the body.
type Message struct {
	Header *Header
	body   *Body
}

// New returns the message of a header and a body.
func New(h *Header, b *Body) *Message { return &Message{h, b} }

// Body returns the body, which begins after the empty line.
func (m *Message) Body() *Body { return m.body }

// Fork returns a message with a header of its own over the same body.
func (m *Message) Fork() *Message { return &Message{m.Header.Clone(), m.body} }

// Replace puts the header and the body of another message in the place of its
// own.
func (m *Message) Replace(by *Message) { m.Header, m.body = by.Header, by.body }

// Size returns the octets of header, empty line and body.
func (m *Message) Size() int64 { return int64(m.Header.Size()) + m.body.Size() }

// NewReader reads header, empty line and body.
func (m *Message) NewReader() (io.ReadCloser, error) {
	b, err := m.body.NewReader()
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.MultiReader(m.Header.NewReader(), b), b}, nil
}
