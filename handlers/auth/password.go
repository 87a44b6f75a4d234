package auth

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"errors"
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

// sample is a secret as most users have it, and nobody.
func (h *Handler) sample() login.Secret {
	for _, src := range h.sources {
		if s, ok := src.(Sampler); ok {
			if secret, err := login.ParseSecret(s.SampleHash()); err == nil {
				return secret.Fake()
			}
		}
	}
	return login.Secret{Hash: noUsers}
}

// check asks the sources in turn for the user, "" being none. A wrong password
// leaves the outcome without an identity.
func (h *Handler) check(ctx context.Context, user, password string) (outcome, error) {
	if password == "" { // some directories take it for no login at all, and succeed
		return outcome{}, nil
	}
	for _, src := range h.sources {
		if user == "" {
			break
		}
		if o, err := h.ask(ctx, src, user, password); o.source != nil || err != nil {
			return o, err
		}
	}
	return outcome{}, h.pretend(ctx, password)
}

func (h *Handler) ask(ctx context.Context, src any, user, password string) (o outcome, err error) {
	if c, ok := src.(PasswordChecker); ok {
		id, known, err := c.CheckPassword(ctx, user, password)
		if known || id != nil {
			o = outcome{id: id, source: src}
		}
		return o, err
	}
	as, ok := src.(AccountSource)
	if !ok {
		return o, nil
	}
	a, err := as.Account(ctx, user)
	if a == nil || err != nil {
		return o, err
	}
	o.source = src
	compared := false
	for _, s := range a.Secrets {
		verifier := s.Verifier()
		if verifier == "" {
			continue
		}
		compared = true
		if ok, err := h.passwords.compare(ctx, user, verifier, password); err != nil {
			return o, err
		} else if ok {
			o.id = a.Identity(user, s.Name)
			return o, nil
		}
	}
	if !compared { // a user without a password is not to be told from none
		err = h.pretend(ctx, password)
	}
	return o, err
}

// pretend takes as long as comparing a password does.
func (h *Handler) pretend(ctx context.Context, password string) error {
	sample := h.sample()
	_, err := h.passwords.compute(ctx, sample.Verifier(), password)
	return err
}

// account asks the sources in turn for the user's account, nil if there is none.
func (h *Handler) account(ctx context.Context, user string) (*login.Account, any, error) {
	for _, src := range h.sources {
		as, ok := src.(AccountSource)
		if !ok || user == "" {
			continue
		}
		if a, err := as.Account(ctx, user); a != nil || err != nil {
			return a, src, err
		}
	}
	return nil, nil, nil
}

// checkToken asks the sources in turn whose a token is.
func (h *Handler) checkToken(ctx context.Context, user, token string) (outcome, error) {
	var errs error
	for _, src := range h.sources {
		c, ok := src.(TokenChecker)
		if !ok {
			continue
		}
		id, err := c.CheckToken(ctx, user, token)
		if id != nil && err == nil {
			return outcome{id: id, source: src}, nil
		}
		errs = errors.Join(errs, err)
	}
	return outcome{}, errs
}

// checkCertificate asks the sources in turn whose the client's certificate is.
func (h *Handler) checkCertificate(ctx context.Context, st *tls.ConnectionState) (outcome, error) {
	var errs error
	for _, src := range h.sources {
		c, ok := src.(CertificateChecker)
		if !ok {
			continue
		}
		id, err := c.CheckCertificate(ctx, st)
		if id != nil && err == nil {
			return outcome{id: id, source: src}, nil
		}
		errs = errors.Join(errs, err)
	}
	return outcome{}, errs
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

func (p *passwords) compute(ctx context.Context, hash, password string) (same bool, err error) {
	h, err := login.ParseHash(hash)
	if err != nil {
		return false, err
	}
	if h.Algorithm == login.AlgorithmPlain {
		return login.MatchPlain(hash, password), nil
	}
	err = p.limited(ctx, func() error {
		if h.Algorithm == login.AlgorithmSCRAM {
			k, err := login.ParseKeys(hash)
			same = err == nil && k.Match(password)
			return err
		}
		same, err = p.comparers[h.Algorithm].Compare([]byte(hash), []byte(password))
		return err
	})
	return same && err == nil, err
}

// limited runs f when not too many others do.
func (p *passwords) limited(ctx context.Context, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-ctx.Done():
		return fmt.Errorf("too many logins at a time: %w", ctx.Err())
	}
	return f()
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
