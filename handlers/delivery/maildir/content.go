package maildir

import (
	"bufio"
	"bytes"
	"context"
	"io"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

// withFields returns the message with the fields of its final delivery
// (RFC 5321, section 4.4; RFC 9228). A Return-Path that came with it would
// be taken for ours.
func withFields(d *queue.Delivery, to mail.Address) *message.Message {
	m := d.Content.Fork()
	m.Header.Remove("Return-Path")
	m.Header.Prepend("Delivered-To", to.String())
	m.Header.Prepend("Return-Path", d.Envelope.From.Path())
	return m
}

// content is a message on its way into a file.
type content struct {
	ctx     context.Context
	message *message.Message
	binary  bool // CR and LF mean themselves
}

// A contentError is one of reading the message, not of the mailbox.
type contentError struct{ error }

// Unwrap returns the cause.
func (e contentError) Unwrap() error { return e.error }

func (c *content) writeTo(w io.Writer) error {
	r, err := c.message.NewReader()
	if err != nil {
		return contentError{err}
	}
	defer r.Close()
	lines := &unixLines{w: bufio.NewWriterSize(w, 32<<10), keep: c.binary}
	if _, err := io.Copy(lines, source{c.ctx, r}); err != nil {
		return err
	}
	return lines.finish()
}

// source reads until the attempt is called off.
type source struct {
	ctx context.Context
	r   io.Reader
}

// Read implements io.Reader.
func (s source) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, contentError{err}
	}
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		err = contentError{err}
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
