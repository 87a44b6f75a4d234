package wire

import (
	"errors"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

type contentKind uint8

const (
	noContent contentKind = iota
	byData
	byChunks // BDAT (RFC 3030)
)

// content is what the client sends after DATA, or in the chunks of BDAT. It is
// the io.Reader of its decoded octets. Its errors are *mail.Reply where there
// is one to give, else io.ErrUnexpectedEOF or ErrAborted.
type content struct {
	c    *Conn
	kind contentKind
	dec  decoder
	err  error // sticky; io.EOF at the end
	tail []byte

	asked bool  // 354 was sent
	left  int64 // octets of the chunk that were not read yet
	last  bool  // the chunk is the last one
	size  int64 // octets of all chunks that were announced

	began time.Time
	spent time.Duration // waiting for the client
	came  int64         // octets, in that time
}

// Content returns the reader of the content that the client is about to send.
// The session reads it in the place of the one the dispatcher has for it.
func (c *Conn) Content() io.Reader { return &c.content }

// Binary says whether the octets of content that comes by BDAT mean themselves,
// line ends and all (RFC 3030, section 3). It is said before the first chunk.
func (c *Conn) Binary(yes bool) { c.binary = yes }

func (ct *content) start(kind contentKind) {
	*ct = content{c: ct.c, kind: kind, began: time.Now(),
		dec: decoder{dots: kind == byData, strict: ct.c.cfg.Strict, most: ct.c.cfg.TextLine, raw: kind == byChunks && ct.c.binary}}
}

// Read reads decoded content. When it has failed, as much of what the client
// sends has been read that what follows is a command, or the connection will
// be closed.
func (ct *content) Read(p []byte) (n int, err error) {
	if ct.kind == noContent {
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	ct.ask()
	for n == 0 && ct.err == nil {
		if n = ct.some(p); ct.dec.bad != nil {
			n = 0
			ct.err = ct.refuse(ct.dec.bad)
		}
	}
	if n > 0 {
		return n, nil
	}
	return 0, ct.err
}

// ask sends the 354 for which the client of DATA waits.
func (ct *content) ask() {
	if ct.kind == byData && !ct.asked {
		ct.asked = true
		ct.c.reply(&mail.Reply{Code: 354, Text: "end with <CRLF>.<CRLF>"})
	}
	ct.c.in.grow()
}

// some decodes what is at hand, or waits for more.
func (ct *content) some(p []byte) int {
	switch {
	case len(ct.tail) > 0:
		n := copy(p, ct.tail)
		ct.tail = ct.tail[n:]
		return n
	case ct.dec.ended:
		ct.err = io.EOF
		return 0
	case ct.kind == byChunks && ct.left == 0 && !ct.dec.owedLF:
		ct.endChunk()
		return 0
	}
	src, err := ct.peek()
	if err != nil {
		ct.err = err
		return 0
	}
	w, r := ct.dec.decode(p, src)
	ct.take(r)
	return w
}

// peek returns octets of the content, at least one of them unless a line feed
// is owed to the reader.
func (ct *content) peek() ([]byte, error) {
	c := ct.c
	if ct.dec.owedLF {
		return nil, nil
	}
	if c.in.empty() {
		began := time.Now()
		err := c.fill(ct.deadline(began), false)
		ct.spent += time.Since(began)
		if err != nil {
			if r := c.lost(err, io.ErrUnexpectedEOF); r != nil {
				c.broken = r
			}
			return nil, c.broken
		}
	}
	b := c.in.bytes()
	if ct.kind == byChunks && int64(len(b)) > ct.left {
		b = b[:ct.left]
	}
	return b, nil
}

func (ct *content) take(n int) {
	ct.c.in.skip(n)
	ct.came += int64(n)
	if ct.kind == byChunks {
		ct.left -= int64(n)
	}
}

// deadline is the earliest of three: a block may not take too long, content
// may not take too long, and it may not trickle.
func (ct *content) deadline(now time.Time) time.Time {
	t := ct.c.cfg.Timeouts
	if h := ct.c.cfg.Hurry; h != nil && h() {
		t.Block = min(t.Block, hurried)
	}
	wait := min(t.Block, t.Content-now.Sub(ct.began),
		rateGrace+time.Duration(ct.came/int64(t.MinRate))*time.Second-ct.spent)
	return now.Add(wait)
}

// endChunk ends the content, or waits for its next chunk.
func (ct *content) endChunk() {
	c := ct.c
	if ct.last {
		ct.tail = ct.dec.finish()
		return
	}
	c.reply(&mail.Reply{Code: 250, Enh: "2.0.0", Text: strconv.FormatInt(ct.size, 10) + " octets so far"})
	for ct.left == 0 && ct.err == nil && !ct.last {
		line := c.converse()
		switch {
		case line == "DATA": // BDAT; it may be another chunk of no octets
			c.turn.answer = nil
			return
		case line != "":
			c.turn.queued, c.turn.queuedWith = line, c.turn.answer
			ct.err = ErrAborted
		case c.broken != nil:
			ct.err = io.ErrUnexpectedEOF
		case c.over():
			ct.err = ErrAborted
		}
	}
}

// refuse reads the content, which broke a rule, to where it ends.
func (ct *content) refuse(bad *mail.Reply) *mail.Reply {
	if !ct.skip() {
		return closing(bad)
	}
	return bad
}

// skip reads the rest of DATA's content, or of the chunk, and reports whether
// it got there: there are limits to it.
func (ct *content) skip() bool {
	budget := ct.c.cfg.drainLimit()
	if ct.kind == byChunks && ct.left > budget {
		return false
	}
	var void [1 << 10]byte
	for {
		if ct.kind == byChunks && ct.left == 0 || ct.dec.ended {
			return true
		}
		src, err := ct.peek()
		if err != nil || budget < 0 {
			return false
		}
		r := len(src)
		if ct.kind == byData || src == nil {
			_, r = ct.dec.decode(void[:], src)
		}
		ct.take(r)
		budget -= int64(r)
	}
}

// end is called when the session is done with the content. Whatever it left is
// read, so that it cannot be taken for commands, or else the reply closes the
// connection. It returns the reply, nil if the content was given up.
func (ct *content) end(r *mail.Reply) *mail.Reply {
	defer func() { *ct = content{c: ct.c} }()
	switch {
	case errors.Is(ct.err, ErrAborted), errors.Is(ct.err, io.ErrUnexpectedEOF):
		return nil
	case r == nil:
		r = errFault
	}
	if ct.kind == byChunks && !ct.last {
		r = alone(r) // in LMTP only the last chunk is answered for each recipient
	}
	if errors.Is(ct.err, io.EOF) || ct.kind == byData && !ct.asked || r.Close {
		return r
	}
	if ct.c.broken != nil || !ct.skip() {
		return closing(r)
	}
	return r
}

// closing returns r with the end of the session behind it.
func closing(r *mail.Reply) *mail.Reply {
	c := *r
	if c.Next != nil {
		c.Next = closing(c.Next)
	} else {
		c.Close = true
	}
	return &c
}

// alone returns r without the replies that follow it, but with the end of the
// session if that follows them.
func alone(r *mail.Reply) *mail.Reply {
	last := r
	for last.Next != nil {
		last = last.Next
	}
	if last == r {
		return r
	}
	one := *r
	one.Next, one.Close = nil, last.Close
	return &one
}

// bdat is BDAT (RFC 3030, section 2). Its octets follow whatever is thought of
// it, so a number that cannot be read leaves nothing to go on from.
func (c *Conn) bdat(arg string) (forward string, r *mail.Reply) {
	n, last, ok := parseChunk(arg)
	if !ok {
		return "", errChunk
	}
	forward, r = c.cfg.Handler.Command("BDAT", arg)
	if forward == "" {
		return "", c.refuseChunk(n, r)
	}
	ct := &c.content
	if ct.kind == noContent {
		ct.start(byChunks)
	}
	ct.left, ct.last = n, last
	if limit := c.cfg.MessageSize; limit > 0 && n > limit-ct.size {
		ct.err = errLarge
	}
	ct.size += n
	return "DATA", r
}

// refuseChunk reads the octets of a BDAT that was refused.
func (c *Conn) refuseChunk(n int64, r *mail.Reply) *mail.Reply {
	if r == nil || r.Close {
		return r
	}
	ct := content{c: c, kind: byChunks, left: n, began: time.Now()}
	if !ct.skip() {
		return closing(r)
	}
	return r
}

func parseChunk(arg string) (n int64, last, ok bool) {
	num, mark, marked := strings.Cut(arg, " ")
	if mark = strings.TrimLeft(mark, " "); marked && !strings.EqualFold(mark, "LAST") {
		return 0, false, false
	}
	u, err := strconv.ParseUint(num, 10, 63) // no sign
	return int64(u), marked, err == nil
}
