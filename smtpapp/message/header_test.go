package message

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

func header(t *testing.T, s string) *Header {
	t.Helper()
	h, rest, err := ParseHeader([]byte(s))
	if err != nil || len(rest) > 0 {
		t.Fatalf("%q: rest %q, %v", s, rest, err)
	}
	return h
}

// block is the header without the empty line.
func block(h *Header) string { return strings.TrimSuffix(string(h.Bytes()), "\r\n") }

func TestHeaderEnds(t *testing.T) {
	long, spaces := strings.Repeat("x", 2000), strings.Repeat(" ", 2000)
	for _, tc := range []struct{ name, in, block, body string }{
		{"empty line", "A: 1\r\nB: 2\r\n\r\nbody\r\n", "A: 1\r\nB: 2\r\n", "body\r\n"},
		{"nothing", "", "", ""},
		{"only the empty line", "\r\n", "", ""},
		{"empty line first", "\r\nA: 1\r\n", "", "A: 1\r\n"},
		{"no header", "hello\r\nA: 1\r\n", "", "hello\r\nA: 1\r\n"},
		{"no empty line", "A: 1\r\n", "A: 1\r\n", ""},
		{"no final CRLF", "A: 1", "A: 1\r\n", ""},
		{"no final LF", "A: 1\r", "A: 1\r\n", ""},
		{"line that is no field", "A: 1\r\nhello\r\nB: 2\r\n", "A: 1\r\n", "hello\r\nB: 2\r\n"},
		{"white space first", " A: 1\r\nB: 2\r\n", "", " A: 1\r\nB: 2\r\n"},
		{"colon first", ": 1\r\n", "", ": 1\r\n"},
		{"two words before the colon", "A b: 1\r\n", "", "A b: 1\r\n"},
		{"8-bit name", "Ä: 1\r\n", "", "Ä: 1\r\n"},
		{"mbox line", "From a@b.test Mon Jan  5 10:00:00 2026\r\nA: 1\r\n", "", "From a@b.test Mon Jan  5 10:00:00 2026\r\nA: 1\r\n"},
		{"continuation", "A: 1\r\n 2\r\n\t3\r\nB: 4\r\n\r\n", "A: 1\r\n 2\r\n\t3\r\nB: 4\r\n", ""},
		{"continuation of white space", "A: 1\r\n \r\n 2\r\n\r\nx", "A: 1\r\n \r\n 2\r\n", "x"},
		{"space before colon", "From : a\r\n\r\n", "From : a\r\n", ""},
		{"bare LF in the first line of a body", "hello\nA: 1\r\n", "", "hello\nA: 1\r\n"},
		{"bare LF first", "\nA: 1\r\n", "", "\nA: 1\r\n"},
		{"long line without a colon", long + "\r\nA: 1\r\n", "", long + "\r\nA: 1\r\n"},
		{"long line with a late colon", long + ": 1\r\n", "", long + ": 1\r\n"},
		{"late colon after white space", "A" + spaces + ": 1\r\n", "", "A" + spaces + ": 1\r\n"},
		{"long field", "A:" + long + "\r\n\r\nx", "A:" + long + "\r\n", "x"},
	} {
		h, body, err := ParseHeader([]byte(tc.in))
		if err != nil || block(h) != tc.block || string(body) != tc.body {
			t.Errorf("%s: got %q and %q, %v; want %q and %q", tc.name, block(h), body, err, tc.block, tc.body)
			continue
		}
		m, err := Receive(iotest.OneByteReader(strings.NewReader(tc.in)), Limits{}, nil)
		if err != nil {
			t.Errorf("%s: octet by octet: %v", tc.name, err)
			continue
		}
		if got, _ := m.Body().Bytes(); block(m.Header) != tc.block || string(got) != tc.body {
			t.Errorf("%s: octet by octet: got %q and %q", tc.name, block(m.Header), got)
		}
	}
}

func TestBareNewlinesInHeader(t *testing.T) {
	for _, in := range []string{
		"A: 1\nBcc: x\r\n\r\n", "A: 1\rBcc: x\r\n\r\n", "A: 1\r\n x\ny\r\n\r\n", "A: 1\r\r\n\r\n", "A: 1\n", "A: 1\rB",
	} {
		_, _, err := ParseHeader([]byte(in))
		if r, ok := errors.AsType[*mail.Reply](err); !ok || r.Code != 550 || r.Enh != "5.5.2" {
			t.Errorf("%q: got %v", in, err)
		}
	}
}

