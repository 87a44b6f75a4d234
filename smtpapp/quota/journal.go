package quota

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/window"
)

// A journal is a text file. Its first line says what it is and has the seed of
// the hashes; each other one says what holds from there on:
//
//	w "<account>" <what> <seconds> <slot> <count>...   the window, the newest slot first
//	k "<account>" <day> <hash>...                      recipients that the account wrote to
//
// A line that was not finished is skipped. When much of it is outdated, it is
// written anew.
type journal struct {
	path string
	f    *os.File // nil after a fault: it is written anew
	lock *os.File
	size int64 // of the file
	live int64 // as it was when written anew
	bad  bool  // a fault was logged

	stop chan struct{}
	done sync.WaitGroup
}

const (
	magic      = "caddy-smtp quota 1 "
	writeEvery = 5 * time.Second
	slack      = 1 << 20
	maxJournal = 256 << 20 // more is not read
	lineKnown  = 64        // hashes in a line

	slice         = 64 << 10 // octets that are written while clients wait, and
	sliceAccounts = 500      // accounts; the last one is written whole
)

// Open opens the ledger that is kept at path. What goes wrong with the file is
// logged, and the ledger then counts in memory alone: mail must not wait for it.
func Open(path string, log *slog.Logger) *Ledger {
	l := newLedger()
	l.log = log
	j := &journal{path: path, stop: make(chan struct{})}
	if err := j.open(l); err != nil {
		log.Error("quota: counting in memory alone", "error", err)
		j.close()
	} else {
		l.journal = j
	}
	if l.seed == "" {
		l.seed = rand.Text()
	}
	if l.journal != nil {
		j.done.Go(func() { l.keep() })
	}
	return l
}

// Close writes what is left and closes the file.
func (l *Ledger) Close() {
	if j := l.journal; j != nil {
		close(j.stop)
		j.done.Wait()
		l.write()
		j.close()
	}
}

