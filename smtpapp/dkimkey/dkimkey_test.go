package dkimkey

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/dkimsign"
	"github.com/caddymail/caddy-smtp/smtpapp/dns/dnstest"
)

// memory is a Storage of several nodes. It notes a write without the lock.
type memory struct {
	mu     sync.Mutex
	files  map[string][]byte
	locks  map[string]chan struct{}
	locked int
	bare   []string
	fail   error
}

func newMemory() *memory {
	return &memory{files: map[string][]byte{}, locks: map[string]chan struct{}{}}
}

func (m *memory) Lock(ctx context.Context, name string) error {
	m.mu.Lock()
	l := m.locks[name]
	if l == nil {
		l = make(chan struct{}, 1)
		m.locks[name] = l
	}
	m.mu.Unlock()
	select {
	case l <- struct{}{}:
		m.mu.Lock()
		m.locked++
		m.mu.Unlock()
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (m *memory) Unlock(_ context.Context, name string) error {
	<-m.locks[name]
	return nil
}

func (m *memory) Store(_ context.Context, key string, value []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	if l := m.locks[path.Dir(key)]; len(l) == 0 {
		m.bare = append(m.bare, key)
	}
	m.files[key] = value
	return nil
}

func (m *memory) Load(_ context.Context, key string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return nil, m.fail
	}
	b, ok := m.files[key]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return b, nil
}

func (m *memory) Delete(_ context.Context, key string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.files, key)
	return m.fail
}

func (m *memory) List(_ context.Context, dir string, _ bool) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return nil, m.fail
	}
	var names []string
	for n := range m.files {
		if strings.HasPrefix(n, dir) { // as storages do that have no folders
			names = append(names, n)
		}
	}
	if names == nil {
		return nil, fs.ErrNotExist
	}
	return names, nil
}

func (m *memory) names() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return strings.Join(slices.Sorted(maps.Keys(m.files)), " ")
}

// logged is a log that may be read while it is written.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// world is a storage, a DNS, and the stores of nodes.
type world struct {
	*memory
	log  logged
	zone *dnstest.Zone
	o    Options
}

func newWorld() *world {
	w := &world{memory: newMemory(), zone: &dnstest.Zone{TXT: map[string][]string{}}}
	w.o = Options{
		Storage: w, Resolver: w.zone, Algorithms: []Algorithm{Ed25519}, RSABits: 2048, Log: slog.New(slog.NewTextHandler(&w.log, nil)),
		Refresh: 2 * time.Hour, Schedule: Schedule{Rotate: 180 * day, Overlap: 7 * day},
	}
	return w
}

func (w *world) node(t *testing.T) *Store {
	t.Helper()
	s := New(w.o)
	t.Cleanup(s.Close)
	return s
}

// publish puts the records of a ring into DNS.
func (w *world) publish(r *Ring) {
	w.zone.Change(func(z *dnstest.Zone) {
		for _, s := range r.Status() {
			z.TXT[s.Name] = []string{s.Record}
		}
	})
}

// states is a ring's status as "selector state", in order.
func states(r *Ring) string {
	var out []string
	for _, s := range r.Status() {
		out = append(out, s.Selector+" "+string(s.State))
	}
	return strings.Join(out, ", ")
}

func signing(t *testing.T, r *Ring) string {
	t.Helper()
	ks, err := r.Keys(t.Context())
	if err != nil {
		return err.Error()
	}
	var out []string
	for _, k := range ks {
		out = append(out, k.Selector)
	}
	return strings.Join(out, " ")
}

