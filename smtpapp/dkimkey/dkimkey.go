// Package dkimkey keeps DKIM keys: it makes them where there are none, stores
// them where all nodes find them, and replaces them on a schedule, with time to
// publish the new one and time for what the old one signed to arrive.
package dkimkey

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/dkimsign"
)

// A Storage is where keys are kept. It is the part that is used of certmagic's
// Storage, which says what its methods do.
type Storage interface {
	Lock(ctx context.Context, name string) error
	Unlock(ctx context.Context, name string) error
	Store(ctx context.Context, key string, value []byte) error
	Load(ctx context.Context, key string) ([]byte, error)
	Delete(ctx context.Context, key string) error
	List(ctx context.Context, path string, recursive bool) ([]string, error)
}

// A Resolver tells whether a key is published.
type Resolver interface {
	LookupTXT(ctx context.Context, name string) ([]string, error)
}

// ErrNotYet says that a domain's keys are not to be had now: they are being
// made, or the storage is away. That may pass.
var ErrNotYet = errors.New("the keys are not there yet")

// An Algorithm is a kind of key.
type Algorithm string

// The algorithms (RFC 6376, section 3.3, RFC 8463).
const (
	RSA     Algorithm = "rsa"
	Ed25519 Algorithm = "ed25519"
)

// prefix is what the selectors of an algorithm's keys begin with.
func (a Algorithm) prefix() string { return string(a[:1]) }

// of tells a key's algorithm.
func of(k dkimsign.Key) Algorithm {
	if k.Algorithm() == "ed25519-sha256" {
		return Ed25519
	}
	return RSA
}

// Options are those of a Store.
type Options struct {
	Storage  Storage
	Resolver Resolver
	Schedule Schedule
	// Algorithms are the keys that a domain has, in the order of the signatures.
	Algorithms []Algorithm
	// RSABits is the length of new RSA keys.
	RSABits int
	// Selector is what selectors begin with, before "r" or "e" and the date.
	Selector string
	// Refresh is how often the storage and DNS are looked at. Default: 10
	// minutes.
	Refresh time.Duration
	// Made, if not nil, hears of new keys.
	Made func(Status)
	Log  *slog.Logger
}

// A Store has the keys of domains. It knows a domain from when it is first
// asked for.
type Store struct {
	o      Options
	ctx    context.Context
	cancel context.CancelFunc
	wake   chan struct{}
	done   sync.WaitGroup

	mu    sync.Mutex
	rings map[string]*Ring
}

// The times of a Store.
const (
	retry    = 20 * time.Second // after one that failed
	patience = 8 * time.Second  // of a session, for keys that are being made
	timeout  = 2 * time.Minute  // of one look
)

// maxRings bounds the domains of a store: who names them may be a client.
const maxRings = 100_000

// New returns a store, which Close ends.
func New(o Options) *Store {
	if o.Refresh <= 0 {
		o.Refresh = 10 * time.Minute
	}
	s := &Store{o: o, wake: make(chan struct{}, 1), rings: map[string]*Ring{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// Start begins to look after the keys of these domains, in the background.
func (s *Store) Start(domains ...string) {
	for _, d := range domains {
		s.Ring(d)
	}
	s.done.Go(s.run)
}

// Close ends what Start began.
func (s *Store) Close() {
	s.cancel()
	s.done.Wait()
}

// Ring returns the keys of a domain, in lower case and as A-labels.
func (s *Store) Ring(domain string) *Ring {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.rings[domain]
	if r == nil && len(s.rings) >= maxRings {
		return Given(domain, nil) // without keys
	}
	if r == nil {
		r = &Ring{o: &s.o, domain: domain, log: s.o.Log.With("domain", domain), looked: make(chan struct{})}
		s.rings[domain] = r
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
	return r
}

// Rings returns the rings so far by domain.
func (s *Store) Rings() []*Ring {
	s.mu.Lock()
	defer s.mu.Unlock()
	var rs []*Ring
	for _, d := range slices.Sorted(maps.Keys(s.rings)) {
		rs = append(rs, s.rings[d])
	}
	return rs
}

// run looks after each ring when its time has come.
func (s *Store) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-s.wake:
		case <-timer.C:
		}
		wait := s.o.Refresh
		for _, r := range s.Rings() {
			if s.ctx.Err() != nil {
				return
			}
			wait = min(wait, r.tend(s.ctx, time.Now()))
		}
		timer.Reset(wait)
	}
}

// generate makes a private key.
func generate(a Algorithm, bits int) (crypto.Signer, error) {
	if a == Ed25519 {
		_, k, err := ed25519.GenerateKey(rand.Reader)
		return k, err
	}
	k, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		return nil, fmt.Errorf("make an RSA key: %w", err)
	}
	return k, nil
}
