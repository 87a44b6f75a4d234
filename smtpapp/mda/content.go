package mda

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/convert"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

// WithFields returns the message with the fields of its final delivery
// (RFC 5321, section 4.4; RFC 9228). A Return-Path that came with it would
// be taken for ours.
func WithFields(d *queue.Delivery, to mail.Address) *message.Message {
	m := d.Content.Fork()
	m.Header.Remove("Return-Path")
	m.Header.Prepend("Delivered-To", to.String())
	m.Header.Prepend("Return-Path", d.Envelope.From.Path())
	return m
}

// Content is a message on its way into a file or a program.
type Content struct {
	Message *message.Message
	// AsIs keeps line ends. Otherwise each CRLF is written as LF.
	AsIs bool

	binary bool // it was sent as BINARYMIME
}

// ContentFor is the content of a delivery as a mailbox has it.
func ContentFor(d *queue.Delivery, to mail.Address) Content {
	return Content{Message: WithFields(d, to), binary: d.Envelope.Body == mail.BodyBinary}
}

// open returns the content's reader, and whether its CR and LF mean themselves.
// What is binary becomes text, which readers of mailboxes and programs expect:
// NUL and lone CR and LF would not survive them. Where that would break a
// signature it stays as it is.
func (c *Content) open() (r io.ReadCloser, asIs bool, err error) {
	if !c.binary {
		r, err = c.Message.NewReader()
		return r, false, err
	}
	text, err := convert.New(c.Message, true, convert.Target{EightBit: true, UTF8: true, LongLines: true})
	if text != nil && err == nil {
		r, err = text.NewReader()
		return r, false, err
	}
	if _, refused := errors.AsType[*mail.Reply](err); refused {
		asIs, err = true, nil
	}
	if err == nil {
		r, err = c.Message.NewReader()
	}
	return r, asIs, err
}

// A ContentError is one of reading the message, not of where it goes.
type ContentError struct{ error }

// Unwrap returns the cause.
func (e ContentError) Unwrap() error { return e.error }

// Copy writes the content, until the attempt is called off.
func (c *Content) Copy(ctx context.Context, w io.Writer) error {
	r, asIs, err := c.open()
	if err != nil {
		return ContentError{err}
	}
	defer r.Close()
	b := buffers.Get().(*buffer)
	defer b.free()
	b.out.Reset(w)
	lines := &unixLines{w: b.out, keep: c.AsIs || asIs}
	if _, err := io.CopyBuffer(lines, source{ctx, r}, b.in); err != nil {
		return err
	}
	return lines.finish()
}

// A buffer is what copying takes: enough to be worth keeping.
type buffer struct {
	in  []byte
	out *bufio.Writer
}

var buffers = sync.Pool{New: func() any {
	return &buffer{make([]byte, 32<<10), bufio.NewWriterSize(nil, 32<<10)}
}}

func (b *buffer) free() {
	b.out.Reset(nil)
	buffers.Put(b)
}

// source reads until the attempt is called off.
type source struct {
	ctx context.Context
	r   io.Reader
}

// Read implements io.Reader.
func (s source) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, ContentError{err}
	}
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		err = ContentError{err}
	}
	return n, err
}

// unixLines writes each CRLF as LF.
type unixLines struct {
	w    *bufio.Writer
	keep bool // as they are
	cr   bool // the last octet was one, not yet written
}

// Write implements io.Writer.
func (u *unixLines) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		if u.cr && p[0] != '\n' {
			_ = u.w.WriteByte('\r') // Flush tells
		}
		u.cr = false
		i := bytes.IndexByte(p, '\r')
		if u.keep || i < 0 {
			i = len(p)
		}
		if _, err := u.w.Write(p[:i]); err != nil {
			return 0, err
		}
		u.cr = i < len(p)
		p = p[min(i+1, len(p)):]
	}
	return n, nil
}

func (u *unixLines) finish() error {
	if u.cr {
		_ = u.w.WriteByte('\r')
	}
	return u.w.Flush()
}

// FromLine is the line that begins a message in an mbox (RFC 4155, appendix A),
// without its end.
func FromLine(from mail.Address, t time.Time) string {
	sender := "MAILER-DAEMON"
	if !from.IsNull() {
		sender = strings.Map(func(r rune) rune {
			if r <= ' ' || r == 0x7f {
				return '-'
			}
			return r
		}, from.String())
	}
	return "From " + sender + " " + t.UTC().Format(time.ANSIC)
}
