package wire

import (
	"bytes"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

// Replies to content that breaks the rules of its lines.
var (
	errBareLF  = &mail.Reply{Code: 550, Enh: "5.5.2", Text: "content has a line that does not end in CRLF", Close: true}
	errBareCR  = &mail.Reply{Code: 550, Enh: "5.5.2", Text: "content has a CR without LF", Close: true}
	errLoneDot = &mail.Reply{Code: 550, Enh: "5.5.2", Text: "content has a dot between bare line feeds", Close: true}
	errTooLong = &mail.Reply{Code: 554, Enh: "5.6.0", Text: "content has a line that is too long"}
	errNUL     = &mail.Reply{Code: 550, Enh: "5.6.0", Text: "content has a NUL octet"}
)

// A decoder takes the lines of content apart. They end in CRLF, and content
// sent by DATA ends at CRLF.CRLF and nowhere else (RFC 5321, sections 2.3.8
// and 4.1.1.4). Servers that took less for the end could be made to read one
// message as two (SMTP smuggling, 2023), so what some server may take for it
// is refused here, not passed on. A bare LF elsewhere becomes a CRLF.
type decoder struct {
	dots   bool // sent by DATA: dots are stuffed, and one alone is the end
	strict bool // a bare LF is refused
	raw    bool // octets mean themselves (RFC 3030, section 3)
	most   int  // octets of a line, with its end; 0 for any number
	length int  // of the line so far
	state  state
	owedLF bool        // there was no room for it behind its CR
	ended  bool        // the end was seen
	bad    *mail.Reply // the first rule that was broken
}

type state uint8

const (
	lineStart state = iota // after CRLF, or at the very beginning
	inLine
	sawCR      // the CR is held back
	sawDot     // lineStart, then a dot, held back
	sawDotCR   // sawDot, then CR
	lfStart    // after a bare LF: no place for the end, nor for a stuffed dot
	lfDot      // lfStart, then a dot
	lfDotCR    // lfDot, then CR, held back
	afterFinal // all is over
)

// decode reads src and writes what it means to dst. It returns how much of
// each it used; it stops at the end of either, and at the end of the content.
// What it writes once a rule is broken means nothing.
func (d *decoder) decode(dst, src []byte) (w, r int) {
	if d.raw {
		n := copy(dst, src)
		return n, n
	}
	for w < len(dst) {
		if d.owedLF {
			dst[w], d.owedLF = '\n', false
			w++
			continue
		}
		if r == len(src) || d.ended {
			return w, r
		}
		if d.state == inLine || d.state == lineStart && (src[r] != '.' || !d.dots) {
			n, m := d.run(dst[w:], src[r:])
			w, r = w+n, r+m
			d.count(m)
			continue
		}
		w += d.step(dst[w:], src[r])
		r++
		d.count(1)
	}
	return w, r
}

// count counts the octets of a line.
func (d *decoder) count(n int) {
	if d.length += n; d.most > 0 && d.length > d.most {
		d.broke(errTooLong)
	}
	if d.state == lineStart || d.state == lfStart {
		d.length = 0
	}
}

// run decodes the rest of a line, or as much as there is of it and room for.
func (d *decoder) run(dst, src []byte) (w, r int) {
	if len(src) > len(dst) {
		src = src[:len(dst)]
	}
	lf := bytes.IndexByte(src, '\n')
	line := src
	if lf >= 0 {
		line = src[:lf]
	}
	if bytes.IndexByte(line, 0) >= 0 {
		d.broke(errNUL)
	}
	cr := bytes.IndexByte(line, '\r')
	switch {
	case cr >= 0 && cr < len(line)-1: // take it from behind the CR again
		d.broke(errBareCR)
		d.state = inLine
		return copy(dst, line[:cr+1]), cr + 1
	case lf >= 0 && cr >= 0:
		d.state = lineStart
		return copy(dst, src[:lf+1]), lf + 1
	case cr >= 0:
		d.state = sawCR
		return copy(dst, line[:cr]), cr + 1
	case lf >= 0:
		w = copy(dst, line)
		return w + d.lineFeed(dst[w:]), lf + 1
	}
	d.state = inLine
	return copy(dst, line), len(line)
}

// step decodes one octet where runs of them will not do.
func (d *decoder) step(dst []byte, b byte) (w int) {
	was := d.state
	if b == 0 {
		d.broke(errNUL)
	}
	switch {
	case was == lineStart && b == '.':
		d.state = sawDot
		return 0
	case was == lfStart && b == '.' && d.dots:
		d.state = lfDot
	case b == '\r':
		return d.carriageReturn()
	case b == '\n':
		return d.endOfLine(dst)
	default:
		if was == sawCR || was == sawDotCR || was == lfDotCR {
			d.broke(errBareCR)
		}
		d.state = inLine
	}
	dst[0] = b
	return 1
}

// carriageReturn holds a CR back until it is known what follows.
func (d *decoder) carriageReturn() int {
	switch d.state {
	case sawDot:
		d.state = sawDotCR
	case lfDot:
		d.state = lfDotCR
	case sawCR, sawDotCR, lfDotCR:
		d.broke(errBareCR)
		d.state = sawCR
	default:
		d.state = sawCR
	}
	return 0
}

// endOfLine decodes a LF.
func (d *decoder) endOfLine(dst []byte) int {
	switch d.state {
	case sawCR:
		d.state = lineStart
		return d.crlf(dst)
	case sawDotCR:
		d.state, d.ended = afterFinal, true
		return 0
	case lfDotCR:
		d.broke(errLoneDot)
		d.state = lineStart
		return d.crlf(dst)
	case sawDot, lfDot:
		d.broke(errLoneDot)
	}
	return d.lineFeed(dst)
}

// lineFeed writes CRLF for a bare LF.
func (d *decoder) lineFeed(dst []byte) int {
	if d.strict {
		d.broke(errBareLF)
	}
	d.state = lfStart
	return d.crlf(dst)
}

func (d *decoder) crlf(dst []byte) int {
	switch len(dst) {
	case 0:
		return 0 // only where a rule is broken: nobody reads it
	case 1:
		dst[0], d.owedLF = '\r', true
		return 1
	}
	dst[0], dst[1] = '\r', '\n'
	return 2
}

// finish is told that content sent by BDAT is over. A last line without its
// end is given one, as all that it is stored in and sent through need it.
func (d *decoder) finish() (missing []byte) {
	s := d.state
	d.ended, d.state = true, afterFinal
	if d.raw {
		return nil
	}
	switch s {
	case sawCR, lfDotCR, sawDotCR:
		d.broke(errBareCR)
	case lineStart, lfStart:
	default:
		return []byte("\r\n")
	}
	return nil
}

func (d *decoder) broke(r *mail.Reply) {
	if d.bad == nil {
		d.bad = r
	}
}
