// Package dmarcreport collects results of DMARC, durably and bounded, and writes
// the daily aggregate reports that the owners of domains ask for (RFC 9990). It
// knows nothing of sessions; who sends the reports is told to it.
package dmarcreport

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	_ "modernc.org/sqlite" // the driver

	"github.com/caddymail/caddy-smtp/smtpapp/dmarc"
	"github.com/caddymail/caddy-smtp/smtpapp/report"
)

// Day is the reporting period: days of UTC, whatever a record's ri= says (RFC
// 9990, section 3.1).
const Day = 24 * time.Hour

// Limits of a ledger.
const (
	// MaxRows is how many different rows it has, of all days and domains.
	MaxRows = 200_000
	// maxShare is how many of them a day has for the domains below one that
	// somebody registered: a wildcard in DNS is as many domains as one likes.
	maxShare = MaxRows / 10
	// maxDomainRows is how many a report has.
	maxDomainRows = 5_000
	// maxPending is how many wait in memory to be written.
	maxPending = 2_000
	// maxPendingShare is how many of them are of the domains below one.
	maxPendingShare = maxPending / 4
	// flushEvery is how long at most; a crash loses as much.
	flushEvery = 5 * time.Second
	// keep is how long what could not be sent is kept.
	keep = 3 * Day
)

const schema = `
create table if not exists result (
	day    integer not null, -- since 1970
	domain text not null,    -- the policy's
	policy text not null,    -- JSON: a Policy
	record text not null,    -- JSON: a report.Record without its count
	count  integer not null,
	primary key (day, domain, policy, record)
) strict, without rowid;

create table if not exists sent ( -- of reports that could not be sent to all yet
	day    integer not null,
	report text not null,
	target text not null,
	primary key (day, report, target)
) strict, without rowid;
`

// A Policy is what was published when a message came, and where reports go.
type Policy struct {
	Published report.PolicyPublished `json:"published"`
	Targets   []Target               `json:"targets"`
}

// A Target is where reports go. Max is the octets that a message may have there,
// 0 for any.
type Target struct {
	Address string `json:"address"`
	Max     int64  `json:"max,omitempty"`
}

// key is what the results of one count have in common.
type key struct {
	day                    int64
	domain, policy, record string
}

func (k key) share() share { return share{k.day, dmarc.Registered(k.domain)} }

// A share is a day, and the domain that somebody registered.
type share struct {
	day int64
	org string
}

// ErrInUse says that another process has the ledger.
var ErrInUse = errors.New("in use by another process")

// A Ledger counts results. Its methods may be called from several goroutines.
type Ledger struct {
	db   *sql.DB
	lock *os.File
	log  *slog.Logger

	mu      sync.Mutex
	pending map[key]int64
	waiting map[string]int // rows that are pending, by who registered the domain
	dropped int64
	closed  bool
	timer   *time.Timer

	writing sync.Mutex
	rows    map[share]int64 // that are stored, nil if it is to be counted
}

// Open opens the ledger in a folder, which is made if it is not there.
func Open(dir string, log *slog.Logger) (*Ledger, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	lock, err := lockFile(filepath.Join(dir, "dmarc.lock"))
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", dir, err)
	}
	l, err := open(dir, log)
	if err != nil {
		_ = lock.Close() // nothing was written to it
		return nil, fmt.Errorf("open %s: %w", dir, err)
	}
	l.lock = lock
	l.timer = time.AfterFunc(flushEvery, l.tick)
	return l, nil
}

// lockFile keeps other processes away, which would send every report twice. The
// lock ends with the process.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close() // nothing was written to it
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, ErrInUse
		}
		return nil, err
	}
	return f, nil
}

func open(dir string, log *slog.Logger) (*Ledger, error) {
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "dmarc.sqlite")+"?_pragma=journal_mode(wal)&_pragma=synchronous(normal)&_pragma=busy_timeout(5000)")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	l := &Ledger{db: db, log: log, pending: map[key]int64{}, waiting: map[string]int{}}
	if _, err = db.Exec(schema); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return l, nil
}

