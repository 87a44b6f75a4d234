package sqldb

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/login"
)

const (
	bcrypt4 = "$2a$04$nXtTyqKxN/yeLmcuWVU5jODeSkqHIRJcUGJbzQsNyLXNNyjkYHPZe"
	keys256 = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
	schema  = `create table users (name text, alias text, addresses text, quota int, since timestamp);
		create table secrets (name text, device text, secret text, used int default 0);
		insert into users values ('alice@a.test', 'al@a.test', 'alice@a.test, *@b.test', 7, '2024-01-02 03:04:05'), ('bob', null, null, null, null), ('odd', null, null, null, null);
		insert into secrets (name, device, secret) values ('alice@a.test', '', '` + bcrypt4 + `'), ('alice@a.test', 'phone', '` + keys256 + `'),
			('odd', '', 'canary'), ('odd', 'x', null);`
	query = `select u.name as "user", secret, device as secret_name, addresses, quota, since
		from users u left join secrets using (name) where u.name = @user or alias = @user order by device`
	used = `update secrets set used = used + 1 where name = @user and device = @secret_name`
)

func database(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "users ü?#%20.db")
	db, err := sql.Open("sqlite", path[:strings.IndexByte(path, '?')]+"x")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(schema); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path[:strings.IndexByte(path, '?')]+"x", path); err != nil {
		t.Fatal(err)
	}
	return path
}

func provisioned(t *testing.T, s *Source) *Source {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	if err := s.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.Validate(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Cleanup() })
	return s
}

func TestAccount(t *testing.T) {
	s := provisioned(t, &Source{Database: sqlite, DSN: database(t), Query: query})
	var log bytes.Buffer
	s.log = slog.New(slog.NewTextHandler(&log, nil))
	if s.SampleHash() != "" {
		t.Error("a sample of nobody")
	}
	k, _ := login.ParseKeys(keys256)
	alice := &login.Account{
		User: "alice@a.test", Addresses: []string{"alice@a.test", "*@b.test"},
		Secrets:    []login.Secret{{Hash: bcrypt4}, {Name: "phone", SCRAM: []login.Keys{k}}},
		Attributes: map[string]string{"quota": "7", "since": "2024-01-02T03:04:05Z"},
	}
	for user, want := range map[string]*login.Account{
		"alice@a.test": alice, "al@a.test": alice, "nobody": nil, "' or 1=1 --": nil,
		"bob": {User: "bob", Attributes: map[string]string{}},
		"odd": {User: "odd", Attributes: map[string]string{}},
	} {
		got, err := s.Account(t.Context(), user)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v", user, got, err)
		}
	}
	if !strings.Contains(log.String(), "cannot be read") || strings.Contains(log.String(), "canary") {
		t.Error(log.String())
	}
	if _, err := login.ParseHash(s.SampleHash()); err != nil {
		t.Error(s.SampleHash(), err)
	}
	if s.Forms() != login.Hashes {
		t.Error(s.Forms())
	}
}

func TestFaults(t *testing.T) {
	path := database(t)
	for query, want := range map[string]string{
		"select nosuch from users where name = @user":                                                          "nosuch",
		"select name as user from users where @user <> ''":                                                     "more than one user",
		"with recursive n(i) as (select 1 union all select i+1 from n where @user <> '') select i from n":      "more than 1000 rows",
		"select 'two words' as user where @user <> ''":                                                         "not the name",
		"with recursive n(i) as (select 1 union all select i+1 from n where @user <> '') select sum(i) from n": "sql: ",
		"delete from users where name = @user returning name":                                                  "readonly",
	} {
		s := provisioned(t, &Source{Database: sqlite, DSN: path, Query: query, Timeout: caddy.Duration(time.Second)})
		a, err := s.Account(t.Context(), "alice@a.test")
		if a != nil || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %+v, %v", query, a, err)
		}
	}
	s := provisioned(t, &Source{Database: sqlite, DSN: path + "x", Query: query})
	if _, err := s.Account(t.Context(), "a"); err == nil {
		t.Error("a database that is not there has no error")
	}
	if _, err := os.Stat(path + "x"); err == nil {
		t.Error("it was made")
	}
	s.Cleanup()
	if _, err := s.Account(t.Context(), "a"); err != errClosed {
		t.Error(err)
	}
}

// TestRemote: what else is bound.
func TestRemote(t *testing.T) {
	s := provisioned(t, &Source{Database: sqlite, DSN: database(t), Query: "select @user || ':' || @local || ':' || @domain || ':' || @remote_ip as x, @remote_ip as y, @user as user"})
	ctx := login.WithClient(t.Context(), login.Client{Remote: netip.MustParseAddrPort("[2001:db8::1]:25")})
	a, err := s.Account(ctx, "o'x@a@b")
	if err != nil || a.Attributes["x"] != "o'x@a@b:o'x@a:b:2001:db8::1" || a.Attributes["y"] != "2001:db8::1" {
		t.Errorf("%+v %v", a, err)
	}
	if a, err = s.Account(t.Context(), "a"); err != nil || len(a.Attributes) != 0 {
		t.Errorf("%+v %v", a, err)
	}
}

