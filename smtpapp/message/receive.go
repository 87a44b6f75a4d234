package message

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

// A Spool makes files for bodies that are too big for memory.
type Spool interface {
	// Create makes a fresh file that nobody else can read.
	Create() (*os.File, error)
}

// Limits bound what Receive takes, in octets and fields. Zero is no limit.
type Limits struct {
	Size         int64 // of the content
	HeaderSize   int   // of the header block
	HeaderFields int   // their number
	FieldSize    int   // of one field

	// Memory is how much of a body is kept in memory; a bigger one goes to the
	// spool. Zero is 32 KiB.
	Memory int
}

const (
	defaultMemory = 32 << 10
	firstRead     = 8 << 10
	spoolWrite    = 64 << 10
)

// Receive reads content to its end. A limit that it exceeds is a *mail.Reply,
// and Receive then leaves the rest of r unread. Other errors are r's or the
// spool's. After an error nothing is left behind. Without a spool the whole
// body stays in memory.
func Receive(r io.Reader, l Limits, sp Spool) (*Message, error) {
	if l.Memory <= 0 {
		l.Memory = defaultMemory
	}
	in := input{r: r, limit: l.Size, buf: make([]byte, 0, firstRead)}
	s := scanner{limits: l}
	for done := false; !done; {
		err := in.fill()
		if err == nil {
			done, err = s.scan(in.buf, in.eof)
		}
		if err != nil {
			return nil, err
		}
	}
	h := s.header(in.buf)
	b, err := in.body(s.body, l.Memory, sp)
	if err != nil {
		return nil, err
	}
	return New(h, b), nil
}

// Parse returns the message of content that is in memory. The body is b's own
// octets, which must not change any more.
func Parse(b []byte) (*Message, error) {
	h, rest, err := ParseHeader(b)
	if err != nil {
		return nil, err
	}
	return New(h, NewBody(rest)), nil
}

// input is content on its way in.
type input struct {
	r     io.Reader
	limit int64
	total int64
	buf   []byte
	eof   bool
}

// fill reads more into buf, which grows if it is full.
func (in *input) fill() error {
	if len(in.buf) == cap(in.buf) {
		in.buf = append(make([]byte, 0, 2*cap(in.buf)), in.buf...)
	}
	for range 100 {
		n, err := in.r.Read(in.buf[len(in.buf):cap(in.buf)])
		in.buf = in.buf[:len(in.buf)+n]
		in.total += int64(n)
		switch {
		case in.limit > 0 && in.total > in.limit:
			return mail.Refuse(552, "5.3.4", "message of more than %d octets", in.limit)
		case errors.Is(err, io.EOF):
			in.eof = true
			return nil
		case err != nil:
			return fmt.Errorf("read content: %w", err)
		case n > 0:
			return nil
		}
	}
	return fmt.Errorf("read content: %w", io.ErrNoProgress)
}

// body reads the rest of the content, which begins at buf[start].
func (in *input) body(start, memory int, sp Spool) (*Body, error) {
	for {
		if sp != nil && len(in.buf)-start > memory {
			return in.spill(in.buf[start:], sp)
		}
		if in.eof {
			break
		}
		if err := in.fill(); err != nil {
			return nil, err
		}
	}
	b := in.buf[start:]
	if cap(in.buf) > 2*len(b)+defaultMemory/4 { // the header took most of it
		b = bytes.Clone(b)
	}
	return NewBody(b), nil
}

var spoolBuffers = sync.Pool{New: func() any { return new([spoolWrite]byte) }}

// spill writes the body to a file from here on; head is what came of it so far.
func (in *input) spill(head []byte, sp Spool) (b *Body, err error) {
	f, err := sp.Create()
	if err != nil {
		return nil, fmt.Errorf("spool content: %w", err)
	}
	w := &spoolFile{f: f, digest: newDigest()}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	room := spoolBuffers.Get().(*[spoolWrite]byte)
	defer spoolBuffers.Put(room)
	defer func() { in.buf = nil }()
	buf := room[:0]
	if len(head) < spoolWrite {
		buf = append(buf, head...)
	} else if err := w.write(head); err != nil {
		return nil, err
	}
	for in.buf = buf; ; {
		if len(in.buf) == spoolWrite || in.eof {
			if err := w.write(in.buf); err != nil {
				return nil, err
			}
			in.buf = in.buf[:0]
		}
		if in.eof {
			return w.body(), nil
		}
		if err := in.fill(); err != nil {
			return nil, err
		}
	}
}

// spoolFile is a body on its way to a file.
type spoolFile struct {
	f      *os.File
	digest digest
	stats  lineCounter
	size   int64
}

func (w *spoolFile) write(p []byte) error {
	w.digest.Write(p)
	w.stats.add(p)
	w.size += int64(len(p))
	if _, err := w.f.Write(p); err != nil {
		return fmt.Errorf("spool content: %w", err)
	}
	return nil
}

func (w *spoolFile) body() *Body {
	b := &Body{file: w.f, size: w.size}
	b.owned.Store(true)
	b.sum.set(w.digest.sum())
	return b.WithStats(w.stats.result())
}
