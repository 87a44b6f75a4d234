package mda

import (
	"bufio"
	"bytes"
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

// TestUnixLines: line ends, wherever the content is cut into writes.
func TestUnixLines(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "a": "a", "a\r\nb\r\n": "a\nb\n", "\r\n\r\n": "\n\n", "a\nb": "a\nb", "a\rb": "a\rb",
		"a\r": "a\r", "\r\r\n": "\r\n", "\r\r": "\r\r", "a\r\n.\r\nb": "a\n.\nb",
	} {
		for size := 1; size <= len(in)+1; size++ {
			var got bytes.Buffer
			u := &unixLines{w: bufio.NewWriter(&got)}
			for rest := in; rest != ""; {
				n := min(size, len(rest))
				if k, err := u.Write([]byte(rest[:n])); k != n || err != nil {
					t.Fatal(k, err)
				}
				rest = rest[n:]
			}
			if err := u.finish(); err != nil || got.String() != want {
				t.Errorf("%q in writes of %d: %q, %v", in, size, got.String(), err)
			}
		}
	}
}

func FuzzUnixLines(f *testing.F) {
	f.Add("a\r\nb\r", 2)
	f.Fuzz(func(t *testing.T, in string, cut int) {
		var got bytes.Buffer
		u := &unixLines{w: bufio.NewWriter(&got)}
		cut = max(0, min(cut, len(in)))
		_, _ = u.Write([]byte(in[:cut]))
		_, _ = u.Write([]byte(in[cut:]))
		if err := u.finish(); err != nil || got.String() != strings.ReplaceAll(in, "\r\n", "\n") {
			t.Errorf("%q cut at %d: %q, %v", in, cut, got.String(), err)
		}
	})
}

// TestFullDevice: a write that fails is not overlooked.
func TestFullDevice(t *testing.T) {
	f, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skipf("no /dev/full: %v", err)
	}
	defer f.Close()
	m, err := message.Parse([]byte("A: b\r\n\r\nc\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	c := Content{Message: m}
	if r := ReplyFor(c.Copy(t.Context(), f)); r.Code != 452 || r.Enh != "4.3.1" {
		t.Error(r)
	}
}

func TestDirectoryMode(t *testing.T) {
	for mode, want := range map[fs.FileMode]fs.FileMode{0o600: 0o700, 0o640: 0o750, 0o660: 0o770, 0o644: 0o755, 0o620: 0o720} {
		if got := (&Store{Mode: mode}).dirMode(); got != want {
			t.Errorf("%o: %o, want %o", mode, got, want)
		}
	}
}

// TestBinary: what was sent as BINARYMIME becomes lines of text, but for what is
// signed, and the same each time.
func TestBinary(t *testing.T) {
	const signed = "Content-Type: multipart/signed; boundary=b\r\n\r\n--b\r\n\r\n\x00\n\r\n--b--\r\n"
	for in, want := range map[string]string{
		"A: b\r\n\r\nx\r\nf\xfcr\r\n": "A: b\n\nx\nf\xfcr\n",
		"A: b\r\n\r\na\nb\r\n":        "A: b\nMIME-Version: 1.0\nContent-Type: text/plain; charset=us-ascii\nContent-Transfer-Encoding: quoted-printable\n\na=0Ab\n",
		signed:                        signed,
	} {
		m, err := message.Parse([]byte(in))
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			c := ContentFor(&queue.Delivery{Envelope: &mail.Envelope{Body: mail.BodyBinary}, Content: m}, mail.Address{Local: "a", Domain: "b.test"})
			c.Message.Header.Remove("Return-Path")
			c.Message.Header.Remove("Delivered-To")
			var got bytes.Buffer
			if err := c.Copy(t.Context(), &got); err != nil || got.String() != want {
				t.Errorf("%q: %q, %v", in, got.String(), err)
			}
		}
	}
	c := Content{Message: message.New(new(message.Header), message.OpenBody("/nowhere", 1, "none")), binary: true}
	if _, ok := errors.AsType[ContentError](c.Copy(t.Context(), new(bytes.Buffer))); !ok {
		t.Error("what cannot be read is copied")
	}
}