func TestUsed(t *testing.T) {
	path := database(t)
	s := provisioned(t, &Source{Database: sqlite, DSN: path, Query: query, Used: used})
	for range 3 {
		s.LoggedIn(&login.Identity{User: "alice@a.test", Secret: "phone"})
	}
	s.LoggedIn(&login.Identity{User: "nobody"})
	s.Cleanup()
	s.LoggedIn(&login.Identity{User: "alice@a.test"})
	db, err := sql.Open("sqlite", s.DSN[:0]+"file:"+strings.NewReplacer("?", "%3f", "#", "%23", "%", "%25").Replace(path))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var phone, main int
	if err := db.QueryRow("select sum(used) filter (where device = 'phone'), sum(used) filter (where device = '') from secrets").Scan(&phone, &main); err != nil || phone < 1 || phone > 3 || main != 0 {
		t.Error(phone, main, err)
	}
	off := &Source{}
	off.LoggedIn(&login.Identity{User: "a"}) // nothing to do
	if off.recorder.running || len(off.recorder.waiting) > 0 {
		t.Error("a use that nobody wants waits")
	}
}

// TestRecorder: it neither blocks nor grows while the database is down.
func TestRecorder(t *testing.T) {
	hold := make(chan bool)
	n := 0
	r := recorder{write: func(use) error { <-hold; n++; return os.ErrDeadlineExceeded }}
	for i := range maxUses + 100 {
		r.add(use{user: fmt.Sprint(i)})
	}
	if len(r.waiting) > maxUses {
		t.Error(len(r.waiting))
	}
	go func() { time.Sleep(10 * time.Millisecond); close(hold) }()
	r.stop()
	if n > 2 || r.running {
		t.Error(n, "were tried of a database that is down")
	}
	r.add(use{user: "late"})
	if len(r.waiting) > 0 {
		t.Error("taken after the end")
	}
}

// TestPostgresSilent: a server that does not answer is a fault within the
// time-out, and so is one that is not there. No error has the password.
func TestPostgresSilent(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for _, addr := range []string{ln.Addr().String(), "127.0.0.1:1"} {
		s := provisioned(t, &Source{Database: postgres, DSN: "postgres://u:canary@" + addr + "/db", Query: query, Timeout: caddy.Duration(300 * time.Millisecond)})
		began := time.Now()
		_, err = s.Account(t.Context(), "a")
		if err == nil || time.Since(began) > 10*time.Second || strings.Contains(err.Error(), "canary") {
			t.Error(err, time.Since(began))
		}
	}
}

// TestReload: 200 configurations leave neither goroutines nor files behind.
func TestReload(t *testing.T) {
	path := database(t)
	count := func() (goroutines, files int) {
		runtime.GC()
		list, _ := os.ReadDir("/proc/self/fd")
		return runtime.NumGoroutine(), len(list)
	}
	g, f := count()
	for range 200 {
		s := &Source{Database: sqlite, DSN: path, Query: query, Used: used}
		ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
		if err := s.Provision(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Account(ctx, "alice@a.test"); err != nil {
			t.Fatal(err)
		}
		s.LoggedIn(&login.Identity{User: "alice@a.test"})
		cancel()
		if err := s.Cleanup(); err != nil {
			t.Fatal(err)
		}
	}
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		g2, f2 := count()
		if g2 <= g+2 && f2 <= f+2 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("goroutines %d, were %d; files %d, were %d", g2, g, f2, f)
		}
	}
}

func TestProvisionErrors(t *testing.T) {
	t.Setenv("SQL_DSN", "host=db.test password=canary port=none")
	ok := Source{Database: sqlite, DSN: "/x.db", Query: query}
	for want, change := range map[string]func(s *Source){
		"no database is named":    func(s *Source) { s.DSN = "" },
		"neither postgres nor":    func(s *Source) { s.Database = "mysql" },
		"not a connection string": func(s *Source) { s.Database, s.DSN = postgres, "{env.SQL_DSN}" },
		"not set":                 func(s *Source) { s.DSN = "{env.NO_SUCH_VARIABLE_CANARY}" },
		"query: there is neither": func(s *Source) { s.Query = "select 1" },
		"used: @secret is not":    func(s *Source) { s.Used = "update x set y = @secret where n = @user" },
		"form 'md5' is none":      func(s *Source) { s.SecretForms = []string{"md5"} },
		"sample: not":             func(s *Source) { s.Sample = "canary" },
		"connections is negative": func(s *Source) { s.MaxConnections = -1 },
		"timeout is negative":     func(s *Source) { s.Timeout = -1 },
	} {
		s := Source{Database: ok.Database, DSN: ok.DSN, Query: ok.Query}
		change(&s)
		ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
		err := s.Provision(ctx)
		if err == nil {
			err = s.Validate()
		}
		if err == nil || !strings.Contains(err.Error(), want) && want != "not set" || strings.Contains(err.Error(), "=canary") {
			t.Errorf("%v, want %s", err, want)
		}
		cancel()
	}
	s := provisioned(t, &Source{Database: postgres, DSN: "postgres://a@b.test", Query: query, SecretForms: []string{"scram_sha_1", "scram_sha_256"}, Sample: bcrypt4})
	if s.Forms() != login.Hashes|login.SCRAMSHA1|login.SCRAMSHA256 || !strings.HasPrefix(s.SampleHash(), "$2a$04$") {
		t.Error(s.Forms(), s.SampleHash())
	}
	if f, err := parseForms([]string{"plain"}); err != nil || f&login.SCRAMSHA1 == 0 {
		t.Error(f, err)
	}
}

