package auth

import (
	"context"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io/fs"
	"log/slog"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
)

const (
	decoyKey   = "smtp/auth/decoy.key"
	decoySalt  = 256 // octets, as many as a salt can have
	decoyRetry = time.Minute
)

// decoys are the salts that SCRAM shows for users that nobody knows. Were they
// another at each restart, or on each node, those of real users would stand out.
// So they are made with a key that is kept in Caddy's storage, from the first
// exchange on.
type decoys struct {
	storage func() certmagic.Storage
	log     *slog.Logger

	mu    sync.Mutex
	key   []byte
	until time.Time // when to ask the storage again; zero if the key is its own
}

// salt is that of a user for a hash function.
func (d *decoys) salt(ctx context.Context, function, user string) ([]byte, error) {
	key, err := d.secret(ctx)
	if err != nil {
		return nil, err
	}
	return hkdf.Key(sha256.New, key, nil, function+"\x00"+user, decoySalt)
}

func (d *decoys) secret(ctx context.Context) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.key != nil && (d.until.IsZero() || time.Now().Before(d.until)) {
		return d.key, nil
	}
	key, err := d.load(ctx)
	if err == nil {
		d.key, d.until = key, time.Time{}
		return key, nil
	}
	d.log.Warn("unknown users have other salts than before", "error", err)
	if d.until = time.Now().Add(decoyRetry); d.key == nil {
		d.key, err = newDecoyKey()
		return d.key, err
	}
	return d.key, nil
}

func newDecoyKey() ([]byte, error) {
	key := make([]byte, sha256.Size)
	_, err := rand.Read(key)
	return key, err
}

// load returns the key in the storage, and puts one there if there is none.
func (d *decoys) load(ctx context.Context) (key []byte, err error) {
	st := d.storage()
	if key, err := existing(ctx, st); key != nil || err != nil {
		return key, err
	}
	if err := st.Lock(ctx, decoyKey); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, st.Unlock(ctx, decoyKey)) }()
	if key, err := existing(ctx, st); key != nil || err != nil { // another node was faster
		return key, err
	}
	if key, err = newDecoyKey(); err != nil {
		return nil, err
	}
	return key, st.Store(ctx, decoyKey, key)
}

func existing(ctx context.Context, st certmagic.Storage) ([]byte, error) {
	key, err := st.Load(ctx, decoyKey)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err == nil && len(key) < sha256.Size:
		return nil, errors.New(decoyKey + " in the storage is damaged")
	}
	return key, err
}