// TestFirstUse: keys are made where there are none, and sign at once; another
// node finds them.
func TestFirstUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // it begins at 2000-01-01
		w := newWorld()
		w.o.Algorithms = []Algorithm{RSA, Ed25519}
		var made []Status
		w.o.Made = func(s Status) { made = append(made, s) }
		a := w.node(t)
		a.Start("example.test")
		r := a.Ring("example.test")
		if got := signing(t, r); got != "r20000101 e20000101" {
			t.Errorf("signs with %s", got)
		}
		synctest.Wait()
		if got, want := w.names(), "smtp/dkim/example.test/e20000101.key smtp/dkim/example.test/r20000101.key"; got != want {
			t.Errorf("stored %s", got)
		}
		if len(made) != 2 || made[0].State != Signing || !strings.HasPrefix(made[0].Record, "v=DKIM1; k=rsa; p=MIIBIj") ||
			made[0].Name != "r20000101._domainkey.example.test" {
			t.Errorf("made %+v", made)
		}
		b := w.node(t)
		b.Start("example.test", "example.test.other")
		ka, _ := r.Keys(t.Context())
		kb, err := b.Ring("example.test").Keys(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for i := range ka {
			if !ka[i].Signer.(interface{ Equal(crypto.PrivateKey) bool }).Equal(kb[i].Signer) {
				t.Errorf("the other node has another %s", ka[i].Selector)
			}
		}
		if len(w.bare) > 0 {
			t.Errorf("written without the lock: %v", w.bare)
		}
	})
}

// TestManyNodesAtOnce: they make one key, not one each.
func TestManyNodesAtOnce(t *testing.T) {
	w := newWorld()
	var all sync.WaitGroup
	got := make([]string, 8)
	for i := range got {
		s := w.node(t)
		all.Go(func() {
			s.Start("example.test")
			ks, err := s.Ring("example.test").Keys(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			got[i] = fmt.Sprintf("%x", ks[0].Signer.Public())
		})
	}
	all.Wait()
	if len(slices.Compact(got)) != 1 {
		t.Errorf("they differ: %v", got)
	}
	if n := len(w.files); n != 1 {
		t.Errorf("%d keys", n)
	}
}

// TestMadeMayAsk: whoever hears of a new key may publish it and have it looked
// for at once.
func TestMadeMayAsk(t *testing.T) {
	w := newWorld()
	var r *Ring
	w.o.Made = func(s Status) {
		w.zone.Change(func(z *dnstest.Zone) { z.TXT[s.Name] = []string{s.Record} })
		if err := r.Refresh(t.Context()); err != nil {
			t.Error(err)
		}
	}
	r = w.node(t).Ring("example.test")
	for range 2 {
		if err := r.Rotate(t.Context(), false); err != nil {
			t.Fatal(err)
		}
	}
	st := r.Status()
	if last := st[len(st)-1]; len(st) < 2 || last.State != Signing || last.Published.IsZero() {
		t.Errorf("got %+v", st)
	}
}

// TestUsedMeanwhile: keys are asked for while they are replaced.
func TestUsedMeanwhile(t *testing.T) {
	w := newWorld()
	s := w.node(t)
	s.Start("example.test")
	r := s.Ring("example.test")
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 200 {
				if ks, err := r.Keys(t.Context()); err != nil || len(ks) != 1 {
					t.Errorf("got %v, %v", ks, err)
					return
				}
				r.Status()
			}
		})
	}
	for range 10 {
		if err := r.Rotate(t.Context(), true); err != nil {
			t.Error(err)
		}
	}
	all.Wait()
}

