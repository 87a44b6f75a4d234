package quota

import (
	"hash/fnv"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

// Bounds of a Ledger. Beyond them it forgets what was used longest ago.
const (
	maxAccounts = 100_000
	maxKnown    = 10_000    // recipients that are remembered of an account
	maxAllKnown = 1_000_000 // and of all
	maxWindows  = 16        // of an account
)

// A Ledger counts by account: a user, or whatever the key is made of.
type Ledger struct {
	mu       sync.Mutex
	accounts map[string]*account
	known    int // of all accounts
	seed     string
	dirty    map[string]*account // since the journal was written
	journal  *journal            // nil where there is none
	log      *slog.Logger
}

type account struct {
	windows []*counter
	known   map[uint64]uint16 // recipients: the day of the last message to each
	fresh   []uint64          // of known, not yet in the journal
	used    time.Time
	told    time.Time // when somebody was last told that a limit was reached
}

func newLedger() *Ledger {
	return &Ledger{accounts: map[string]*account{}, dirty: map[string]*account{}}
}

// LogTo has faults logged elsewhere: a ledger may outlive the configuration that
// has opened it, and its log.
func (l *Ledger) LogTo(log *slog.Logger) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.log = log
}

// A Receipt is for what was taken of an account, until it is settled.
type Receipt struct {
	l     *Ledger
	key   string
	slots []taken
	to    []uint64 // recipients to remember
}

type taken struct {
	w    *counter
	n    int
	slot int64
}

// Room returns nil if an account has room for u, and otherwise what it has
// reached.
func (l *Ledger) Room(key string, limits []Limit, u Use) *Over {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.accounts[key]
	if a == nil {
		a = new(account)
	}
	return a.over(limits, u, time.Now())
}

// Unknown returns to how many of the addresses the account never sent before.
func (l *Ledger) Unknown(key string, to []mail.Address) int {
	hs := l.hashes(key, to)
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.unknown(key, hs)
}

func (l *Ledger) unknown(key string, hs []uint64) (n int) {
	a := l.accounts[key]
	for _, h := range hs {
		if a == nil {
			n++
		} else if _, ok := a.known[h]; !ok {
			n++
		}
	}
	return n
}

