// Package sqldb is a source of credentials in an SQL database.
package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite" // the driver

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/env"
	"github.com/caddymail/caddy-smtp/smtpapp/login"
	"github.com/caddymail/caddy-smtp/smtpapp/plainlog"
	"github.com/caddymail/caddy-smtp/smtpapp/upstream"
)

func init() { caddy.RegisterModule(new(Source)) }

// The databases that a Source may be of.
const (
	postgres = "postgres"
	sqlite   = "sqlite"
)

// Source is users in a database of PostgreSQL or SQLite, found by a query of
// your own:
//
//	select name as "user", hash as secret, device as secret_name, aliases as addresses
//	from users join secrets using (name) where name = @user and enabled
//
// In the query, @user is the name that the client gave, in lower case, @local
// and @domain its parts before and behind the last "@", and @remote_ip the
// client's address. They are bound by the database, never put into the text.
//
// The columns of the result are known by their names:
//
//	secret           a hash of bcrypt or Argon2id, keys for SCRAM, {PLAIN}... or
//	                 several of these with spaces between them; also "hash" or
//	                 "password"
//	secret_name      tells an app password or a device from others
//	user             the user's own name, where he may log in by others; also
//	                 "username"
//	addresses        he may send from; separated by spaces or commas, or an
//	                 array; also "address"
//
// and any other is an attribute of the user. Each row is one more secret, or one
// more address; no row is an unknown user. A secret that cannot be read is in
// the log, without its text, and opens nothing. Secrets that are NULL are none.
type Source struct {
	// Database is postgres or sqlite.
	Database string `json:"database,omitempty"`

	// DSN names the database: a connection string or URL of PostgreSQL
	// (https://www.postgresql.org/docs/current/libpq-connect.html), or the path
	// of an SQLite file. {env.*} and {file.*} in it are put in when the
	// configuration is loaded; it is never logged. The database is opened at the
	// first login, an SQLite file read-only unless Used is given.
	DSN string `json:"dsn,omitempty"`

	// Query finds a user.
	Query string `json:"query,omitempty"`

	// Used is a statement that is executed after a login succeeded, to note
	// when a secret was used last. In it @user is the name in the result, or
	// that of the client where there was none, and @secret_name that of the
	// secret. It is executed soon, not at once; logins meanwhile with the same
	// secret are one. Default: none.
	Used string `json:"used,omitempty"`

	// Forms are those in which every user has a secret, beside what a password
	// can be compared with: scram_sha_1, scram_sha_256, plain. What needs them is
	// offered to clients only then. Default: none.
	SecretForms []string `json:"forms,omitempty"`

	// Sample is a secret of the kind that most users have. The password of an
	// unknown user is compared with one like it, so that it takes as long.
	// Default: that of the user who was asked for last.
	Sample string `json:"sample,omitempty"`

	// MaxConnections is how many connections are open at a time. Default: 4.
	MaxConnections int `json:"max_connections,omitempty"`

	// Timeout is for a query, with connecting. Default: 5 seconds.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	query, used statement
	forms       login.Forms
	sample      atomic.Pointer[string]
	open        func() *sql.DB
	recorder    recorder
	log         *slog.Logger

	mu     sync.Mutex
	db     *sql.DB
	closed bool
}

// CaddyModule returns the Caddy module information.
func (*Source) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.auth.sql", New: func() caddy.Module { return new(Source) }}
}

// Provision checks everything but the database itself.
func (s *Source) Provision(ctx caddy.Context) (err error) {
	s.log = plainlog.New(ctx.Slogger())
	if s.MaxConnections == 0 {
		s.MaxConnections = 4
	}
	if s.Timeout == 0 {
		s.Timeout = caddy.Duration(5 * time.Second)
	}
	if s.query, err = parseStatement(s.Query, s.Database, "user", "local", "domain", "remote_ip"); err != nil {
		return fmt.Errorf("sql: query: %w", err)
	}
	if s.Used != "" {
		if s.used, err = parseStatement(s.Used, s.Database, "user", "local", "domain", "secret_name"); err != nil {
			return fmt.Errorf("sql: used: %w", err)
		}
	}
	if s.forms, err = parseForms(s.SecretForms); err != nil {
		return err
	}
	if s.Sample != "" {
		h, err := login.ParseSecret(s.Sample)
		if err != nil {
			return fmt.Errorf("sql: sample: %w", err)
		}
		s.see(&h)
	}
	s.recorder.write = s.record
	return s.opener(env.FromContext(ctx))
}

// Validate checks the options.
func (s *Source) Validate() error {
	switch {
	case s.MaxConnections < 0:
		return errors.New("sql: max_connections is negative")
	case s.Timeout < 0:
		return errors.New("sql: timeout is negative")
	}
	return nil
}

func parseForms(names []string) (f login.Forms, err error) {
	f = login.Hashes
	for _, n := range names {
		switch n {
		case "scram_sha_1":
			f |= login.SCRAMSHA1
		case "scram_sha_256":
			f |= login.SCRAMSHA256
		case "plain":
			f |= login.Hashes | login.SCRAMSHA1 | login.SCRAMSHA256 | login.Plain
		default:
			return 0, fmt.Errorf("sql: form '%s' is none of scram_sha_1, scram_sha_256 and plain", n)
		}
	}
	return f, nil
}

