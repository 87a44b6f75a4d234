package sqlstore

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/binary"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

// starts is a file that says which attempts are under way: a slot for each. It is
// not synced, since what it is for is a process that ends, not a machine: so an
// attempt costs a few small writes, and no commit.
type starts struct {
	f    *os.File
	mu   sync.Mutex
	free []int64 // slots that were used
	next int64   // the first that was not
}

// A slot is an id, a sum over all the rest, and a bit for each of the first
// recipients that is done. It is within one sector of a disk.
type slot [128]byte

const (
	slotID   = 60
	slotSum  = 64
	slotBits = 8 * (128 - slotSum)
)

func (t *slot) seal() { binary.BigEndian.PutUint32(t[slotID:], t.sum()) }

func (t *slot) sum() uint32 { return uint32(crc(slices.Concat(t[:slotID], t[slotSum:]))) }

// read returns the entry whose attempt a slot is of, "" for none, and which of
// its recipients are done. What is not whole says nothing.
func (t *slot) read() (entry string, done []int) {
	if t[0] == 0 || binary.BigEndian.Uint32(t[slotID:]) != t.sum() {
		return "", nil
	}
	id, _, _ := bytes.Cut(t[:slotID], []byte{0})
	for i := range slotBits {
		if t[slotSum+i/8]&(1<<(i%8)) != 0 {
			done = append(done, i)
		}
	}
	return string(id), done
}

// A start is an attempt that is under way. Where its notes cannot be written, a
// death goes uncounted, and mail goes out all the same.
type start struct {
	s    *starts
	n    int64
	mu   sync.Mutex
	text slot
}

// Begin notes that recipients of an entry are being tried.
func (s *Store) Begin(entry string) queue.Started {
	a := &start{s: &s.starts}
	if len(entry) > slotID {
		return a // none of ours
	}
	a.s.mu.Lock()
	if n := len(a.s.free); n > 0 {
		a.n, a.s.free = a.s.free[n-1], a.s.free[:n-1]
	} else {
		a.n = a.s.next
		a.s.next++
	}
	a.s.mu.Unlock()
	copy(a.text[:], entry)
	a.write()
	return a
}

func (a *start) write() {
	a.text.seal()
	_, _ = a.s.f.WriteAt(a.text[:], a.n*int64(len(a.text)))
}

// Settled notes recipients that are done.
func (a *start) Settled(indices []int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.text[0] == 0 || len(indices) == 0 {
		return
	}
	for _, i := range indices {
		if i < slotBits {
			a.text[slotSum+i/8] |= 1 << (i % 8)
		}
	}
	a.write()
}

// End forgets the attempt.
func (a *start) End() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.text[0] == 0 {
		return
	}
	a.text[0] = 0
	_, _ = a.s.f.WriteAt(a.text[:1], a.n*int64(len(a.text)))
	a.s.mu.Lock()
	a.s.free = append(a.s.free, a.n)
	a.s.mu.Unlock()
}

// died finishes and counts what was under way when the last process ended.
// Should this one end in the middle of it, some are counted twice.
func (s *Store) died(db *sql.DB) error {
	f, err := os.OpenFile(s.path("attempts"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	s.starts.f = f
	text, err := os.ReadFile(f.Name())
	if err != nil {
		return err
	}
	begun := map[string]bool{}
	var c queue.Change
	for t := new(slot); len(text) >= len(t); text = text[len(t):] {
		copy(t[:], text)
		id, done := t.read()
		if id == "" {
			continue
		}
		begun[id] = true
		for _, i := range done {
			c.Update = append(c.Update, &queue.Recipient{Entry: id, Index: i, Done: true})
		}
	}
	if len(begun) > 0 {
		s.opts.Log.Warn("the process before ended during attempts", "entries", len(begun), "recipients_done", len(c.Update))
		err = s.w.commit(context.Background(), &c)
		if err == nil {
			err = countStarts(db, slices.Collect(maps.Keys(begun)))
		}
		if err != nil {
			return err
		}
	}
	return f.Truncate(0)
}

func countStarts(db *sql.DB, entries []string) error {
	tx, err := db.Begin()
	if err != nil {
		return err
	}
	defer tx.Rollback()
	for _, id := range entries {
		soon := time.Now().Add(rand.N(time.Minute)).UnixMicro()
		if _, err := tx.Exec(`update recipient set starts = starts + 1, due = case when starts > 0 then max(due, ?) else due end
			where entry = ? and held = 0`, soon, id); err != nil {
			return err
		}
	}
	return tx.Commit()
}
