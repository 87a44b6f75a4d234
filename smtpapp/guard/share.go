package guard

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"path"
	"strings"
	"time"
)

// Storage is the part of Caddy's storage that bans are shared through.
type Storage interface {
	Store(ctx context.Context, key string, value []byte) error
	Load(ctx context.Context, key string) ([]byte, error)
	Delete(ctx context.Context, key string) error
	List(ctx context.Context, path string, recursive bool) ([]string, error)
}

const (
	folder   = "smtp/bans"
	interval = 30 * time.Second // between two looks at what other nodes have to say
	timeout  = 20 * time.Second // of one
	// settling is how long a ban that was written may take to be seen in a list.
	settling = 2 * interval
)

// keyOf is where a ban is kept: a name that every file system takes.
func keyOf(p netip.Prefix) string {
	return folder + "/" + strings.NewReplacer(":", "-", "/", "_").Replace(p.String()) + ".json"
}

func prefixOf(key string) (netip.Prefix, bool) {
	name, ok := strings.CutSuffix(path.Base(key), ".json")
	p, err := netip.ParsePrefix(strings.NewReplacer("-", ":", "_", "/").Replace(name))
	return p, ok && err == nil && p == p.Masked()
}

// Share writes bans to storage, reads those of other nodes, and lifts those that
// were lifted there, until ctx ends. None lasts longer here than longest, whatever
// another node's clock says. While storage is away each node has its own bans.
func (g *Guard) Share(ctx context.Context, st Storage, longest time.Duration, log *slog.Logger) {
	fault := ""
	for {
		round, cancel := context.WithTimeout(ctx, timeout)
		err := g.share(round, st, longest)
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			fault = ""
		case err.Error() != fault:
			fault = err.Error()
			log.Warn("bans are not shared with other nodes", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(interval):
		case <-g.news:
			select { // a moment for more of them
			case <-ctx.Done():
				return
			case <-time.After(time.Second):
			}
		}
	}
}

func (g *Guard) share(ctx context.Context, st Storage, longest time.Duration) error {
	if err := g.publish(ctx, st); err != nil {
		return err
	}
	keys, err := st.List(ctx, folder, false)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("listing: %w", err)
	}
	listed := map[netip.Prefix]bool{}
	for _, key := range keys {
		p, ok := prefixOf(key)
		if !ok {
			continue
		}
		if listed[p] = true; g.has(p) {
			continue
		}
		if err := g.learn(ctx, st, p, longest); err != nil {
			return err
		}
	}
	g.compare(listed)
	return nil
}

// publish writes what is new here.
func (g *Guard) publish(ctx context.Context, st Storage) error {
	bans, lifted := g.unshared()
	for _, p := range lifted {
		if err := st.Delete(ctx, keyOf(p)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("lifting a ban: %w", err)
		}
		g.mu.Lock()
		delete(g.lifted, p)
		g.mu.Unlock()
	}
	for _, b := range bans {
		text, err := json.Marshal(b)
		if err == nil {
			err = st.Store(ctx, keyOf(b.Network), text)
		}
		if err != nil {
			return fmt.Errorf("writing a ban: %w", err)
		}
		g.seen(b.Network, b.Until)
	}
	return nil
}

func (g *Guard) unshared() (bans []Ban, lifted []netip.Prefix) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	g.bans.each(func(_ netip.Prefix, b *ban) {
		if b.shared == 0 && now < b.until {
			bans = append(bans, b.Ban)
		}
	})
	for p := range g.lifted {
		lifted = append(lifted, p)
	}
	return bans, lifted
}

// seen marks a ban as shared, if it still is the one that was written.
func (g *Guard) seen(p netip.Prefix, until time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if b := g.bans.peek(p); b != nil && b.Until.Equal(until) {
		b.shared = g.now() + settling
	}
}

// has reports whether there is nothing to learn about p.
func (g *Guard) has(p netip.Prefix) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.lifted[p] || g.banned(p, g.now())
}

// learn takes a ban over from storage, or clears it away if it has ended.
func (g *Guard) learn(ctx context.Context, st Storage, p netip.Prefix, longest time.Duration) error {
	text, err := st.Load(ctx, keyOf(p))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading a ban: %w", err)
	}
	var b Ban
	err = json.Unmarshal(text, &b)
	left := min(time.Until(b.Until), longest)
	if err != nil || b.Network != p || left <= 0 {
		if err := st.Delete(ctx, keyOf(p)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("clearing a ban away: %w", err)
		}
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	if g.lifted[p] || g.banned(p, now) { // meanwhile
		return nil
	}
	b.Strikes = min(max(b.Strikes, 1), 64)
	*g.bans.at(p) = ban{Ban: b, until: now + left, shared: max(now, 1)}
	return nil
}

// compare lifts what was shared and is there no more.
func (g *Guard) compare(listed map[netip.Prefix]bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	g.bans.each(func(p netip.Prefix, b *ban) {
		if b.shared > 0 && now > b.shared && now < b.until && !listed[p] {
			g.forget(p)
		}
	})
}
