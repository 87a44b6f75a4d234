package quota

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

var quiet = slog.New(slog.DiscardHandler)

func limit(w What, n int, per time.Duration) Limit { return Limit{w, n, per} }

func to(names ...string) []mail.Address {
	var as []mail.Address
	for _, n := range names {
		as = append(as, mail.Address{Local: n, Domain: "x.test"})
	}
	return as
}

// send takes and settles, and returns what was reached, "" for nothing.
func send(l *Ledger, key string, limits []Limit, rcpts ...string) string {
	r, over := l.Take(key, limits, 1, to(rcpts...))
	if over != nil {
		return over.String()
	}
	r.Settle(true)
	return ""
}

func want(t *testing.T, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger()
		ls := []Limit{limit(Messages, 3, time.Hour), limit(Messages, 5, 24*time.Hour)}
		for range 3 {
			want(t, send(l, "alice", ls, "a"), "")
			time.Sleep(10 * time.Minute)
		}
		want(t, send(l, "alice", ls, "a"), "quota of 3 messages in 1h reached; try again in 35min")
		want(t, send(l, "bob", ls, "a"), "")
		time.Sleep(35 * time.Minute)
		want(t, send(l, "alice", ls, "a"), "")
		want(t, send(l, "alice", ls, "a"), "quota of 3 messages in 1h reached; try again in 10min")
		time.Sleep(10 * time.Minute)
		want(t, send(l, "alice", ls, "a"), "")
		want(t, send(l, "alice", ls, "a"), "quota of 5 messages in 1d reached; try again in 25h")
		time.Sleep(25 * time.Hour)
		want(t, send(l, "alice", ls, "a"), "")
	})
}

// TestNeverMore: in no time of a limit's length are there more than it says,
// whenever they come, and it is used up to a twelfth of the time.
func TestNeverMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger()
		ls := []Limit{limit(Messages, 10, time.Hour)}
		var sent []time.Time
		for i := range 2000 {
			if send(l, "a", ls) == "" {
				sent = append(sent, time.Now())
			}
			time.Sleep(time.Duration(i*i%97) * 3 * time.Second)
		}
		for i := 10; i < len(sent); i++ {
			if d := sent[i].Sub(sent[i-10]); d < time.Hour {
				t.Fatalf("11 messages in %s", d)
			}
		}
		if most := int(time.Since(sent[0])/time.Hour) * 10; len(sent) < most*11/13 {
			t.Errorf("only %d of %d", len(sent), most)
		}
	})
}

func TestRecipients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger()
		ls := []Limit{limit(Recipients, 3, time.Hour), limit(NewRecipients, 2, 24*time.Hour)}
		want(t, send(l, "alice", ls, "a", "b"), "")
		want(t, send(l, "alice", ls, "a", "b"), "quota of 3 recipients in 1h reached; try again in 65min")
		want(t, send(l, "alice", ls, "A"), "") // known
		time.Sleep(2 * time.Hour)
		want(t, send(l, "alice", ls, "a", "b"), "")
		want(t, send(l, "alice", ls, "c"), "quota of 2 first-time recipients in 1d reached; try again in 24h")
		want(t, send(l, "bob", ls, "c"), "")
		if n := l.Unknown("alice", to("a", "b", "c")); n != 1 {
			t.Error(n)
		}
		if o := l.Room("alice", ls, Use{Recipients: 2}); o == nil || o.What != Recipients {
			t.Error(o)
		}
		if o := l.Room("nobody", ls, Use{Messages: 1, Recipients: 3, New: 2}); o != nil {
			t.Error(o)
		}
		want(t, send(l, "carol", ls, "a", "b", "c", "d"), "quota of 2 first-time recipients in 1d reached; try again in 24h")
	})
}

// TestSettle: what was not accepted does not count, nor is it remembered.
func TestSettle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger()
		ls := []Limit{limit(Messages, 1, time.Hour), limit(NewRecipients, 1, time.Hour), limit(Messages, 9, 2*time.Hour)}
		r, over := l.Take("a", ls, 1, to("x"))
		if over != nil {
			t.Fatal(over)
		}
		if _, over := l.Take("a", ls, 1, to("x")); over == nil {
			t.Error("two messages at once pass a limit of one")
		}
		r.Settle(false)
		if n := l.Unknown("a", to("x")); n != 1 {
			t.Error("remembers who got nothing")
		}
		want(t, send(l, "a", ls, "x"), "")
		time.Sleep(3 * time.Hour)
		if r, over = l.Take("a", ls, 1, to("x")); over != nil {
			t.Fatal(over)
		}
		time.Sleep(3 * time.Hour)
		want(t, send(l, "a", ls, "x"), "")
		r.Settle(false) // long forgotten
		if l.accounts["a"].find(ls[0]).Sum() != 1 {
			t.Error("gives back what is gone")
		}
	})
}

