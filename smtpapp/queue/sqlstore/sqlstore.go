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
	"sync/atomic"
	"syscall"

	"modernc.org/sqlite"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

// formats are the steps from each format to the next, from nothing to what this
// release writes. What has been released is not changed any more: it is in
// queues out there. Older ones are brought up, newer ones refused.
var formats = []string{format1, format2, format3, format4}

const format1 = `
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
	envelope_crc integer not null,
	header   blob not null,
	header_crc integer not null,
	content  integer not null references content(id)
) strict, without rowid;

create index entry_content on entry (content);

create table recipient (
	entry    text not null references entry(id) on delete cascade,
	idx      integer not null,
	address  text not null,
	agent    text not null,
	detail   text not null,    -- JSON: what else RCPT said
	detail_crc integer not null,
	held     integer not null default 0,
	noticed  integer not null default 0, -- the sender was told of the delay
	attempts integer not null default 0,
	due      integer not null,
	code     integer not null default 0, -- of the last reply
	enh      text not null default '',
	reply    text not null default '',
	remote   text not null default '',
	primary key (entry, idx)
) strict, without rowid;
`

// format2 is for the hands of operators.
const format2 = `
alter table recipient add column reason  text not null default '';   -- why it is held
alter table recipient add column wish    integer not null default 0; -- after the attempt that has it
alter table recipient add column history text not null default '';   -- JSON: the last attempts
`

// format3 has what waits found by the bin and the time. What is in no bin, as
// new mail is, costs the indices nothing.
const format3 = `
alter table recipient add column bin    integer not null default 0;
alter table recipient add column speak  integer not null default 0; -- when the sender is to be told
alter table recipient add column starts integer not null default 0; -- attempts without a result
create index recipient_due on recipient (bin, due) where bin <> 0;
create index recipient_speak on recipient (bin, speak) where bin <> 0;
`

// format4 has sums of another kind, which older releases would take for damage.
const format4 = `
alter table content rename column sha256 to sum; -- see message.Sum
`

// Options of a Store. Zero fields have defaults.
type Options struct {
	// FreeSpace is what must stay free of the file system for messages to be
	// taken, in octets. Default: 512 MiB or 5 %, whichever is more; negative: none.
	FreeSpace int64
	Log       *slog.Logger
}

// Store is a queue.Store in a folder.
type Store struct {
	dir  string
	opts Options
	lock *os.File
	read *sql.DB
	stmt map[string]*sql.Stmt // that read
	w    *writer

	starts  starts
	reserve atomic.Int64 // Options.FreeSpace
	ballast ballast
	closing sync.Once
}

// Open opens the store in a folder, and makes it if it is not there. No other
// process can use it until it is closed.
func Open(dir string, o Options) (*Store, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Store{dir: dir, opts: o, ballast: ballast{path: filepath.Join(dir, "ballast"), log: o.Log}}
	s.reserve.Store(o.FreeSpace)
	for _, d := range []string{dir, s.path("content"), s.path("incoming")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, err
		}
	}
	err := s.tighten()
	var lock *os.File
	if err == nil {
		lock, err = lockFile(s.path("lock"))
	}
	if err == nil {
		s.lock = lock
		if err = s.start(); err != nil {
			err = errors.Join(err, lock.Close())
		}
	}
	if err != nil {
		return nil, fmt.Errorf("queue %s: %w", dir, err)
	}
	return s, nil
}

// tighten closes folders that were made by somebody else, such as a manager of
// services, to all but this user: what is queued is nobody else's to read.
func (s *Store) tighten() error {
	for _, d := range []string{s.dir, s.path("content"), s.path("incoming")} {
		st, err := os.Stat(d)
		if err != nil {
			return err
		}
		if st.Mode().Perm()&0o077 == 0 {
			continue
		}
		if err := os.Chmod(d, 0o700); err != nil {
			return fmt.Errorf("others may enter it (mode %04o), which cannot be changed: %w", st.Mode().Perm(), err)
		}
		s.opts.Log.Warn("others could enter a folder of the queue; not any more", "folder", d, "mode", fmt.Sprintf("%04o", st.Mode().Perm()))
	}
	return nil
}

