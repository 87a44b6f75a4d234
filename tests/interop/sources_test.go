//go:build linux

package interop

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/smtp"
	"net/textproto"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/crypto/bcrypt"
)

// sourced has a server whose users are a source's. What the source said of a
// user is in the header of his mail.
func sourced(server, source string) string {
	return fmt.Sprintf(`
	server %[1]s ADDR(%[1]s) {
		tls off
		plaintext_auth
		auth {
			%[2]s
		}
		header +X-Who "{smtp.auth.user}/{smtp.auth.secret}/{smtp.auth.attr.quota}"
		deliver boxes
	}`, server, source)
}

// logIn sends a message with the login, and returns the code that refused it.
func logIn(t testing.TB, addr, user, password, subject string) (code int) {
	t.Helper()
	err := smtp.SendMail(addr, smtp.PlainAuth("", user, password, "127.0.0.1"), "sender@example.test", []string{"box@example.test"},
		[]byte("Subject: "+subject+"\r\n\r\nhello\r\n"))
	if e, ok := errors.AsType[*textproto.Error](err); ok {
		return e.Code
	}
	if err != nil {
		t.Fatal(err)
	}
	return 235
}

// An attempt is a login, with what is to come of it.
type attempt struct {
	user, password string
	code           int
	who            string // X-Who of the mail
}

// tries numbers attempts.
var tries atomic.Int64

// attempts logs in again and again.
func (h *host) attempts(server string, list ...attempt) {
	h.t.Helper()
	for _, a := range list {
		subject := fmt.Sprintf("attempt %d", tries.Add(1))
		if code := logIn(h.t, h.addr(server), a.user, a.password, subject); code != a.code {
			h.t.Errorf("%s with '%s': %d, want %d", a.user, a.password, code, a.code)
		} else if code == 235 {
			if who := got(h.t, h.inbox("box"), subject).Header.Get("X-Who"); who != a.who {
				h.t.Errorf("%s is %q, want %q", a.user, who, a.who)
			}
		}
	}
}

// A postgresql is a cluster of its own.
type postgresql struct {
	t        testing.TB
	bin, dir string
	port     string
	proc     *process
}

func newPostgresql(t testing.TB, port string) *postgresql {
	t.Helper()
	bins, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if len(bins) == 0 {
		missing(t, "postgres is not installed")
	}
	needRoot(t, "postgres")
	sort.Strings(bins)
	p := &postgresql{t: t, bin: filepath.Dir(bins[len(bins)-1]), dir: openDir(t), port: port}
	chown(t, p.dir, "postgres")
	if out, err := p.command("initdb", "-D", p.dir+"/data", "-A", "scram-sha-256", "-U", "admin", "--pwfile", p.write("pw", "adminpw"), "--no-sync").CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	return p
}

func (p *postgresql) write(name, text string) string {
	p.t.Helper()
	name = filepath.Join(p.dir, name)
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		p.t.Fatal(err)
	}
	return name
}

