package userfile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/login"
)

const (
	bcryptHash = "$2a$04$nXtTyqKxN/yeLmcuWVU5jODeSkqHIRJcUGJbzQsNyLXNNyjkYHPZe"
	argonHash  = "$argon2id$v=19$m=47104,t=1,p=1$P2nzckEdTZ3bxCiBCkRTyA$xQL3Z32eo5jKl7u5tcIsnEKObYiyNZQQf5/4sAau6Pg"
	scramKeys  = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
)

var noon = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

func parsed(t testing.TB, text string) *File {
	t.Helper()
	f, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestParse(t *testing.T) {
	f := parsed(t, "\ufeff# users\r\nAlice@Example.org:"+bcryptHash+" "+scramKeys+" address=alice@example.org dept=sales\r\n"+
		"\r\nalice@example.org:"+argonHash+"\r\n\tname=phone\r\n  # a comment\r\n created=2026-11-25T12:00:00Z\r\n"+
		"bob:{PLAIN}pencil\nalice@example.org: address=*@example.net address=alice@example.org dept=sales home=/srv\n")
	users, err := f.Users()
	if err != nil || len(users) != 2 || len(f.Entries) != 4 {
		t.Fatal(users, err)
	}
	a := users["alice@example.org"]
	if len(a.Secrets) != 2 || a.Secrets[0].Name != "" || a.Secrets[0].Forms() != login.Hashes|login.SCRAMSHA256 || a.Secrets[1].Name != "phone" {
		t.Errorf("%+v", a.Secrets)
	}
	if fmt.Sprint(a.Addresses, a.Attributes) != "[alice@example.org *@example.net] map[dept:sales home:/srv]" {
		t.Error(a.Addresses, a.Attributes)
	}
	if e := f.Entries[1]; !e.Created.Equal(noon) || e.Name != "phone" || e.User != "alice@example.org" || e.line != 4 {
		t.Errorf("%+v", e)
	}
	if !f.Plain() || parsed(t, "a:"+bcryptHash).Plain() {
		t.Error("plain")
	}
}

func TestErrors(t *testing.T) {
	ok := "a:" + bcryptHash
	for text, want := range map[string]string{
		"alice":                 "line 1: not user:secret",
		"\nalice:secret":        "line 2: user 'alice': not a password hash",
		":" + bcryptHash:        "line 1: name of a user",
		"a b:" + bcryptHash:     "line 1: not the name of a user",
		ok + "\nA:" + argonHash: "line 2: user 'a' is there twice",
		ok + ":more":            "line 1: user 'a': bcrypt hash: incomplete",
		ok + " " + bcryptHash:   "line 1: user 'a': a password hash is there twice",
		ok + " secret=":         "line 1: user 'a': 'secret' has no value",
		ok + " x=1 x=1":         "line 1: user 'a': 'x' is there twice",
		ok + " name=a name=b":   "line 1: user 'a': a name is there twice",
		ok + " name=.a":         "line 1: user 'a': name of a secret",
		ok + " created=today":   "line 1: user 'a': created is not a time",
		ok + " address=nobody@": "line 1: user 'a': 'nobody@' is neither an address",
		ok + " address=*@-":     "line 1: user 'a': '*@-' is neither an address",
		ok + "\na: name=x":      "line 2: user 'a': a name or a time of creation without a secret",
		ok + "\nb: x=1":         "line 2: user 'b' has no secret",
		ok + " x=1\na: x=2":     "line 2: user 'a' has two values for 'x'",
		ok + "\na:" + ok[2:] + " name=p\na:" + ok[2:] + " name=p": "line 3: user 'a' has two secrets named 'p'",
		ok + "\n\xff": "not UTF-8",
		" " + ok:      "line 1: continues nothing",
		strings.Repeat("a:"+bcryptHash+" name=%\n", 102): "more than 100 secrets",
	} {
		n := 0
		for strings.Contains(text, "%") {
			n++
			text = strings.Replace(text, "%", fmt.Sprint("n", n), 1)
		}
		_, err := Parse([]byte(text))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret\"") {
			t.Errorf("%.80q: %v, want %s", text, err, want)
		}
	}
	if _, err := Parse([]byte("alice:hunter2")); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Error(err)
	}
}

