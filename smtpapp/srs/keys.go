package srs

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"time"
)

// A Storage is where secrets are kept. It is the part that is used of certmagic's
// Storage, which says what its methods do.
type Storage interface {
	Lock(ctx context.Context, name string) error
	Unlock(ctx context.Context, name string) error
	Store(ctx context.Context, key string, value []byte) error
	Load(ctx context.Context, key string) ([]byte, error)
}

const (
	file = "smtp/srs/secrets.json"
	// cached is how long secrets are believed to be the ones in the storage, and
	// settled how old one must be to sign, so that all nodes know it by then.
	cached  = time.Minute
	settled = 10 * time.Minute
)

// Keys are secrets that all nodes share: made when they are first wanted, and
// replaced from time to time.
type Keys struct {
	Storage Storage
	// Rotate is the time after which a secret is replaced; zero for who only reads
	// them. Validity is how long addresses are good at most, for which those that
	// were replaced are kept.
	Rotate, Validity time.Duration
	Log              *slog.Logger

	mu    sync.Mutex
	keys  []key
	until time.Time
}

type key struct {
	Secret []byte    `json:"secret"`
	Made   time.Time `json:"made"`
}

// Secret returns the one to sign with.
func (k *Keys) Secret(ctx context.Context) ([]byte, error) {
	keys, err := k.get(ctx)
	if err != nil {
		return nil, err
	}
	if len(keys) == 0 {
		return nil, errors.New("no secret of SRS")
	}
	now := time.Now()
	for _, key := range keys {
		if now.Sub(key.Made) >= settled {
			return key.Secret, nil
		}
	}
	return keys[len(keys)-1].Secret, nil
}

// Secrets returns all that addresses may be signed with.
func (k *Keys) Secrets(ctx context.Context) ([][]byte, error) {
	keys, err := k.get(ctx)
	var out [][]byte
	for _, key := range keys {
		out = append(out, key.Secret)
	}
	return out, err
}

// get returns the secrets, the newest first; one at least if Rotate is set.
func (k *Keys) get(ctx context.Context) ([]key, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	if now.Before(k.until) {
		return k.keys, nil
	}
	keys, err := k.load(ctx)
	if err == nil && k.due(keys, now) {
		keys, err = k.replace(ctx)
	}
	if err != nil {
		if len(k.keys) == 0 {
			return nil, fmt.Errorf("secrets of SRS: %w", err)
		}
		k.Log.Warn("the secrets of SRS are not to be had, going on with those of before", "error", err)
		keys = k.keys
	}
	k.keys, k.until = keys, now.Add(cached)
	return keys, nil
}

func (k *Keys) due(keys []key, now time.Time) bool {
	return k.Rotate > 0 && (len(keys) == 0 || now.Sub(keys[0].Made) >= k.Rotate)
}

func (k *Keys) load(ctx context.Context) (keys []key, err error) {
	b, err := k.Storage.Load(ctx, file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(b, &keys); err != nil {
		return nil, err
	}
	for _, key := range keys {
		if len(key.Secret) < 16 {
			return nil, errors.New("a secret is too short")
		}
	}
	return keys, nil
}

// replace adds a secret, unless another node has, and forgets those that no good
// address is signed with.
func (k *Keys) replace(ctx context.Context) (keys []key, err error) {
	if err := k.Storage.Lock(ctx, file); err != nil {
		return nil, err
	}
	defer func() {
		err = errors.Join(err, k.Storage.Unlock(context.WithoutCancel(ctx), file))
	}()
	now := time.Now()
	if keys, err = k.load(ctx); err != nil || !k.due(keys, now) {
		return keys, err
	}
	fresh := make([]byte, 32)
	_, _ = rand.Read(fresh) // never fails
	kept := []key{{fresh, now.UTC().Truncate(time.Second)}}
	for i, old := range keys {
		// It signed until the one after it had come.
		if i == 0 || now.Sub(keys[i-1].Made) < k.Validity+settled+day {
			kept = append(kept, old)
		}
	}
	b, err := json.Marshal(kept)
	if err != nil {
		return nil, err
	}
	return kept, k.Storage.Store(ctx, file, b)
}