// TestRotation follows keys over a year.
func TestRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		s := w.node(t)
		s.Start("example.test")
		r := s.Ring("example.test")
		first := signing(t, r)
		w.publish(r)
		at := func(what, want string) {
			t.Helper()
			if got := states(r); got != want {
				t.Errorf("%s: got %s, want %s", what, got, want)
			}
		}
		at("on the first day", "e20000101 signing")
		time.Sleep(172 * day)
		at("before it is due", "e20000101 signing")
		time.Sleep(2 * day)
		at("an overlap ahead", "e20000101 signing, e20000622 next")
		if n := strings.Count(w.log.String(), "not in DNS"); n != 0 {
			t.Errorf("warned %d times of a key that does not sign", n)
		}
		time.Sleep(30 * day)
		at("DNS lacks it", "e20000101 signing, e20000622 next")
		if got := signing(t, r); got != first {
			t.Errorf("signs with %s", got)
		}
		w.publish(r)
		time.Sleep(3 * time.Hour)
		at("DNS has it", "e20000101 retired, e20000622 signing")
		if got := signing(t, r); got != "e20000622" {
			t.Errorf("signs with %s", got)
		}
		if st := r.Status(); st[0].Removed.IsZero() || st[0].Removed.Sub(st[1].Published) != 7*day || st[1].Published.IsZero() {
			t.Errorf("got %+v", st)
		}
		time.Sleep(6 * day)
		at("still published", "e20000101 retired, e20000622 signing")
		time.Sleep(2 * day)
		at("gone", "e20000622 signing")
		if got := w.names(); got != "smtp/dkim/example.test/e20000622.key" {
			t.Errorf("stored %s", got)
		}
	})
}

// TestUnpublished: a key that signs and that nobody can look up is told of, once
// a day.
func TestUnpublished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		s := w.node(t)
		s.Start("example.test")
		r := s.Ring("example.test")
		time.Sleep(3*day + 3*time.Hour)
		if n := strings.Count(w.log.String(), "not in DNS"); n != 4 {
			t.Errorf("warned %d times", n)
		}
		w.publish(r)
		time.Sleep(3 * day)
		if n := strings.Count(w.log.String(), "not in DNS"); n != 4 {
			t.Errorf("warned %d times, the last after it was there", n)
		}
	})
}

// TestUnchecked: where DNS cannot be asked, the time decides.
func TestUnchecked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.o.Schedule = Schedule{Rotate: 30 * day, Overlap: 2 * day, Unchecked: true}
		w.zone.Fail = map[string]bool{"e20000101._domainkey.example.test": true}
		s := w.node(t)
		s.Start("example.test")
		r := s.Ring("example.test")
		time.Sleep(28*day + 3*time.Hour)
		if got := states(r); got != "e20000101 signing, e20000129 next" {
			t.Errorf("got %s", got)
		}
		time.Sleep(2 * day)
		if got := states(r); got != "e20000101 retired, e20000129 signing" {
			t.Errorf("got %s", got)
		}
		if err := r.Rotate(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		if got := states(r); got != "e20000101 retired, e20000129 signing, e20000131 next" {
			t.Errorf("rotated: got %s", got)
		}
		time.Sleep(2*day + 3*time.Hour)
		if got := states(r); got != "e20000129 retired, e20000131 signing" {
			t.Errorf("rotated: got %s", got)
		}
	})
}

// TestRotateNow: by hand, as often as one likes, and on two nodes.
func TestRotateNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a, b := w.node(t), w.node(t)
		a.Start("example.test")
		r := a.Ring("example.test")
		signing(t, r)
		w.publish(r)
		b.Start("example.test")
		for _, n := range []*Store{a, b, a} {
			if err := n.Ring("example.test").Rotate(t.Context(), false); err != nil {
				t.Fatal(err)
			}
		}
		if got := states(r); got != "e20000101 signing, e20000101b next" {
			t.Errorf("got %s", got)
		}
		w.publish(r)
		time.Sleep(2 * w.o.Refresh)
		for _, n := range []*Store{a, b} {
			if got := states(n.Ring("example.test")); got != "e20000101 retired, e20000101b signing" {
				t.Errorf("got %s", got)
			}
		}
		if err := r.Rotate(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		if got := signing(t, r); got != "e20000101c" {
			t.Errorf("at once: signs with %s", got)
		}
		for range 22 {
			if err := r.Rotate(t.Context(), true); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		if err := r.Rotate(t.Context(), true); err == nil {
			t.Error("there is a selector after z")
		}
		if got := signing(t, r); got != "e20000101y" {
			t.Errorf("signs with %s", got)
		}
	})
}