func secret(t testing.TB, text, name string) login.Secret {
	t.Helper()
	s, err := login.ParseSecret(text)
	if err != nil {
		t.Fatal(err)
	}
	s.Name = name
	return s
}

// TestEdit: what is not concerned stays as it is, to the octet.
func TestEdit(t *testing.T) {
	const before = "# staff\nalice:" + bcryptHash + " dept=sales # no comment\n"
	if _, err := Parse([]byte(before)); err == nil {
		t.Error("a comment at the end of a line is taken") // as it could be a secret
	}
	text := "# staff\nAlice:" + bcryptHash + " dept=sales\n  # of old\n  created=2020-01-01T00:00:00Z\n\n# bob's\nbob:" + bcryptHash + "\n# end"
	for name, tt := range map[string]struct {
		do   func(f *File) error
		want string
	}{
		"add": {
			func(f *File) error {
				return f.Add("carol", secret(t, argonHash, ""), noon, []string{"c@example.org", "*@example.net"})
			},
			text + "\ncarol:" + argonHash + " created=2026-11-25T12:00:00Z address=c@example.org address=*@example.net\n",
		},
		"add an app password": {
			func(f *File) error { return f.Add("alice", secret(t, argonHash, "phone"), noon, nil) },
			strings.Replace(text, "00:00:00Z\n", "00:00:00Z\nalice:"+argonHash+" name=phone created=2026-11-25T12:00:00Z\n", 1) + "\n",
		},
		"replace": {
			func(f *File) error { return f.Replace("alice", secret(t, argonHash+" "+scramKeys, ""), noon) },
			"# staff\nAlice:" + argonHash + " " + scramKeys + " dept=sales created=2026-11-25T12:00:00Z\n  # of old\n\n# bob's\nbob:" + bcryptHash + "\n# end\n",
		},
		"replace without a time": {
			func(f *File) error { return f.Replace("bob", secret(t, argonHash, ""), noon) },
			strings.Replace(text, "bob:"+bcryptHash, "bob:"+argonHash+" created=2026-11-25T12:00:00Z", 1) + "\n",
		},
		"delete": {
			func(f *File) error { return f.Delete("alice") },
			"# staff\n  # of old\n\n# bob's\nbob:" + bcryptHash + "\n# end",
		},
		"revoke": {
			func(f *File) error {
				return errors.Join(f.Add("bob", secret(t, argonHash, "tv"), noon, nil), f.Add("bob", secret(t, argonHash, "car"), noon, []string{"b@example.org"}),
					f.Revoke("bob", "tv"), f.Revoke("bob", "car"))
			},
			strings.Replace(text, "\n# end", "\nbob: address=b@example.org\n# end\n", 1),
		},
	} {
		f := parsed(t, text)
		if err := tt.do(f); err != nil {
			t.Errorf("%s: %v", name, err)
		} else if got := string(f.Bytes()); got != tt.want {
			t.Errorf("%s:\n%s\nwant\n%s", name, got, tt.want)
		}
	}
	crlf := parsed(t, "a:"+bcryptHash+"\r\n")
	if err := crlf.Add("b", secret(t, bcryptHash, ""), noon, nil); err != nil || strings.Count(string(crlf.Bytes()), "\r\n") != 2 {
		t.Errorf("%v %q", err, crlf.Bytes())
	}
	empty := parsed(t, "")
	if err := empty.Add("b", secret(t, bcryptHash, ""), noon, nil); err != nil || len(empty.Entries) != 1 {
		t.Error(err)
	}
}

