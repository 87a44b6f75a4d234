package auth

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/caddyauth" // the hashes

	"github.com/caddymail/caddy-smtp/smtpapp/login"
)

const (
	// patience is how long a client waits for others' hashes to be computed.
	patience = 20 * time.Second
	// cacheFor is how long a password that was right is known to be.
	cacheFor = time.Minute
	cacheMax = 1000
)

// noUsers is compared with where no source has a hash to go by.
const noUsers = "$2a$14$X3ulqf/iGxnf1k6oMZ.RZeJUoqI9PX2PM4rS5lkIKJXduLGXGPrt6"

// check asks the sources in turn for the user, "" being none.
func (h *Handler) check(ctx context.Context, user, password string) (verdict, error) {
	sample := ""
	for _, src := range h.sources {
		if s, ok := src.(Sampler); ok && sample == "" {
			sample = s.SampleHash()
		}
		if user == "" {
			continue
		}
		if v, err := h.ask(ctx, src, user, password); v != unknown || err != nil {
			return v, err
		}
	}
	return unknown, h.passwords.pretend(ctx, sample, password)
}

func (h *Handler) ask(ctx context.Context, src any, user, password string) (verdict, error) {
	if c, ok := src.(PasswordChecker); ok {
		known, ok, err := c.CheckPassword(ctx, user, password)
		return verdictOf(known, ok), err
	}
	hs, ok := src.(HashSource)
	if !ok {
		return unknown, nil
	}
	hashes, known, err := hs.PasswordHashes(ctx, user)
	if !known || err != nil {
		return unknown, err
	}
	for _, hash := range hashes {
		if ok, err := h.passwords.compare(ctx, user, hash, password); err != nil {
			return wrong, err
		} else if ok {
			return right, nil
		}
	}
	if len(hashes) == 0 { // a user without a password is not to be told from none
		err = h.passwords.pretend(ctx, "", password)
	}
	return wrong, err
}

// A comparer is one of Caddy's modules in http.authentication.hashes.
type comparer interface {
	Compare(hashed, plaintext []byte) (bool, error)
}

// passwords compares passwords with hashes, a bounded number at a time, and
// remembers for a short while which were right.
type passwords struct {
	comparers map[string]comparer
	slots     chan struct{}

	key  [32]byte // of the cache; never written down anywhere
	mu   sync.Mutex
	seen map[[sha256.Size]byte]time.Time // until when
}

func newPasswords(ctx caddy.Context, concurrency int) (*passwords, error) {
	p := &passwords{comparers: map[string]comparer{}, slots: make(chan struct{}, max(concurrency, 1)), seen: map[[sha256.Size]byte]time.Time{}}
	for _, name := range []string{"bcrypt", "argon2id"} {
		m, err := ctx.LoadModuleByID("http.authentication.hashes."+name, nil)
		if err != nil {
			return nil, err
		}
		c, ok := m.(comparer)
		if !ok {
			return nil, fmt.Errorf("%T does not compare passwords", m)
		}
		p.comparers[name] = c
	}
	_, err := rand.Read(p.key[:])
	return p, err
}

// compare reports whether a password of user has the hash.
func (p *passwords) compare(ctx context.Context, user, hash, password string) (bool, error) {
	id := p.id(user, hash, password)
	if p.remembers(id) {
		return true, nil
	}
	ok, err := p.compute(ctx, hash, password)
	if ok && err == nil {
		p.remember(id)
	}
	return ok, err
}

// pretend takes as long as comparing with a hash like sample does.
func (p *passwords) pretend(ctx context.Context, sample, password string) error {
	if sample == "" {
		sample = noUsers
	}
	h, err := login.ParseHash(sample)
	if err != nil {
		return err
	}
	_, err = p.compute(ctx, h.Fake, password)
	return err
}

func (p *passwords) compute(ctx context.Context, hash, password string) (bool, error) {
	h, err := login.ParseHash(hash)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-ctx.Done():
		return false, fmt.Errorf("too many logins at a time: %w", ctx.Err())
	}
	return p.comparers[h.Algorithm].Compare([]byte(hash), []byte(password))
}

// id names a password without telling it: whoever reads the cache without the
// key learns nothing, and a user's new hash is a new entry.
func (p *passwords) id(parts ...string) (id [sha256.Size]byte) {
	m := hmac.New(sha256.New, p.key[:])
	for _, s := range parts {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(s)))
		m.Write(n[:])
		m.Write([]byte(s))
	}
	m.Sum(id[:0])
	return id
}

func (p *passwords) remembers(id [sha256.Size]byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Now().Before(p.seen[id])
}

func (p *passwords) remember(id [sha256.Size]byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if len(p.seen) >= cacheMax {
		for k, until := range p.seen {
			if !now.Before(until) {
				delete(p.seen, k)
			}
		}
	}
	for k := range p.seen { // any of them, if it is still full
		if len(p.seen) < cacheMax {
			break
		}
		delete(p.seen, k)
	}
	p.seen[id] = now.Add(cacheFor)
}
