package smtpapp

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/plainlog"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
	"github.com/caddymail/caddy-smtp/smtpapp/queue/sqlstore"
)

// Queue says where accepted mail is kept, and when delivery is tried.
type Queue struct {
	// Path is the folder of the queue. It is made if it is not there, for this
	// user alone. Two processes cannot use one folder. Default: smtp/queue in
	// Caddy's data directory.
	Path string `json:"path,omitempty"`

	// Retry are the times between attempts; the last one repeats. Default: 1m,
	// 5m, 10m, 20m, 40m, 1h20m, 2h40m, 4h.
	Retry []caddy.Duration `json:"retry,omitempty"`

	// Expire is how long delivery is tried before the sender gets a DSN.
	// Default: 5d.
	Expire caddy.Duration `json:"expire,omitempty"`

	// ExpireNull is the same for mail without a sender, such as DSNs. Default: 1d.
	ExpireNull caddy.Duration `json:"expire_null,omitempty"`

	// DelayNotice is after what time the sender hears, once, of a delay.
	// Default: 4h.
	DelayNotice caddy.Duration `json:"delay_notice,omitempty"`

	// Concurrency is how many attempts may run at once. Default: 200.
	Concurrency int `json:"concurrency,omitempty"`

	// FirstPerDestination is how many attempts a destination gets at once while it
	// has taken nothing yet; each that succeeds makes them more, up to
	// PerDestination, and each that fails fewer. Default: 5 and 20.
	FirstPerDestination int `json:"first_per_destination,omitempty"`
	PerDestination      int `json:"per_destination,omitempty"`

	// FreeSpace is what must stay free on the queue's file system, in octets,
	// for messages to be taken. Default: 512 MiB or 5 %, whichever is more, and
	// 5 % of the inodes; negative: none.
	FreeSpace int64 `json:"free_space,omitempty"`

	// DSNAgent is the agent that delivers DSNs. Default: the one that the
	// servers' routes have for the sender's address.
	DSNAgent string `json:"dsn_agent,omitempty"`

	// DSNTemplates are files with the text of DSNs, for all senders or for those
	// of a language. Default: a text in English.
	DSNTemplates []DSNTemplate `json:"dsn_template,omitempty"`

	// DSNContent is the most of a failed message that its DSN gives back, in
	// octets, at most 1 MiB; of a larger one, and where the sender said RET=HDRS,
	// its header is. Negative: the header always. Default: 50,000.
	DSNContent int64 `json:"dsn_content,omitempty"`

	// DoubleFailure is what becomes of news that nobody can be told: a DSN, or
	// another message without a sender, that fails, and a failure whose sender
	// there is no way to. "drop" logs it, "postmaster" tells the postmaster, and an
	// address tells that one. What tells him so is dropped if it fails.
	// Default: drop.
	DoubleFailure string `json:"double_failure,omitempty"`

	templates *dsnTemplates
	double    mail.Address
}

func (q *Queue) defaults(repl *caddy.Replacer) error {
	if q.Path == "" {
		q.Path = filepath.Join(caddy.AppDataDir(), "smtp", "queue")
	}
	path, err := repl.ReplaceOrErr(q.Path, true, true)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return fmt.Errorf("queue: %w", err)
	}
	q.Path = path
	return nil
}

func (q *Queue) schedule() queue.Schedule {
	s := queue.Schedule{
		Expire: time.Duration(q.Expire), ExpireNull: time.Duration(q.ExpireNull),
		DelayNotice: time.Duration(q.DelayNotice), Concurrency: q.Concurrency,
		First: q.FirstPerDestination, PerDestination: q.PerDestination,
	}
	for _, d := range q.Retry {
		s.Retry = append(s.Retry, time.Duration(d))
	}
	return s
}

// queues are the open queues of the process by their folder, never by their
// settings: a folder has one queue, whatever configuration uses it.
var (
	queues   = caddy.NewUsagePool()
	queuesMu sync.Mutex // one queue a folder: the pool forgets a key before it closes the value
)

// A sharedQueue is a queue as the pool holds it.
type sharedQueue struct {
	*queue.Queue
}

// Destruct closes the queue when no configuration uses it any more.
func (q *sharedQueue) Destruct() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second) // attempts have ended with their leases
	defer cancel()
	return q.Close(ctx)
}

// canonical is the pool's key: the same folder is the same queue by any name.
func canonical(path string) (string, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(path)
}

func acquireQueue(a *App) (*sharedQueue, error) {
	queuesMu.Lock()
	defer queuesMu.Unlock()
	path, err := canonical(a.Queue.Path)
	if err != nil {
		return nil, err
	}
	v, _, err := queues.LoadOrNew(path, func() (caddy.Destructor, error) {
		log := plainlog.New(a.ctx.Slogger())
		store, err := sqlstore.Open(path, sqlstore.Options{Log: log, FreeSpace: a.Queue.FreeSpace})
		if err != nil {
			return nil, err
		}
		q, err := queue.Open(store, log)
		if err != nil {
			return nil, errors.Join(err, store.Close())
		}
		return &sharedQueue{q}, nil
	})
	if err != nil {
		return nil, err
	}
	a.queueKey = path
	return v.(*sharedQueue), nil
}

func releaseQueue(a *App) error {
	queuesMu.Lock()
	defer queuesMu.Unlock()
	_, err := queues.Delete(a.queueKey)
	return err
}