func TestEditErrors(t *testing.T) {
	f := parsed(t, "a:"+bcryptHash+"\na:"+bcryptHash+" name=tv\n")
	was := string(f.Bytes())
	s, tv := secret(t, bcryptHash, ""), secret(t, bcryptHash, "tv")
	for want, err := range map[string]error{
		"user 'a' is there already":                f.Add("a", s, noon, nil),
		"secret 'tv' of user 'a' is there already": f.Add("a", tv, noon, nil),
		"a colon":                    f.Add("b:c", s, noon, nil),
		"begins with #":              f.Add("#b", s, noon, nil),
		"without a secret":           f.Add("b", login.Secret{}, noon, nil),
		"neither an address":         f.Add("b", s, noon, []string{"x"}),
		"'b': there is no such user": f.Replace("b", s, noon),
		"no secret of that name":     f.Replace("a", secret(t, bcryptHash, "x"), noon),
		"'c': there is no such user": f.Delete("c"),
		"has no secret 'x'":          f.Revoke("a", "x"),
		"has no secret ''":           f.Revoke("a", ""),
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	if string(f.Bytes()) != was {
		t.Error("changed by an edit that failed")
	}
}

// TestNewSecret: whatever it makes opens with the password, and all secrets of a
// user share a salt for SCRAM.
func TestNewSecret(t *testing.T) {
	f := new(File)
	for _, form := range []Form{{Algorithm: "argon2id"}, {Algorithm: "argon2id", NoSCRAM: true}, {Algorithm: "argon2id", Plain: true}} {
		s, err := f.NewSecret("a", "", "päßwörd", form)
		if err == nil {
			t.Error("7 characters are taken")
		}
		if s, err = f.NewSecret("a", "", "páßwörd ☃", form); err != nil {
			t.Fatal(err)
		}
		if (len(s.SCRAM) == 0) != form.NoSCRAM || (s.Plain != "") != form.Plain || !strings.HasPrefix(s.Hash, "$argon2id$") {
			t.Errorf("%+v: %v", form, s.Forms())
		}
		if len(s.SCRAM) > 0 && !s.SCRAM[0].Match("páßwörd ☃") {
			t.Error("keys are those of another password")
		}
		if back, err := login.ParseSecret(s.Text()); err != nil || back.Plain != s.Plain {
			t.Error(err)
		}
	}
	first, err := f.NewSecret("a", "", "correct horse", Form{Algorithm: "argon2id"})
	if err != nil || f.Add("a", first, noon, nil) != nil {
		t.Fatal(err)
	}
	second, err := f.NewSecret("a", "tv", NewPassword(), Form{Algorithm: "argon2id"})
	if err != nil || string(second.SCRAM[0].Salt) != string(first.SCRAM[0].Salt) {
		t.Error("another salt", err)
	}
	again, err := f.NewSecret("a", "", "correct horse", Form{Algorithm: "argon2id"})
	if err != nil || string(again.SCRAM[0].Salt) == string(first.SCRAM[0].Salt) {
		t.Error("the only secret keeps its salt", err)
	}
	for _, tt := range []struct{ password, algorithm, want string }{
		{"short", "argon2id", "too short"}, {"long enough", "md5", "no algorithm 'md5'"}, {strings.Repeat("x", 73), "bcrypt", "no more than 72"},
		{strings.Repeat("x", 2000), "argon2id", "1024"},
	} {
		if _, err := f.NewSecret("a", "", tt.password, Form{Algorithm: tt.algorithm}); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v, want %s", err, tt.want)
		}
	}
	if a, b := NewPassword(), NewPassword(); a == b || len(a) != 23 {
		t.Error(a, b)
	}
}

