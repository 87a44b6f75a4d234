package mbox

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
)

// find looks for a message that an attempt before this one may have left, in a
// file of end octets. It reports whether all of it is there. If a part is, at the
// end of the file, it returns where that begins, otherwise end.
func (f *file) find(ctx context.Context, it *item, end int64) (found bool, at int64, err error) {
	var whole counter
	if err := it.copy(ctx, &whole); err != nil {
		return false, end, err
	}
	s := scanner{r: bufio.NewReaderSize(io.NewSectionReader(f, 0, end), 64<<10)}
	m := search{it: it, size: int64(whole), empty: true}
	for {
		where := s.off
		line, err := s.line()
		switch {
		case err != nil && !errors.Is(err, io.EOF):
			return false, end, err
		case ctx.Err() != nil:
			return false, end, ctx.Err()
		case m.complete(line, where):
			return true, end, nil
		case len(line) == 0: // the end
			return false, end, nil
		case m.begins(line):
			if all, part := f.compare(ctx, it, where, end); all || part {
				return all, where, nil
			}
		}
		m.read(line, where)
	}
}

// A search goes through an mbox line by line.
type search struct {
	it   *item
	size int64 // octets of the item as it was written

	empty  bool  // the line before was, so that the next may begin a message
	header bool  // within a header
	ours   bool  // the header had the item's id
	start  int64 // of the message
}

// complete reports that a message with the item's id ends before a line, and is
// no shorter: a reader may have added to it, but took nothing away.
func (m *search) complete(line []byte, where int64) bool {
	return m.empty && m.ours && where-m.start >= m.size && (len(line) == 0 || bytes.HasPrefix(line, []byte(from)))
}

// begins reports that a line, which the end of the file may have cut, can be the
// item's first.
func (m *search) begins(line []byte) bool {
	return m.empty && strings.HasPrefix(m.it.first, string(line))
}

// read takes a line for what it is.
func (m *search) read(line []byte, where int64) {
	text := bytes.TrimRight(line, "\r\n")
	if m.empty && bytes.HasPrefix(text, []byte(from)) {
		m.start, m.header, m.ours = where, true, false
	}
	m.empty = len(text) == 0
	m.header = m.header && !m.empty
	m.ours = m.ours || m.header && string(text) == m.it.id
}

// A counter counts octets.
type counter int64

// Write implements io.Writer.
func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

var errEnough = errors.New("enough was compared")

// compare compares the file from at to end with a message. It reports whether
// the message is there as a whole, and whether what is there is a part of it that
// the end of the file cuts off.
func (f *file) compare(ctx context.Context, it *item, at, end int64) (whole, part bool) {
	c := &comparer{r: io.NewSectionReader(f, at, end-at)}
	err := it.copy(ctx, c)
	if err == nil {
		return true, false
	}
	return false, errors.Is(err, errEnough) && c.short
}

// A comparer fails when what is written to it is not what it reads.
type comparer struct {
	r     io.Reader
	short bool // there was no more, up to there it was the same
}

// Write implements io.Writer.
func (c *comparer) Write(p []byte) (int, error) {
	have := make([]byte, len(p))
	n, err := io.ReadFull(c.r, have)
	if !bytes.Equal(have[:n], p[:n]) {
		return 0, errEnough
	}
	if err != nil {
		c.short = errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		return 0, errEnough
	}
	return len(p), nil
}

// maxLine is how much of a line is looked at.
const maxLine = 1 << 10

// A scanner reads lines, of which it returns the beginning.
type scanner struct {
	r    *bufio.Reader
	off  int64
	kept []byte
}

// line returns the next line, up to maxLine of it and its line end.
func (s *scanner) line() ([]byte, error) {
	s.kept = s.kept[:0]
	for {
		part, err := s.r.ReadSlice('\n')
		s.off += int64(len(part))
		s.kept = append(s.kept, part[:min(len(part), maxLine-len(s.kept))]...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return s.kept, err
		}
	}
}