func TestParseStatement(t *testing.T) {
	for in, want := range map[string]string{
		"a = @user":          "a = $1 [user]",
		"@user@domain @user": "$1$2 $1 [user domain]",
		"'@x''@y' \"@z\" -- @c\n/* @d /* @e */ */@user": "'@x''@y' \"@z\" -- @c\n/* @d /* @e */ */$1 [user]",
		"$$@x$$ $t$ @y $$ $t$ @local $1":                "$$@x$$ $t$ @y $$ $t$ $1 $1 [local]",
		`e'\'@x' 'a\' @user`:                            `e'\'@x' 'a\' $1 [user]`,
		`type'\' @user`:                                 `type'\' $1 [user]`,
		"a @> b and c @@ d and @ -5 and x <@ @user":     "a @> b and c @@ d and @ -5 and x <@ $1 [user]",
		"@user /*": "$1 /* [user]",
		"@user $":  "$1 $ [user]",
		"@usr":     "@usr is not one of @user, @local, @domain",
		"@User":    "@User is not",
		"x = 1":    "neither",
		"":         "neither",
		"'@user'":  "neither",
	} {
		st, err := parseStatement(in, postgres, "user", "local", "domain")
		got := fmt.Sprint(st.text, " ", st.args)
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, want) {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
	st, err := parseStatement("/* /* */ `@x` $$ @user $$", sqlite, "user")
	if err != nil || st.text != "/* /* */ `@x` $$ ?1 $$" {
		t.Error(st, err)
	}
}

func FuzzParseStatement(f *testing.F) {
	f.Add("select '@x' from t where a = @user -- @y", true)
	f.Add("$a$ @x $a$ e'\\'' @local /*", false)
	f.Fuzz(func(t *testing.T, s string, pg bool) {
		database := sqlite
		if pg {
			database = postgres
		}
		st, err := parseStatement(s, database, "user", "local")
		if err == nil && (len(st.args) == 0 || len(st.bind(named("a@b"))) != len(st.args)) {
			t.Errorf("%q: %+v", s, st)
		}
	})
}

func TestTextOf(t *testing.T) {
	for want, v := range map[string]any{"": nil, "a": []byte("a"), "b": "b", "7": int64(7), "true": true, "1.5": 1.5} {
		if got, err := textOf(v); got != want || err != nil {
			t.Error(v, got, err)
		}
	}
	if _, err := textOf([]string{"a"}); err == nil {
		t.Error("a list has no text")
	}
}

func TestCaddyfile(t *testing.T) {
	for in, want := range map[string]string{
		"sql sqlite /a {\nquery `select @user`\nused x\nforms plain scram_sha_1\nsample s\nmax_connections 2\ntimeout 3s\n}": `{"database":"sqlite","dsn":"/a","query":"select @user","used":"x","forms":["plain","scram_sha_1"],"sample":"s","max_connections":2,"timeout":3000000000}`,
		"sql sqlite":                                "wrong argument count or unexpected line ending after 'sqlite', at Testfile:1",
		"sql mysql x {\nquery q\n}":                 "database 'mysql' is neither postgres nor sqlite, at Testfile:1",
		"sql postgres {env.DSN}":                    "a query is wanted, at Testfile:1",
		"sql postgres x {\nquery a\nqery b\n}":      "unrecognized option 'qery', at Testfile:3",
		"sql postgres x {\nmax_connections none\n}": "option 'max_connections': 'none' is not a number of 1 or more, at Testfile:2",
	} {
		s := new(Source)
		err := s.UnmarshalCaddyfile(caddyfile.NewTestDispenser(in))
		got, _ := json.Marshal(s)
		if err != nil {
			got = fmt.Append(nil, err)
		}
		if string(got) != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
	if s := new(Source).CaddyModule().New(); s == nil {
		t.Error("no module")
	}
}