// TestClockJumps: the clock of a node goes years ahead or back, and mail is
// still signed with a key that DNS has.
func TestClockJumps(t *testing.T) {
	s := Schedule{Rotate: 180 * day, Overlap: 7 * day}
	now := time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC)
	key := func(sel string, signs, published time.Time) *entry {
		return &entry{Key: dkimsign.Key{Selector: sel}, created: signs, signs: signs, published: published}
	}
	old, cur := key("old", now.Add(-183*day), now.Add(-183*day)), key("cur", now.Add(-3*day), now.Add(-3*day))
	ahead := key("ahead", now.AddDate(10, 0, 7), time.Time{}) // of a node whose clock was wrong
	es := []*entry{ahead, cur, old}
	if got := s.current(es, now); got != cur {
		t.Errorf("signs with %s", got.Selector)
	}
	if got := s.next(es, cur, now); got != nil {
		t.Errorf("%s is to follow", got.Selector)
	}
	back := now.AddDate(-10, 0, 0)
	if got := s.current(es, back); got != old { // published, and it stays so for the overlap
		t.Errorf("ten years ago: signs with %s", got.Selector)
	}
	if got := s.current([]*entry{ahead, cur}, back); got != cur {
		t.Errorf("ten years ago: signs with %s", got.Selector)
	}
	if s.due(s.current(es, back), back) {
		t.Error("ten years ago: a key is due")
	}
	if at := s.removal(cur, s.current(es, back)); !at.IsZero() {
		t.Error("ten years ago: the key is removed")
	}
	far := now.AddDate(20, 0, 0)
	if got := s.current(es, far); got != cur { // ahead is not in DNS
		t.Errorf("in twenty years: signs with %s", got.Selector)
	}
	if at := s.removal(cur, s.current(es, far)); !at.IsZero() {
		t.Error("in twenty years: the key is removed")
	}
	if s.current(nil, now) != nil {
		t.Error("a key out of nothing")
	}
	if at := s.removal(ahead, cur); !at.IsZero() {
		t.Error("a later key is removed")
	}
}

// TestStorageIsAway: what is known still signs, what is not is deferred, and
// all is well when it is back.
func TestStorageIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		s := w.node(t)
		s.Start("example.test")
		r := s.Ring("example.test")
		first := signing(t, r)
		w.mu.Lock()
		w.fail = errors.New("away")
		w.mu.Unlock()
		time.Sleep(200 * day)
		if got := signing(t, r); got != first {
			t.Errorf("signs with %s", got)
		}
		other := s.Ring("other.test")
		if _, err := other.Keys(t.Context()); !errors.Is(err, ErrNotYet) {
			t.Errorf("got %v", err)
		}
		if err := other.Rotate(t.Context(), false); err == nil {
			t.Error("rotated")
		}
		w.mu.Lock()
		w.fail = nil
		w.mu.Unlock()
		time.Sleep(3 * time.Hour)
		if got := signing(t, other); got != "e20000719" {
			t.Errorf("signs with %s", got)
		}
	})
}

// TestPatience: a session waits for keys that are being made, but not for ever.
func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		s := w.node(t)
		r := s.Ring("example.test") // nobody looks after it yet
		began := time.Now()
		if _, err := r.Keys(t.Context()); !errors.Is(err, ErrNotYet) || time.Since(began) != patience {
			t.Errorf("got %v after %v", err, time.Since(began))
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := r.Keys(ctx); !errors.Is(err, ErrNotYet) {
			t.Errorf("got %v", err)
		}
		go func() {
			time.Sleep(time.Second)
			s.Start()
		}()
		if got := signing(t, r); got != "e20000101" {
			t.Errorf("got %s", got)
		}
	})
}

