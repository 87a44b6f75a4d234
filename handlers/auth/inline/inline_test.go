package inline

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/login"
)

const bcryptHash = "$2a$04$nXtTyqKxN/yeLmcuWVU5jODeSkqHIRJcUGJbzQsNyLXNNyjkYHPZe"

func TestAccount(t *testing.T) {
	t.Setenv("INLINE_HASH", bcryptHash)
	s := &Source{Users: map[string]string{"Alice": bcryptHash, "bob": "{env.INLINE_HASH}"}}
	if err := s.Provision(caddy.Context{}); err != nil {
		t.Fatal(err)
	}
	for user, want := range map[string]string{"alice": bcryptHash, "bob": bcryptHash, "carol": ""} {
		a, err := s.Account(context.Background(), user)
		if err != nil || (a != nil) != (want != "") || a != nil && (len(a.Secrets) != 1 || a.Secrets[0].Hash != want) {
			t.Errorf("%s: %+v %v", user, a, err)
		}
	}
	if h, err := login.ParseHash(s.SampleHash()); err != nil || h.Algorithm != "bcrypt" {
		t.Error(s.SampleHash())
	}
	s = &Source{Users: map[string]string{"alice": "{PLAIN}pencil", "bob": "{BLF-CRYPT}{env.INLINE_HASH} {PLAIN.b64}eA=="}}
	if err := s.Provision(caddy.Context{}); err != nil || s.Forms()&login.Plain == 0 || s.users["alice"].Secrets[0].Plain != "pencil" {
		t.Error(err, s.Forms())
	}
	for user, hash := range map[string]string{"a b": bcryptHash, "a": "secret", "b": "{env.INLINE_NONE}", "": bcryptHash} {
		err := (&Source{Users: map[string]string{user: hash}}).Provision(caddy.Context{})
		if err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q %s: %v", user, hash, err)
		}
	}
}

func TestCaddyfile(t *testing.T) {
	for in, want := range map[string]string{
		"inline {\nalice " + bcryptHash + "\n}": `{"users":{"alice":"` + bcryptHash + `"}}`,
		"inline {\na b c\n}":                    `{"users":{"a":"b c"}}`,
		"inline":                                "no users, at Testfile:1",
		"inline alice":                          "wrong argument count or unexpected line ending after 'alice', at Testfile:1",
		"inline {\nalice\n}":                    "wrong argument count or unexpected line ending after 'alice', at Testfile:2",
		"inline {\na b\na c\n}":                 "user 'a' is given twice, at Testfile:3",
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
