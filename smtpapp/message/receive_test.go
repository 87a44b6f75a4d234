package message

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

// dirSpool makes files in a directory.
type dirSpool string

func (d dirSpool) Create() (*os.File, error) { return os.CreateTemp(string(d), "content-*") }

func (d dirSpool) files(t *testing.T) int {
	t.Helper()
	es, err := os.ReadDir(string(d))
	if err != nil {
		t.Fatal(err)
	}
	return len(es)
}

// fullSpool makes files on a full disk.
type fullSpool struct{ dirSpool }

func (d fullSpool) Create() (*os.File, error) {
	name := filepath.Join(string(d.dirSpool), "full")
	if err := os.Symlink("/dev/full", name); err != nil {
		return nil, err
	}
	return os.OpenFile(name, os.O_RDWR, 0)
}

// noSpool cannot even make a file.
type noSpool struct{}

func (noSpool) Create() (*os.File, error) { return nil, syscall.ENOSPC }

const head = "From: a@b.test\r\nSubject: x\r\n\r\n"

func TestReceiveSizes(t *testing.T) {
	for _, n := range []int{0, 1, 100, firstRead, 32<<10 - 1, 32 << 10, 32<<10 + 1, 64 << 10, 64<<10 + 1, 1 << 20} {
		for name, wrap := range map[string]func(io.Reader) io.Reader{
			"plain": func(r io.Reader) io.Reader { return r }, "halves": iotest.HalfReader, "early EOF": iotest.DataErrReader,
		} {
			sp := dirSpool(t.TempDir())
			body := strings.Repeat("0123456789abc\r\n", n/15+1)[:n]
			m, err := Receive(wrap(strings.NewReader(head+body)), Limits{Size: int64(len(head) + n)}, sp)
			if err != nil {
				t.Fatalf("%d, %s: %v", n, name, err)
			}
			b := m.Body()
			if content(t, m) != head+body || b.Size() != int64(n) || b.Sum() != SumOf([]byte(body)) {
				t.Errorf("%d, %s: differs", n, name)
			}
			if _, inMemory := b.Bytes(); inMemory != (n <= 32<<10) || inMemory != (b.File() == nil) {
				t.Errorf("%d, %s: in memory: %t", n, name, inMemory)
			}
			if err := b.Discard(); err != nil || sp.files(t) != 0 {
				t.Errorf("%d, %s: %d files left, %v", n, name, sp.files(t), err)
			}
		}
	}
}

func TestReceiveMemory(t *testing.T) {
	body := strings.Repeat("x", 200<<10)
	for _, memory := range []int{1, 100 << 10, 199 << 10} { // more of it than one write takes
		m, err := Receive(strings.NewReader(head+body), Limits{Memory: memory}, dirSpool(t.TempDir()))
		if err != nil || m.Body().File() == nil || content(t, m) != head+body {
			t.Errorf("%d: %v", memory, err)
		}
		_ = m.Body().Discard()
	}
	if m, err := Receive(strings.NewReader(head+body), Limits{}, nil); err != nil || m.Body().File() != nil {
		t.Errorf("without a spool: %v", err)
	}
}

func TestLimits(t *testing.T) {
	fold := "A: 1\r\n" + strings.Repeat(" 123456\r\n", 100)
	for _, tc := range []struct {
		name, in string
		limits   Limits
		code     int
		enh      string
	}{
		{"size", head + strings.Repeat("x", 100), Limits{Size: 100}, 552, "5.3.4"},
		{"size of a spooled body", head + strings.Repeat("x", 99<<10), Limits{Size: 98 << 10}, 552, "5.3.4"},
		{"header block", fold + "\r\n", Limits{HeaderSize: 900}, 552, "5.3.4"},
		{"header block in one line", "A: " + strings.Repeat("x", 2000), Limits{HeaderSize: 1900}, 552, "5.3.4"},
		{"fields", strings.Repeat("A: 1\r\n", 11), Limits{HeaderFields: 10}, 554, "5.6.0"},
		{"field", fold, Limits{FieldSize: 900}, 554, "5.6.0"},
		{"field of one line", "A: " + strings.Repeat("x", 2000), Limits{FieldSize: 1900}, 554, "5.6.0"},
	} {
		r := strings.NewReader(tc.in + strings.Repeat("rest\r\n", 100<<10))
		sp := dirSpool(t.TempDir())
		_, err := Receive(r, tc.limits, sp)
		if reply, ok := errors.AsType[*mail.Reply](err); !ok || reply.Code != tc.code || reply.Enh != tc.enh {
			t.Errorf("%s: got %v", tc.name, err)
		}
		if r.Len() == 0 || sp.files(t) > 0 {
			t.Errorf("%s: %d octets unread, %d files left", tc.name, r.Len(), sp.files(t))
		}
	}
}

