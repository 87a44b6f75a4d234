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
		if err := u.Add(n, argon); err != nil {
			t.Fatal(err)
		}
	}
	if err := u.Add("carol", bc4); err != nil {
		t.Fatal(err)
	}
	if u["bob"] != argon || u.Sample() != argon || (Users{}).Sample() != "" {
		t.Error(u.Sample())
	}
	for name, want := range map[string]string{"BOB": "there twice", "d d": "not the name", "dave": "not a password hash"} {
		if err := u.Add(name, "plain"); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "plain") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParseHash(f *testing.F) {
	f.Add(bc4)
	f.Add(argon)
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