// TestDamagedKey: none is made in the place of one that cannot be read.
func TestDamagedKey(t *testing.T) {
	for name, b := range map[string]string{
		"empty": "", "cut off": version + "\nSigns: 2000-01-01T00:00:00Z\n-----BEGIN PRIVATE KEY-----\nMII",
		"later version": "caddy-smtp DKIM key, version 2\n", "unknown line": version + "\nnWGxne/9WmC6hEr0\n", "bad time": version + "\nSigns: soon\n",
	} {
		w := newWorld()
		w.files["smtp/dkim/example.test/e1.key"] = []byte(b)
		r := w.node(t).Ring("example.test")
		if err := r.Refresh(t.Context()); err == nil || !strings.Contains(err.Error(), "e1") || strings.Contains(err.Error(), "nWGxne") {
			t.Errorf("%s: got %v", name, err)
		}
		if len(w.files) != 1 {
			t.Errorf("%s: stored %s", name, w.names())
		}
	}
}

// TestForeignKey: one that was put there in PEM signs.
func TestForeignKey(t *testing.T) {
	w := newWorld()
	priv, err := generate(Ed25519, 0)
	if err != nil {
		t.Fatal(err)
	}
	b, err := (&entry{Key: dkimsign.Key{Signer: priv}}).marshal()
	if err != nil {
		t.Fatal(err)
	}
	w.files["smtp/dkim/example.test/mail.key"] = b[bytes.Index(b, []byte("-----")):]
	w.files["smtp/dkim/example.test/README"] = []byte("x")
	w.files["smtp/dkim/example.test.au/no.key"] = []byte("not ours")
	r := w.node(t).Ring("example.test")
	if err := r.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := signing(t, r); got != "mail" {
		t.Errorf("signs with %s", got)
	}
}

// TestStoredForm: all of an entry survives, and it is text.
func TestStoredForm(t *testing.T) {
	for _, a := range []Algorithm{RSA, Ed25519} {
		priv, err := generate(a, 2048)
		if err != nil {
			t.Fatal(err)
		}
		at := time.Date(2026, 11, 25, 1, 2, 3, 0, time.UTC)
		e := &entry{Key: dkimsign.Key{Domain: "a.test", Selector: "s", Signer: priv}, created: at, signs: at.Add(day)}
		b, err := e.marshal()
		if err != nil {
			t.Fatal(err)
		}
		want := version + "\nCreated: 2026-11-25T01:02:03Z\nSigns: 2026-11-26T01:02:03Z\n-----BEGIN PRIVATE KEY-----\n"
		if !strings.HasPrefix(string(b), want) {
			t.Errorf("got %s", b)
		}
		got, err := unmarshal("a.test", "s", b)
		if err != nil || !got.created.Equal(at) || !got.signs.Equal(e.signs) || !got.published.IsZero() || got.Algorithm() != e.Algorithm() {
			t.Errorf("got %+v, %v", got, err)
		}
	}
}

func TestParsePrivate(t *testing.T) {
	for name, text := range map[string]string{
		"seed":     "nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=",
		"in lines": " nWGxne/9WmC6hEr0kuws\n xERJxWl7MmkZcDusAxyuf2A= \n",
		"pkcs 8":   "MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g",
		"pem":      "text before\n-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----\n",
	} {
		k, err := ParsePrivate([]byte(text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if rec, err := (dkimsign.Key{Signer: k}).Record(); err != nil || rec != "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=" { // RFC 8463, appendix A.2
			t.Errorf("%s: %s, %v", name, rec, err)
		}
	}
	for _, text := range []string{
		"", "x", "-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n", "aGVsbG8=",
		// An elliptic curve that DKIM does not know.
		"MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgBxs3IFxvZwkPuSSFNQ+5Z9OxPBlWDqiZV0uMNKdOQeGhRANCAAQkDMiNBEuFUyf0/oMFNRBVhMt1ODvXqm1JaxMmqD7Y4mAGBcAzvUn3hSTtCrnJYl1Ez7hmzz1V0rVzZ8H1oJ7x",
	} {
		if k, err := ParsePrivate([]byte(text)); err == nil {
			t.Errorf("%q is a %T", text, k)
		} else if text != "" && strings.Contains(err.Error(), text) {
			t.Errorf("the error shows the key: %v", err)
		}
	}
}

func FuzzUnmarshal(f *testing.F) {
	priv := ed25519.NewKeyFromSeed(make([]byte, 32))
	b, err := (&entry{Key: dkimsign.Key{Signer: priv}, created: time.Unix(1, 0)}).marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(version + "\nSigns: x"))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := unmarshal("a.test", "s", b)
		if err != nil {
			return
		}
		if _, err := e.marshal(); err != nil {
			t.Error(err)
		}
	})
}

