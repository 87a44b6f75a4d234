package sqlstore

import (
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
	"github.com/caddymail/caddy-smtp/smtpapp/queue/storetest"
)

// stored is a closed store with a small message a and a large one b.
func stored(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	s := open(t, dir)
	for id, n := range map[string]int{"a": 1, "b": 10_000, "c": 1} {
		m, err := message.Receive(strings.NewReader("Subject: x\r\n\r\n"+strings.Repeat("0123456789\r\n", n)), message.Limits{}, s)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Commit(t.Context(), &queue.Change{Add: []*queue.Entry{storetest.NewEntry(id, m, "x", "y")}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

func exec(t *testing.T, dir, query string) {
	t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(dir, "queue.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(query); err != nil {
		t.Fatal(err)
	}
}

// refused checks that a store does not open, and that nothing of it is lost by
// the attempt.
func refused(t *testing.T, dir, why string) {
	t.Helper()
	s, err := Open(dir, Options{FreeSpace: -1})
	if err == nil {
		s.Close()
		t.Fatal("it opened")
	}
	if !strings.Contains(err.Error(), why) {
		t.Errorf("got %v, want it to say %q", err, why)
	}
	if _, err := os.Stat(filepath.Join(dir, "content", "b")); err != nil {
		t.Errorf("content is gone: %v", err)
	}
}

// TestNewerFormat is refused, and left as it is for who knows it.
func TestNewerFormat(t *testing.T) {
	dir := stored(t)
	exec(t, dir, fmt.Sprintf("pragma user_version = %d", len(formats)+1))
	refused(t, dir, "newer release")
	exec(t, dir, fmt.Sprintf("pragma user_version = %d", len(formats)))
	s := open(t, dir)
	defer s.Close()
	if _, err := s.Get(t.Context(), "b"); err != nil {
		t.Error(err)
	}
}

// TestOlderFormats: a queue of each format that was ever written is opened, and
// nothing of it is lost. The samples are made by the releases that wrote them.
func TestOlderFormats(t *testing.T) {
	samples, err := os.ReadDir("testdata")
	if err != nil || len(samples) == 0 {
		t.Fatal("no samples", err)
	}
	for _, sample := range samples {
		t.Run(sample.Name(), func(t *testing.T) {
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS(filepath.Join("testdata", sample.Name()))); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				s := open(t, dir)
				checkSample(t, s)
				if sample.Name() != "v1" {
					checkFormat2(t, s)
				}
				checkLoose(t, s)
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// checkFormat2 looks at what came with format 2.
func checkFormat2(t *testing.T, s *Store) {
	e, err := s.Get(t.Context(), "small")
	if err != nil || len(e.Recipients) != 4 {
		t.Fatal(e, err)
	}
	tried, held, told := e.Recipients[1], e.Recipients[2], e.Recipients[3]
	if h := tried.History; len(h) != 2 || h[1].Took != 2*time.Second || h[1].Remote != "mx.test" || h[1].Reply != "451 4.7.1 come back later" {
		t.Errorf("got %+v", h)
	}
	if held.Reason != "by an operator" || told.Agent != "other" || told.Wish != queue.WishReport {
		t.Errorf("got %+v, %+v", held, told)
	}
}

// checkLoose: what was queued by a format without bins is found without.
func checkLoose(t *testing.T, s *Store) {
	es, _, err := s.Waiting(t.Context(), queue.Wait{Limit: 10})
	if err != nil || len(es) != 3 || len(es[2].Recipients) != 3 {
		t.Errorf("got %+v, %v", es, err)
	}
	if bs, err := s.Bins(t.Context(), 0); err != nil || len(bs) != 0 {
		t.Errorf("got bins %+v, %v", bs, err)
	}
}

func checkSample(t *testing.T, s *Store) {
	at := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	e, err := s.Get(t.Context(), "small")
	if err != nil || len(e.Recipients) != 4 {
		t.Fatal(e, err)
	}
	if !e.Queued.Equal(at) || e.Envelope.From.String() != "s@from.test" || e.Envelope.AuthUser != "u" || e.Envelope.ID != "envid" {
		t.Errorf("got %v %+v", e.Queued, e.Envelope)
	}
	fresh, tried, held, told := e.Recipients[0], e.Recipients[1], e.Recipients[2], e.Recipients[3]
	if fresh.Address.Local != "new" || fresh.Agent != "agent" || fresh.Notify != mail.NotifySuccess || fresh.Original != "rfc822;x@y" ||
		fresh.Held || fresh.Attempts != 0 || !fresh.Due.Equal(at) || fresh.Wish != queue.NoWish || fresh.History != nil || fresh.Starts != 0 {
		t.Errorf("got %+v %+v", fresh, fresh.Recipient)
	}
	if tried.Attempts != 3 || !tried.Due.Equal(at.Add(time.Hour)) || tried.Last.RemoteMTA != "mx.test" || tried.Last.Reply.Text != "come back\nlater" {
		t.Errorf("got %+v", tried)
	}
	if !held.Held || held.Last.Reply.Code != 451 || !told.Noticed || told.Attempts != 9 {
		t.Errorf("got %+v, %+v", held, told)
	}
	body := strings.Repeat("0123456789\r\n", 3000)
	for id, want := range map[string]string{
		"small": "Subject: small\r\n\r\n0123456789\r\n", "large": "Subject: large\r\n\r\n" + body,
		"large-2": "X-Fork: yes\r\nSubject: large\r\n\r\n" + body,
	} {
		m, err := s.Content(t.Context(), id)
		if err != nil {
			t.Fatal(id, err)
		}
		r, err := m.NewReader()
		if err != nil {
			t.Fatal(id, err)
		}
		if got, err := io.ReadAll(r); err != nil || string(got) != want {
			t.Errorf("%s: got %d octets, want %d; %v", id, len(got), len(want), err)
		}
		r.Close()
	}
}

// TestLostDatabase: content that nothing names for want of the database is not
// taken for rubbish.
func TestLostDatabase(t *testing.T) {
	for name, lose := range map[string]func(path string) error{
		"removed":   os.Remove,
		"empty":     func(path string) error { return os.Truncate(path, 0) },
		"no header": func(path string) error { return overwrite(path, 0, 100) },
		"no schema": func(path string) error { return overwrite(path, 100, 4096) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := stored(t)
			if err := lose(filepath.Join(dir, "queue.db")); err != nil {
				t.Fatal(err)
			}
			refused(t, dir, "queue")
		})
	}
}

func overwrite(path string, from, to int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteAt(bytes.Repeat([]byte{0xaa}, int(to-from)), from)
	return err
}

// TestDamagedDatabase: wherever a page is overwritten, there is no crash, and
// nothing is read that was not stored.
func TestDamagedDatabase(t *testing.T) {
	st, err := os.Stat(filepath.Join(stored(t), "queue.db"))
	if err != nil {
		t.Fatal(err)
	}
	opened := 0
	for at := int64(0); at < st.Size(); at += 1024 {
		dir := stored(t)
		if err := overwrite(filepath.Join(dir, "queue.db"), at, at+64); err != nil {
			t.Fatal(err)
		}
		s, err := Open(dir, Options{FreeSpace: -1})
		if err != nil {
			continue
		}
		opened++
		for _, id := range []string{"a", "b", "c"} {
			m, err := s.Content(t.Context(), id)
			if err != nil {
				continue
			}
			r, err := m.NewReader()
			if err != nil {
				continue
			}
			var b bytes.Buffer
			if _, err := b.ReadFrom(r); err == nil && b.Len() != 12+2+12 && b.Len() != 12+2+120_000 {
				t.Errorf("damage at %d: %s has %d octets", at, id, b.Len())
			}
			r.Close()
		}
		if err := s.Each(t.Context(), "", func(*queue.Entry) bool { return true }); err != nil {
			t.Logf("damage at %d: %v", at, err)
		}
		s.Close()
	}
	t.Logf("%d opened", opened)
}

// TestDamagedEntry is there as that, held and without its envelope; the others
// are as they were.
func TestDamagedEntry(t *testing.T) {
	for _, query := range []string{
		"update entry set envelope = '{' where id = 'b'",
		"update entry set envelope_crc = 0 where id = 'b'",
		"update recipient set detail = 'x' where entry = 'b' and idx = 0",
		"update recipient set detail = 'x' where entry = 'b' and idx = 1",
		"update recipient set detail = '[]', address = '' where entry = 'b'",
	} {
		dir := stored(t)
		exec(t, dir, query)
		s := open(t, dir)
		var ids []string
		if err := s.Each(t.Context(), "", func(e *queue.Entry) bool {
			ids = append(ids, fmt.Sprint(e.ID, len(e.Recipients), e.Damaged))
			for _, r := range e.Recipients {
				if r.Held != e.Damaged || r.Agent != "agent" || e.Damaged != (e.Envelope.From == mail.Address{}) {
					t.Errorf("%s: got %+v of %+v", query, r, e)
				}
			}
			return true
		}); err != nil {
			t.Error(err)
		}
		if got := strings.Join(ids, " "); got != "a2 false b2 true c2 false" {
			t.Errorf("%s: got %s", query, got)
		}
		s.Close()
	}
}

// TestDamagedContent is never returned for what was stored.
func TestDamagedContent(t *testing.T) {
	for _, query := range []string{
		"update content set inline = cast('other' as blob) where file is null",
		"update content set inline = null where file is null",
		"update content set sum = x'00' where file is null",
		"update entry set header = x'00' where id in ('a', 'c')",
	} {
		dir := stored(t)
		exec(t, dir, query)
		s := open(t, dir)
		if m, err := s.Content(t.Context(), "a"); !errors.Is(err, queue.ErrDamaged) {
			t.Errorf("%s: got %v, %v", query, m, err)
		}
		if _, err := s.Content(t.Context(), "b"); err != nil {
			t.Error(err)
		}
		s.Close()
	}
}

// TestCollects what was never accepted, and what an entry has left.
func TestCollects(t *testing.T) {
	dir := stored(t)
	for _, f := range []string{"incoming/1234", "content/zzzz"} {
		if err := os.WriteFile(filepath.Join(dir, f), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := open(t, dir)
	defer s.Close()
	for d, want := range map[string]int{"incoming": 0, "content": 1} {
		if fs, err := os.ReadDir(filepath.Join(dir, d)); len(fs) != want || err != nil {
			t.Errorf("%s: %d files, want %d; %v", d, len(fs), want, err)
		}
	}
}
