package tests

import (
	"crypto/hmac"
	"crypto/md5"
	"database/sql"
	"encoding/hex"
	"path/filepath"
	"testing"

	"github.com/caddymail/caddy-smtp/smtpapp/login"
)

// cram answers a challenge of CRAM-MD5.
func cram(user, password string) func(string) string {
	return func(challenge string) string {
		m := hmac.New(md5.New, []byte(password))
		m.Write([]byte(challenge))
		return user + " " + hex.EncodeToString(m.Sum(nil))
	}
}

// TestDatabaseMechanisms: users of a database log in by what does not show their
// passwords, and the database hears of it.
func TestDatabaseMechanisms(t *testing.T) {
	h := newHost(t)
	db, err := sql.Open("sqlite", filepath.Join(h.dir, "users.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	keys := func(function, password string) string {
		t.Helper()
		k, err := login.NewKeys(function, password, 4096)
		if err != nil {
			t.Fatal(err)
		}
		return k.String()
	}
	if _, err := db.Exec(`create table secrets (name text, device text, secret text, used int default 0)`); err != nil {
		t.Fatal(err)
	}
	for _, row := range [][]any{
		{"dbplain@a.test", "", "{PLAIN}pencil"}, {"dbplain@a.test", "phone", "{PLAIN}crayon"},
		{"dbkeys", "tablet", keys(login.SHA256, "pencil") + " " + keys(login.SHA1, "pencil")},
	} {
		if _, err := db.Exec(`insert into secrets (name, device, secret) values (?, ?, ?)`, row...); err != nil {
			t.Fatal(err)
		}
	}
	h.load(quickly + `
	server submission ADDR(submission) {
		plaintext_auth
		limits {
			error_delay none
		}
		auth {
			mechanisms SCRAM-SHA-256 SCRAM-SHA-1 PLAIN CRAM-MD5
			sql sqlite DIR/users.db {
				query ` + "`select name as \"user\", device as secret_name, secret from secrets where name = @user order by device`" + `
				used  ` + "`update secrets set used = used + 1 where name = @user and device = @secret_name`" + `
				forms scram_sha_256 scram_sha_1 plain
			}
		}
		discard
	}`)
	talk := func() *talker { return greet(t, h.addr("submission")) }
	contains(t, talk().say("250", "EHLO client.test"), "AUTH SCRAM-SHA-256 SCRAM-SHA-1 PLAIN CRAM-MD5\r\n")
	for _, c := range []struct{ code, user, password string }{
		{"235", "dbplain@a.test", "pencil"}, {"535 5.7.8", "dbplain@a.test", "wrong"},
		{"235", "dbkeys", "pencil"}, {"535 5.7.8", "dbkeys", "pencil2"}, {"535 5.7.8", "dbnobody", "pencil"},
	} {
		talk().scram("SCRAM-SHA-256", c.code, c.user, c.password, nil)
		talk().scram("SCRAM-SHA-1", c.code, c.user, c.password, nil)
	}
	for _, c := range []struct{ code, user, password string }{
		{"235", "dbplain@a.test", "pencil"}, {"235", "DBPlain@A.test", "crayon"}, {"535 5.7.8", "dbplain@a.test", "wrong"},
		{"535 5.7.8", "dbkeys", "pencil"}, {"535 5.7.8", "dbnobody", "pencil"},
	} {
		talk().exchange("CRAM-MD5", c.code, cram(c.user, c.password))
	}
	// What is noted is noted soon, and several logins at a time are one.
	used := func() (names string) {
		if err := db.QueryRow(`select coalesce(group_concat(name || '/' || device, ' '), '') from (select * from secrets where used > 0 order by name, device)`).Scan(&names); err != nil {
			t.Fatal(err)
		}
		return names
	}
	wait(t, "last use", func() bool { return used() == "dbkeys/tablet dbplain@a.test/ dbplain@a.test/phone" })
}
