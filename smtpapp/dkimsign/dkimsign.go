// Package dkimsign makes DKIM signatures (RFC 6376, RFC 8463). It reads the
// body once, whatever its size and the number of signatures, and it knows
// nothing of where keys come from.
package dkimsign

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/dkim"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

// ErrNoFrom says that there is nothing to sign: a signature without a From
// field is none (RFC 6376, section 5.4).
var ErrNoFrom = errors.New("no From field to sign")

// Options say what a signature is like. The zero Options are a DKIM-Signature
// that is relaxed/relaxed over the DefaultFields, from now on and for ever.
type Options struct {
	Canonicalizations dkim.Canonicalizations
	// Fields are what of the header is signed.
	Fields *Fields
	// Identity is the i= tag: an address of the domain or of a domain below it,
	// with or without local part. Default: none.
	Identity string
	// Time is the t= tag.
	Time time.Time
	// Expire, if not 0, is how long after Time the x= tag is.
	Expire time.Duration

	// Name and First are the field's name and its first tag, where they are not
	// "DKIM-Signature" and "v=1".
	Name, First string
}

func (o *Options) setDefaults() {
	if o.Canonicalizations == (dkim.Canonicalizations{}) {
		o.Canonicalizations = dkim.Canonicalizations{Header: dkim.Relaxed, Body: dkim.Relaxed}
	}
	if o.Fields == nil {
		o.Fields = DefaultFields
	}
	if o.Time.IsZero() {
		o.Time = time.Now()
	}
	if o.Name == "" {
		o.Name, o.First = "DKIM-Signature", "v=1"
	}
}

// Sign puts a signature by each key on top of the header, the first one
// topmost. If it fails, the message is as it was.
func Sign(m *message.Message, keys []Key, o Options) error {
	fields, err := Signatures(m, keys, o)
	if err != nil {
		return err
	}
	h := m.Header.Clone()
	for i := range fields {
		if err := h.PrependRaw(fields[len(fields)-1-i]); err != nil {
			return err
		}
	}
	*m.Header = *h
	return nil
}

// Signatures returns the field that each key makes, with its CRLF. None of them
// signs another.
func Signatures(m *message.Message, keys []Key, o Options) ([]string, error) {
	o.setDefaults()
	p := scratch.Get().(*picked)
	defer scratch.Put(p)
	o.Fields.pick(m.Header, p)
	if !p.from {
		return nil, ErrNoFrom
	}
	sum, err := BodyHash(m.Body(), o.Canonicalizations.Body)
	if err != nil {
		return nil, err
	}
	p.signed = p.signed[:0]
	for _, raw := range p.raws {
		p.signed = o.Canonicalizations.Header.AppendField(p.signed, raw)
	}
	out := make([]string, len(keys))
	for i, k := range keys {
		if out[i], err = k.Complete(o.field(k, p, sum)); err != nil {
			return nil, fmt.Errorf("sign for %s with %s: %w", k.Domain, k.Selector, err)
		}
	}
	return out, nil
}

// scratch is what a signature is made in.
var scratch = sync.Pool{New: func() any {
	return &picked{signed: make([]byte, 0, 4<<10), field: make([]byte, 0, 1<<10)}
}}

// hasher hashes bodies, one after the other.
type hasher struct {
	hash hash.Hash
	body *dkim.Body
	sum  []byte
}

var hashers = sync.Pool{New: func() any {
	h := sha256.New()
	return &hasher{hash: h, body: dkim.Relaxed.NewBody(h)}
}}

// BodyHash returns the hash of a body in canonical form. It takes constant
// memory.
func BodyHash(b *message.Body, c dkim.Canonicalization) (sum [sha256.Size]byte, err error) {
	h := hashers.Get().(*hasher)
	defer hashers.Put(h)
	h.hash.Reset()
	h.body.Reset(c)
	if data, ok := b.Bytes(); ok {
		_, err = h.body.Write(data)
	} else {
		var r io.ReadCloser
		if r, err = b.NewReader(); err == nil {
			_, err = io.Copy(h.body, r)
			_ = r.Close()
		}
	}
	if err == nil {
		err = h.body.Close()
	}
	if err != nil {
		return sum, fmt.Errorf("hash the body: %w", err)
	}
	h.sum = h.hash.Sum(h.sum[:0])
	return [sha256.Size]byte(h.sum), nil
}