// start opens the database. What an error leaves open is closed.
func (s *Store) start() (err error) {
	db, err := s.open()
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, db.Close())
		}
	}()
	if err = s.migrate(db); err != nil {
		return err
	}
	if s.read, err = s.open(); err != nil {
		return err
	}
	s.read.SetMaxOpenConns(maxReaders)
	s.read.SetMaxIdleConns(maxReaders)
	if err = s.collect(); err == nil {
		err = s.prepare()
	}
	if err == nil {
		s.w, err = newWriter(db, s)
	}
	if err != nil {
		return errors.Join(err, s.closeRead())
	}
	if err = s.died(db); err != nil {
		return errors.Join(err, s.starts.f.Close(), s.w.close(), s.closeRead())
	}
	s.Room() // makes the ballast
	return nil
}

// prepare prepares what is often asked.
func (s *Store) prepare() (err error) {
	s.stmt = map[string]*sql.Stmt{}
	for name, text := range queries {
		if s.stmt[name], err = s.read.PrepareContext(context.Background(), text); err != nil {
			delete(s.stmt, name)
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func (s *Store) closeRead() error {
	var errs []error
	for _, st := range s.stmt {
		errs = append(errs, st.Close())
	}
	return errors.Join(append(errs, s.read.Close())...)
}

// maxReaders bounds the connections that read.
const maxReaders = 4

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

func (s *Store) migrate(db *sql.DB) error {
	var v int
	if err := db.QueryRow("pragma user_version").Scan(&v); err != nil {
		return err
	}
	if v > len(formats) {
		return fmt.Errorf("made by a newer release (format %d, this one knows %d)", v, len(formats))
	}
	if v == 0 {
		if files, err := os.ReadDir(s.path("content")); err != nil {
			return err
		} else if len(files) > 0 { // they would be collected
			return errors.New("there is content, but queue.db is not that which names it")
		}
	}
	for ; v < len(formats); v++ {
		if err := step(db, v); err != nil {
			return fmt.Errorf("from format %d to %d: %w", v, v+1, err)
		}
	}
	return nil
}

// step brings a queue of one format to the next, or leaves it as it is.
func step(db *sql.DB, from int) error {
	tx, err := db.Begin()
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if _, err := tx.Exec(formats[from] + fmt.Sprintf("pragma user_version = %d;", from+1)); err != nil {
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
func (s *Store) Create() (*os.File, error) {
	if !s.Room() {
		return nil, errNoSpace
	}
	return os.CreateTemp(s.path("incoming"), "") // 0600
}

// Commit makes a change durable. Only new mail is refused for want of room:
// what is queued gets on, with its DSNs.
func (s *Store) Commit(ctx context.Context, c *queue.Change) error {
	if len(c.Update)+len(c.Mark) == 0 && !s.Room() {
		return errNoSpace
	}
	err := s.w.commit(ctx, c)
	if full(err) {
		s.opts.Log.Error("writing the queue", "error", err)
		return errNoSpace
	}
	return err
}

var errNoSpace = mail.Refuse(452, "4.3.1", "insufficient system storage")

// Primary result codes of SQLite.
const (
	codeBusy  = 5
	codeIOErr = 10
	codeFull  = 13
)

func code(err error) int {
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		return e.Code() & 0xff
	}
	return 0
}

// full reports whether an error is of a file system without room.
func full(err error) bool {
	return code(err) == codeFull || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// common reports whether an error is nobody's own, so that trying the changes
// one by one would only take longer: the database is locked, the disk fails.
func common(err error) bool { return code(err) == codeBusy || code(err) == codeIOErr }

// Close waits for what is being written and gives the folder back.
func (s *Store) Close() (err error) {
	s.closing.Do(func() {
		err = errors.Join(s.w.close(), s.closeRead(), s.starts.f.Close(), s.lock.Close())
	})
	return err
}

var (
	_ queue.Store    = (*Store)(nil)
	_ queue.Reserver = (*Store)(nil)
)
