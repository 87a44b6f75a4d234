package wire

import (
	"bytes"
	"strconv"
	"strings"
	"testing"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

// decodeAll decodes src in pieces of some octets into room for others.
func decodeAll(d *decoder, src []byte, piece, room int) (out []byte, used int) {
	dst := make([]byte, room)
	for !d.ended && (used < len(src) || d.owedLF) {
		w, r := d.decode(dst, src[used:min(used+piece, len(src))])
		out = append(out, dst[:w]...)
		used += r
	}
	return out, used
}

func TestDecoder(t *testing.T) {
	for _, tt := range []struct {
		in, out string
		bad     *mail.Reply
	}{
		{".\r\n", "", nil},
		{"a\r\n.\r\n", "a\r\n", nil},
		{"..\r\n.a\r\n.\r\n", ".\r\na\r\n", nil},
		{"a\nb\r\n.\r\n", "a\r\nb\r\n", nil},
		{"\n\n.\n", "", errLoneDot},
		{"a\n..\r\n.\r\n", "a\r\n..\r\n", nil}, // a dot that nobody stuffed
		{"a\n.\r\n.\r\n", "", errLoneDot},
		{"a\n.\n.\r\n", "", errLoneDot},
		{"a\r\n.\n.\r\n", "", errLoneDot},
		{".\n.\r\n", "", errLoneDot},
		{"a\r.\r\r\n.\r\n", "", errBareCR},
		{"a\r\n.\r\r\n.\r\n", "", errBareCR},
		{"a\r\n.\rb\r\n.\r\n", "", errBareCR},
		{"a\n.\rb\r\n.\r\n", "", errBareCR},
		{"\r\r\n.\r\n", "", errBareCR},
		{"a\x00\r\n.\r\n", "", errNUL},
		{".\x00\r\n.\r\n", "", errNUL},
	} {
		for piece := 1; piece <= len(tt.in); piece++ {
			for room := 1; room <= len(tt.in)+2; room++ {
				d := decoder{dots: true}
				out, used := decodeAll(&d, []byte(tt.in+"QUIT\r\n"), piece, room)
				if !d.ended && tt.bad == nil || d.bad != tt.bad || tt.bad == nil && string(out) != tt.out {
					t.Fatalf("%q by %d into %d: %q, %v", tt.in, piece, room, out, d.bad)
				}
				if d.ended && used != len(tt.in) {
					t.Fatalf("%q by %d into %d: ended at %d", tt.in, piece, room, used)
				}
			}
		}
	}
}

func TestStrictDecoder(t *testing.T) {
	d := decoder{dots: true, strict: true}
	if decodeAll(&d, []byte("a\nb\r\n.\r\n"), 100, 100); !d.ended || d.bad != errBareLF {
		t.Fatal(d.ended, d.bad)
	}
}

// TestLongLine: lines are as long as they may be, and no longer, whatever is at
// their end or start.
func TestLongLine(t *testing.T) {
	for in, bad := range map[string]bool{
		"12345678\r\n": false, "123456789\r\n": true, "123456789\n": false, "1234567890\n": true,
		"a\n12345678\r\nb\r\n12345678\r\n": false, "..234567\r\n": false, "..2345678\r\n": true,
		"12345678901": true, "\n\n\n\n\n\n\n\n\n\n\n\n": false, "\r\n\r\n\r\n\r\n\r\n\r\n\r\n": false,
	} {
		for piece := 1; piece <= len(in)+5; piece++ {
			d := decoder{dots: true, most: 10}
			decodeAll(&d, []byte(in+"\r\n.\r\n"), piece, 3)
			if !d.ended || d.bad != nil != bad || bad && d.bad != errTooLong {
				t.Fatalf("%q by %d: %v", in, piece, d.bad)
			}
		}
	}
}

// TestBinaryDecoder: nothing is taken for an end, and nothing is mended.
func TestBinaryDecoder(t *testing.T) {
	const in = "\r\n.\r\n\x00a\n.\nb\r\r\n"
	for piece := 1; piece <= len(in); piece++ {
		d := decoder{raw: true, strict: true}
		out, used := decodeAll(&d, []byte(in), piece, 3)
		if string(out) != in || used != len(in) || d.bad != nil || d.finish() != nil {
			t.Fatalf("by %d: %q, %d, %v", piece, out, used, d.bad)
		}
	}
}

// reference is the decoder as one would write it for whole content: slowly.
func reference(in []byte, dots bool) (out []byte, used int, ended, framing, nul bool) {
	afterCRLF := true
	for {
		i := bytes.IndexByte(in[used:], '\n')
		if i < 0 {
			return out, used, false, framing, nul
		}
		line, crlf := bytes.CutSuffix(in[used:used+i], []byte("\r"))
		used += i + 1
		if dots && afterCRLF && crlf && string(line) == "." {
			return out, used, true, framing, nul
		}
		framing = framing || bytes.Contains(line, []byte("\r")) || dots && string(line) == "."
		nul = nul || bytes.Contains(line, []byte{0})
		if dots && afterCRLF {
			line = bytes.TrimPrefix(line, []byte("."))
		}
		out = append(append(out, line...), "\r\n"...)
		afterCRLF = crlf
	}
}

func FuzzDecoder(f *testing.F) {
	for _, s := range []string{"a\r\n.b\r\n", "a\n.\r\n", "\r\r\n.\r\n", ".\r", "\n.\r\r\n", "a\x00", "..\r\n.\n"} {
		f.Add([]byte(s), byte(3), byte(5), true)
		f.Add([]byte(s), byte(1), byte(1), false)
	}
	f.Fuzz(func(t *testing.T, in []byte, piece, room byte, dots bool) {
		in = append(in, "\r\n.\r\n"...)
		d := decoder{dots: dots}
		out, used := decodeAll(&d, in, int(piece)+1, int(room)+1)
		want, wantUsed, ended, framing, nul := reference(in, dots)
		if d.ended != ended || used != wantUsed {
			t.Fatalf("ended %v at %d, want %v at %d", d.ended, used, ended, wantUsed)
		}
		if (d.bad != nil) != (framing || nul) || d.bad == errNUL && !nul || d.bad != nil && d.bad != errNUL && !framing {
			t.Fatalf("%v, want framing %v, NUL %v", d.bad, framing, nul)
		}
		if d.bad == nil && !bytes.Equal(out, want) {
			t.Fatalf("%q, want %q", out, want)
		}
	})
}

func BenchmarkDecoder(b *testing.B) {
	for _, l := range []int{20, 76, 990} {
		b.Run(strconv.Itoa(l), func(b *testing.B) {
			src := []byte(strings.Repeat(strings.Repeat("x", l)+"\r\n", (1<<20)/(l+2)))
			dst := make([]byte, 32<<10)
			b.SetBytes(int64(len(src)))
			for b.Loop() {
				d := decoder{dots: true}
				for used := 0; used < len(src); {
					_, r := d.decode(dst, src[used:])
					used += r
				}
			}
		})
	}
}