// Close writes what is pending and closes the ledger.
func (l *Ledger) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	l.timer.Stop()
	l.mu.Unlock()
	return errors.Join(l.Flush(), l.db.Close(), l.lock.Close())
}

// Add counts one message.
func (l *Ledger) Add(at time.Time, p Policy, r report.Record) error {
	r.Row.Count = 0
	policy, err := json.Marshal(p)
	if err != nil {
		return err
	}
	record, err := json.Marshal(r)
	if err != nil {
		return err
	}
	k := key{at.Unix() / int64(Day/time.Second), p.Published.Domain, string(policy), string(record)}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || !l.pend(k, 1) {
		l.dropped++ // which an attacker can bring about: it must not cost more than this
	}
	return nil
}

// pend counts what is to be written, if there is room.
func (l *Ledger) pend(k key, n int64) bool {
	if _, known := l.pending[k]; !known {
		org := k.share().org
		if len(l.pending) >= maxPending || l.waiting[org] >= maxPendingShare {
			return false
		}
		l.waiting[org]++
	}
	l.pending[k] += n
	return true
}

// tick writes what is pending, again and again.
func (l *Ledger) tick() {
	if err := l.Flush(); err != nil {
		l.log.Error("writing DMARC results", "error", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.timer.Reset(flushEvery)
	}
}

// Flush writes what is pending. What cannot be written stays pending.
func (l *Ledger) Flush() error {
	l.writing.Lock()
	defer l.writing.Unlock()
	l.mu.Lock()
	work, dropped := l.pending, l.dropped
	l.pending, l.waiting, l.dropped = map[key]int64{}, map[string]int{}, 0
	l.mu.Unlock()
	var err error
	if len(work) > 0 {
		var more int64
		more, err = l.write(work)
		dropped += more
	}
	if dropped > 0 {
		l.log.Warn("DMARC results were not counted: there are too many different ones", "messages", dropped)
	}
	if err != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		for k, n := range work {
			if !l.pend(k, n) {
				l.dropped += n
			}
		}
	}
	return err
}

// write adds counts to rows that are there, and makes others while there is
// room. It returns how many messages had none.
func (l *Ledger) write(work map[key]int64) (dropped int64, err error) {
	tx, err := l.db.Begin()
	if err != nil {
		return 0, err
	}
	defer tx.Rollback() //nolint:errcheck // without effect after Commit
	stored, all, err := l.stored(tx)
	if err != nil {
		return 0, err
	}
	of := map[key]int64{} // rows by day and domain
	for k, n := range work {
		res, err := tx.Exec("update result set count = count + ? where day = ? and domain = ? and policy = ? and record = ?", n, k.day, k.domain, k.policy, k.record)
		if err != nil {
			return 0, err
		}
		if changed, err := res.RowsAffected(); err != nil || changed > 0 {
			if err != nil {
				return 0, err
			}
			continue
		}
		one := key{day: k.day, domain: k.domain}
		if _, ok := of[one]; !ok {
			var rows int64
			if err := tx.QueryRow("select count(*) from result where day = ? and domain = ?", k.day, k.domain).Scan(&rows); err != nil {
				return 0, err
			}
			of[one] = rows
		}
		if s := k.share(); all >= MaxRows || stored[s] >= maxShare || of[one] >= maxDomainRows {
			dropped += n
			continue
		}
		if _, err := tx.Exec("insert into result (day, domain, policy, record, count) values (?, ?, ?, ?, ?)", k.day, k.domain, k.policy, k.record, n); err != nil {
			return 0, err
		}
		all++
		stored[k.share()]++
		of[one]++
	}
	if err := tx.Commit(); err != nil {
		return 0, err
	}
	l.rows = stored
	return dropped, nil
}

// stored returns how many rows there are of each share and in all. What it
// returns is in force when it is put back: until then, and if the transaction
// fails, rows are to be counted.
func (l *Ledger) stored(tx *sql.Tx) (of map[share]int64, all int64, err error) {
	of, l.rows = l.rows, nil
	if of == nil {
		if of, err = countRows(tx); err != nil {
			return nil, 0, err
		}
	}
	for _, n := range of {
		all += n
	}
	return of, all, nil
}