func TestTell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger()
		if !l.Tell("a", time.Minute) || l.Tell("a", time.Minute) || !l.Tell("b", time.Minute) {
			t.Error("told too often or never")
		}
		time.Sleep(time.Minute)
		if !l.Tell("a", time.Minute) {
			t.Error("never told again")
		}
	})
}

// TestClockStepsBack: neither is anything forgotten nor does it last for ever.
func TestClockStepsBack(t *testing.T) {
	w := newCounter(Messages, time.Hour)
	now := time.Unix(1_800_000_000, 0)
	w.Add(1, now)
	w.Advance(now.Add(-24 * time.Hour))
	w.Add(1, now.Add(-24*time.Hour))
	if w.Sum() != 2 {
		t.Error(w.Sum())
	}
	if w.Advance(now.Add(2 * time.Hour)); w.Sum() != 0 {
		t.Error(w.Sum())
	}
}

// TestClockFarAhead: what was counted while a clock was wrong is gone after a
// window's time by the right one, and not before.
func TestClockFarAhead(t *testing.T) {
	w := newCounter(Messages, time.Hour)
	now := time.Unix(1_800_000_000, 0)
	ahead := now.AddDate(10, 0, 0)
	w.Add(1, ahead.Add(-50*time.Minute))
	w.Add(2, ahead)
	if w.Add(4, now); w.Sum() != 7 || w.Wait(1, 7, now) > 20*time.Minute || w.Wait(1, 1, now) > 65*time.Minute {
		t.Error(w.Sum(), w.Wait(1, 7, now), w.Wait(1, 1, now))
	}
	if w.Advance(now.Add(30 * time.Minute)); w.Sum() != 6 {
		t.Error(w.Sum())
	}
	if w.Advance(now.Add(66 * time.Minute)); w.Sum() != 0 {
		t.Error(w.Sum())
	}
}

func TestDurations(t *testing.T) {
	for d, want := range map[time.Duration][2]string{
		time.Second: {"1s", "1s"}, 90 * time.Second: {"90s", "90s"}, 121 * time.Second: {"121s", "3min"}, time.Hour: {"1h", "60min"},
		90 * time.Minute: {"90min", "90min"}, 3 * time.Hour: {"3h", "3h"}, 24 * time.Hour: {"1d", "24h"}, 49 * time.Hour: {"49h", "3d"},
	} {
		if got := [2]string{exact(d), rough(d)}; got != want {
			t.Errorf("%s: %s, want %s", d, got, want)
		}
	}
	if got := rough(time.Millisecond); got != "1s" {
		t.Error(got)
	}
}

// TestRestart: counts and recipients are there again.
func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "quota", "default")
		ls := []Limit{limit(Messages, 2, time.Hour), limit(NewRecipients, 3, time.Hour)}
		key := "{smtp.auth.user} \"ü\"\n"
		l := Open(path, quiet)
		want(t, send(l, key, ls, "a", "b"), "")
		l.Close()

		l = Open(path, quiet)
		want(t, send(l, key, ls, "a", "c"), "")
		time.Sleep(writeEvery + time.Second) // into the journal, not at the end
		want(t, send(l, key, ls), "quota of 2 messages in 1h reached; try again in 65min")
		raw, err := os.ReadFile(path)
		if err != nil || strings.Contains(string(raw), "x.test") || !strings.HasPrefix(string(raw), magic) {
			t.Errorf("%q %v", raw, err)
		}
		// as after a crash: the file is read while the first still has it
		m := newLedger()
		if err := m.load(bytes.NewReader(append(raw, "w \"torn"...))); err != nil {
			t.Fatal(err)
		}
		if n := m.Unknown(key, to("a", "b", "c", "d")); n != 1 || m.Room(key, ls, Use{Messages: 1}) == nil || m.known != 3 {
			t.Errorf("%d unknown, %d known", n, m.known)
		}
		// a second process counts for itself
		other := Open(path, quiet)
		if other.journal != nil {
			t.Error("two have the file")
		}
		other.Close()
		l.Close()
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Error(info, err)
		}
		time.Sleep(2 * time.Hour)
		l = Open(path, quiet)
		defer l.Close()
		want(t, send(l, key, ls, "a"), "")
	})
}

