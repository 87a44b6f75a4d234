package dsn

import (
	"bytes"
	"crypto/rand"
	"io"
	"mime/quotedprintable"
	"strings"
	"unicode/utf8"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

// MaxReturned is the most that Report.Returned may be: notifications are held in
// memory.
const MaxReturned = 1 << 20

const (
	// defaultReturned is the most of a message that is given back, in octets, and
	// always the most of a header.
	defaultReturned = 50_000
	// maxLine is RFC 5322's, section 2.1.1.
	maxLine = 998
)

// reportWriter writes a multipart/report (RFC 6522).
type reportWriter struct {
	buf      bytes.Buffer
	boundary string
	alphabet alphabet
}

func newReportWriter(a alphabet) *reportWriter {
	return &reportWriter{boundary: "=_" + rand.Text(), alphabet: a}
}

func (w *reportWriter) contentType() string {
	report := "delivery-status"
	if w.alphabet == wide {
		report = "global-delivery-status"
	}
	return `multipart/report; report-type=` + report + `; boundary="` + w.boundary + `"`
}

// close ends the last part and returns the body.
func (w *reportWriter) close() []byte {
	w.buf.WriteString("\r\n--" + w.boundary + "--\r\n")
	return w.buf.Bytes()
}

// part begins a part.
func (w *reportWriter) part(contentType, description, encoding string) {
	h := new(message.Header)
	h.Append("Content-Description", description)
	h.Append("Content-Type", contentType)
	if encoding != "" {
		h.Append("Content-Transfer-Encoding", encoding)
	}
	w.buf.WriteString("\r\n--" + w.boundary + "\r\n")
	w.buf.Write(h.Bytes())
}

// encoding is what text needs to get through.
func (w *reportWriter) encoding(text []byte) string {
	sevenBit := isASCII(string(text))
	switch {
	case longestLine(text) > maxLine, bytes.IndexByte(text, 0) >= 0,
		!sevenBit && (w.alphabet == ascii || !utf8.Valid(text)):
		return "quoted-printable"
	case sevenBit:
		return "7bit"
	}
	return "8bit"
}

func longestLine(text []byte) int { return message.NewBody(text).LongestLine() }

// text writes a part of text with CRLF line ends.
func (w *reportWriter) text(typ, description string, text []byte) {
	enc, charset := w.encoding(text), "utf-8"
	if isASCII(string(text)) {
		charset = "us-ascii"
	}
	if typ == "text/plain" {
		typ += "; charset=" + charset
	}
	w.part(typ, description, enc)
	if enc != "quoted-printable" {
		w.buf.Write(text)
		return
	}
	qp := quotedprintable.NewWriter(&w.buf)
	_, _ = qp.Write(text) // into memory
	_ = qp.Close()
}

// status writes the part for machines. Its fields are short and folded: no
// encoding is needed, nor allowed (RFC 3464, section 2.1).
func (w *reportWriter) status(groups []*message.Header) {
	typ, enc := "message/delivery-status", ""
	if w.alphabet == wide {
		typ, enc = "message/global-delivery-status", "8bit"
	}
	w.part(typ, "Delivery report", enc)
	for i, g := range groups {
		if i > 0 {
			w.buf.WriteString("\r\n")
		}
		_, _ = io.Copy(&w.buf, fieldsOnly(g))
	}
}

func fieldsOnly(h *message.Header) io.Reader {
	return io.LimitReader(h.NewReader(), int64(h.Size()-len("\r\n")))
}

// returned gives the message back, or its header.
func (w *reportWriter) returned(r *Report) {
	if full, ok := w.full(r); ok {
		typ, enc := "message/rfc822", "7bit"
		if w.alphabet == wide {
			typ, enc = "message/global", "8bit"
		}
		w.part(typ, "Your message", enc)
		w.buf.Write(full)
		return
	}
	typ := "text/rfc822-headers"
	if w.alphabet == wide {
		typ = "message/global-headers"
	}
	w.text(typ, "Header of your message", headerOf(r.Content))
}

// full reads the message if all of it is to be returned: of one that failed,
// if the sender did not ask for less (RFC 3461, section 4.3) or for TLS on all
// of its way (RFC 8689, section 5), if it is small, and if it needs no encoding,
// which message/rfc822 cannot have (RFC 2046, section 5.2.1).
func (w *reportWriter) full(r *Report) (content []byte, ok bool) {
	m, b, most := r.Content, r.Content.Body(), r.mostReturned()
	if r.kind() != Failed || r.Envelope.Return == mail.ReturnHeaders || r.Envelope.RequireTLS || m.Size() > most ||
		r.Envelope.Body == mail.BodyBinary || b.HasNUL() || b.EightBit() && w.alphabet == ascii {
		return nil, false
	}
	in, err := m.NewReader()
	if err != nil {
		return nil, false
	}
	defer func() { _ = in.Close() }()
	content, err = io.ReadAll(io.LimitReader(in, most+1))
	if err != nil || int64(len(content)) > most || bareNewline(content) || w.encoding(content) == "quoted-printable" {
		return nil, false
	}
	return content, true
}

// mostReturned is how much of a message is given back, in octets.
func (r *Report) mostReturned() int64 {
	if r.Returned == 0 {
		return defaultReturned
	}
	return min(r.Returned, MaxReturned)
}

func bareNewline(b []byte) bool {
	n := bytes.Count(b, []byte("\r\n"))
	return bytes.Count(b, []byte("\r")) != n || bytes.Count(b, []byte("\n")) != n
}

// headerOf returns the fields of a header, as many as are returned at all.
func headerOf(m *message.Message) []byte {
	var b strings.Builder
	for f := range m.Header.Fields() {
		if b.Len()+len(f.Raw()) > defaultReturned {
			break
		}
		b.WriteString(f.Raw())
	}
	return []byte(b.String())
}
