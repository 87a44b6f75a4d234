package message

import (
	"bytes"
	"encoding/binary"
	"slices"
)

// Stats is what delivery asks of a body's lines: whether the next hop can take
// them as they are (RFC 6152, RFC 5321, section 4.5.3.1.6).
type Stats struct {
	EightBit    bool // an octet over 127
	NUL         bool
	LongestLine int // octets without CRLF
}

// lineCounter finds out Stats of octets that come bit by bit.
type lineCounter struct {
	stats Stats
	line  int  // octets of the last line so far
	cr    bool // the last of which is a CR
}

// Write adds p; it is for io.Copy.
func (c *lineCounter) Write(p []byte) (int, error) {
	c.add(p)
	return len(p), nil
}

func (c *lineCounter) add(p []byte) {
	s := &c.stats
	s.EightBit = s.EightBit || eightBit(p)
	s.NUL = s.NUL || bytes.IndexByte(p, 0) >= 0
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			c.line += len(p)
			c.cr = p[len(p)-1] == '\r'
			return
		}
		n := c.line + i
		if i > 0 && p[i-1] == '\r' || i == 0 && c.cr {
			n--
		}
		s.LongestLine = max(s.LongestLine, n)
		c.line, c.cr = 0, false
		p = p[i+1:]
	}
}

// result counts the last line too.
func (c *lineCounter) result() Stats {
	s := c.stats
	s.LongestLine = max(s.LongestLine, c.line)
	return s
}

// HasNUL reports a NUL in header or body.
func (m *Message) HasNUL() bool { return m.Header.HasNUL() || m.body.HasNUL() }

// eightBit reports an octet over 127, eight at a time.
func eightBit(p []byte) bool {
	const high = 0x8080808080808080
	for ; len(p) >= 8; p = p[8:] {
		if binary.LittleEndian.Uint64(p)&high != 0 {
			return true
		}
	}
	return slices.ContainsFunc(p, func(c byte) bool { return c > 127 })
}