func TestField(t *testing.T) {
	h := header(t, "Subject:  a\r\n  b\r\n\tc \r\nFROM \t: x\r\nEmpty:\r\n\r\n")
	fs := slices.Collect(h.Fields())
	if f := fs[0]; f.Name() != "Subject" || f.Value() != "a  b\tc" || f.Malformed() || f.Raw() != "Subject:  a\r\n  b\r\n\tc \r\n" {
		t.Errorf("got %q: %q", f.Name(), f.Value())
	}
	if f := fs[1]; f.Name() != "FROM" || !f.Is("From") || f.Value() != "x" || !f.Malformed() {
		t.Errorf("got %q: %q", f.Name(), f.Value())
	}
	if f := fs[2]; f.Value() != "" || f.Is("Emptyy") || f.Is("Empt") {
		t.Errorf("got %q: %q", f.Name(), f.Value())
	}
}

func TestHeaderReads(t *testing.T) {
	h := header(t, "Received: 3\r\nreceived: 2\r\nX: y\r\nRECEIVED: 1\r\n\r\n")
	if got := h.Values("Received"); !slices.Equal(got, []string{"3", "2", "1"}) {
		t.Errorf("Values: got %q", got)
	}
	if h.Hops() != 3 || h.Count("x") != 1 || h.Count("none") != 0 || h.Len() != 4 {
		t.Errorf("got %d hops, %d fields", h.Hops(), h.Len())
	}
	if h.Get("RECEIVED") != "3" || h.Get("none") != "" {
		t.Errorf("Get: got %q", h.Get("RECEIVED"))
	}
	if err := iotest.TestReader(h.NewReader(), h.Bytes()); err != nil {
		t.Error(err)
	}
	if n := header(t, "A: 1\r\n 23\r\nB:\r\n\r\n").LongestLine(); n != 4 {
		t.Errorf("LongestLine: %d", n)
	}
	if h.EightBit() || h.HasNUL() || !header(t, "A: ü\r\n\r\n").EightBit() || !header(t, "A: \x00\r\n\r\n").HasNUL() {
		t.Error("EightBit or HasNUL")
	}
}

func TestHeaderEdits(t *testing.T) {
	const in = "A: 1\r\nB: 2\r\na: 3\r\n\r\n"
	for _, tc := range []struct {
		name string
		edit func(h *Header)
		want string
	}{
		{"prepend", func(h *Header) { h.Prepend("X", "1"); h.Prepend("Y", "2") }, "Y: 2\r\nX: 1\r\nA: 1\r\nB: 2\r\na: 3\r\n"},
		{"append", func(h *Header) { h.Append("X", "1") }, "A: 1\r\nB: 2\r\na: 3\r\nX: 1\r\n"},
		{"set", func(h *Header) { h.Set("A", "9") }, "A: 9\r\nB: 2\r\n"},
		{"set what was prepended", func(h *Header) { h.Prepend("A", "0"); h.Set("A", "9") }, "A: 9\r\nB: 2\r\n"},
		{"set a new one", func(h *Header) { h.Set("X", "9") }, "A: 1\r\nB: 2\r\na: 3\r\nX: 9\r\n"},
		{"remove", func(h *Header) { h.Remove("A") }, "B: 2\r\n"},
		{"remove none", func(h *Header) { h.Remove("X") }, "A: 1\r\nB: 2\r\na: 3\r\n"},
		{"remove some", func(h *Header) { h.RemoveFunc("A", func(v string) bool { return v == "3" }) }, "A: 1\r\nB: 2\r\n"},
		{"no name", func(h *Header) { h.Prepend("", "1"); h.Append("\r\n", "1"); h.Set(":", "1") }, "A: 1\r\nB: 2\r\na: 3\r\n"},
	} {
		h := header(t, in)
		c := h.Clone()
		tc.edit(h)
		if got := block(h); got != tc.want || h.Size() != len(got)+2 {
			t.Errorf("%s: got %q, size %d", tc.name, got, h.Size())
		}
		if got := string(c.Bytes()); got != in {
			t.Errorf("%s: changed the clone: %q", tc.name, got)
		}
	}
	if n := header(t, in).Remove("a"); n != 2 {
		t.Errorf("Remove: got %d", n)
	}
}

// TestClonesApart changes clones of one header in turn, so that one that wrote
// into another's memory would show.
func TestClonesApart(t *testing.T) {
	h := header(t, "A: 1\r\n\r\n")
	var clones []*Header
	for i := range 20 {
		h.Prepend("P", "x")
		h.Append("Q", "x")
		c := h.Clone()
		c.Prepend("C", strings.Repeat("c", i+1))
		c.Append("D", strings.Repeat("d", i+1))
		clones = append(clones, c)
	}
	for i, c := range clones {
		if c.Get("C") != strings.Repeat("c", i+1) || c.Get("D") != strings.Repeat("d", i+1) || c.Len() != 2*i+5 || c.Count("D") != 1 {
			t.Errorf("clone %d: %q", i, c.Bytes())
		}
	}
}