// opener makes the function that opens the database. Errors do not tell the
// DSN.
func (s *Source) opener(e *env.Env) error {
	dsn, err := caddy.NewReplacer().ReplaceOrErr(s.DSN, true, true)
	if err != nil {
		return fmt.Errorf("sql: %w", err)
	}
	switch {
	case dsn == "":
		return errors.New("sql: no database is named")
	case s.Database == sqlite:
		u := url.URL{Scheme: "file", Opaque: (&url.URL{Path: dsn}).EscapedPath()}
		mode := "ro"
		if s.Used != "" {
			mode = "rw"
		}
		u.RawQuery = "mode=" + mode + "&_pragma=busy_timeout(2000)"
		s.open = func() *sql.DB {
			db, err := sql.Open("sqlite", u.String())
			if err != nil { // there is no such driver
				panic(err)
			}
			return db
		}
	case s.Database == postgres:
		cfg, err := pgx.ParseConfig(dsn)
		if err != nil {
			return errors.New("sql: not a connection string of PostgreSQL, or a file that it names cannot be read")
		}
		d := upstream.Dialer{Env: e}
		cfg.LookupFunc = d.Lookup
		cfg.Tracer = nil
		s.open = func() *sql.DB { return stdlib.OpenDB(*cfg) }
	default:
		return fmt.Errorf("sql: database '%s' is neither %s nor %s", s.Database, postgres, sqlite)
	}
	return nil
}

var errClosed = errors.New("sql: the configuration has ended")

// handle is the database, opened for the first who asks.
func (s *Source) handle() (*sql.DB, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errClosed
	}
	if s.db == nil {
		s.db = s.open()
		s.db.SetMaxOpenConns(s.MaxConnections)
		s.db.SetMaxIdleConns(s.MaxConnections)
		s.db.SetConnMaxIdleTime(time.Minute)
		s.db.SetConnMaxLifetime(30 * time.Minute)
	}
	return s.db, nil
}

// Cleanup notes what is still to be noted, and closes the database.
func (s *Source) Cleanup() error {
	s.recorder.stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.db == nil {
		return nil
	}
	return s.db.Close()
}

// Account asks the database for a user.
func (s *Source) Account(ctx context.Context, user string) (*login.Account, error) {
	db, err := s.handle()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(s.Timeout))
	defer cancel()
	values := named(user)
	if ip := login.ClientOf(ctx).Remote.Addr(); ip.IsValid() {
		values["remote_ip"] = ip.String()
	}
	rows, err := db.QueryContext(ctx, s.query.text, s.query.bind(values)...)
	if err != nil {
		return nil, fmt.Errorf("sql: %w", err)
	}
	defer rows.Close()
	a, err := s.account(user, rows)
	if err != nil {
		return nil, fmt.Errorf("sql: %w", err)
	}
	return a, nil
}

// Forms are those in which every user has a secret, as configured.
func (s *Source) Forms() login.Forms { return s.forms }

// SampleHash is that of a user seen before.
func (s *Source) SampleHash() string {
	if p := s.sample.Load(); p != nil {
		return *p
	}
	return ""
}

func (s *Source) see(secret *login.Secret) {
	if h, err := login.ParseHash(secret.Verifier()); err == nil && s.SampleHash() != h.Fake {
		s.sample.Store(&h.Fake)
	}
}

// LoggedIn notes that a secret was used.
func (s *Source) LoggedIn(id *login.Identity) {
	if s.Used != "" {
		s.recorder.add(use{id.User, id.Secret})
	}
}

func (s *Source) record(u use) error {
	db, err := s.handle()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(s.Timeout))
	defer cancel()
	values := named(u.user)
	values["secret_name"] = u.secret
	if _, err = db.ExecContext(ctx, s.used.text, s.used.bind(values)...); err != nil {
		s.log.Warn("cannot note the use of a secret", "user", u.user, "error", err)
	}
	return err
}

// UnmarshalCaddyfile sets up the source from Caddyfile tokens. Syntax:
//
//	sql postgres|sqlite <dsn> {
//		query           <statement>
//		used            <statement>
//		forms           scram_sha_1|scram_sha_256|plain...
//		sample          <secret>
//		max_connections <number>
//		timeout         <duration>
//	}
func (s *Source) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.AllArgs(&s.Database, &s.DSN) {
		return d.ArgErr()
	}
	if s.Database != postgres && s.Database != sqlite {
		return d.Errf("database '%s' is neither %s nor %s", s.Database, postgres, sqlite)
	}
	err := caddyopt.Block(d, caddyopt.Table{
		"query":           caddyopt.String(&s.Query),
		"used":            caddyopt.String(&s.Used),
		"forms":           caddyopt.Strings(&s.SecretForms),
		"sample":          caddyopt.String(&s.Sample),
		"max_connections": caddyopt.Int(&s.MaxConnections, 1),
		"timeout":         caddyopt.Duration(&s.Timeout),
	})
	if err == nil && s.Query == "" {
		err = d.Err("a query is wanted")
	}
	return err
}

var (
	_ caddy.Provisioner     = (*Source)(nil)
	_ caddy.Validator       = (*Source)(nil)
	_ caddy.CleanerUpper    = (*Source)(nil)
	_ caddyfile.Unmarshaler = (*Source)(nil)
)
