package message

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
)

// store writes a file and returns its path.
func store(t *testing.T, data string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "content")
	if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestStats(t *testing.T) {
	for _, tc := range []struct {
		in   string
		want Stats
	}{
		{"", Stats{}},
		{"abc\r\nab\r\n", Stats{LongestLine: 3}},
		{"a\r\nabcd", Stats{LongestLine: 4}},
		{"a\r\nabcd\n", Stats{LongestLine: 4}},
		{"\r\n\r\n", Stats{}},
		{"\rab\r\r\n", Stats{LongestLine: 4}},
		{"abcdefghi\xff\r\n", Stats{EightBit: true, LongestLine: 10}},
		{"\xe4bcdefgh\r\n", Stats{EightBit: true, LongestLine: 8}},
		{"a\x00b\r\n", Stats{NUL: true, LongestLine: 3}},
	} {
		if got := NewBody([]byte(tc.in)).Stats(); got != tc.want {
			t.Errorf("%q: got %+v", tc.in, got)
		}
		var c lineCounter
		if _, err := io.Copy(&c, iotest.OneByteReader(strings.NewReader(tc.in))); err != nil || c.result() != tc.want {
			t.Errorf("%q octet by octet: got %+v, %v", tc.in, c.result(), err)
		}
		path := store(t, tc.in)
		if got := OpenBody(path, int64(len(tc.in)), SumOf([]byte(tc.in))).Stats(); got != tc.want {
			t.Errorf("%q stored: got %+v", tc.in, got)
		}
	}
}

func TestStoredBody(t *testing.T) {
	data := strings.Repeat("some line\r\n", 10000)
	b := OpenBody(store(t, data), int64(len(data)), SumOf([]byte(data)))
	if content(t, New(new(Header), b)) != "\r\n"+data {
		t.Error("differs")
	}
	if _, inMemory := b.Bytes(); inMemory || b.File() != nil {
		t.Error("it is neither in memory nor spooled")
	}
	if err := b.Discard(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(b.path); err != nil {
		t.Errorf("Discard removed it: %v", err)
	}
	if s := (Stats{EightBit: true}); OpenBody("/nowhere", 1, b.Sum()).WithStats(s).Stats() != s {
		t.Error("WithStats")
	}
}

func TestCorruptBody(t *testing.T) {
	data := strings.Repeat("some line\r\n", 10000)
	flipped := []byte(data)
	flipped[50000] ^= 1
	for name, stored := range map[string]string{
		"one bit": string(flipped), "cut": data[:len(data)-1], "longer": data + "x", "empty": "",
	} {
		b := OpenBody(store(t, stored), int64(len(data)), SumOf([]byte(data)))
		r, err := b.NewReader()
		if err == nil {
			_, err = io.Copy(io.Discard, r)
			_ = r.Close()
		}
		if !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: got %v", name, err)
		}
		if s := b.Stats(); !s.EightBit || s.LongestLine != len(data) {
			t.Errorf("%s: the worst must be assumed: %+v", name, s)
		}
	}
	if _, err := OpenBody("/nowhere/at/all", 1, "none").NewReader(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestKeep(t *testing.T) {
	sp := dirSpool(t.TempDir())
	m, err := Receive(strings.NewReader(head+strings.Repeat("x", 50<<10)), Limits{}, sp)
	if err != nil {
		t.Fatal(err)
	}
	f := m.Body().File()
	m.Body().Keep()
	if err := m.Body().Discard(); err != nil || sp.files(t) != 1 {
		t.Errorf("%d files, %v", sp.files(t), err)
	}
	if _, err := io.ReadAll(io.NewSectionReader(f, 0, m.Body().Size())); err != nil {
		t.Errorf("kept, but closed: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}

func TestDiscardTwice(t *testing.T) {
	m, err := Receive(strings.NewReader(head+strings.Repeat("x", 50<<10)), Limits{}, dirSpool(t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Body().Discard(); err != nil {
		t.Error(err)
	}
	if err := m.Body().Discard(); err != nil {
		t.Error(err)
	}
	gone, err := Receive(strings.NewReader(head+strings.Repeat("x", 50<<10)), Limits{}, dirSpool(t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	_ = os.Remove(gone.Body().File().Name())
	if err := gone.Body().Discard(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

// TestReadersTogether reads forks of a spooled message at the same time, as
// agents do, while others ask for what is found out lazily.
func TestReadersTogether(t *testing.T) {
	body := strings.Repeat("line\r\n", 20000)
	spooled, err := Receive(strings.NewReader(head+body), Limits{}, dirSpool(t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	defer spooled.Body().Discard()
	small, err := Parse([]byte(head + "small"))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		for m, want := range map[*Message]string{spooled: head + body, small: head + "small"} {
			wg.Go(func() {
				f := m.Fork()
				f.Header.Prepend("Received", "by x")
				f.Body().Sum()
				r, err := f.NewReader()
				if err != nil {
					t.Error(err)
					return
				}
				defer r.Close()
				if b, err := io.ReadAll(r); err != nil || !bytes.Equal(b, []byte("Received: by x\r\n"+want)) || f.HasNUL() {
					t.Errorf("%d octets, %v", len(b), err)
				}
			})
		}
	}
	wg.Wait()
}
