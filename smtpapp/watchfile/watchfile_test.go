package watchfile

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func parse(b []byte) (string, error) {
	if strings.Contains(string(b), "bad") {
		return "", errors.New("bad contents")
	}
	return strings.TrimSpace(string(b)), nil
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		path := filepath.Join(t.TempDir(), "f")
		write(t, path, "one")
		f, err := Open(path, 100, parse, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		steps := []struct {
			does string
			act  func()
			want string
			logs int
		}{
			{"nothing", func() {}, "one", 0},
			{"same size", func() { write(t, path, "two") }, "two", 0},
			{"broken", func() { write(t, path, "bad") }, "two", 1},
			{"still broken", func() {}, "two", 1},
			{"too big", func() { write(t, path, strings.Repeat("x", 101)) }, "two", 2},
			{"gone", func() { os.Remove(path) }, "two", 3},
			{"a folder", func() { os.Mkdir(path, 0o700) }, "two", 4},
			{"mended", func() { os.Remove(path); write(t, path, "three") }, "three", 4},
			{"renamed over", func() { write(t, path+"x", "four"); os.Rename(path+"x", path) }, "four", 4},
		}
		for _, s := range steps {
			s.act()
			time.Sleep(interval)
			if got := f.Value(); got != s.want {
				t.Errorf("%s: %q", s.does, got)
			}
			if n := strings.Count(log.String(), "\n"); n != s.logs {
				t.Errorf("%s: %d lines: %s", s.does, n, &log)
			}
		}
	})
}

// TestSettled is of a file old enough that its time can be believed.
func TestSettled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	write(t, path, "one")
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(path, old, old); err != nil {
		t.Fatal(err)
	}
	reads := 0
	f, err := Open(path, 100, func(b []byte) (int, error) { reads++; return reads, nil }, slog.Default())
	if err != nil {
		t.Fatal(err)
	}
	f.next.Store(0)
	if f.Value(); reads != 1 {
		t.Error("read again without need")
	}
	if err := os.Chtimes(path, old, old.Add(time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if f.Value(); reads != 1 {
		t.Error("looked twice in a second")
	}
	f.next.Store(0)
	if f.Value(); reads != 2 {
		t.Error("not read again")
	}
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/bad", "bad")
	for _, p := range []string{dir + "/none", dir, dir + "/bad"} {
		if _, err := Open(p, 100, parse, slog.Default()); err == nil {
			t.Error(p, "opened")
		}
	}
}

func TestConcurrent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	write(t, path, "one")
	f, err := Open(path, 100, parse, slog.Default())
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				f.next.Store(0)
				if f.Value() != "one" {
					t.Error("not one")
				}
			}
		})
	}
	wg.Wait()
}

func TestLines(t *testing.T) {
	var got []string
	collect := func(n int, l string) error {
		got = append(got, string(rune('0'+n))+l)
		if l == "stop" {
			return errors.New("stopped")
		}
		return nil
	}
	if err := Lines([]byte("\ufeff# c\na: b\n\n  c\r\n# x\n\td\ne"), collect); err != nil {
		t.Fatal(err)
	}
	if s := strings.Join(got, "|"); s != "2a: b c d|7e" {
		t.Error(s)
	}
	for in, want := range map[string]string{" a": "line 1: continues nothing", "x\nstop\ny": "line 2: stopped", "\xff": "not UTF-8", "a\n# \r\nb\rc": "line 3: has a control character"} {
		if err := Lines([]byte(in), collect); err == nil || err.Error() != want {
			t.Error(err)
		}
	}
}

func FuzzLines(f *testing.F) {
	f.Add([]byte("a: b\n c\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		_ = Lines(b, func(n int, l string) error {
			if l == "" || strings.TrimSpace(l) != l || n < 1 {
				t.Errorf("%d %q", n, l)
			}
			return nil
		})
	})
}