func TestPrependRaw(t *testing.T) {
	h := header(t, "A: 1\r\n\r\n")
	const sig = "DKIM-Signature: v=1;\r\n  b=x\r\n"
	if err := h.PrependRaw(sig); err != nil || block(h) != sig+"A: 1\r\n" {
		t.Errorf("got %q, %v", h.Bytes(), err)
	}
	for _, s := range []string{"", "A: 1", "A: 1\r\nB: 2\r\n", "A: 1\r\n\r\n", "A 1\r\n", "A: 1\nB: 2\r\n"} {
		if err := h.PrependRaw(s); err == nil {
			t.Errorf("%q: no error", s)
		}
	}
}

func TestFold(t *testing.T) {
	h := new(Header)
	value := strings.TrimSpace(strings.Repeat("words of five ", 40))
	h.Prepend("Subject", value)
	if got := h.Get("Subject"); got != value {
		t.Errorf("got %q", got)
	}
	for line := range strings.SplitSeq(block(h), "\r\n") {
		if len(line) > foldAt {
			t.Errorf("%d octets: %q", len(line), line)
		}
	}
	h.Set("Subject", strings.Repeat("ü", 2000)+strings.Repeat(" ", 3000)+"x")
	for line := range strings.SplitSeq(strings.TrimSuffix(block(h), "\r\n"), "\r\n") {
		if len(line) > maxLine || strings.TrimSpace(line) == "" || strings.ToValidUTF8(line, "") != line {
			t.Errorf("%d octets: %q", len(line), line)
		}
	}
}

// TestNothingEscapesAValue tries to begin a field, or the body, from within.
func TestNothingEscapesAValue(t *testing.T) {
	for in, want := range map[string]string{
		"a\r\nBcc: x":           "a  Bcc: x",
		"a\r\n\r\nbody":         "a    body",
		"a\r\n b":               "a b", // folded: the same value
		"a\nb\rc\x00d\x1be\x7f": "a b c d e",
		"\r\n":                  "",
		"tab\tü":                "tab\tü",
	} {
		h := new(Header)
		h.Prepend("A", in)
		if h.Get("A") != want {
			t.Errorf("%q: got %q", in, h.Get("A"))
		}
		if again := header(t, string(h.Bytes())); again.Len() != 1 {
			t.Errorf("%q: %d fields", in, again.Len())
		}
	}
	h := new(Header)
	h.Prepend("X: y\r\nBcc", "z")
	if block(h) != "XyBcc: z\r\n" {
		t.Errorf("got %q", h.Bytes())
	}
}

func TestValidName(t *testing.T) {
	for s, want := range map[string]bool{"X-A": true, "": false, "a b": false, "a:": false, "ä": false, "a\n": false, strings.Repeat("a", 99): false} {
		if ValidName(s) != want {
			t.Errorf("%q: got %t", s, !want)
		}
	}
}

// FuzzParse checks that content is read back as it came but for the line ends
// that a header needs, that reading it in bits finds the same, and that what
// is added to its header stays there.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"A: 1\r\n 2\r\n\r\nx", "From x\r\n", "A : 1\r\nb", "\r\n\r\n", "A: 1\r", "a:\nb", strings.Repeat("a", 1000) + ":\r\n"} {
		f.Add([]byte(s), "value\r\nB: c")
	}
	f.Fuzz(func(t *testing.T, in []byte, value string) {
		m, err := Parse(in)
		m2, err2 := Receive(iotest.HalfReader(strings.NewReader(string(in))), Limits{}, nil)
		if (err == nil) != (err2 == nil) {
			t.Fatalf("%v, in bits %v", err, err2)
		}
		if err != nil {
			return
		}
		out := content(t, m)
		if in2 := content(t, m2); in2 != out {
			t.Fatalf("%q, in bits %q", out, in2)
		}
		if strings.ReplaceAll(out, "\r\n", "") != strings.TrimSuffix(strings.ReplaceAll(string(in), "\r\n", ""), "\r") &&
			strings.ReplaceAll(out, "\r\n", "") != strings.ReplaceAll(string(in), "\r\n", "") {
			t.Fatalf("%q became %q", in, out)
		}
		n := m.Header.Len()
		m.Header.Prepend("X-Fuzz", value)
		again, err := Parse([]byte(content(t, m)))
		if err != nil || again.Header.Len() != n+1 || content(t, again) != content(t, m) {
			t.Fatalf("%q: %d fields became %d, %v", content(t, m), n, again.Header.Len(), err)
		}
	})
}

func content(t *testing.T, m *Message) string {
	t.Helper()
	r, err := m.NewReader()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(b)) != m.Size() {
		t.Fatalf("Size is %d, read %d", m.Size(), len(b))
	}
	return string(b)
}
