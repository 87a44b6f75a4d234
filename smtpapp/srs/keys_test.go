package srs

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// memory is a storage.
type memory struct {
	lock   sync.Mutex
	mu     sync.Mutex
	files  map[string][]byte
	broken error
}

func (m *memory) Lock(context.Context, string) error   { m.lock.Lock(); return nil }
func (m *memory) Unlock(context.Context, string) error { m.lock.Unlock(); return nil }

func (m *memory) Store(_ context.Context, key string, value []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.files == nil {
		m.files = map[string][]byte{}
	}
	m.files[key] = value
	return m.broken
}

func (m *memory) Load(_ context.Context, key string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broken != nil {
		return nil, m.broken
	}
	if b, ok := m.files[key]; ok {
		return b, nil
	}
	return nil, fs.ErrNotExist
}

func node(m *memory, rotate time.Duration) *Keys {
	return &Keys{Storage: m, Rotate: rotate, Validity: 60 * day, Log: slog.New(slog.DiscardHandler)}
}

// TestRotation of two nodes and one that reads, over a year: what any signs, all
// know, and know until it is not valid any more.
func TestRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := new(memory)
		nodes := []*Keys{node(m, 30*day), node(m, 30*day), node(m, 0)}
		signed := map[string]time.Time{}
		ctx := t.Context()
		for range 365 * 4 {
			for _, n := range nodes[:2] {
				s, err := n.Secret(ctx)
				if err != nil {
					t.Fatal(err)
				}
				signed[string(s)] = time.Now()
			}
			time.Sleep(time.Minute + time.Second) // a node may know the secrets of a minute ago
			for i, n := range nodes {
				all, err := n.Secrets(ctx)
				if err != nil {
					t.Fatal(err)
				}
				for s, last := range signed {
					has := false
					for _, a := range all {
						has = has || bytes.Equal(a, []byte(s))
					}
					if !has && time.Since(last) < 60*day {
						t.Fatalf("node %d does not know what was signed %v ago", i, time.Since(last))
					}
				}
				if len(all) > 5 {
					t.Fatalf("%d secrets", len(all))
				}
			}
			time.Sleep(6 * time.Hour)
		}
		if len(signed) < 11 {
			t.Errorf("%d secrets in a year", len(signed))
		}
	})
}

// TestOnce: nodes that begin together have one secret.
func TestOnce(t *testing.T) {
	m := new(memory)
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := map[string]bool{}
	for range 10 {
		wg.Go(func() {
			s, err := node(m, day).Secret(t.Context())
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			seen[string(s)] = true
		})
	}
	wg.Wait()
	if len(seen) != 1 {
		t.Errorf("%d secrets", len(seen))
	}
}

// TestStorageFails: what is known holds on, and nothing is made up.
func TestStorageFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := new(memory)
		k := node(m, day)
		m.broken = errors.New("down")
		if _, err := k.Secret(t.Context()); err == nil {
			t.Error("a secret that no other node knows")
		}
		m.broken = nil
		s, err := k.Secret(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * day)
		m.broken = errors.New("down")
		if again, err := k.Secret(t.Context()); err != nil || !bytes.Equal(again, s) {
			t.Error(err)
		}
		for _, bad := range []string{"{", `[{"secret":"eA=="}]`} {
			m.broken, m.files = nil, map[string][]byte{file: []byte(bad)}
			if _, err := node(m, day).Secret(t.Context()); err == nil {
				t.Errorf("%s is taken", bad)
			}
		}
		m.files = nil
		if all, err := node(m, 0).Secrets(t.Context()); err != nil || len(all) != 0 {
			t.Error("a reader:", all, err)
		}
		if _, err := node(m, 0).Secret(t.Context()); err == nil || m.files != nil {
			t.Error("a reader has made a secret")
		}
	})
}