func (j *journal) open(l *Ledger) error {
	if err := os.MkdirAll(filepath.Dir(j.path), 0o700); err != nil {
		return err
	}
	lock, err := os.OpenFile(j.path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	j.lock = lock
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return errors.New("another process has the file")
	}
	f, err := os.Open(j.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read
	return l.load(io.LimitReader(f, maxJournal))
}

func (j *journal) close() {
	for _, f := range []*os.File{j.f, j.lock} {
		if f != nil {
			_ = f.Close() // what was written is with the system
		}
	}
}

// keep writes every now and then.
func (l *Ledger) keep() {
	t := time.NewTicker(writeEvery)
	defer t.Stop()
	for {
		select {
		case <-l.journal.stop:
			return
		case <-t.C:
			l.write()
		}
	}
}

// write brings the file up to date.
func (l *Ledger) write() {
	j := l.journal
	l.mu.Lock()
	if len(l.dirty) == 0 {
		l.mu.Unlock()
		return
	}
	anew := j.f == nil || j.size > 2*j.live+slack
	accounts := l.dirty
	if anew {
		accounts = maps.Clone(l.accounts)
	}
	l.dirty = map[string]*account{} // what is sent from here on is written the next time
	log := l.log
	l.mu.Unlock()
	err := j.put(anew, func(w io.Writer) error { return l.dump(w, accounts, anew) })
	if err != nil && !j.bad {
		log.Error("quota: writing", "error", err)
	}
	j.bad = err != nil
	if err != nil {
		l.mu.Lock()
		for key, a := range l.accounts { // a journal that is written anew needs a reason
			l.dirty[key] = a
			break
		}
		l.mu.Unlock()
	}
}

// put has f write to the file, or to a new one.
func (j *journal) put(anew bool, f func(io.Writer) error) error {
	if anew {
		return j.replace(f)
	}
	to := &sized{w: j.f}
	err := f(to)
	j.size += to.n
	if err != nil {
		err = errors.Join(err, j.f.Close())
		j.f = nil
	}
	return err
}

// replace puts a new file in the place of the old one.
func (j *journal) replace(write func(io.Writer) error) error {
	f, err := os.OpenFile(j.path+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	to := &sized{w: f}
	if err = write(to); err == nil {
		err = f.Sync() // the old one is whole until the new one is
	}
	if err == nil {
		err = os.Rename(j.path+".new", j.path)
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	if j.f != nil {
		err = j.f.Close()
	}
	j.f, j.size, j.live = f, to.n, to.n
	return err
}

// A sized writer knows how much was written.
type sized struct {
	w io.Writer
	n int64
}

func (s *sized) Write(b []byte) (int, error) {
	n, err := s.w.Write(b)
	s.n += int64(n)
	return n, err
}

// dump writes what is new of accounts, or everything that still matters. It does
// so slice by slice, and holds nobody up who sends while one is written. An
// account is as it is when its turn comes.
func (l *Ledger) dump(w io.Writer, accounts map[string]*account, all bool) error {
	if all {
		if _, err := io.WriteString(w, magic+l.seed+"\n"); err != nil {
			return err
		}
	}
	var b bytes.Buffer
	keys := slices.Collect(maps.Keys(accounts))
	for len(keys) > 0 {
		n := min(len(keys), sliceAccounts)
		l.mu.Lock()
		for i, key := range keys[:n] {
			if a := accounts[key]; l.accounts[key] == a && (!all || !l.idle(key, a)) {
				a.lines(&b, key, all)
			}
			if b.Len() > slice {
				n = i + 1
				break
			}
		}
		l.mu.Unlock()
		keys = keys[n:]
		if _, err := w.Write(b.Bytes()); err != nil {
			return err
		}
		b.Reset()
	}
	return nil
}

// idle forgets an account that has nothing to be remembered any more, and reports
// whether it has.
func (l *Ledger) idle(key string, a *account) bool {
	now := time.Now()
	idle := len(a.known) == 0
	for _, w := range a.windows {
		w.Advance(now)
		idle = idle && w.Sum() == 0
	}
	if !idle || now.Sub(a.used) <= time.Hour {
		return false
	}
	delete(l.accounts, key)
	return true
}

// lines writes an account: its windows, and the recipients that are fresh, or all.
func (a *account) lines(b *bytes.Buffer, key string, all bool) {
	q := strconv.QuoteToASCII(key)
	for _, w := range a.windows {
		fmt.Fprintf(b, "w %s %s %d %d", q, w.what, w.Per/time.Second, w.Head)
		for s := w.Head; s >= w.Head-window.Slots; s-- {
			number(b, uint64(w.Count[s%(window.Slots+1)]), 10)
		}
		b.WriteByte('\n')
	}
	days := map[uint16][]uint64{}
	if all {
		for h, d := range a.known {
			days[d] = append(days[d], h)
		}
	} else {
		for _, h := range a.fresh {
			if d, ok := a.known[h]; ok {
				days[d] = append(days[d], h)
			}
		}
	}
	a.fresh = nil
	for d, hs := range days {
		for i, h := range hs {
			if i%lineKnown == 0 {
				fmt.Fprintf(b, "%sk %s %d", map[bool]string{true: "\n"}[i > 0], q, d)
			}
			number(b, h, 16)
		}
		b.WriteByte('\n')
	}
}

// number writes a number behind a space. There are millions of them, and whoever
// sends waits for the lock.
func number(b *bytes.Buffer, n uint64, base int) {
	b.Write(strconv.AppendUint(append(b.AvailableBuffer(), ' '), n, base))
}

// load reads a journal. Lines that it does not understand are skipped.
func (l *Ledger) load(r io.Reader) error {
	br := bufio.NewReader(r)
	first, err := br.ReadString('\n')
	if err != nil && err != io.EOF {
		return err
	}
	seed, ok := strings.CutPrefix(strings.TrimSuffix(first, "\n"), magic)
	if !ok || seed == "" {
		return nil // the beginning is missing, and so is what it would mean
	}
	l.seed = seed
	sc := bufio.NewScanner(br)
	now := time.Now()
	for sc.Scan() {
		l.line(sc.Text(), now)
	}
	if err := sc.Err(); !errors.Is(err, bufio.ErrTooLong) {
		return err
	}
	return nil
}

func (l *Ledger) line(s string, now time.Time) {
	kind, s, _ := strings.Cut(s, " ")
	q, err := strconv.QuotedPrefix(s)
	if err != nil {
		return
	}
	key, err := strconv.Unquote(q)
	if err != nil {
		return
	}
	f := strings.Fields(s[len(q):])
	switch {
	case kind == "w" && len(f) == 3+window.Slots+1:
		if w := parseWindow(f, now); w != nil {
			l.account(key, now).put(w)
		}
	case kind == "k" && len(f) > 1 && len(f) <= 1+lineKnown:
		l.parseKnown(key, f, now)
	}
}

func parseWindow(f []string, now time.Time) *counter {
	per, err := strconv.ParseInt(f[1], 10, 32)
	head, err2 := strconv.ParseInt(f[2], 10, 64)
	w := newCounter(What(f[0]), time.Duration(per)*time.Second)
	w.Head = head
	if cmp.Or(err, err2) != nil || per < 1 || head < window.Slots || head > w.Slot(now)+1 {
		return nil
	}
	for i, c := range f[3:] {
		n, err := strconv.ParseUint(c, 10, 32)
		if err != nil {
			return nil
		}
		w.Count[(head-int64(i))%(window.Slots+1)] = uint32(n)
	}
	return w
}

// put puts a window in the place of the one that counts the same.
func (a *account) put(w *counter) {
	for i, o := range a.windows {
		if o.what == w.what && o.Per == w.Per {
			a.windows[i] = w
			return
		}
	}
	if len(a.windows) < maxWindows {
		a.windows = append(a.windows, w)
	}
}

func (l *Ledger) parseKnown(key string, f []string, now time.Time) {
	day, err := strconv.ParseUint(f[0], 10, 16)
	if err != nil {
		return
	}
	hs := make([]uint64, 0, len(f))
	for _, x := range f[1:] {
		h, err := strconv.ParseUint(x, 16, 64)
		if err != nil {
			return
		}
		hs = append(hs, h)
	}
	a := l.account(key, now)
	l.remember(a, hs, time.Unix(int64(day)*24*60*60, 0))
	a.fresh = nil
}