// field writes the signature up to its b= tag, folded, which has no value yet.
// signed is all that it is over: what was picked, and itself in canonical form.
func (o *Options) field(k Key, p *picked, sum [sha256.Size]byte) (signed, field []byte) {
	w := tags{b: append(append(p.field[:0], o.Name...), ':')}
	w.flat = o.Canonicalizations.Header.AppendField(p.signed, string(w.b))
	w.column, w.flattened = len(w.b), len(w.b)+len(" ")
	w.add(o.First)
	w.add("a=", k.Algorithm())
	w.add("c=", string(o.Canonicalizations.Header), "/", string(o.Canonicalizations.Body))
	w.add("d=", k.Domain)
	w.add("s=", k.Selector)
	w.time("t=", o.Time)
	if o.Expire > 0 {
		w.time("x=", o.Time.Add(o.Expire))
	}
	if o.Identity != "" {
		w.add("i=", quotedPrintable(o.Identity))
	}
	w.list("h=", p.names)
	w.base64("bh=", sum[:])
	w.fold("\r\n\t")
	p.field = append(w.b, "b="...)
	if o.Canonicalizations.Header == dkim.Simple {
		return append(p.signed, p.field...), p.field
	}
	return append(w.flat, "b="...), p.field
}

// foldAt is the column before which lines end (RFC 5322, section 2.1.1).
const foldAt = 78

// tags is a tag list on its way, as it is written, and in its relaxed form as far
// as it is flattened.
type tags struct {
	b         []byte
	column    int
	flat      []byte
	flattened int
}

// fold writes white space with a line break.
func (t *tags) fold(s string) {
	t.flat = append(append(t.flat, t.b[t.flattened:]...), ' ')
	t.b = append(t.b, s...)
	t.flattened = len(t.b)
	t.column = len(s) - len("\r\n")
}

// gap parts what follows, of n octets, from what came before.
func (t *tags) gap(n int) {
	if t.column+1+n > foldAt {
		t.fold("\r\n\t")
		return
	}
	t.b = append(t.b, ' ')
	t.column++
}

// add adds a tag on this line if it fits there.
func (t *tags) add(parts ...string) {
	n := len(";")
	for _, p := range parts {
		n += len(p)
	}
	t.gap(n)
	t.column += n
	for _, p := range parts {
		t.b = append(t.b, p...)
	}
	t.b = append(t.b, ';')
}

// time adds a tag that is a time in seconds.
func (t *tags) time(name string, at time.Time) {
	var b [20]byte
	t.add(name, string(strconv.AppendInt(b[:0], at.Unix(), 10)))
}

// base64 adds a tag that is a hash.
func (t *tags) base64(name string, sum []byte) {
	var b [44]byte
	base64.StdEncoding.Encode(b[:], sum)
	t.add(name, string(b[:32]), string(b[32:]))
}

// list adds a tag of names, each with a colon, over several lines.
func (t *tags) list(tag string, names []string) {
	t.gap(len(tag) + len(names[0]))
	t.b = append(t.b, tag...)
	t.column += len(tag)
	for _, n := range names {
		if t.column+len(n) > foldAt {
			t.fold("\r\n\t ")
		}
		t.b = append(t.b, n...)
		t.column += len(n)
	}
	t.b[len(t.b)-1] = ';'
}

// quotedPrintable encodes what a tag's value cannot have as it is (RFC 6376,
// section 2.11).
func quotedPrintable(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == ';' || c == '=' {
			b.Write([]byte{'=', hex[c>>4], hex[c&15]})
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}