func countRows(tx *sql.Tx) (map[share]int64, error) {
	rows, err := tx.Query("select day, domain, count(*) from result group by day, domain")
	if err != nil {
		return nil, err
	}
	defer rows.Close() //nolint:errcheck // Err tells
	of := map[share]int64{}
	for rows.Next() {
		var k key
		var n int64
		if err := rows.Scan(&k.day, &k.domain, &n); err != nil {
			return nil, err
		}
		of[k.share()] += n
	}
	return of, rows.Err()
}

// remove executes a deletion, after which rows are to be counted.
func (l *Ledger) remove(ctx context.Context, query string, args ...any) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	l.rows = nil
	_, err := l.db.ExecContext(ctx, query, args...)
	return err
}

// A Due is a report that is to be sent.
type Due struct {
	Day    time.Time
	Policy Policy
	policy string
}

// Due returns the reports of days that have ended.
func (l *Ledger) Due(ctx context.Context, now time.Time) ([]Due, error) {
	today := now.Unix() / int64(Day/time.Second)
	rows, err := l.db.QueryContext(ctx, "select distinct day, policy from result where day < ? order by day, domain", today)
	if err != nil {
		return nil, err
	}
	defer rows.Close() //nolint:errcheck // Err tells
	var due []Due
	for rows.Next() {
		var day int64
		var d Due
		if err := rows.Scan(&day, &d.policy); err != nil {
			return nil, err
		}
		if err := json.Unmarshal([]byte(d.policy), &d.Policy); err != nil {
			return nil, fmt.Errorf("stored policy: %w", err)
		}
		d.Day = time.Unix(day*int64(Day/time.Second), 0).UTC()
		due = append(due, d)
	}
	return due, rows.Err()
}

func (d Due) day() int64 { return d.Day.Unix() / int64(Day/time.Second) }

// Records returns the records of a report.
func (l *Ledger) Records(ctx context.Context, d Due) ([]report.Record, error) {
	rows, err := l.db.QueryContext(ctx, "select record, count from result where day = ? and domain = ? and policy = ? order by count desc, record",
		d.day(), d.Policy.Published.Domain, d.policy)
	if err != nil {
		return nil, err
	}
	defer rows.Close() //nolint:errcheck // Err tells
	var rs []report.Record
	for rows.Next() {
		var text string
		var r report.Record
		var n int64
		if err := rows.Scan(&text, &n); err != nil {
			return nil, err
		}
		if err := json.Unmarshal([]byte(text), &r); err != nil {
			return nil, fmt.Errorf("stored record: %w", err)
		}
		r.Row.Count = n
		rs = append(rs, r)
	}
	return rs, rows.Err()
}

// Sent reports whether a report went to a target already.
func (l *Ledger) Sent(ctx context.Context, d Due, id, target string) (bool, error) {
	var n int
	err := l.db.QueryRowContext(ctx, "select count(*) from sent where day = ? and report = ? and target = ?", d.day(), id, target).Scan(&n)
	return n > 0, err
}

// MarkSent notes that a report went to a target.
func (l *Ledger) MarkSent(ctx context.Context, d Due, id, target string) error {
	_, err := l.db.ExecContext(ctx, "insert or ignore into sent (day, report, target) values (?, ?, ?)", d.day(), id, target)
	return err
}

// Done removes a report, and what is too old of others.
func (l *Ledger) Done(ctx context.Context, d Due) error {
	return l.remove(ctx, "delete from result where day = ? and domain = ? and policy = ?", d.day(), d.Policy.Published.Domain, d.policy)
}

// Expire removes what has been waiting too long.
func (l *Ledger) Expire(ctx context.Context, now time.Time) error {
	before := now.Add(-keep).Unix() / int64(Day/time.Second)
	for _, q := range []string{"delete from result where day < ?", "delete from sent where day < ?"} {
		if err := l.remove(ctx, q, before); err != nil {
			return err
		}
	}
	return nil
}
