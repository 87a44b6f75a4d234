package convert

import (
	"strings"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

// form is how a field is written.
type form uint8

const (
	unstructured form = iota // words, as in Subject and in what nobody knows
	addresses
	parameters
	trace // Received
	// opaque fields are for programs, which would take an encoded-word for what
	// it is not. They are put aside under another name, as RFC 6857, section
	// 3.1.10, does.
	opaque
)

var forms = map[string]form{
	"from": addresses, "sender": addresses, "reply-to": addresses, "to": addresses, "cc": addresses, "bcc": addresses,
	"resent-from": addresses, "resent-sender": addresses, "resent-reply-to": addresses, "resent-to": addresses,
	"resent-cc": addresses, "resent-bcc": addresses, "return-path": addresses, "disposition-notification-to": addresses,
	"errors-to": addresses, "mail-reply-to": addresses, "mail-followup-to": addresses, "delivered-to": addresses,
	"content-type": parameters, "content-disposition": parameters,
	"received":   trace,
	"message-id": opaque, "resent-message-id": opaque, "in-reply-to": opaque, "references": opaque, "content-id": opaque,
	"date": opaque, "resent-date": opaque, "dkim-signature": opaque, "authentication-results": opaque, "received-spf": opaque,
	"arc-seal": opaque, "arc-message-signature": opaque, "arc-authentication-results": opaque,
	"mime-version": opaque, "content-transfer-encoding": opaque, "autocrypt": opaque,
}

// asciiField writes a field that has 8-bit octets without them.
func asciiField(f message.Field) (string, error) {
	name, value := f.Name(), f.Value()
	if strings.HasPrefix(name, "--") {
		return "", errMalformed // it could be taken for a delimiter
	}
	switch forms[strings.ToLower(name)] {
	case unstructured:
		value = writeWords(splitWords(value))
	case addresses:
		var err error
		if value, err = asciiAddresses(value); err != nil {
			return "", err
		}
	case parameters:
		was := boundary(value)
		var err error
		if value, err = asciiParams(value); err != nil {
			return "", err
		}
		if boundary(value) != was { // another one was hidden behind it
			return "", errMalformed
		}
	case trace:
		value = asciiTrace(value)
	case opaque:
		name, value = "Downgraded-"+name, writeWords(splitWords(value))
	}
	return message.Fold(name, questioned(value)), nil
}

// questioned puts a question mark in the place of what is 8-bit where the field
// can have no such thing.
func questioned(s string) string {
	if isASCII(s) {
		return s
	}
	b := []byte(s)
	for i, c := range b {
		if c >= 0x80 {
			b[i] = '?'
		}
	}
	return string(b)
}

// asciiTrace writes a Received field: domains as A-labels, and nothing of
// addresses that have no such form (RFC 6857, section 3.1.8).
func asciiTrace(value string) string {
	var out []word
	for _, w := range splitWords(asciiComments(value)) {
		if !w.encoded() {
			out = append(out, w)
			continue
		}
		tail := ""
		if strings.HasSuffix(w.raw, ";") {
			tail = ";"
		}
		if d, err := mail.ParseDomain(strings.Trim(w.raw, ";")); err == nil {
			out = append(out, word{space: w.space, raw: d + tail})
			continue
		}
		if n := len(out); n > 0 && strings.EqualFold(out[n-1].raw, "for") {
			out[n-1].raw = strings.TrimPrefix(tail, " ")
			continue
		}
		out = append(out, word{space: w.space, raw: "unknown" + tail})
	}
	return writeWords(out)
}

// asciiComments writes what comments say as encoded-words. Outside of them, 8-bit
// octets are left as they are.
func asciiComments(s string) string {
	if isASCII(s) {
		return s
	}
	var b, comment strings.Builder
	depth, quoted := 0, false
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '\\' && i+1 < len(s) && (quoted || depth > 0):
			if depth > 0 {
				comment.WriteString(s[i : i+2])
			} else {
				b.WriteString(s[i : i+2])
			}
			i++
			continue
		case c == '"' && depth == 0:
			quoted = !quoted
		case c == '(' && !quoted:
			if depth++; depth == 1 {
				b.WriteByte(c)
				continue
			}
		case c == ')' && depth > 0:
			if depth--; depth == 0 {
				b.WriteString(asciiComment(comment.String()))
				comment.Reset()
			}
		}
		if depth > 0 {
			comment.WriteByte(c)
		} else {
			b.WriteByte(c)
		}
	}
	if depth > 0 { // nobody closed it
		b.WriteString(asciiComment(comment.String()) + ")")
	}
	return b.String()
}

// asciiComment writes the inside of a comment. Parentheses within are words'
// own, since an encoded-word has none.
func asciiComment(s string) string {
	if isASCII(s) {
		return s
	}
	return writeWords(splitWords(strings.NewReplacer("(", " ( ", ")", " ) ", `\`, "").Replace(s)))
}
