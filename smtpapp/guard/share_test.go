package guard

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
)

// shelf is a Storage in memory.
type shelf struct {
	mu    sync.Mutex
	items map[string][]byte
	down  bool
	loads int
}

var errDown = errors.New("storage is away")

func (s *shelf) do(f func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down {
		return errDown
	}
	return f()
}

func (s *shelf) Store(_ context.Context, k string, v []byte) error {
	return s.do(func() error { s.items[k] = v; return nil })
}

func (s *shelf) Load(_ context.Context, k string) (v []byte, err error) {
	err = s.do(func() error {
		s.loads++
		if v = s.items[k]; v == nil {
			return fs.ErrNotExist
		}
		return nil
	})
	return v, err
}

func (s *shelf) Delete(_ context.Context, k string) error {
	return s.do(func() error { delete(s.items, k); return nil })
}

func (s *shelf) List(_ context.Context, p string, _ bool) (keys []string, err error) {
	err = s.do(func() error {
		for k := range s.items {
			if path.Dir(k) == p {
				keys = append(keys, k)
			}
		}
		if len(keys) == 0 {
			return fs.ErrNotExist
		}
		return nil
	})
	return keys, err
}

func (s *shelf) loaded() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.loads
}

func (s *shelf) keys() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ks []string
	for k := range s.items {
		ks = append(ks, k)
	}
	slices.Sort(ks)
	return strings.Join(ks, " ")
}

// nodes shares bans between two guards while f runs.
func nodes(t *testing.T, f func(t *testing.T, st *shelf, a, b *Guard, log *bytes.Buffer)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		st := &shelf{items: map[string][]byte{}}
		var log bytes.Buffer
		a, b := New(), New()
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { a.Share(ctx, st, day, slog.New(slog.NewTextHandler(&log, nil))) })
		wg.Go(func() { b.Share(ctx, st, day, slog.New(slog.DiscardHandler)) })
		synctest.Wait()
		f(t, st, a, b, &log)
		cancel()
		wg.Wait()
	})
}

func exhaust(t *testing.T, g *Guard, ip string) {
	t.Helper()
	p := asMox
	for guess(t, g, &p, ip, "") {
		continue
	}
}

// TestShare: a ban of one node is one of the other, soon, and so is its end.
func TestShare(t *testing.T) {
	nodes(t, func(t *testing.T, st *shelf, a, b *Guard, _ *bytes.Buffer) {
		p := asMox
		v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8:1:2::3")
		exhaust(t, a, v4.String())
		exhaust(t, a, v6.String())
		time.Sleep(interval + 2*time.Second)
		if st.keys() != "smtp/bans/192.0.2.1_32.json smtp/bans/2001-db8-1-2--_64.json" {
			t.Error(st.keys())
		}
		if !b.Banned(&p, v4) || !b.Banned(&p, v6) || len(b.Bans()) != 2 || b.Bans()[0] != a.Bans()[0] {
			t.Error(b.Bans())
		}
		loads := st.loaded()
		time.Sleep(interval)
		if st.loaded() != loads {
			t.Error("what is known is read again")
		}
		if got := b.Lift(netip.PrefixFrom(v4, 32)); len(got) != 1 { // on the node that did not make it
			t.Error(got)
		}
		time.Sleep(3 * interval)
		if a.Banned(&p, v4) || b.Banned(&p, v4) || !a.Banned(&p, v6) || !guess(t, a, &p, v4.String(), "") {
			t.Error(a.Bans(), b.Bans())
		}
		time.Sleep(10 * time.Minute)
		if len(a.Bans())+len(b.Bans()) != 0 || st.keys() != "" {
			t.Error("still there:", a.Bans(), b.Bans(), st.keys())
		}
		exhaust(t, b, v6.String()) // the other node knows that it is not the first time
		if got := b.Bans(); len(got) != 1 || got[0].Strikes != 2 {
			t.Error(got)
		}
	})
}

