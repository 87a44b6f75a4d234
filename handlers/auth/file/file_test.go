package file

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/login"
)

const (
	bcryptHash = "$2a$04$nXtTyqKxN/yeLmcuWVU5jODeSkqHIRJcUGJbzQsNyLXNNyjkYHPZe"
	scramKeys  = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
	argonHash  = "$argon2id$v=19$m=47104,t=1,p=1$P2nzckEdTZ3bxCiBCkRTyA$xQL3Z32eo5jKl7u5tcIsnEKObYiyNZQQf5/4sAau6Pg"
)

func provision(t *testing.T, s *Source) error {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	return s.Provision(ctx)
}

func written(t *testing.T, text string) *Source {
	t.Helper()
	s := &Source{Path: filepath.Join(t.TempDir(), "users")}
	if err := os.WriteFile(s.Path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestAccount(t *testing.T) {
	s := written(t, "# users\nAlice@Example.org:"+bcryptHash+"\n\nbob:"+argonHash+"\r\ncarol:"+bcryptHash)
	if err := provision(t, s); err != nil {
		t.Fatal(err)
	}
	for user, want := range map[string]string{"alice@example.org": bcryptHash, "bob": argonHash, "dave": ""} {
		a, err := s.Account(context.Background(), user)
		if err != nil || (a != nil) != (want != "") || a != nil && (len(a.Secrets) != 1 || a.Secrets[0].Hash != want) {
			t.Errorf("%s: %+v %v", user, a, err)
		}
	}
	if h, err := login.ParseHash(s.SampleHash()); err != nil || h.Algorithm != "bcrypt" {
		t.Error(s.SampleHash())
	}
}

func TestErrors(t *testing.T) {
	for text, want := range map[string]string{
		"alice": "line 1: not user:secret", "alice:hunter2": "line 1: user 'alice': not a password hash", ":" + bcryptHash: "line 1: name of a user",
		"a:" + bcryptHash + "\nA:" + bcryptHash: "line 2: user 'a' is there twice", "a:" + bcryptHash + ":more": "incomplete",
	} {
		err := provision(t, written(t, text))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
	if provision(t, &Source{Path: "/nonexistent/users"}) == nil || provision(t, new(Source)) == nil {
		t.Error("a file that is not there is taken")
	}
}

// TestFacts: what a user owns, and his app passwords, by what they have in common.
func TestFacts(t *testing.T) {
	s := written(t, "alice:"+bcryptHash+" "+scramKeys+" address=alice@example.org\nalice:"+scramKeys+" name=phone\nalice: dept=sales\nbob:"+argonHash)
	if err := provision(t, s); err != nil {
		t.Fatal(err)
	}
	a, err := s.Account(t.Context(), "alice")
	if err != nil || len(a.Secrets) != 2 || a.Secrets[1].Name != "phone" || a.Addresses[0] != "alice@example.org" || a.Attributes["dept"] != "sales" {
		t.Errorf("%+v %v", a, err)
	}
	if s.Forms() != login.Hashes || s.AnyForms() != login.Hashes|login.SCRAMSHA256 {
		t.Error(s.Forms(), s.AnyForms())
	}
}

// TestMode: passwords that everybody may read, and files that everybody may write,
// are not taken (promise P31).
func TestMode(t *testing.T) {
	for _, tt := range []struct {
		text string
		mode os.FileMode
		want string
	}{
		{"a:{PLAIN}pencil", 0o640, ""}, {"a:{PLAIN}pencil", 0o644, "everybody may read the passwords"},
		{"a:" + bcryptHash, 0o644, ""}, {"a:" + bcryptHash, 0o666, "everybody may write it"},
	} {
		s := written(t, tt.text)
		if err := os.Chmod(s.Path, tt.mode); err != nil {
			t.Fatal(err)
		}
		err := provision(t, s)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s %o: %v", tt.text, tt.mode, err)
		}
	}
}

// TestUsed: logins are written down in the end, in a file of their own.
func TestUsed(t *testing.T) {
	for _, used := range []string{"", "off"} {
		s := written(t, "alice:"+bcryptHash+"\nalice:"+argonHash+" name=phone")
		path := s.Path + ".used"
		s.Used = used
		if err := provision(t, s); err != nil {
			t.Fatal(err)
		}
		s.LoggedIn(&login.Identity{User: "alice", Secret: "phone"})
		s.LoggedIn(&login.Identity{User: "alice", Secret: "gone"})
		if err := s.Cleanup(); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if (err == nil) != (used == "") || err == nil && (!strings.Contains(string(b), "\nalice phone 20") || strings.Contains(string(b), "gone")) {
			t.Errorf("%q: %v %s", used, err, b)
		}
	}
}

func TestReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := written(t, "alice:"+bcryptHash)
		if err := provision(t, s); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(s.Path, []byte("bob:"+argonHash), 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		alice, _ := s.Account(context.Background(), "alice")
		bob, _ := s.Account(context.Background(), "bob")
		if alice != nil || bob == nil || !strings.HasPrefix(s.SampleHash(), "$argon2id$") {
			t.Error(alice, bob, s.SampleHash())
		}
	})
}

func TestCaddyfile(t *testing.T) {
	for in, want := range map[string]string{
		"file /a": `{"path":"/a"}`, "file": "wrong argument count or unexpected line ending after 'file', at Testfile:1",
		"file a {\nb\n}": "unrecognized option 'b', at Testfile:2", "file a {\nused off\n}": `{"path":"a","used":"off"}`,
		"file a b": "wrong argument count or unexpected line ending after 'a', at Testfile:1",
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
}