func TestWithinLimits(t *testing.T) {
	const in = "A: 1\r\nB: 2\r\n 3\r\n\r\n"
	l := Limits{Size: int64(len(in)), HeaderSize: len(in) - 2, HeaderFields: 2, FieldSize: len("B: 2\r\n 3\r\n")}
	if _, err := Receive(strings.NewReader(in), l, nil); err != nil {
		t.Error(err)
	}
	big := strings.Repeat("x", 5000) + "\r\n" // limits of the header are not the body's
	if _, err := Receive(strings.NewReader(in+big), Limits{HeaderSize: 100, FieldSize: 100}, nil); err != nil {
		t.Error(err)
	}
	if _, err := Receive(strings.NewReader(big), Limits{HeaderSize: 100, FieldSize: 100}, nil); err != nil {
		t.Error(err)
	}
}

func TestReceiveFails(t *testing.T) {
	big := head + strings.Repeat("x", 100<<10)
	lost := errors.New("connection lost")
	for _, tc := range []struct {
		name string
		r    io.Reader
		sp   func(dirSpool) Spool
		want error
	}{
		{"disk full", strings.NewReader(big), func(d dirSpool) Spool { return fullSpool{d} }, syscall.ENOSPC},
		{"no inodes", strings.NewReader(big), func(dirSpool) Spool { return noSpool{} }, syscall.ENOSPC},
		{"lost in the header", io.MultiReader(strings.NewReader("A: 1\r\n"), iotest.ErrReader(lost)), func(d dirSpool) Spool { return d }, lost},
		{"lost in a small body", io.MultiReader(strings.NewReader(head), iotest.ErrReader(lost)), func(d dirSpool) Spool { return d }, lost},
		{"lost in a big body", io.MultiReader(strings.NewReader(big), iotest.ErrReader(lost)), func(d dirSpool) Spool { return d }, lost},
		{"reader without progress", idle{}, func(d dirSpool) Spool { return d }, io.ErrNoProgress},
	} {
		dir := dirSpool(t.TempDir())
		m, err := Receive(tc.r, Limits{}, tc.sp(dir))
		if m != nil || !errors.Is(err, tc.want) {
			t.Errorf("%s: got %v", tc.name, err)
		}
		if _, ok := errors.AsType[*mail.Reply](err); ok || dir.files(t) > 0 {
			t.Errorf("%s: %d files left, %v", tc.name, dir.files(t), err)
		}
	}
}

type idle struct{}

func (idle) Read([]byte) (int, error) { return 0, nil }

// TestNothingQuadratic feeds what took other servers seconds (case 47 of
// docs/hostile-input.md) in small bits; the bound is far above what it takes.
func TestNothingQuadratic(t *testing.T) {
	for name, in := range map[string]string{
		"folded header": "A: 1\r\n" + strings.Repeat(" x\r\n", 1<<18),
		"fields":        strings.Repeat("A: 1\r\n", 20000),
		"long field":    "A: " + strings.Repeat("x", 1<<20),
		"empty name":    strings.Repeat("x", 1<<20),
		"white space":   "A" + strings.Repeat(" ", 1<<20) + ": 1",
	} {
		start := time.Now()
		m, err := Receive(&slowly{strings.NewReader(in)}, Limits{}, nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for i := range 100 {
			m.Header.Clone().Prepend("X", fmt.Sprint(i))
		}
		_ = m.Header.Get("A")
		for range 20000 {
			m.Header.Prepend("X", "y")
		}
		took := time.Since(start)
		t.Logf("%s: %v", name, took)
		if took > 2*time.Second {
			t.Errorf("%s took %v", name, took)
		}
	}
}

// slowly reads 100 octets at a time.
type slowly struct{ r io.Reader }

func (s *slowly) Read(p []byte) (int, error) { return s.r.Read(p[:min(100, len(p))]) }

func BenchmarkReceive(b *testing.B) {
	fields := strings.Repeat("Received: from mx.example.test by mail.example.test with ESMTPS id 4fZ;\r\n\tMon, 5 Jan 2026 10:00:00 +0000\r\n", 8)
	for _, n := range []int{4 << 10, 64 << 10, 1 << 20} {
		in := fields + head + strings.Repeat("0123456789012345678901234567890123456789012345678901234567890\r\n", n/63)
		b.Run(fmt.Sprint(n>>10, "KiB"), func(b *testing.B) {
			sp := dirSpool(b.TempDir())
			r := strings.NewReader(in)
			b.SetBytes(int64(len(in)))
			b.ReportAllocs()
			for b.Loop() {
				r.Reset(in)
				m, err := Receive(r, Limits{Size: 2 << 20, HeaderSize: 256 << 10, HeaderFields: 1000, FieldSize: 64 << 10}, sp)
				if err != nil {
					b.Fatal(err)
				}
				if err := m.Body().Discard(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkPrepend(b *testing.B) {
	h, _, _ := ParseHeader([]byte(strings.Repeat("A: 1\r\n", 30)))
	b.ReportAllocs()
	for b.Loop() {
		h.Clone().Prepend("Received", "from client.example.test ([192.0.2.1]) by mx.example.test with ESMTPS id 4fZ; Mon, 5 Jan 2026 10:00:00 +0000")
	}
}
