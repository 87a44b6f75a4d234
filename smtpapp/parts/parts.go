// Package parts reads the parts of a message (RFC 2045 to 2047, RFC 2183) as a
// program wants them: its text, its HTML and its attachments, decoded, in UTF-8
// and bounded. It does its best with what is malformed, and says so. It knows
// nothing of delivery.
package parts

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/encoding/htmlindex"
	"golang.org/x/text/transform"

	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

// Limits bound what is read. Zero is nothing.
type Limits struct {
	Parts   int   // in all
	Depth   int   // of parts within parts
	Text    int64 // octets of decoded text, and as many of HTML
	Content int64 // octets of decoded attachments in all
}

// A Content is what a message has.
type Content struct {
	Text        string       // of all parts of text/plain, "" for none
	HTML        string       // of the parts of text/html
	Attachments []Attachment // all other parts
	// Defects says what is wrong or left out. It is for people.
	Defects []string
}

// An Attachment is a part that is not shown as text.
type Attachment struct {
	Filename  string
	Type      string // media type, in lower case
	ID        string // Content-ID, without angle brackets
	Inline    bool
	Size      int64  // decoded, as far as it was read
	Data      []byte // nil if it was left out
	Truncated bool   // Data is left out since there is too much
}

// Read reads a message. An error is one of reading it.
func Read(m *message.Message, l Limits) (*Content, error) {
	body, err := m.Body().NewReader()
	if err != nil {
		return nil, err
	}
	defer body.Close()
	in := &watched{r: body}
	r := &reader{limits: l, left: l.Content, c: new(Content)}
	r.entity(m.Header.Get, bufio.NewReader(in), 0)
	if in.err == nil { // an epilogue, or what a limit has left
		_, _ = io.Copy(io.Discard, in)
	}
	return r.c, in.err
}

// watched remembers an error other than the end.
type watched struct {
	r   io.Reader
	err error
}

// Read implements io.Reader.
func (w *watched) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	if err != nil && err != io.EOF {
		w.err = err
	}
	return n, err
}

type reader struct {
	limits     Limits
	parts      int
	left       int64 // octets of attachments
	text, html strings.Builder
	c          *Content
}

// maxDefects keeps a hostile message from filling the list.
const maxDefects = 20

func (r *reader) defect(format string, args ...any) {
	if len(r.c.Defects) < maxDefects {
		r.c.Defects = append(r.c.Defects, fmt.Sprintf(format, args...))
	}
}

// entity reads a message or a part of one.
func (r *reader) entity(get func(name string) string, body io.Reader, depth int) {
	defer func() { r.c.Text, r.c.HTML = r.text.String(), r.html.String() }()
	if r.parts++; r.parts > r.limits.Parts {
		if r.parts == r.limits.Parts+1 {
			r.defect("more than %d parts", r.limits.Parts)
		}
		return
	}
	typ, params := r.mediaType(get("Content-Type"))
	if strings.HasPrefix(typ, "multipart/") && depth < r.limits.Depth && params["boundary"] != "" {
		r.multipart(body, params["boundary"], depth)
		return
	}
	body = r.decoder(get("Content-Transfer-Encoding"), body)
	disposition, dparams, err := mime.ParseMediaType(get("Content-Disposition"))
	if err != nil {
		disposition = ""
	}
	name := decodeWords(firstOf(dparams["filename"], params["name"]))
	switch {
	case disposition != "attachment" && name == "" && typ == "text/plain":
		r.addText(&r.text, body, params["charset"])
	case disposition != "attachment" && name == "" && typ == "text/html":
		r.addText(&r.html, body, params["charset"])
	default:
		if strings.HasPrefix(typ, "multipart/") {
			r.defect("parts too deep or without a boundary are kept as they are")
		}
		id := strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(get("Content-Id")), "<"), ">")
		r.attach(Attachment{Filename: name, Type: typ, ID: id, Inline: disposition == "inline" || disposition == "" && id != ""}, body)
	}
}

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// mediaType reads a Content-Type (RFC 2045, section 5.2).
func (r *reader) mediaType(value string) (string, map[string]string) {
	if strings.TrimSpace(value) == "" {
		return "text/plain", nil
	}
	typ, params, err := mime.ParseMediaType(value)
	if err != nil && !errors.Is(err, mime.ErrInvalidMediaParameter) || !strings.Contains(typ, "/") {
		r.defect("Content-Type cannot be read")
		return "application/octet-stream", nil
	}
	return typ, params
}