// TestRewrite: the journal does not grow without end, and forgets who is idle.
func TestRewrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "q")
		l := Open(path, quiet)
		ls := []Limit{limit(Messages, 1e9, time.Hour)}
		send(l, "idle", ls)
		for i := range 40_000 {
			send(l, fmt.Sprint("user", i%100), ls)
			if i%10 == 0 {
				time.Sleep(writeEvery)
			}
		}
		l.Close()
		raw, err := os.ReadFile(path)
		if err != nil || len(raw) > 2*slack || strings.Contains(string(raw), "idle") {
			t.Errorf("%d octets, %v", len(raw), err)
		}
	})
}

// TestBroken: a file that cannot be used costs nobody his mail.
func TestBroken(t *testing.T) {
	ls := []Limit{limit(Messages, 1, time.Hour)}
	dir := t.TempDir()
	for name, content := range map[string]string{"empty": "", "other": "something else\n", "magic": magic + "\n", "junk": magic + "seed\nw\nk \"a\" 1 zz\nw \"a\" messages 0 1\nk \"a\n\x00\xff",
		"long": magic + "seed\n" + strings.Repeat("x", 1<<17)} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		l := Open(path, quiet)
		if l.journal == nil || send(l, "a", ls) != "" || send(l, "a", ls) == "" {
			t.Errorf("%s does not count", name)
		}
		l.Close()
	}
	var log bytes.Buffer
	if err := os.Mkdir(filepath.Join(dir, "dir"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(dir, "empty", "below a file"), filepath.Join(dir, "dir")} {
		log.Reset()
		l := Open(path, slog.New(slog.NewTextHandler(&log, nil)))
		if send(l, "a", ls) != "" || send(l, "a", ls) == "" {
			t.Errorf("%s does not count", path)
		}
		l.Close()
		if !strings.Contains(log.String(), "counting in memory alone") {
			t.Errorf("%s: %q", path, log.String())
		}
	}
}

// TestWriteFails: what could not be written is written when it can be.
func TestWriteFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "q")
		ls := []Limit{limit(Messages, 2, time.Hour)}
		var log bytes.Buffer
		l := Open(path, slog.New(slog.NewTextHandler(&log, nil)))
		send(l, "a", ls)
		time.Sleep(writeEvery + time.Second)
		synctest.Wait()
		if err := l.journal.f.Close(); err != nil {
			t.Fatal(err)
		}
		var later bytes.Buffer
		l.LogTo(slog.New(slog.NewTextHandler(&later, nil)))
		send(l, "a", ls)
		time.Sleep(5 * writeEvery)
		l.Close()
		if n := strings.Count(later.String(), "quota: writing"); n != 1 || log.Len() > 0 {
			t.Errorf("logged %d times: %s%s", n, log.String(), later.String())
		}
		l = Open(path, quiet)
		defer l.Close()
		if l.Room("a", ls, Use{Messages: 1}) == nil {
			t.Error("forgot the second message")
		}
	})
}

// TestBounds: however many users and recipients there are, memory is bounded.
func TestBounds(t *testing.T) {
	l := newLedger()
	ls := []Limit{limit(NewRecipients, 1e9, time.Hour)}
	for i := range maxAccounts + 5000 {
		send(l, fmt.Sprint(i), ls, "a")
	}
	if len(l.accounts) != maxAccounts || len(l.dirty) > maxAccounts || l.known != maxAccounts {
		t.Errorf("%d accounts, %d recipients", len(l.accounts), l.known)
	}
	l = newLedger()
	now := time.Now()
	for i := range 3 * maxKnown {
		l.remember(l.account("a", now), []uint64{uint64(i)}, now.Add(time.Duration(i/5000)*24*time.Hour))
	}
	a := l.accounts["a"]
	if _, ok := a.known[3*maxKnown-1]; len(a.known) > maxKnown || len(a.known) < maxKnown*8/10 || l.known != len(a.known) || !ok {
		t.Errorf("%d recipients, %d in all", len(a.known), l.known)
	}
	if _, ok := a.known[0]; ok {
		t.Error("the oldest are kept")
	}
	for i := range maxAllKnown + 50_000 {
		l.remember(l.account(fmt.Sprint(i%200), now), []uint64{uint64(i)}, now)
	}
	sum := 0
	for _, a := range l.accounts {
		sum += len(a.known)
	}
	if sum > maxAllKnown || sum != l.known {
		t.Errorf("%d recipients, %d counted", sum, l.known)
	}
	for i := range 40 {
		a.window(limit(Messages, 1, time.Duration(i+1)*time.Hour), now)
	}
	if len(a.windows) > maxWindows {
		t.Errorf("%d windows", len(a.windows))
	}
}

