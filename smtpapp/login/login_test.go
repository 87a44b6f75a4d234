package login

import (
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"
)

const (
	bc4   = "$2a$04$nXtTyqKxN/yeLmcuWVU5jODeSkqHIRJcUGJbzQsNyLXNNyjkYHPZe"
	argon = "$argon2id$v=19$m=47104,t=1,p=1$P2nzckEdTZ3bxCiBCkRTyA$xQL3Z32eo5jKl7u5tcIsnEKObYiyNZQQf5/4sAau6Pg"
)

func TestName(t *testing.T) {
	for in, want := range map[string]string{
		"Alice": "alice", "ALICE@Example.ORG": "alice@example.org", "Ü\u0308": "", "U\u0308li": "üli", "ｂｏｂ": "bob",
		"": "", "a b": "", "a\x00": "", "a\nb": "", strings.Repeat("a", 255): "", "\xff": "",
	} {
		if got, err := Name(in); got != want && want != "" || (err == nil) != (got != "") {
			t.Errorf("%q: %q %v", in, got, err)
		}
	}
}

func TestParseHash(t *testing.T) {
	real, err := bcrypt.GenerateFromPassword([]byte("x"), 4)
	if err != nil {
		t.Fatal(err)
	}
	for hash, want := range map[string]Hash{
		string(real):    {Algorithm: "bcrypt", Params: "$2a$04$"},
		"$2y" + bc4[3:]: {Algorithm: "bcrypt", Params: "$2y$04$"},
		argon: {Algorithm: "argon2id", Params: "$argon2id$v=19$m=47104,t=1,p=1$",
			Fake: "$argon2id$v=19$m=47104,t=1,p=1$P2nzckEdTZ3bxCiBCkRTyA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"},
	} {
		h, err := ParseHash(hash)
		if err != nil || h.Algorithm != want.Algorithm || h.Params != want.Params || want.Fake != "" && h.Fake != want.Fake {
			t.Errorf("%s: %+v %v", hash, h, err)
		}
		if f, err := ParseHash(h.Fake); err != nil || f.Params != h.Params || h.Fake == hash {
			t.Errorf("%s: fake %s %v", hash, h.Fake, err)
		}
	}
	h, _ := ParseHash(string(real))
	if err := bcrypt.CompareHashAndPassword([]byte(h.Fake), []byte("x")); err != bcrypt.ErrMismatchedHashAndPassword {
		t.Error("fake:", err)
	}
}

func TestParseHashRefuses(t *testing.T) {
	for _, h := range []string{
		"", "secret", "$", "$1$x$y", "$2a$04$short", "$2a$99" + bc4[6:], "$2a$4$" + bc4[7:], bc4 + "x", bc4[:59] + "!", "$2x" + bc4[3:],
		strings.Replace(argon, "v=19", "v=16", 1), strings.Replace(argon, "t=1", "t=0", 1), strings.Replace(argon, "p=1", "p=0", 1),
		strings.Replace(argon, "p=1", "p=256", 1), strings.Replace(argon, "m=47104", "m=9999999999", 1), strings.Replace(argon, "m=47104", "m=4", 1),
		argon[:strings.LastIndexByte(argon, '$')+1], argon[:strings.LastIndexByte(argon, '$')+5], strings.Replace(argon, "P2nz", "!!!!", 1),
		strings.Replace(argon, "$P2nzckEdTZ3bxCiBCkRTyA", "$", 1), "$argon2i" + argon[9:],
	} {
		if got, err := ParseHash(h); err == nil {
			t.Errorf("%s: %+v", h, got)
		}
	}
}

func TestUsers(t *testing.T) {
	u := Users{}
	for _, n := range []string{"alice", "Bob"} {
		if err := u.Add(n, "", argon); err != nil {
			t.Fatal(err)
		}
	}
	if err := u.Add("carol", "", bc4+" "+keys256); err != nil {
		t.Fatal(err)
	}
	fake, _ := ParseHash(argon)
	if u["bob"].Secrets[0].Hash != argon || u.Sample() != fake.Fake || (Users{}).Sample() != "" {
		t.Error(u.Sample())
	}
	many := Users{}
	for _, n := range []string{"a", "b"} {
		if err := many.Add(n, "", bc4+" "+keys256+" {PLAIN}canary"); err != nil {
			t.Fatal(err)
		}
	}
	if err := many.Add("c", "", keys1); err != nil {
		t.Fatal(err)
	}
	fakes, err := ParseSecret(many.Sample())
	if err != nil || fakes.Hash == bc4 || fakes.Keys(SHA256) == nil || fakes.Keys(SHA256).Match("pencil") || fakes.Plain == "canary" || fakes.Forms() != allForms {
		t.Error(many.Sample(), err)
	}
	if u.Forms() != Hashes || u.AnyForms() != Hashes|SCRAMSHA256 || (Users{}).AnyForms() != 0 || u["carol"].Forms() != Hashes|SCRAMSHA256 {
		t.Error(u.Forms(), u["carol"].Forms())
	}
	if err := u.Add("alice", "phone", keys256); err != nil || len(u["alice"].Secrets) != 2 {
		t.Error(err)
	}
	for name, want := range map[string]string{"BOB": "there twice", "d d": "not the name", "dave": "not a password hash"} {
		text := "plain"
		if name == "BOB" {
			text = bc4
		}
		if err := u.Add(name, "", text); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "plain") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := u.Add("alice", "phone", bc4); err == nil || !strings.Contains(err.Error(), "two secrets named 'phone'") {
		t.Error(err)
	}
}

func FuzzParseHash(f *testing.F) {
	f.Add(bc4)
	f.Add(argon)
	f.Add(keys256)
	f.Add("{PLAIN}x")
	f.Fuzz(func(t *testing.T, s string) {
		h, err := ParseHash(s)
		if err != nil {
			return
		}
		if g, err := ParseHash(h.Fake); err != nil || g.Params != h.Params || !strings.HasPrefix(s, h.Params) {
			t.Errorf("%s: %+v", s, h)
		}
	})
}