func (r *reader) multipart(body io.Reader, boundary string, depth int) {
	mr := multipart.NewReader(body, boundary)
	for r.parts <= r.limits.Parts {
		p, err := mr.NextRawPart()
		if err == io.EOF {
			return
		}
		if err != nil {
			r.defect("a multipart breaks off")
			return
		}
		r.entity(p.Header.Get, p, depth+1)
	}
}

// decoder undoes a Content-Transfer-Encoding.
func (r *reader) decoder(value string, body io.Reader) io.Reader {
	switch strings.ToLower(strings.TrimSpace(value)) {
	case "", "7bit", "8bit", "binary":
	case "quoted-printable":
		return quotedprintable.NewReader(body)
	case "base64":
		return base64.NewDecoder(base64.StdEncoding, &alphabet{body})
	default:
		r.defect("Content-Transfer-Encoding is not known")
	}
	return body
}

// alphabet drops what is not of base64 (RFC 2045, section 6.8).
type alphabet struct{ r io.Reader }

// Read implements io.Reader.
func (a *alphabet) Read(p []byte) (int, error) {
	for {
		n, err := a.r.Read(p)
		k := 0
		for _, c := range p[:n] {
			if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '+' || c == '/' || c == '=' {
				p[k] = c
				k++
			}
		}
		if k > 0 || err != nil {
			return k, err
		}
	}
}

// addText adds a part in a charset to text that may have other parts already.
func (r *reader) addText(to *strings.Builder, body io.Reader, charset string) {
	if to.Len() > 0 && !strings.HasSuffix(to.String(), "\n") {
		to.WriteByte('\n')
	}
	body, ok := decodeCharset(body, charset)
	if !ok {
		r.defect("charset %q is not known", charset)
	}
	room := r.limits.Text - int64(to.Len())
	b, err := io.ReadAll(io.LimitReader(body, max(room, 0)+1))
	if err != nil {
		r.defect("a text part breaks off")
	}
	if int64(len(b)) > room {
		r.defect("text is cut off")
		b = wholeRunes(b[:max(room, 0)])
	}
	b = bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n"))
	to.Write(bytes.ToValidUTF8(b, []byte("\uFFFD")))
}

// wholeRunes drops what is left of a character that was cut.
func wholeRunes(b []byte) []byte {
	for range utf8.UTFMax - 1 {
		if c, size := utf8.DecodeLastRune(b); c != utf8.RuneError || size != 1 {
			break
		}
		b = b[:len(b)-1]
	}
	return b
}

// decodeCharset makes UTF-8 of a charset. What it does not know stays as it is.
func decodeCharset(r io.Reader, charset string) (io.Reader, bool) {
	switch charset = strings.ToLower(strings.TrimSpace(charset)); charset {
	case "", "us-ascii", "ascii", "utf-8", "utf8":
		return r, true
	}
	e, err := htmlindex.Get(charset)
	if err != nil {
		return r, false
	}
	return transform.NewReader(r, e.NewDecoder()), true
}

// words decodes encoded words (RFC 2047).
var words = mime.WordDecoder{CharsetReader: func(charset string, r io.Reader) (io.Reader, error) {
	d, ok := decodeCharset(r, charset)
	if !ok {
		return nil, errors.New("charset is not known")
	}
	return d, nil
}}

// Decode returns the value of a field as people read it, in UTF-8.
func Decode(value string) string { return decodeWords(value) }

func decodeWords(s string) string {
	if d, err := words.DecodeHeader(s); err == nil {
		s = d
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// attach adds an attachment, with its data while there is room.
func (r *reader) attach(a Attachment, body io.Reader) {
	b, err := io.ReadAll(io.LimitReader(body, r.left+1))
	if err != nil {
		r.defect("an attachment breaks off")
	}
	a.Size = int64(len(b))
	if a.Size > r.left {
		rest, err := io.Copy(io.Discard, body)
		if err != nil {
			r.defect("an attachment breaks off")
		}
		a.Size, a.Truncated = a.Size+rest, true
		r.c.Attachments = append(r.c.Attachments, a)
		return
	}
	r.left -= a.Size
	a.Data = b
	r.c.Attachments = append(r.c.Attachments, a)
}
