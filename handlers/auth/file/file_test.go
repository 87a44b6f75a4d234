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
)

const (
	bcryptHash = "$2a$04$nXtTyqKxN/yeLmcuWVU5jODeSkqHIRJcUGJbzQsNyLXNNyjkYHPZe"
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

func TestPasswordHashes(t *testing.T) {
	s := written(t, "# users\nAlice@Example.org:"+bcryptHash+"\n\nbob:"+argonHash+"\r\ncarol:"+bcryptHash)
	if err := provision(t, s); err != nil {
		t.Fatal(err)
	}
	for user, want := range map[string]string{"alice@example.org": bcryptHash, "bob": argonHash, "dave": ""} {
		h, known, err := s.PasswordHashes(context.Background(), user)
		if h[0] != want || known != (want != "") || err != nil {
			t.Errorf("%s: %q %v %v", user, h, known, err)
		}
	}
	if s.SampleHash() != bcryptHash {
		t.Error(s.SampleHash())
	}
}

func TestErrors(t *testing.T) {
	for text, want := range map[string]string{
		"alice": "line 1: not user:hash", "alice:secret": "line 1: user 'alice': not a password hash", ":" + bcryptHash: "line 1: name of a user",
		"a:" + bcryptHash + "\nA:" + bcryptHash: "line 2: user 'a' is there twice", "a:" + bcryptHash + ":more": "incomplete",
	} {
		err := provision(t, written(t, text))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
	if provision(t, &Source{Path: "/nonexistent/users"}) == nil || provision(t, new(Source)) == nil {
		t.Error("a file that is not there is taken")
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
		_, alice, _ := s.PasswordHashes(context.Background(), "alice")
		_, bob, _ := s.PasswordHashes(context.Background(), "bob")
		if alice || !bob || s.SampleHash() != argonHash {
			t.Error(alice, bob, s.SampleHash())
		}
	})
}

func TestCaddyfile(t *testing.T) {
	for in, want := range map[string]string{
		"file /a": `{"path":"/a"}`, "file": "wrong argument count or unexpected line ending after 'file', at Testfile:1",
		"file a {\nb\n}": "unrecognized option 'b', at Testfile:2",
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