// TestEditFile: one step, mode kept, through a link, and nobody's edit lost.
func TestEditFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "users")
	if err := Edit(path, false, func(*File) error { return nil }); !os.IsNotExist(err) {
		t.Error(err)
	}
	if err := os.WriteFile(path, []byte("# mine\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink("users", link); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			err := Edit(link, true, func(f *File) error { return f.Add(fmt.Sprint("user", i), secret(t, bcryptHash, ""), noon, nil) })
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	b, err := os.ReadFile(path)
	if err != nil || !strings.HasPrefix(string(b), "# mine\n") || len(parsed(t, string(b)).Entries) != 20 {
		t.Errorf("%v\n%s", err, b)
	}
	info, _ := os.Lstat(link)
	target, _ := os.Stat(path)
	if info.Mode()&os.ModeSymlink == 0 || target.Mode().Perm() != 0o640 {
		t.Error(info.Mode(), target.Mode())
	}
	boom := errors.New("boom")
	if err := Edit(path, false, func(f *File) error { _ = f.Delete("user1"); return boom }); !errors.Is(err, boom) {
		t.Error(err)
	}
	if now, _ := os.ReadFile(path); string(now) != string(b) {
		t.Error("changed by an edit that failed")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".users*")); len(left) > 0 {
		t.Error(left)
	}
	if err := os.WriteFile(path, []byte("alice\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := Edit(path, false, func(f *File) error { return nil }); err == nil || !strings.Contains(err.Error(), path+": line 1: not user:secret") {
		t.Error(err)
	}
	fresh := filepath.Join(dir, "fresh")
	for _, what := range []error{boom, nil} {
		if err := Edit(fresh, true, func(*File) error { return what }); !errors.Is(err, what) {
			t.Error(err)
		}
		if _, err := os.Stat(fresh); !os.IsNotExist(err) {
			t.Error("an edit of which nothing came has left a file")
		}
	}
	if err := Edit(fresh, true, func(f *File) error { return f.Add("a", secret(t, bcryptHash, ""), noon, nil) }); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(fresh); err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info.Mode(), err)
	}
}

// TestEditThroughLink: the file that a link names is made, or is not, and the
// link stays; of those who wait for a file, none writes into one that is gone.
func TestEditThroughLink(t *testing.T) {
	dir := t.TempDir()
	path, link := filepath.Join(dir, "users"), filepath.Join(dir, "link")
	if err := os.Symlink("users", link); err != nil {
		t.Fatal(err)
	}
	boom := errors.New("boom")
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			err := Edit(link, true, func(f *File) error {
				if i%2 == 0 {
					return boom
				}
				return f.Add(fmt.Sprint("user", i), secret(t, bcryptHash, ""), noon, nil)
			})
			if (i%2 == 0) != errors.Is(err, boom) || i%2 == 1 && err != nil {
				t.Error(i, err)
			}
		})
	}
	wg.Wait()
	b, err := os.ReadFile(path)
	if err != nil || len(parsed(t, string(b)).Entries) != 20 {
		t.Errorf("%v\n%s", err, b)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Error("the link is gone")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*users*")); len(left) != 1 {
		t.Error(left)
	}
}

func TestCheckMode(t *testing.T) {
	for _, tt := range []struct {
		mode  os.FileMode
		plain bool
		want  string
	}{
		{0o600, true, "<nil>"}, {0o660, true, "<nil>"}, {0o644, true, "everybody may read the passwords in it (mode 0644)"},
		{0o644, false, "everybody may read the hashes in it (mode 0644)<nil>"}, {0o602, false, "everybody may write it (mode 0602)"},
	} {
		warning, err := CheckMode(tt.mode, tt.plain)
		if got := fmt.Sprint(warning, err); got != tt.want {
			t.Errorf("%o %v: %s", tt.mode, tt.plain, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("a:" + bcryptHash + " name=x address=a@b.example\n b=c\n# d\n e=f\nb:" + scramKeys)
	f.Fuzz(func(t *testing.T, text string) {
		p, err := Parse([]byte(text))
		if err != nil {
			return
		}
		if string(p.Bytes()) != text {
			t.Errorf("%q becomes %q", text, p.Bytes())
		}
		n := len(p.Entries)
		if p.Add("somebody-new", secret(t, bcryptHash, ""), noon, nil) == nil && len(p.Entries) != n+1 {
			t.Errorf("%q: %d entries, then %d", text, n, len(p.Entries))
		}
		if p.find("somebody-new", "") != nil && p.Delete("somebody-new") != nil {
			t.Error("cannot be deleted")
		}
		for _, e := range p.Entries {
			if err := p.Delete(e.User); err != nil {
				break
			}
		}
	})
}

func FuzzUses(f *testing.F) {
	f.Add([]byte("alice phone 2026-11-26T00:00:00Z\nbob 2026-11-26T00:00:00Z\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		uses, err := parseUses(b)
		if err != nil {
			return
		}
		for u := range uses {
			if u.User == "" || strings.ContainsAny(u.User+u.Name, " \t\r\n") {
				t.Errorf("%q: %+v", b, u)
			}
		}
	})
}
