package convert

import (
	"encoding/base64"
	"fmt"
	"strings"
	"unicode/utf8"
)

// charset names what octets are written in: UTF-8, or nobody knows (RFC 1428).
func charset(s string) string {
	switch {
	case isASCII(s):
		return "us-ascii"
	case utf8.ValidString(s):
		return "utf-8"
	}
	return "unknown-8bit"
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// A word is a word of a field, with the white space before it.
type word struct {
	space string
	raw   string // as it is written
	text  string // what it means, if it is to be encoded
}

func (w word) encoded() bool { return w.text != "" }

// splitWords splits text at its white space, and marks what is not ASCII.
func splitWords(s string) []word {
	var ws []word
	for s != "" {
		i := 0
		for i < len(s) && isWSP(s[i]) {
			i++
		}
		j := i
		for j < len(s) && !isWSP(s[j]) {
			j++
		}
		w := word{space: s[:i], raw: s[i:j]}
		if !isASCII(w.raw) {
			w.text = w.raw
		}
		ws = append(ws, w)
		s = s[j:]
	}
	return ws
}

func isWSP(c byte) bool { return c == ' ' || c == '\t' }

// writeWords writes words, those that are marked as encoded-words (RFC 2047).
// White space between two encoded-words is not shown, so what was there is
// encoded too.
func writeWords(ws []word) string {
	var b strings.Builder
	after := false // the last word written is an encoded-word
	for i := 0; i < len(ws); {
		w := ws[i]
		i++
		if !w.encoded() {
			b.WriteString(w.space + w.raw)
			after = looksEncoded(w.raw)
			continue
		}
		text, space := w.text, w.space
		for i < len(ws) && ws[i].encoded() {
			text += ws[i].space + ws[i].text
			i++
		}
		if i < len(ws) && looksEncoded(ws[i].raw) && ws[i].space != "" {
			text += ws[i].space
		}
		if after && space != "" {
			text = space + text
		}
		if space == "" && b.Len() > 0 {
			space = " "
		}
		b.WriteString(space + encodeWords(text))
		if i < len(ws) && ws[i].space == "" {
			b.WriteByte(' ')
		}
		after = true
	}
	return b.String()
}

// looksEncoded reports whether readers may take an ASCII word for an encoded one.
func looksEncoded(s string) bool { return strings.HasPrefix(s, "=?") && strings.HasSuffix(s, "?=") }

// maxWord is how long an encoded-word gets. RFC 2047, section 2, allows 75, but
// no more than 76 to a line.
const maxWord = 60

// encodeWords writes text as encoded-words: Q where most of it can be read, else
// B (RFC 2047, section 4).
func encodeWords(text string) string {
	set := charset(text)
	room := maxWord - len("=??q??=") - len(set)
	escapes := 0
	for i := range len(text) {
		if !plainInWord(text[i]) && text[i] != ' ' {
			escapes++
		}
	}
	encode, width := encodeQ, func(s string) int { return len(encodeQ(s)) }
	letter := "q"
	if 2*escapes > len(text) {
		letter, encode = "b", func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
		width = func(s string) int { return base64.StdEncoding.EncodedLen(len(s)) }
	}
	var out []string
	var chunk strings.Builder
	used := 0
	flush := func() {
		out = append(out, fmt.Sprintf("=?%s?%s?%s?=", set, letter, encode(chunk.String())))
		chunk.Reset()
		used = 0
	}
	for text != "" {
		_, n := utf8.DecodeRuneInString(text)
		need := width(text[:n])
		if letter == "b" {
			need = width(chunk.String()+text[:n]) - used
		}
		if used+need > room {
			flush()
			need = width(text[:n])
		}
		chunk.WriteString(text[:n])
		used += need
		text = text[n:]
	}
	flush()
	return strings.Join(out, " ")
}

// encodeQ is the Q encoding with the letters that a phrase may have (RFC 2047,
// section 5 (3)).
func encodeQ(s string) string {
	var b strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case c == ' ':
			b.WriteByte('_')
		case plainInWord(c):
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "=%02X", c)
		}
	}
	return b.String()
}

func plainInWord(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("!*+-/", c) >= 0
}
