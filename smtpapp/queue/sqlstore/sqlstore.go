// Package sqlstore is a queue.Store in SQLite. One goroutine writes: whatever
// waits for it goes into one transaction, and so shares one fsync. Large
// bodies are files beside the database, written once, as they arrived.
package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"modernc.org/sqlite"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

// version of the schema. Older ones are brought up to it, newer ones refused.
const version = 1

const schema = `
create table content (
	id      integer primary key,
	size    integer not null,
	sha256  blob not null,
	inline  blob,           -- the body, or
	file    text,           -- where it is, below content/
	eight_bit integer not null,
	nul       integer not null,
	longest   integer not null
) strict;

create table entry (
	id       text primary key,
	queued   integer not null, -- microseconds since 1970, as all times here
	sender   text not null,
	envelope text not null,    -- JSON: what else MAIL said
	header   blob not null,
	content  integer not null references content(id),
	noticed  integer not null default 0
) strict, without rowid;

create index entry_content on entry (content);

create table recipient (
	entry    text not null references entry(id) on delete cascade,
	idx      integer not null,
	address  text not null,
	agent    text not null,
	detail   text not null,    -- JSON: what else RCPT said
	held     integer not null default 0,
	attempts integer not null default 0,
	due      integer not null,
	code     integer not null default 0, -- of the last reply
	enh      text not null default '',
	reply    text not null default '',
	remote   text not null default '',
	primary key (entry, idx)
) strict, without rowid;
`

// Options of a Store. Zero fields have defaults.
type Options struct {
	// FreeSpace is what must stay free of the file system, in octets.
	// Default: 512 MiB; negative: none.
	FreeSpace int64
	Log       *slog.Logger
}

// Store is a queue.Store in a folder.
type Store struct {
	dir  string
	opts Options
	lock *os.File
	read *sql.DB
	w    *writer

	closing sync.Once
}

// Open opens the store in a folder, and makes it if it is not there. No other
// process can use it until it is closed.
func Open(dir string, o Options) (s *Store, err error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.FreeSpace == 0 {
		o.FreeSpace = 512 << 20
	}
	s = &Store{dir: dir, opts: o}
	for _, d := range []string{dir, s.path("content"), s.path("incoming")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, err
		}
	}
	if s.lock, err = lockFile(s.path("lock")); err != nil {
		return nil, fmt.Errorf("queue %s: %w", dir, err)
	}
	defer func() {
		if err != nil {
			s.lock.Close()
		}
	}()
	db, err := s.open()
	if err != nil {
		return nil, err
	}
	if err := migrate(db); err != nil {
		return nil, errors.Join(fmt.Errorf("queue %s: %w", dir, err), db.Close())
	}
	if s.read, err = s.open(); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	if err := s.collect(); err != nil {
		return nil, errors.Join(err, db.Close(), s.read.Close())
	}
	if s.w, err = newWriter(db, s); err != nil {
		return nil, errors.Join(err, db.Close(), s.read.Close())
	}
	return s, nil
}

func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

// lockFile keeps other processes away. The lock ends with the process.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, errors.New("in use by another process")
		}
		return nil, err
	}
	return f, nil
}

func (s *Store) open() (*sql.DB, error) {
	db, err := sql.Open("sqlite", "file:"+s.path("queue.db")+"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=busy_timeout(10000)&_pragma=foreign_keys(1)")
	if err != nil {
		return nil, err
	}
	if err := db.Ping(); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	for _, f := range []string{"queue.db", "queue.db-wal", "queue.db-shm"} {
		if err := os.Chmod(s.path(f), 0o600); err != nil && !os.IsNotExist(err) {
			return nil, errors.Join(err, db.Close())
		}
	}
	return db, nil
}

func migrate(db *sql.DB) error {
	var v int
	if err := db.QueryRow("pragma user_version").Scan(&v); err != nil {
		return err
	}
	switch {
	case v == version:
		return nil
	case v > version:
		return fmt.Errorf("made by a newer release (format %d, this one knows %d)", v, version)
	}
	tx, err := db.Begin()
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if _, err := tx.Exec(schema + fmt.Sprintf("pragma user_version = %d;", version)); err != nil {
		return err
	}
	return tx.Commit()
}

// collect removes files that no entry has: of content that was not accepted,
// and of entries that are gone.
func (s *Store) collect() error {
	if err := emptyDir(s.path("incoming")); err != nil {
		return err
	}
	used := map[string]bool{}
	rows, err := s.read.Query("select file from content where file is not null")
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var f string
		if err := rows.Scan(&f); err != nil {
			return err
		}
		used[f] = true
	}
	if err := rows.Err(); err != nil {
		return err
	}
	files, err := os.ReadDir(s.path("content"))
	if err != nil {
		return err
	}
	for _, f := range files {
		if !used[f.Name()] {
			if err := os.Remove(s.path("content", f.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

func emptyDir(dir string) error {
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := os.Remove(filepath.Join(dir, f.Name())); err != nil {
			return err
		}
	}
	return nil
}

// Create makes a file for content that is arriving.
func (s *Store) Create() (*os.File, error) { return os.CreateTemp(s.path("incoming"), "") } // 0600

// Commit makes a change durable.
func (s *Store) Commit(ctx context.Context, c *queue.Change) error {
	if len(c.Add) > 0 {
		if err := s.room(); err != nil {
			return err
		}
	}
	if err := s.w.commit(ctx, c); err != nil {
		s.opts.Log.Error("writing the queue", "error", err)
		if full(err) {
			return errNoSpace
		}
		return err
	}
	return nil
}

var errNoSpace = mail.Refuse(452, "4.3.1", "insufficient system storage")

// room refuses new mail while what is queued can still be worked on.
func (s *Store) room() error {
	var st syscall.Statfs_t
	if s.opts.FreeSpace < 0 || syscall.Statfs(s.dir, &st) != nil {
		return nil
	}
	if free := int64(st.Bavail) * st.Bsize; free < s.opts.FreeSpace || st.Files > 0 && st.Ffree < 1000 {
		s.opts.Log.Warn("no room for new mail", "free", free, "wanted", s.opts.FreeSpace)
		return errNoSpace
	}
	return nil
}

// full reports whether an error is of a file system without room.
func full(err error) bool {
	if e, ok := errors.AsType[*sqlite.Error](err); ok && e.Code()&0xff == 13 { // SQLITE_FULL
		return true
	}
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// Close waits for what is being written and gives the folder back.
func (s *Store) Close() (err error) {
	s.closing.Do(func() {
		err = errors.Join(s.w.close(), s.read.Close(), s.lock.Close())
	})
	return err
}

var _ queue.Store = (*Store)(nil)