// Take counts a use of an account, with the recipients that it is for, if there
// is room for it. The receipt has to be settled.
func (l *Ledger) Take(key string, limits []Limit, messages int, to []mail.Address) (*Receipt, *Over) {
	remember := slices.ContainsFunc(limits, func(l Limit) bool { return l.What == NewRecipients })
	var hs []uint64
	if remember {
		hs = l.hashes(key, to)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	u := Use{Messages: messages, Recipients: len(to), New: l.unknown(key, hs)}
	a := l.account(key, now)
	if o := a.over(limits, u, now); o != nil {
		return nil, o
	}
	r := &Receipt{l: l, key: key, to: hs}
	for _, li := range limits {
		n, w := u.of(li.What), a.window(li, now)
		if n > 0 && !slices.ContainsFunc(r.slots, func(t taken) bool { return t.w == w }) {
			r.slots = append(r.slots, taken{w, n, w.Add(n, now)})
		}
	}
	l.dirty[key] = a
	return r, nil
}

// Settle ends what Take began: what was not sent is given back.
func (r *Receipt) Settle(sent bool) {
	l := r.l
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.account(r.key, time.Now())
	l.dirty[r.key] = a
	if sent {
		l.remember(a, r.to, time.Now())
		return
	}
	for _, t := range r.slots {
		t.w.Take(t.n, t.slot)
	}
}

// Tell reports whether somebody is to be told that an account has reached a
// limit: not again within that time.
func (l *Ledger) Tell(key string, again time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	a := l.account(key, now)
	if now.Sub(a.told) < again {
		return false
	}
	a.told = now
	return true
}

// account returns that of a key, a new one if there is none.
func (l *Ledger) account(key string, now time.Time) *account {
	a := l.accounts[key]
	if a == nil {
		if len(l.accounts) >= maxAccounts {
			l.forget(key)
		}
		a = new(account)
		l.accounts[strings.Clone(key)] = a
	}
	a.used = now
	return a
}

// forget forgets an account other than key: of some, the one that was used
// longest ago.
func (l *Ledger) forget(key string) {
	oldest, n := "", 0
	for k, a := range l.accounts {
		if k != key && (oldest == "" || a.used.Before(l.accounts[oldest].used)) {
			oldest = k
		}
		if n++; n == 32 {
			break
		}
	}
	if a := l.accounts[oldest]; a != nil {
		l.known -= len(a.known)
		delete(l.accounts, oldest)
		delete(l.dirty, oldest)
	}
}

// over returns the limit that u would exceed, the one that lasts longest.
func (a *account) over(limits []Limit, u Use, now time.Time) (over *Over) {
	for _, li := range limits {
		n := u.of(li.What)
		if n == 0 {
			continue
		}
		w := a.find(li)
		if w == nil {
			w = newCounter(li.What, li.Per)
		}
		w.Advance(now)
		if w.Sum()+n <= li.Count {
			continue
		}
		if wait := w.Wait(n, li.Count, now); over == nil || wait > over.Retry {
			over = &Over{li, max(wait, time.Second)}
		}
	}
	return over
}

func (a *account) find(li Limit) *counter {
	for _, w := range a.windows {
		if w.what == li.What && w.Per == li.Per {
			return w
		}
	}
	return nil
}

// window returns that of a limit, a new one if there is none.
func (a *account) window(li Limit, now time.Time) *counter {
	if w := a.find(li); w != nil {
		return w
	}
	if len(a.windows) == maxWindows { // limits have changed that often
		a.windows = slices.Delete(a.windows, 0, 1)
	}
	w := newCounter(li.What, li.Per)
	w.Advance(now)
	a.windows = append(a.windows, w)
	return w
}

// remember remembers recipients.
func (l *Ledger) remember(a *account, hs []uint64, now time.Time) {
	if a.known == nil && len(hs) > 0 {
		a.known = map[uint64]uint16{}
	}
	day := dayOf(now)
	for _, h := range hs {
		d, ok := a.known[h]
		if ok && d == day {
			continue
		}
		if !ok {
			l.known++
		}
		a.known[h] = day
		a.fresh = append(a.fresh, h)
	}
	if len(a.known) > maxKnown {
		l.trim(a, maxKnown*9/10)
	}
	for tries := 0; l.known > maxAllKnown && tries < 100; tries++ {
		for _, b := range l.accounts { // of some account or other
			if len(b.known) > 0 {
				l.trim(b, len(b.known)*9/10)
				break
			}
		}
	}
}

// trim leaves the n recipients that were written to last.
func (l *Ledger) trim(a *account, n int) {
	days := slices.Sorted(maps.Values(a.known))
	cut := days[len(days)-1]
	if n < len(days) && n > 0 {
		cut = days[len(days)-n]
	}
	l.known -= len(a.known)
	maps.DeleteFunc(a.known, func(_ uint64, d uint16) bool { return d < cut })
	for h, d := range a.known { // as many of the day that is left in part
		if len(a.known) <= n {
			break
		}
		if d == cut {
			delete(a.known, h)
		}
	}
	l.known += len(a.known)
}

func dayOf(t time.Time) uint16 { return uint16(t.Unix() / (24 * 60 * 60)) }

// hashes returns what is remembered of addresses: enough to know them again, and
// not to list them. Nobody can choose addresses that look alike, for want of the
// seed.
func (l *Ledger) hashes(key string, to []mail.Address) []uint64 {
	hs := make([]uint64, 0, len(to))
	h := fnv.New64a()
	for _, a := range to {
		h.Reset()
		_, _ = h.Write([]byte(l.seed + key + "\x00" + strings.ToLower(a.Local) + "@" + a.Domain))
		hs = append(hs, h.Sum64())
	}
	return hs
}