// A prober looks at a ledger that is being written out.
type prober struct {
	bytes.Buffer
	most, times int
	look        func()
}

func (p *prober) Write(b []byte) (int, error) {
	p.most, p.times = max(p.most, len(b)), p.times+1
	p.look()
	return p.Buffer.Write(b)
}

// TestSlices: whoever sends waits for a slice of the journal at most, and what is
// sent meanwhile is not lost.
func TestSlices(t *testing.T) {
	l := newLedger()
	l.seed = "s"
	ls := []Limit{limit(Messages, 1e9, time.Hour), limit(NewRecipients, 1e9, time.Hour)}
	now := time.Now()
	for i := range 200_000 {
		l.remember(l.account(fmt.Sprint(i%300), now), []uint64{uint64(i)}, now)
	}
	for i := range 3000 {
		l.account(fmt.Sprint("idle", i), now)
	}
	clear(l.dirty)
	sent := 0
	p := &prober{look: func() { // would wait for ever if the ledger were held
		if over := send(l, fmt.Sprint(sent), ls, "new"); over != "" {
			t.Error(over)
		}
		sent++
	}}
	if err := l.dump(p, maps.Clone(l.accounts), true); err != nil {
		t.Fatal(err)
	}
	if most := slice + 32<<10; p.most > most || p.times < p.Len()/most {
		t.Errorf("%d octets in %d slices of up to %d", p.Len(), p.times, p.most)
	}
	if err := l.dump(&p.Buffer, l.dirty, false); err != nil {
		t.Fatal(err)
	}
	m := newLedger()
	if err := m.load(&p.Buffer); err != nil || m.known != 200_000+sent || m.known != l.known {
		t.Errorf("%d recipients, %d of %d: %v", m.known, l.known, 200_000+sent, err)
	}
	for i := range sent {
		if w := m.accounts[fmt.Sprint(i)].find(ls[0]); w == nil || w.Sum() != 1 {
			t.Error("what was sent meanwhile is forgotten")
		}
	}
}

func TestConcurrent(t *testing.T) {
	l := Open(filepath.Join(t.TempDir(), "q"), quiet)
	defer l.Close()
	ls := []Limit{limit(Messages, 100, time.Hour)}
	var wg sync.WaitGroup
	var mu sync.Mutex
	passed := 0
	for range 8 {
		wg.Go(func() {
			for range 50 {
				if send(l, "a", ls, "x") == "" {
					mu.Lock()
					passed++
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	l.write()
	if passed != 100 {
		t.Errorf("%d of 100 passed", passed)
	}
}

// FuzzLoad reads journals that somebody has had a hand in, and writes what it
// read so that it is read again.
func FuzzLoad(f *testing.F) {
	f.Add([]byte(magic + "s\nw \"a b\" messages 3600 5952000 1 2 3 4 5 6 7 8 9 10 11 12 13\nk \"a b\" 20000 1 ff 2\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		l := newLedger()
		if err := l.load(bytes.NewReader(b)); err != nil {
			t.Fatal(err)
		}
		if l.seed == "" {
			return
		}
		var out bytes.Buffer
		if err := l.dump(&out, maps.Clone(l.accounts), true); err != nil {
			t.Fatal(err)
		}
		m := newLedger()
		if err := m.load(io.MultiReader(&out)); err != nil || m.known != l.known {
			t.Fatalf("%d known, then %d; %v", l.known, m.known, err)
		}
	})
}

func BenchmarkTake(b *testing.B) {
	l := newLedger()
	ls := []Limit{limit(Messages, 1e9, time.Hour), limit(Recipients, 1e9, time.Hour), limit(NewRecipients, 1e9, time.Hour)}
	rcpts := to("a", "b", "c")
	b.ReportAllocs()
	for b.Loop() {
		r, over := l.Take("user", ls, 1, rcpts)
		if over != nil {
			b.Fatal(over)
		}
		r.Settle(true)
	}
}
