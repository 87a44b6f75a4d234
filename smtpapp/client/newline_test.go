package client

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
)

// newline runs s through a newliner in blocks of n octets.
func newline(s string, n int, dots bool) string {
	var b bytes.Buffer
	w := &newliner{w: &b, dots: dots}
	for len(s) > 0 {
		k := min(n, len(s))
		w.Write([]byte(s[:k]))
		s = s[k:]
	}
	w.finish()
	return b.String()
}

func TestNewliner(t *testing.T) {
	for _, tc := range []struct{ in, text, dotted string }{
		{"", "", ""},
		{"a\r\nb\r\n", "a\r\nb\r\n", "a\r\nb\r\n"},
		{"a", "a\r\n", "a\r\n"},
		{"a\n", "a\r\n", "a\r\n"},
		{"a\r", "a\r\n", "a\r\n"},
		{"a\rb\nc", "a\r\nb\r\nc\r\n", "a\r\nb\r\nc\r\n"},
		{"\n\r", "\r\n\r\n", "\r\n\r\n"},
		{"\r\r\n", "\r\n\r\n", "\r\n\r\n"},
		{".", ".\r\n", "..\r\n"},
		{"..\r\n.a\r\nb.\r\n", "..\r\n.a\r\nb.\r\n", "...\r\n..a\r\nb.\r\n"},
		{"a\n.\nMAIL", "a\r\n.\r\nMAIL\r\n", "a\r\n..\r\nMAIL\r\n"},
		{"a\r.\rMAIL", "a\r\n.\r\nMAIL\r\n", "a\r\n..\r\nMAIL\r\n"},
		{"a\r\n.\r\nb", "a\r\n.\r\nb\r\n", "a\r\n..\r\nb\r\n"},
	} {
		for n := 1; n <= len(tc.in)+1; n++ {
			if got := newline(tc.in, n, false); got != tc.text {
				t.Errorf("%q by %d: got %q, want %q", tc.in, n, got, tc.text)
			}
			if got := newline(tc.in, n, true); got != tc.dotted {
				t.Errorf("%q by %d, dots: got %q, want %q", tc.in, n, got, tc.dotted)
			}
		}
	}
}

// FuzzNewliner decodes what leaves as the strictest of servers would, and
// compares it with what was meant, which is worked out octet by octet.
func FuzzNewliner(f *testing.F) {
	for _, s := range []string{"a\r\n.\r\nb", "\n.\n", "\r.\r", ".\r\n..\r\n", "a\r\r\n\n.", strings.Repeat("x\n.", 40)} {
		f.Add(s, uint8(1))
		f.Add(s, uint8(7))
	}
	f.Fuzz(func(t *testing.T, s string, n uint8) { checkWire(t, s, int(n)+1) })
}

// checkWire sends s in blocks of n octets and decodes it.
func checkWire(t *testing.T, s string, n int) {
	t.Helper()
	wire := newline(s, n, true) + ".\r\n"
	if bare := strings.ReplaceAll(wire, "\r\n", ""); strings.ContainsAny(bare, "\r\n") {
		t.Fatalf("bare CR or LF in %q", wire)
	}
	end := strings.Index("\r\n"+wire, "\r\n.\r\n")
	if end != len(wire)-3 {
		t.Fatalf("content ends at %d of %q", end, wire)
	}
	var got strings.Builder
	for line := range strings.SplitAfterSeq(wire[:end], "\r\n") {
		got.WriteString(strings.TrimPrefix(line, "."))
	}
	want := strings.NewReplacer("\r\n", "\r\n", "\r", "\r\n", "\n", "\r\n").Replace(s)
	if want != "" && !strings.HasSuffix(want, "\n") {
		want += "\r\n"
	}
	if got.String() != want {
		t.Fatalf("%q: got %q, want %q", s, got.String(), want)
	}
	if plain := newline(s, n, false); plain != want {
		t.Fatalf("%q without dots: got %q, want %q", s, plain, want)
	}
}

// TestBodies is promise P25 for what is sent: nothing in any of a million bodies
// that are little else than ends of lines and dots can be the end of content.
func TestBodies(t *testing.T) {
	bodies := 100_000
	if os.Getenv("CADDY_SMTP_SOAK") != "" {
		bodies = 1_000_000
	}
	parts := []string{"\r", "\n", "\r\n", ".", "..", "a", "\x00", "\r\n.\r\n", "\n.\n", "MAIL FROM:<>"}
	random := rand.New(rand.NewPCG(1, 2))
	for range bodies {
		var b strings.Builder
		for range random.IntN(12) {
			b.WriteString(parts[random.IntN(len(parts))])
		}
		checkWire(t, b.String(), 1+random.IntN(8))
	}
}

type nowhere struct{}

func (nowhere) Write(p []byte) (int, error) { return len(p), nil }

func BenchmarkNewliner(b *testing.B) {
	for name, line := range map[string]string{
		"lines76": strings.Repeat("x", 76) + "\r\n",
		"dots":    ".\r\n",
		"bareLF":  strings.Repeat("x", 76) + "\n",
		"onlyCR":  "\r",
	} {
		block := []byte(strings.Repeat(line, blockSize/len(line)))
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(block)))
			w := &newliner{w: nowhere{}, dots: true}
			for b.Loop() {
				w.Write(block)
			}
		})
	}
}

func TestNewlinerReportsErrors(t *testing.T) {
	for _, s := range []string{"abc", "a\nb", ".a"} {
		w := &newliner{w: failing{}, dots: true}
		if _, err := w.Write([]byte(s)); err == nil {
			t.Errorf("%q: error was lost", s)
		}
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, fmt.Errorf("no") }
