package dkim

import (
	"bytes"
	"errors"
	"io"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestAppendField(t *testing.T) {
	for _, tc := range []struct{ raw, relaxed string }{
		{"A: X\r\n", "a:X\r\n"}, // RFC 6376, section 3.4.5
		{"B : Y\t\r\n\tZ  \r\n", "b:Y Z\r\n"},
		{"Subject: a b c\r\n", "subject:a b c\r\n"},
		{"SUBJect \t:\t AbC\r\n", "subject:AbC\r\n"},
		{"Subject:\r\n", "subject:\r\n"},
		{"Subject: \t \r\n", "subject:\r\n"},
		{"Subject:\r\n \r\n a\r\n", "subject:a\r\n"},
		{"Subject: a \t b\r\n\tc\r\n", "subject:a b c\r\n"},
		{"Subject: \u00fc  \u00e4\r\n", "subject:\u00fc \u00e4\r\n"},
		{"X: a:b: c\r\n", "x:a:b: c\r\n"},
		{"DKIM-Signature: v=1; b=", "dkim-signature:v=1; b="}, // without an end it gets none
		{"DKIM-Signature: v=1; b= ", "dkim-signature:v=1; b="},
		{"no colon", "no colon"},
		{"", ""},
	} {
		if got := string(Relaxed.AppendField(nil, tc.raw)); got != tc.relaxed {
			t.Errorf("%q: got %q, want %q", tc.raw, got, tc.relaxed)
		}
		if got := string(Simple.AppendField([]byte("x"), tc.raw)); got != "x"+tc.raw {
			t.Errorf("%q: simple is %q", tc.raw, got)
		}
	}
}

// canonical returns the canonical form of a body written in pieces of n.
func canonical(c Canonicalization, body string, n int) string {
	var out bytes.Buffer
	w := c.NewBody(&out)
	for b := []byte(body); len(b) > 0; b = b[min(n, len(b)):] {
		if _, err := w.Write(b[:min(n, len(b))]); err != nil {
			return err.Error()
		}
	}
	if err := w.Close(); err != nil {
		return err.Error()
	}
	return out.String()
}

var bodies = []struct{ body, simple, relaxed string }{
	{"", "\r\n", ""},
	{"\r\n", "\r\n", ""},
	{"\r\n\r\n\r\n", "\r\n", ""},
	{" C \r\nD \t E\r\n\r\n\r\n", " C \r\nD \t E\r\n", " C\r\nD E\r\n"}, // RFC 6376, section 3.4.5
	{"a", "a\r\n", "a\r\n"},
	{"a\r\n", "a\r\n", "a\r\n"},
	{"a\r\n\r\nb\r\n\r\n", "a\r\n\r\nb\r\n", "a\r\n\r\nb\r\n"},
	{"\r\n\r\na", "\r\n\r\na\r\n", "\r\n\r\na\r\n"},
	{"  \t \r\n", "  \t \r\n", ""},
	{"a\r\n \r\n\t\r\n", "a\r\n \r\n\t\r\n", "a\r\n"},
	{"a  ", "a  \r\n", "a\r\n"},
	{"a \r\n b", "a \r\n b\r\n", "a\r\n b\r\n"},
	{"\ta\t\tb\t", "\ta\t\tb\t\r\n", " a b\r\n"},
	{"a\rb\r\r\nc\r", "a\rb\r\r\nc\r\r\n", "a\rb\r\r\nc\r\r\n"}, // a CR of its own is content
	{"a \rb", "a \rb\r\n", "a \rb\r\n"},
	{"a\nb \n", "a\nb \n\r\n", "a\nb \n\r\n"}, // and so is an LF
	{"\x00\xff \xc3\xbc\r\n", "\x00\xff \xc3\xbc\r\n", "\x00\xff \xc3\xbc\r\n"},
}

func TestBody(t *testing.T) {
	for _, tc := range bodies {
		for _, n := range []int{1, 2, 3, 100} {
			if got := canonical(Simple, tc.body, n); got != tc.simple {
				t.Errorf("simple %q by %d: got %q, want %q", tc.body, n, got, tc.simple)
			}
			if got := canonical(Relaxed, tc.body, n); got != tc.relaxed {
				t.Errorf("relaxed %q by %d: got %q, want %q", tc.body, n, got, tc.relaxed)
			}
		}
	}
}

// naive is the words of RFC 6376, sections 3.4.3 and 3.4.4, one by one.
func naive(c Canonicalization, body string) string {
	if c == Relaxed {
		lines := strings.Split(body, "\r\n")
		for i, l := range lines {
			lines[i] = strings.TrimRight(wsp.ReplaceAllString(l, " "), " ")
		}
		body = strings.Join(lines, "\r\n")
	}
	for strings.HasSuffix(body, "\r\n") {
		body = strings.TrimSuffix(body, "\r\n")
	}
	if body == "" && c == Relaxed {
		return ""
	}
	return body + "\r\n"
}

var wsp = regexp.MustCompile("[ \t]+")

func FuzzBody(f *testing.F) {
	for _, tc := range bodies {
		f.Add(tc.body, 2)
	}
	long := strings.Repeat("a line of some words\r\n", 500)
	f.Add(long+strings.Repeat("\r\n", 5000)+" x\t"+long, 4095)
	f.Add(strings.Repeat("x", block-1)+"\r\n"+strings.Repeat("y", block-2)+" \r\n", block)
	f.Fuzz(func(t *testing.T, body string, n int) {
		for _, c := range []Canonicalization{Simple, Relaxed} {
			if got, want := canonical(c, body, max(n, 1)), naive(c, body); got != want {
				t.Errorf("%s %q by %d: got %q, want %q", c, body, n, got, want)
			}
		}
	})
}

func FuzzAppendField(f *testing.F) {
	f.Add("B : Y\t\r\n\tZ  \r\n")
	f.Fuzz(func(t *testing.T, raw string) {
		once := Relaxed.AppendField(nil, raw)
		if twice := Relaxed.AppendField(nil, string(once)); !bytes.Equal(once, twice) {
			t.Errorf("%q: %q becomes %q", raw, once, twice)
		}
	})
}

// FuzzRelaxedField compares with the words of RFC 6376, section 3.4.2, one by one.
func FuzzRelaxedField(f *testing.F) {
	f.Add("Subject", " a word, and\ttwo  more of them,\r\n and \x01\x00 a line ")
	f.Add("A", "12345678 1234567  1234567\t1234567\r\n 1234567 !12345678")
	f.Fuzz(func(t *testing.T, name, value string) {
		name = strings.Map(func(r rune) rune {
			if r > ' ' && r < 0x7f && r != ':' {
				return r
			}
			return -1
		}, name)
		value = strings.ReplaceAll(strings.ReplaceAll(value, "\r\n", "\n"), "\n", "\r\n")
		want := strings.ToLower(name) + ":" + strings.Trim(regexp.MustCompile("[ \t\r\n]+").ReplaceAllString(value, " "), " ") + "\r\n"
		if got := string(Relaxed.AppendField([]byte("x"), name+" :"+value+"\r\n")); got != "x"+want {
			t.Errorf("%q: got %q, want %q", value, got, want)
		}
	})
}

// TestBodyIsLinear: what took others half a minute (bodies of line breaks, and
// white space of one kind only) takes as long as anything else.
func TestBodyIsLinear(t *testing.T) {
	const size = 4 << 20
	for _, unit := range []string{"\r\n", " ", " \r\n", "\t", "\r", "a\r\n", "a \r", "\r\n\r\n\r\n\r\n\r\n\r\nx"} {
		body := []byte(strings.Repeat(unit, size/len(unit)))
		for _, c := range []Canonicalization{Simple, Relaxed} {
			began := time.Now()
			w := c.NewBody(io.Discard)
			if _, err := w.Write(body); err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("%s, 4 MiB of %q took %v", c, unit, took)
			}
		}
	}
}

