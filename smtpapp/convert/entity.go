package convert

import (
	"mime"
	"strings"

	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

type kind uint8

const (
	leaf kind = iota
	multipart
	nestedMessage
)

// encoding is a Content-Transfer-Encoding.
type encoding uint8

const (
	sevenBit encoding = iota
	eightBit
	binaryOctets
	quotedPrintable
	base64Text
	unknownEncoding
)

// An entity is a message or a part, as its header tells.
type entity struct {
	header  *message.Header
	top     bool // the message itself
	inner   bool // a message that a part has
	cut     bool // no empty line ends the header
	implied bool // without a type it is a message
	signed  bool // there is a signature over it

	kind     kind
	subtype  string
	text     bool // its body is lines that people may read
	typed    bool // it has a Content-Type
	fixed    bool // its type lets nobody encode it
	broken   bool // it cannot be what it says it is
	global   bool // it may hold a message in UTF-8
	encoding encoding
	boundary string
}

const (
	contentType = "Content-Type"
	transferEnc = "Content-Transfer-Encoding"
	mimeVersion = "MIME-Version"
)

// classify reads what the header says of the body. Of fields that are there
// twice the first counts, as for most readers.
func (e *entity) classify() {
	e.encoding = readEncoding(e.header.Get(transferEnc))
	e.typed = e.header.Count(contentType) > 0
	value := e.header.Get(contentType)
	typ, subtype, ok := splitType(value)
	if !ok { // RFC 2045, section 5.2
		typ, subtype = "text", "plain"
		if e.implied && !e.typed {
			typ, subtype = "message", "rfc822"
		}
	}
	e.subtype = subtype
	identity := e.encoding < quotedPrintable
	switch {
	case typ == "multipart":
		e.boundary, e.kind = boundary(value), multipart
		if e.boundary == "" {
			e.kind, e.broken = leaf, true
		}
	case typ == "message" && subtype == "rfc822" && identity:
		e.kind = nestedMessage
	case typ == "message":
		e.text = true
		e.fixed = subtype == "partial" || subtype == "external-body" // RFC 2046, sections 5.2.2 and 5.2.3
		e.global = strings.HasPrefix(subtype, "global")              // RFC 6532, section 3.7
	case typ == "text":
		e.text = true
	}
}

func readEncoding(value string) encoding {
	word, _, _ := strings.Cut(strings.TrimSpace(value), "(")
	switch strings.ToLower(strings.TrimSpace(word)) {
	case "", "7bit":
		return sevenBit
	case "8bit":
		return eightBit
	case "binary":
		return binaryOctets
	case "quoted-printable":
		return quotedPrintable
	case "base64":
		return base64Text
	}
	return unknownEncoding
}

// splitType returns type and subtype of a Content-Type, in lower case.
func splitType(value string) (typ, subtype string, ok bool) {
	word, _, _ := strings.Cut(value, ";")
	word, _, _ = strings.Cut(word, "(")
	typ, subtype, ok = strings.Cut(strings.ToLower(word), "/")
	typ, subtype = strings.TrimSpace(typ), strings.TrimSpace(subtype)
	return typ, subtype, ok && typ != "" && subtype != ""
}

// boundary returns the boundary of a multipart, "" for none that can be used.
func boundary(value string) string {
	b := ""
	for _, p := range readParams(value) {
		if strings.EqualFold(p.name, "boundary") {
			b = p.text()
			break
		}
	}
	if b == "" { // in pieces, by RFC 2231, perhaps
		if _, params, err := mime.ParseMediaType(value); err == nil {
			b = params["boundary"]
		}
	}
	b = strings.TrimRight(b, " \t")
	if len(b) > maxBoundary || strings.ContainsFunc(b, func(r rune) bool { return r < ' ' || r > '~' }) {
		return ""
	}
	return b
}

// maxBoundary is more than RFC 2046, section 5.1.1, allows, which is 70.
const maxBoundary = 200
