package quota

import (
	"log/slog"
	"sync"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddymail/caddy-smtp/smtpapp/quota"
)

// ledgers are the open ledgers of the process by their files: counts outlive
// configurations.
var (
	ledgers   = caddy.NewUsagePool()
	ledgersMu sync.Mutex // one ledger a file: the pool forgets a key before it closes the value
)

// A shared is a ledger as the pool holds it.
type shared struct{ *quota.Ledger }

// Destruct writes the ledger when no configuration uses it any more.
func (s shared) Destruct() error {
	s.Close()
	return nil
}

// A lease is a handler's hold on its ledger. It is taken by the first client,
// since a configuration that is only checked must leave the file alone.
type lease struct {
	mu       sync.Mutex
	ledger   *quota.Ledger
	path     string
	messages map[string]int // transactions that are counted, and how many of their forks
}

func (l *lease) get(path string, log *slog.Logger) *quota.Ledger {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ledger != nil {
		return l.ledger
	}
	ledgersMu.Lock()
	defer ledgersMu.Unlock()
	v, _, _ := ledgers.LoadOrNew(path, func() (caddy.Destructor, error) { // never fails
		return shared{quota.Open(path, log)}, nil
	})
	v.(shared).LogTo(log)
	l.ledger, l.path, l.messages = v.(shared).Ledger, path, map[string]int{}
	return l.ledger
}

func (l *lease) release() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ledger == nil {
		return nil
	}
	ledgersMu.Lock()
	defer ledgersMu.Unlock()
	_, err := ledgers.Delete(l.path)
	l.ledger = nil
	return err
}

// counted reports whether a transaction's message is counted.
func (l *lease) counted(id string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.messages[id] > 0
}

// count adds to the forks of a transaction that are counted.
func (l *lease) count(id string, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.messages[id] += n; l.messages[id] <= 0 {
		delete(l.messages, id)
	}
}
