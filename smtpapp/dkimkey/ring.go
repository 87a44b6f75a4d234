package dkimkey

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/dkimsign"
)

// A Ring is the keys of one domain.
type Ring struct {
	o      *Options
	domain string
	given  bool // in the configuration: there is nothing to look after
	log    *slog.Logger

	work sync.Mutex // one look or rotation at a time

	mu      sync.Mutex
	entries []*entry
	signing []dkimsign.Key
	looked  chan struct{} // closed after the first look

	// Of the goroutine that tends it.
	nextAt time.Time // when to look again
	failed int       // looks in a row

	warned time.Time // of keys that DNS lacks; under work
}

// Given returns a ring of keys that are not ours to store or replace. They all
// sign.
func Given(domain string, keys []dkimsign.Key) *Ring {
	r := &Ring{o: new(Options), domain: domain, given: true, signing: keys, looked: make(chan struct{})}
	for _, k := range keys {
		r.entries = append(r.entries, &entry{Key: k})
	}
	close(r.looked)
	return r
}

// Domain is whose keys they are.
func (r *Ring) Domain() string { return r.domain }

// Keys returns the keys that sign now, one of each algorithm. While the first
// ones are being made it waits for a few seconds; ErrNotYet says that there
// are none.
func (r *Ring) Keys(ctx context.Context) ([]dkimsign.Key, error) {
	select {
	case <-r.looked:
	default:
		timer := time.NewTimer(patience)
		defer timer.Stop()
		select {
		case <-r.looked:
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.signing) == 0 {
		return nil, fmt.Errorf("%s: %w", r.domain, ErrNotYet)
	}
	return r.signing, nil
}

// tend looks at the storage and DNS if it is time to, and returns how long not
// to do so again.
func (r *Ring) tend(ctx context.Context, now time.Time) time.Duration {
	if wait := r.nextAt.Sub(now); wait > 0 && wait <= r.o.Refresh { // more: the clock was set back
		return wait
	}
	wait := r.o.Refresh
	if err := r.Refresh(ctx); err != nil && ctx.Err() == nil {
		r.log.Error("DKIM keys", "error", err)
		r.failed++
		wait = min(retry<<min(r.failed-1, 10), r.o.Refresh)
	} else {
		r.failed = 0
	}
	r.nextAt = now.Add(wait)
	return wait
}

// Refresh reads what is stored, makes keys that are missing or due, sees which
// of them DNS has, and removes what has had its time.
func (r *Ring) Refresh(ctx context.Context) error { return r.look(ctx, nil) }

// ErrGiven says that the keys come from the configuration, which alone can
// replace them.
var ErrGiven = errors.New("the keys are given in the configuration")

// Rotate has the next key of each algorithm take over as soon as DNS has it, or
// when its time has come where DNS is not asked; if there is no next one, it is
// made. If atOnce is set, it takes over whatever DNS has.
func (r *Ring) Rotate(ctx context.Context, atOnce bool) error {
	return r.look(ctx, func(es []*entry, now time.Time) (changed []*entry, err error) {
		for _, a := range r.o.Algorithms {
			e, err := r.follow(append(es, changed...), a, now)
			if err != nil {
				return nil, err
			}
			if !r.o.Schedule.Unchecked || atOnce {
				e.signs = now.Truncate(time.Second)
			}
			if atOnce && e.published.IsZero() {
				e.published = e.signs
			}
			changed = append(changed, e)
		}
		return changed, nil
	})
}

// follow returns the key that is to follow the current one of an algorithm.
func (r *Ring) follow(es []*entry, a Algorithm, now time.Time) (*entry, error) {
	s := r.o.Schedule
	same := ofKind(es, a)
	if cur := s.current(same, now); cur != nil {
		if e := s.next(same, cur, now); e != nil {
			return e, nil
		}
	}
	return r.fresh(es, a, now, now.Add(s.Overlap))
}

// A changer alters or adds keys under the lock, and returns those.
type changer func(es []*entry, now time.Time) ([]*entry, error)

// look brings the ring up to date, and tells of keys that were made. Whoever
// hears of them may ask for the keys, so nothing is locked by then.
func (r *Ring) look(ctx context.Context, change changer) error {
	if r.given {
		if change != nil {
			return ErrGiven
		}
		return nil
	}
	made, err := r.update(ctx, change)
	for _, s := range made {
		r.log.Info("DKIM key made: publish it", "selector", s.Selector, "name", s.Name, "record", s.Record, "signs_from", s.Signs)
		if r.o.Made != nil {
			r.o.Made(s)
		}
	}
	return err
}

// update does what there is to do, and change, if it is not nil. The storage is
// not locked unless there is something to write.
func (r *Ring) update(ctx context.Context, change changer) (made []Status, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	r.work.Lock()
	defer r.work.Unlock()
	defer r.hasLooked()
	es, err := r.load(ctx)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	seen := r.lookUp(ctx, es, now)
	r.use(es, now) // what is there signs, even if nothing can be written
	if change == nil && len(seen) == 0 && !r.incomplete(es, now) && len(r.outlived(es, now)) == 0 {
		return nil, nil
	}
	name := r.folder()
	if err := r.o.Storage.Lock(ctx, name); err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	defer func() {
		if err := r.o.Storage.Unlock(context.WithoutCancel(ctx), name); err != nil {
			r.log.Error("unlocking DKIM keys", "error", err)
		}
	}()
	return r.locked(ctx, seen, change)
}

// hasLooked lets sessions go on that wait for the first look; under work.
func (r *Ring) hasLooked() {
	select {
	case <-r.looked:
	default:
		close(r.looked)
	}
}

// locked does what update found to do, with what is stored by now.
func (r *Ring) locked(ctx context.Context, seen map[string]bool, change changer) (told []Status, err error) {
	es, err := r.load(ctx)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	var dirty []*entry
	for _, e := range es {
		if seen[e.Selector] && e.published.IsZero() {
			e.published = now.Truncate(time.Second)
			dirty = append(dirty, e)
		}
	}
	made, err := r.missing(es, now)
	if err != nil {
		return nil, err
	}
	es, dirty = append(es, made...), append(dirty, made...)
	if change != nil {
		changed, err := change(es, now)
		if err != nil {
			return nil, err
		}
		for _, e := range changed {
			if !slices.Contains(es, e) {
				es, made = append(es, e), append(made, e)
			}
			dirty = append(dirty, e)
		}
	}
	for _, e := range dirty {
		if err := r.store(ctx, e); err != nil {
			return nil, err
		}
	}
	es, err = r.remove(ctx, es, now)
	r.use(es, now)
	for _, e := range made {
		told = append(told, r.status(e, es, now))
	}
	return told, err
}

// remove removes what has had its time and returns what is left.
func (r *Ring) remove(ctx context.Context, es []*entry, now time.Time) ([]*entry, error) {
	for _, e := range r.outlived(es, now) {
		if err := r.o.Storage.Delete(ctx, r.file(e.Selector)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return es, fmt.Errorf("remove %s: %w", e.Selector, err)
		}
		r.log.Info("DKIM key has had its time: its DNS record can go", "selector", e.Selector, "name", e.Name())
		es = slices.DeleteFunc(es, func(o *entry) bool { return o == e })
	}
	return es, nil
}

// incomplete reports whether missing would make a key.
func (r *Ring) incomplete(es []*entry, now time.Time) bool {
	for _, a := range r.o.Algorithms {
		if r.wants(ofKind(es, a), now) {
			return true
		}
	}
	return false
}

// wants reports whether keys of one algorithm need another one.
func (r *Ring) wants(same []*entry, now time.Time) bool {
	s := r.o.Schedule
	cur := s.current(same, now)
	return cur == nil || s.due(cur, now) && s.next(same, cur, now) == nil
}

// missing makes the first key of an algorithm, which signs at once, and those
// that are to follow.
func (r *Ring) missing(es []*entry, now time.Time) (made []*entry, err error) {
	for _, a := range r.o.Algorithms {
		same := ofKind(es, a)
		if !r.wants(same, now) {
			continue
		}
		from := now
		if len(same) > 0 {
			from = now.Add(r.o.Schedule.Overlap)
		}
		e, err := r.fresh(append(es, made...), a, now, from)
		if err != nil {
			return nil, err
		}
		made = append(made, e)
	}
	return made, nil
}

// fresh makes a key under a selector that none of es has.
func (r *Ring) fresh(es []*entry, a Algorithm, now, from time.Time) (*entry, error) {
	priv, err := generate(a, r.o.RSABits)
	if err != nil {
		return nil, err
	}
	base := r.o.Selector + a.prefix() + now.UTC().Format("20060102")
	sel := base
	for c := 'b'; has(es, sel); c++ {
		if sel = base + string(c); c == 'z' {
			return nil, fmt.Errorf("no selector is free today after %s", sel)
		}
	}
	now = now.Truncate(time.Second)
	return &entry{Key: dkimsign.Key{Domain: r.domain, Selector: sel, Signer: priv}, created: now, signs: from.Truncate(time.Second)}, nil
}

// outlived are the keys to be removed.
func (r *Ring) outlived(es []*entry, now time.Time) (gone []*entry) {
	for _, a := range []Algorithm{RSA, Ed25519} {
		same := ofKind(es, a)
		cur := r.o.Schedule.current(same, now)
		for _, e := range same {
			if at := r.o.Schedule.removal(e, cur); !at.IsZero() && at.Before(now) {
				gone = append(gone, e)
			}
		}
	}
	return gone
}

// use makes es what Keys and Status tell of.
func (r *Ring) use(es []*entry, now time.Time) {
	var signing []dkimsign.Key
	for _, a := range r.o.Algorithms {
		if cur := r.o.Schedule.current(ofKind(es, a), now); cur != nil {
			signing = append(signing, cur.Key)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(signing) > 0 { // what was there is better than nothing
		r.entries, r.signing = es, signing
	}
}

// lookUp returns the selectors of keys that DNS has and had not. It warns of
// those that sign all the same, since there is no other.
func (r *Ring) lookUp(ctx context.Context, es []*entry, now time.Time) map[string]bool {
	seen := map[string]bool{}
	for _, e := range es {
		if r.o.Schedule.Unchecked || !e.published.IsZero() {
			continue
		}
		found := Lookup(ctx, r.o.Resolver, e.Key)
		if found == Published {
			seen[e.Selector] = true
			r.log.Info("DKIM key is published", "selector", e.Selector)
		} else if e == r.o.Schedule.current(ofKind(es, of(e.Key)), now) && now.Sub(r.warned) >= day {
			r.warned = now
			r.log.Warn("DKIM key signs but is not in DNS", "selector", e.Selector, "name", e.Name(), "dns", found)
		}
	}
	return seen
}

func (r *Ring) folder() string { return path.Join("smtp/dkim", r.domain) }

// file is the name of a key in the storage.
func (r *Ring) file(selector string) string { return path.Join(r.folder(), selector+".key") }

func (r *Ring) store(ctx context.Context, e *entry) error {
	b, err := e.marshal()
	if err == nil {
		err = r.o.Storage.Store(ctx, r.file(e.Selector), b)
	}
	if err != nil {
		return fmt.Errorf("store %s: %w", e.Selector, err)
	}
	return nil
}

// load reads the keys that are stored. One that cannot be read is an error,
// since a new one in its place would not be the one that is published.
func (r *Ring) load(ctx context.Context) ([]*entry, error) {
	names, err := r.o.Storage.List(ctx, r.folder(), false)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list: %w", err)
	}
	var es []*entry
	for _, n := range names {
		sel, ok := strings.CutSuffix(path.Base(n), ".key")
		if !ok || path.Dir(n) != r.folder() { // some storages list by prefix
			continue
		}
		b, err := r.o.Storage.Load(ctx, n)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("load %s: %w", sel, err)
		}
		e, err := unmarshal(r.domain, sel, b)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", sel, err)
		}
		es = append(es, e)
	}
	return es, nil
}

func ofKind(es []*entry, a Algorithm) (out []*entry) {
	for _, e := range es {
		if of(e.Key) == a {
			out = append(out, e)
		}
	}
	return out
}

func has(es []*entry, selector string) bool {
	return slices.ContainsFunc(es, func(e *entry) bool { return e.Selector == selector })
}
