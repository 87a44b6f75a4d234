package sqlstore

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
	"github.com/caddymail/caddy-smtp/smtpapp/queue/storetest"
)

// tmpfs mounts a small file system.
func tmpfs(t *testing.T, options string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Skip("cannot mount: ", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func openWith(t *testing.T, dir string, free int64) *Store {
	t.Helper()
	s, err := Open(dir, Options{FreeSpace: free})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// put accepts a message of so many lines, as a session does.
func put(t *testing.T, s *Store, id string, lines int) error {
	t.Helper()
	m, err := message.Receive(strings.NewReader("Subject: x\r\n\r\n"+strings.Repeat("0123456789\r\n", lines)), message.Limits{}, s)
	if err != nil {
		return err
	}
	err = s.Commit(t.Context(), &queue.Change{Add: []*queue.Entry{storetest.NewEntry(id, m, "x")}})
	if e := m.Body().Discard(); e != nil {
		t.Error(e)
	}
	return err
}

// refusal checks what a client is told.
func refusal(t *testing.T, err error, codes ...int) {
	t.Helper()
	r := mail.ReplyFor(err)
	ok := false
	for _, c := range codes {
		ok = ok || r.Code == c
	}
	if !ok || strings.ContainsAny(r.Text, "/") || strings.Contains(r.Text, "no space") {
		t.Errorf("the reply is %v", r)
	}
}

// fill fills the file system to the last octet.
func fill(t *testing.T, dir string) (free func()) {
	t.Helper()
	path := filepath.Join(dir, "junk")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for n := 1 << 20; n > 0; n /= 2 {
		for {
			if _, err := f.Write(make([]byte, n)); err != nil {
				break
			}
		}
	}
	return func() { os.Remove(path) }
}

func finish(t *testing.T, s *Store, id string) {
	t.Helper()
	e, err := s.Get(t.Context(), id)
	if err != nil {
		t.Fatal(id, err)
	}
	e.Recipients[0].Done = true
	if err := s.Commit(t.Context(), &queue.Change{Update: e.Recipients}); err != nil {
		t.Fatal(id, err)
	}
}

// TestFull: new mail is refused while there is a reserve, what is queued gets
// on even without, and mail is taken again once there is room.
func TestFull(t *testing.T) {
	dir := tmpfs(t, "size=48m")
	s := openWith(t, dir, 16<<20)
	n := 0
	var err error
	for ; n < 10_000; n++ {
		if err = put(t, s, fmt.Sprintf("%05d", n), []int{100, 10_000}[n%2]); err != nil {
			break
		}
	}
	refusal(t, err, 452)
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	if left := int64(st.Bavail) * st.Bsize; n < 20 || left < 15<<20 {
		t.Errorf("%d were taken, %d MiB are left", n, left>>20)
	}
	free := fill(t, dir)
	results := 0
	for more := 20; more > 0 && results < n; results++ {
		refusal(t, put(t, s, "more", 100), 452)
		e, err := s.Get(t.Context(), fmt.Sprintf("%05d", results))
		if err != nil {
			t.Fatal(err)
		}
		e.Recipients[0].Attempts++
		m, _ := message.Parse([]byte("Subject: DSN\r\n\r\n" + strings.Repeat("x", 20_000)))
		c := &queue.Change{Update: e.Recipients, Add: []*queue.Entry{storetest.NewEntry(e.ID+"d", m, "x")}}
		if err := s.Commit(t.Context(), c); err != nil {
			t.Fatalf("the result of %d cannot be written: %v", results, err)
		}
		if _, err := os.Stat(filepath.Join(dir, "ballast")); err != nil {
			more--
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "ballast")); err == nil {
		t.Error("the ballast was not needed: nothing is tested")
	}
	free()
	for i := range results {
		finish(t, s, fmt.Sprintf("%05d", i))
		finish(t, s, fmt.Sprintf("%05dd", i))
	}
	if err := put(t, s, "again", 10_000); err != nil {
		t.Errorf("there is room: %v", err)
	}
	s.Close()
	s = openWith(t, dir, 16<<20)
	for i := results; i < n; i++ {
		finish(t, s, fmt.Sprintf("%05d", i))
	}
}

// TestFullWithoutReserve: what does not fit is refused, and leaves nothing.
func TestFullWithoutReserve(t *testing.T) {
	dir := tmpfs(t, "size=8m")
	s := openWith(t, dir, -1)
	free := fill(t, dir)
	for range 3 {
		refusal(t, put(t, s, "small", 100), 452)
	}
	free()
	margin := filepath.Join(dir, "margin") // without a reserve there is no ballast
	if err := os.WriteFile(margin, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for n := 0; ; n++ {
		err := put(t, s, fmt.Sprintf("%05d", n), []int{1000, 10_000}[n%2])
		if err == nil && n < 10_000 {
			continue
		}
		if r := mail.ReplyFor(err); r.Code != 452 && r.Code != 451 { // a session makes ENOSPC of the spool 452 too
			t.Errorf("got %v", err)
		}
		os.Remove(margin)
		for i := range n {
			finish(t, s, fmt.Sprintf("%05d", i))
		}
		break
	}
	if err := put(t, s, "again", 10_000); err != nil {
		t.Error(err)
	}
	finish(t, s, "again")
	s.Close() // files go after the reply
	for _, d := range []string{"content", "incoming"} {
		if fs, err := os.ReadDir(filepath.Join(dir, d)); len(fs) > 0 || err != nil {
			t.Errorf("%s: %d files are left, %v", d, len(fs), err)
		}
	}
}

// TestInodesAreUsedUp: refused before the last one.
func TestInodesAreUsedUp(t *testing.T) {
	dir := tmpfs(t, "size=64m,nr_inodes=1500")
	s := openWith(t, dir, 1<<20)
	if err := put(t, s, "a", 10_000); err != nil {
		t.Fatal(err)
	}
	for i := range 600 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint("junk", i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	refusal(t, put(t, s, "b", 10), 452)
	refusal(t, put(t, s, "b", 10_000), 452)
	finish(t, s, "a")
	for i := range 600 {
		os.Remove(filepath.Join(dir, fmt.Sprint("junk", i)))
	}
	if err := put(t, s, "b", 10_000); err != nil {
		t.Error(err)
	}
}

// TestReserve: what is to stay free can be changed while the store is open, and
// that makes no more of a ballast than there was.
func TestReserve(t *testing.T) {
	s := openWith(t, tmpfs(t, "size=48m"), -1)
	for i, c := range []struct {
		free int64
		code int
	}{{-1, 0}, {64 << 20, 452}, {8 << 20, 0}, {0, 452}, {47 << 20, 452}, {-1, 0}, {1 << 20, 0}} {
		s.Reserve(c.free)
		err := put(t, s, fmt.Sprint(i), 100)
		if c.code != 0 {
			refusal(t, err, c.code)
		} else if err != nil {
			t.Errorf("%d octets: %v", c.free, err)
		}
	}
}

// TestReadOnly is an error, and no harm.
func TestReadOnly(t *testing.T) {
	dir := tmpfs(t, "size=64m")
	s := openWith(t, dir, -1)
	if err := put(t, s, "a", 10_000); err != nil {
		t.Fatal(err)
	}
	s.Close()
	for _, flags := range []uintptr{syscall.MS_RDONLY, 0} {
		if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT|flags, ""); err != nil {
			t.Skip("cannot remount: ", err)
		}
		s, err := Open(dir, Options{FreeSpace: -1})
		if flags != 0 {
			if err == nil {
				t.Error("it opened")
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		finish(t, s, "a")
		s.Close()
	}
}

// TestLocked: an operator who looks into the database delays, and loses
// nothing.
func TestLocked(t *testing.T) {
	dir := t.TempDir()
	s := openWith(t, dir, -1)
	other, err := s.open()
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	conn, err := other.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.ExecContext(t.Context(), "begin immediate"); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- put(t, s, "a", 10) }()
	select {
	case err := <-done:
		t.Errorf("it did not wait: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	if _, err := conn.ExecContext(t.Context(), "rollback"); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	finish(t, s, "a")
}
