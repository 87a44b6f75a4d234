package sqlstore

import (
	"os"
	"strings"
	"testing"

	"github.com/caddymail/caddy-smtp/smtpapp/queue"
	"github.com/caddymail/caddy-smtp/smtpapp/queue/storetest"
)

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) func() queue.Store {
		dir := t.TempDir()
		return func() queue.Store { return open(t, dir) }
	})
}

func open(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := Open(dir, Options{FreeSpace: -1})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestCloseGivesAllBack: no descriptor is left, and no log to be replayed.
func TestCloseGivesAllBack(t *testing.T) {
	dir := stored(t)
	if _, err := os.Stat(dir + "/queue.db-wal"); !os.IsNotExist(err) {
		t.Errorf("the log is left: %v", err)
	}
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("needs /proc")
	}
	for _, fd := range fds {
		if f, _ := os.Readlink("/proc/self/fd/" + fd.Name()); strings.HasPrefix(f, dir) {
			t.Errorf("%s is open", f)
		}
	}
}