// TestStorageAway: each node has its own bans then, and shares them later.
func TestStorageAway(t *testing.T) {
	nodes(t, func(t *testing.T, st *shelf, a, b *Guard, log *bytes.Buffer) {
		p := asMox
		p.Ban = time.Hour
		st.mu.Lock()
		st.down = true
		st.mu.Unlock()
		ip := netip.MustParseAddr("192.0.2.1")
		for guess(t, a, &p, ip.String(), "") {
			continue
		}
		time.Sleep(10 * interval)
		if !a.Banned(&p, ip) || b.Banned(&p, ip) {
			t.Error(a.Bans(), b.Bans())
		}
		if n := strings.Count(log.String(), "bans are not shared"); n < 1 || n > 2 { // "listing", then "writing"
			t.Errorf("%d lines: %s", n, log)
		}
		st.mu.Lock()
		st.down = false
		st.mu.Unlock()
		time.Sleep(3 * interval)
		if !b.Banned(&p, ip) {
			t.Error("not shared later")
		}
	})
}

// TestForeign: what lies in storage is not believed blindly.
func TestForeign(t *testing.T) {
	nodes(t, func(t *testing.T, st *shelf, a, _ *Guard, _ *bytes.Buffer) {
		put := func(name, network string, until time.Duration) {
			st.mu.Lock()
			defer st.mu.Unlock()
			st.items["smtp/bans/"+name] = fmt.Appendf(nil, `{"network":%q,"scope":"address","until":%q}`, network, time.Now().Add(until).Format(time.RFC3339))
		}
		put("192.0.2.1_32.json", "192.0.2.1/32", 1000*day) // a node with another clock
		put("192.0.2.2_32.json", "0.0.0.0/0", time.Hour)
		put("192.0.2.3_32.json", "192.0.2.3/32", -time.Hour)
		put("192.0.2.4_24.json", "192.0.2.4/24", time.Hour)
		put("readme", "192.0.2.5/32", time.Hour)
		_ = st.Store(t.Context(), "smtp/bans/192.0.2.6_32.json", []byte("{"))
		time.Sleep(2 * interval)
		if got := a.Bans(); len(got) != 1 || got[0].Network.String() != "192.0.2.1/32" {
			t.Error(got)
		}
		if st.keys() != "smtp/bans/192.0.2.1_32.json smtp/bans/192.0.2.4_24.json smtp/bans/readme" {
			t.Error(st.keys())
		}
		time.Sleep(day)
		st.mu.Lock()
		delete(st.items, "smtp/bans/192.0.2.1_32.json")
		st.mu.Unlock()
		if time.Sleep(2 * interval); len(a.Bans()) != 0 {
			t.Error("longer than the longest:", a.Bans())
		}
	})
}

func FuzzKey(f *testing.F) {
	f.Add("smtp/bans/192.0.2.1_32.json")
	f.Add("smtp/bans/2001-db8--_64.json")
	f.Fuzz(func(t *testing.T, key string) {
		if p, ok := prefixOf(key); ok && (p != p.Masked() || !p.IsValid()) {
			t.Errorf("%q: %v", key, p)
		}
	})
}

// TestCaddyStorage: the file system storage of Caddy takes the keys and lists them.
func TestCaddyStorage(t *testing.T) {
	st := &certmagic.FileStorage{Path: t.TempDir()}
	a, b := New(), New()
	p := asMox
	if err := b.share(t.Context(), st, day); err != nil { // nothing is there, not even the folder
		t.Fatal(err)
	}
	exhaust(t, a, "192.0.2.1")
	exhaust(t, a, "2001:db8:1:2::3")
	for _, g := range []*Guard{a, b, a} {
		if err := g.share(t.Context(), st, day); err != nil {
			t.Fatal(err)
		}
	}
	if len(a.Bans()) != 2 || len(b.Bans()) != 2 || !b.Banned(&p, netip.MustParseAddr("2001:db8:1:2::9")) {
		t.Error(a.Bans(), b.Bans())
	}
	b.Lift(netip.MustParsePrefix("2001:db8::/32"))
	if err := b.share(t.Context(), st, day); err != nil {
		t.Fatal(err)
	}
	if c := New(); c.share(t.Context(), st, day) != nil || len(c.Bans()) != 1 || c.Bans()[0].Network.String() != "192.0.2.1/32" {
		t.Error(c.Bans())
	}
}
