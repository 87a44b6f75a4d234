package convert

import (
	"bytes"

	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

// writer writes a message by its plan.
type writer struct {
	target Target
	plan   []deed
	buf    bytes.Buffer

	encoder encoder // of the body that is written; nil to keep its octets
	owed    bool    // the end of a line, which may be the delimiter's
	drop    bool    // the rest of a line that no reader is shown
}

func (w *writer) entity(e *entity) error {
	d := w.plan[0]
	w.plan = w.plan[1:]
	w.owed = false
	switch d.how {
	case keep:
		w.encoder = nil
	case asQP:
		w.encoder = &qp{out: &w.buf}
	case asBase64:
		w.encoder = &b64{out: &w.buf}
	case mendQP:
		w.encoder = &requoted{out: &w.buf}
	case mendBase64:
		w.encoder = &rebased{out: &w.buf}
	}
	return w.header(e, d)
}

// header writes a header as the deed has it.
func (w *writer) header(e *entity, d deed) error {
	labelled := d.label == ""
	for f := range e.header.Fields() {
		switch {
		case d.label != "" && f.Is(transferEnc):
			if !labelled {
				w.label(d)
			}
			labelled = true
			continue
		case !w.target.UTF8 && !isASCII(f.Raw()):
			field, err := asciiField(f)
			if err != nil {
				return err
			}
			w.buf.WriteString(field)
		case !w.target.LongLines && !e.signed && longest(f.Raw()) > maxLine:
			w.buf.WriteString(message.Fold(f.Name(), f.Value()))
		default:
			w.buf.WriteString(f.Raw())
		}
	}
	if d.how != keep && (e.top || e.inner) && e.header.Count(mimeVersion) == 0 {
		w.buf.WriteString(mimeVersion + ": 1.0\r\n")
	}
	if d.charset != "" {
		w.buf.WriteString(contentType + ": text/plain; charset=" + d.charset + "\r\n")
	}
	if !labelled {
		w.label(d)
	}
	if !e.cut || !e.signed { // over what is signed, not an octet more
		w.buf.WriteString("\r\n")
	}
	return nil
}

func (w *writer) label(d deed) { w.buf.WriteString(transferEnc + ": " + d.label + "\r\n") }

func (w *writer) data(f fragment) error {
	if w.encoder == nil {
		w.raw(f)
		return nil
	}
	if w.owed {
		w.encoder.eol()
	}
	w.encoder.write(f.data)
	w.owed = f.eol
	return nil
}

func (w *writer) raw(f fragment) {
	w.buf.Write(f.data)
	if f.eol {
		w.buf.WriteString("\r\n")
	}
}

func (w *writer) end(delimited bool) error {
	if w.encoder == nil {
		return nil
	}
	if w.owed && !delimited {
		w.encoder.eol()
	}
	w.encoder.close(delimited)
	if w.owed && delimited {
		w.buf.WriteString("\r\n")
	}
	w.encoder = nil
	return nil
}

// aside writes what no reader is shown, but leaves out lines that cannot be sent.
func (w *writer) aside(f fragment, _ bool) error {
	if f.start {
		w.drop = w.target.dirty(f)
	}
	if !w.drop {
		w.raw(f)
	}
	return nil
}

// delimiter writes a line between parts, without the white space behind it
// unless it is signed.
func (w *writer) delimiter(boundary string, closes bool, f fragment, signed bool) {
	if !signed {
		f.data = []byte("--" + boundary)
		if closes {
			f.data = append(f.data, "--"...)
		}
	}
	w.raw(f)
}
