package userfile

import (
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/watchfile"
)

// A Use is that of a secret.
type Use struct{ User, Name string }

// Uses is when secrets were used last. It is kept in a file of its own, since the
// file of users is the administrator's: a line for each secret,
//
//	alice@example.org phone 2026-11-25T12:00:00Z
//
// and written some minutes after a login, not with each.
type Uses struct {
	path  string
	known func(Use) bool
	log   *slog.Logger

	mu     sync.Mutex
	fresh  map[Use]time.Time // not written yet
	timer  *time.Timer
	closed bool

	writing sync.Mutex
	fault   string
}

// every is how often the file is written, at most.
const every = 5 * time.Minute

// NewUses writes to the file of that path, and only of secrets that are known.
func NewUses(path string, known func(Use) bool, log *slog.Logger) *Uses {
	return &Uses{path: path, known: known, log: log, fresh: map[Use]time.Time{}}
}

// Note takes down that a secret has just been used.
func (u *Uses) Note(use Use) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed || !u.known(use) {
		return
	}
	u.fresh[use] = time.Now()
	if u.timer == nil {
		u.timer = time.AfterFunc(every, u.write)
	}
}

// Close writes what is left to write.
func (u *Uses) Close() {
	u.mu.Lock()
	u.closed = true
	if u.timer != nil {
		u.timer.Stop()
	}
	u.mu.Unlock()
	u.write()
}

func (u *Uses) write() {
	u.writing.Lock()
	defer u.writing.Unlock()
	u.mu.Lock()
	fresh := u.fresh
	u.fresh, u.timer = map[Use]time.Time{}, nil
	u.mu.Unlock()
	if len(fresh) == 0 {
		return
	}
	err := replace(u.path, true, func(b []byte) ([]byte, error) {
		all, err := parseUses(b)
		if err != nil { // it is not worth more than to be begun anew
			all = map[Use]time.Time{}
		}
		for use, t := range fresh {
			if t.After(all[use]) {
				all[use] = t
			}
		}
		maps.DeleteFunc(all, func(use Use, _ time.Time) bool { return !u.known(use) })
		return usesText(all), nil
	})
	if err == nil {
		u.fault = ""
		return
	}
	u.again(fresh)
	if err.Error() != u.fault {
		u.fault = err.Error()
		u.log.Warn("cannot write down when secrets were used last", "file", u.path, "error", err)
	}
}

// again has uses written later that could not be now.
func (u *Uses) again(uses map[Use]time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		return
	}
	for use, t := range uses {
		if t.After(u.fresh[use]) {
			u.fresh[use] = t
		}
	}
	if u.timer == nil {
		u.timer = time.AfterFunc(every, u.write)
	}
}

func usesText(all map[Use]time.Time) []byte {
	var lines []string
	for use, t := range all {
		lines = append(lines, strings.TrimRight(fmt.Sprintf("%s %s", use.User, use.Name), " ")+" "+t.UTC().Format(time.RFC3339))
	}
	slices.Sort(lines)
	b := []byte("# user, name of the secret if it has one, time of the last login\n")
	for _, l := range lines {
		b = append(b, l+"\n"...)
	}
	return b
}

// ReadUses reads what was written last; nothing if there is no file.
func ReadUses(path string) (map[Use]time.Time, error) {
	b, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parseUses(b)
}

func parseUses(b []byte) (map[Use]time.Time, error) {
	all := map[Use]time.Time{}
	err := watchfile.Lines(b, func(_ int, line string) error {
		f := strings.Fields(line)
		if len(f) < 2 || len(f) > 3 {
			return fmt.Errorf("not user, name and time")
		}
		t, err := time.Parse(time.RFC3339, f[len(f)-1])
		use := Use{User: f[0]}
		if len(f) == 3 {
			use.Name = f[1]
		}
		all[use] = t
		return err
	})
	return all, err
}