// TestGiven: keys of the configuration sign, and are not ours to replace.
func TestGiven(t *testing.T) {
	priv := ed25519.NewKeyFromSeed(make([]byte, 32))
	r := Given("example.test", []dkimsign.Key{{Domain: "example.test", Selector: "mine", Signer: priv}})
	if got := signing(t, r); got != "mine" || states(r) != "mine signing" {
		t.Errorf("got %s, %s", got, states(r))
	}
	if err := r.Rotate(t.Context(), true); !errors.Is(err, ErrGiven) {
		t.Errorf("got %v", err)
	}
	if err := r.Refresh(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestCheck(t *testing.T) {
	priv := ed25519.NewKeyFromSeed(make([]byte, 32))
	k := dkimsign.Key{Domain: "a.test", Selector: "s", Signer: priv}
	rec, err := k.Record()
	if err != nil {
		t.Fatal(err)
	}
	other := "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
	for name, tc := range map[string]struct {
		txt  []string
		want Publication
	}{
		"as we wrote it": {[]string{rec}, Published},
		"with spaces":    {[]string{strings.ReplaceAll(rec, "=", " = ") + " ; n=note"}, Published},
		"with notes":     {[]string{strings.ReplaceAll(rec, "; ", ";") + "; n=note; t=s"}, Published},
		"another":        {[]string{other}, Differs},
		"two":            {[]string{rec, other}, Differs},
		"revoked":        {[]string{"v=DKIM1; k=ed25519; p="}, Differs},
		"no type":        {[]string{strings.Replace(rec, "k=ed25519", "n=ed25519", 1)}, Differs},
		"another hash":   {[]string{rec + "; h=sha1"}, Useless},
		"not for mail":   {[]string{rec + "; s=tlsrpt"}, Differs},
		"for mail too":   {[]string{rec + "; s=tlsrpt:email; h=sha1:sha256"}, Published},
		"none":           {nil, Missing},
	} {
		zone := &dnstest.Zone{TXT: map[string][]string{}}
		if tc.txt != nil {
			zone.TXT[k.Name()] = tc.txt
		}
		if got := Lookup(t.Context(), zone, k); got != tc.want {
			t.Errorf("%s: got %s", name, got)
		}
	}
	if got := Lookup(t.Context(), &dnstest.Zone{Fail: map[string]bool{k.Name(): true}}, k); got != Unknown {
		t.Errorf("failing: got %s", got)
	}
	if got := (Status{entry: &entry{Key: k}}).Check(t.Context(), &dnstest.Zone{TXT: map[string][]string{k.Name(): {rec}}}); got != Published {
		t.Errorf("by status: got %s", got)
	}
}

func TestZoneRecord(t *testing.T) {
	if got := ZoneRecord("s._domainkey.a.test", `v="x\`); got != `s._domainkey.a.test. IN TXT ( "v=\"x\\" )` {
		t.Errorf("got %s", got)
	}
	long := strings.Repeat("x", 400)
	if got, want := ZoneRecord("n", long), `n. IN TXT ( "`+long[:255]+`" "`+long[255:]+`" )`; got != want {
		t.Errorf("got %s", got)
	}
}