// TestBodyKeepsNothing: memory does not grow with the body.
func TestBodyKeepsNothing(t *testing.T) {
	chunk := []byte(strings.Repeat("some  words \r\n\r\n", 2048))
	w := Relaxed.NewBody(io.Discard)
	if n := testing.AllocsPerRun(100, func() { w.Write(chunk) }); n > 0 {
		t.Errorf("%v allocations a write", n)
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errFull }

var errFull = errors.New("full")

func TestBodyFails(t *testing.T) {
	w := Relaxed.NewBody(full{})
	full := []byte(strings.Repeat("a", block))
	if _, err := w.Write(full); !errors.Is(err, errFull) {
		t.Errorf("write: %v", err)
	}
	if _, err := w.Write([]byte("a")); !errors.Is(err, errFull) {
		t.Errorf("second write: %v", err)
	}
	if err := w.Close(); !errors.Is(err, errFull) {
		t.Errorf("close: %v", err)
	}
}

func TestParseCanonicalizations(t *testing.T) {
	for in, want := range map[string]string{
		"": "simple/simple", "relaxed": "relaxed/simple", "simple/relaxed": "simple/relaxed", "Relaxed/RELAXED": "relaxed/relaxed",
	} {
		if c, err := ParseCanonicalizations(in); err != nil || c.String() != want {
			t.Errorf("%q: got %s, %v", in, c, err)
		}
	}
	for _, in := range []string{"x", "relaxed/", "/relaxed", "simple/simple/simple", "nowsp"} {
		if c, err := ParseCanonicalizations(in); err == nil {
			t.Errorf("%q is %s", in, c)
		}
	}
}

func BenchmarkBody(b *testing.B) {
	body := []byte(strings.Repeat("It is a line of a mail, as there are many of them, with words.\r\n", 1<<20/64))
	for _, c := range []Canonicalization{Simple, Relaxed} {
		b.Run(string(c), func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			for b.Loop() {
				w := c.NewBody(io.Discard)
				w.Write(body)
				w.Close()
			}
		})
	}
}