// command runs as the user that PostgreSQL wants to be.
func (p *postgresql) command(name string, args ...string) *exec.Cmd {
	p.t.Helper()
	u, err := user.Lookup("postgres")
	if err != nil {
		p.t.Fatal(err)
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	cmd := command(filepath.Join(p.bin, name), args...)
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	cmd.Dir = p.dir
	return cmd
}

func (p *postgresql) start() {
	p.t.Helper()
	p.proc = start(p.t, "postgres", p.command("postgres", "-D", p.dir+"/data", "-h", "127.0.0.1", "-p", p.port, "-k", p.dir, "-F"))
	p.proc.says(p.t, "ready to accept connections")
	p.t.Cleanup(p.stop)
}

// stop ends it at once, whoever is connected.
func (p *postgresql) stop() {
	select {
	case <-p.proc.exited:
	default:
		syscall.Kill(p.proc.cmd.Process.Pid, syscall.SIGINT)
		<-p.proc.exited
	}
}

func (p *postgresql) dsn(user, password string) string {
	return fmt.Sprintf("host=127.0.0.1 port=%s user=%s password=%s dbname=postgres sslmode=disable", p.port, user, password)
}

func (p *postgresql) sql(text string) string {
	p.t.Helper()
	cmd := p.command("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", p.dsn("admin", "adminpw"))
	cmd.Stdin = strings.NewReader(text)
	out, err := cmd.CombinedOutput()
	if err != nil {
		p.t.Fatalf("psql: %v\n%s", err, out)
	}
	return strings.TrimSpace(string(out))
}

// TestPostgreSQLLogins: users in a database, one with several passwords.
func TestPostgreSQLLogins(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	p := newPostgresql(t, h.port("postgres"))
	p.start()
	p.sql(`create table users (name text primary key, addresses text[], quota int);
		create table secrets (name text, device text, hash text, used timestamptz);
		insert into users values ('alice@example.test', '{alice@example.test,*@shop.test}', 7), ('bob', null, null);
		insert into secrets values ('alice@example.test', '', '` + bcryptOf("main") + `'), ('alice@example.test', 'phone', '` + bcryptOf("app") + `'),
			('bob', '', '{PLAIN}b''ob');
		create role mail login password 'dbpw'; grant select on users, secrets to mail; grant update (used) on secrets to mail;`)
	if err := os.WriteFile(h.dir+"/dsn", []byte(p.dsn("mail", "dbpw")), 0o600); err != nil {
		t.Fatal(err)
	}
	h.serve(boxes+sourced("sql", "sql postgres {file.DIR/dsn} {\n"+
		"query `select u.name as \"user\", hash, device as secret_name, addresses, quota from users u join secrets using (name) where name = @user or @user = any (addresses)`\n"+
		"used `update secrets set used = now() where name = @user and device = @secret_name`\n}"), "sql")
	h.attempts("sql",
		attempt{"Alice@Example.Test", "main", 235, "alice@example.test//7"},
		attempt{"alice@example.test", "app", 235, "alice@example.test/phone/7"},
		attempt{"bob", "b'ob", 235, "bob//"},
		attempt{"bob", "main", 535, ""},
		attempt{"' or ''='", "main", 535, ""},
	)
	wait(t, "the notes of last use", func() bool {
		return p.sql("select count(*) from secrets where used > now() - interval '1 hour'") == "3"
	})
	p.sql("update secrets set used = null")
	h.attempts("sql", attempt{"alice@example.test", "main", 235, "alice@example.test//7"}, attempt{"alice@example.test", "appp", 535, ""})
	wait(t, "the note of last use", func() bool {
		return p.sql("select string_agg(name || '/' || device, ' ') from secrets where used is not null") == "alice@example.test/"
	})
	p.stop()
	h.attempts("sql", attempt{"bob", "b'ob", 454, ""})
	p.start()
	h.attempts("sql", attempt{"bob", "b'ob", 235, "bob//"})
	if strings.Contains(h.proc.out.String(), "dbpw") {
		t.Error("the log has the password of the database")
	}
}

// bcryptOf is a hash as cheap as they come.
func bcryptOf(password string) string {
	h, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		panic(err)
	}
	return string(h)
}

// TestApplicationLogins: an endpoint of HTTP, and a program in Python, say who
// may log in.
func TestApplicationLogins(t *testing.T) {
	t.Parallel()
	need(t, "python3")
	h := newHost(t)
	program := filepath.Join(h.dir, "check")
	if err := os.WriteFile(program, []byte(`#!/usr/bin/env python3
import json, sys
user, password, ip, mechanism = sys.stdin.read().split("\n")[:4]
if ip != "127.0.0.1" or mechanism != "PLAIN": sys.exit(9)
if user == "away": sys.exit(75)
if user != "bob": sys.exit(3)
if password != "b'ob": sys.exit(1)
print(json.dumps({"user": user, "attributes": {"quota": 9}}))
`), 0o755); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q map[string]any
		switch err := json.NewDecoder(r.Body).Decode(&q); {
		case err != nil || q["remote_ip"] != "127.0.0.1" || q["mechanism"] != "PLAIN" || q["tls"] != false || r.Header.Get("X-Key") != "key":
			t.Errorf("the endpoint is asked %v, %v", q, err)
			w.WriteHeader(http.StatusBadRequest)
		case q["user"] != "alice@example.test":
			w.WriteHeader(http.StatusNotFound)
		case q["password"] != "right":
			w.WriteHeader(http.StatusUnauthorized)
		default:
			fmt.Fprint(w, `{"user":"alice@example.test","attributes":{"quota":7}}`)
		}
	}))
	t.Cleanup(srv.Close)
	h.serve(boxes+sourced("apps", "http "+srv.URL+" {\nheader X-Key key\n}\nexec "+program), "apps")
	h.attempts("apps",
		attempt{"Alice@example.test", "right", 235, "alice@example.test//7"},
		attempt{"alice@example.test", "wrong", 535, ""},
		attempt{"bob", "b'ob", 235, "bob//9"},
		attempt{"bob", "wrong", 535, ""},
		attempt{"away", "x", 454, ""},
	)
	srv.Close()
	h.attempts("apps", attempt{"bob", "b'ob", 454, ""}) // perhaps the endpoint knows another bob
}
