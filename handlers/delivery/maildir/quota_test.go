//go:build unix

package maildir

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddymail/caddy-smtp/smtpapp/mda"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

// got delivers to a@b.test and returns the status.
func got(t testing.TB, a *Agent, id string) string {
	t.Helper()
	s := a.Deliver(t.Context(), delivery(t, id, "a@b.test"))
	if len(s) != 1 {
		t.Fatal(s)
	}
	return fmt.Sprintf("%s %d %s", s[0].Action, s[0].Reply.Code, s[0].Reply.Enh)
}

const ok = "delivered 250 2.0.0"

// messageSize is that of the message of delivery, as it is delivered.
const messageSize = int64(len("Return-Path: <bob@far.test>\nDelivered-To: a@b.test\nSubject: hi\n\none\ntwo\n"))

func TestQuota(t *testing.T) {
	for _, later := range []bool{false, true} {
		a, dir := agent(t, "DIR/box", func(a *Agent) { a.Quota, a.QuotaLater = 2*messageSize+5, later })
		must(t, a.Validate())
		for i, want := range []string{ok, ok, map[bool]string{false: "failed 552 5.2.2", true: "delayed 452 4.2.2"}[later]} {
			if got := got(t, a, fmt.Sprint("q", i)); got != want {
				t.Errorf("message %d: %s, want %s", i, got, want)
			}
		}
		if left := files(t, dir+"/box/tmp"); len(left) > 0 || len(files(t, dir+"/box/new")) != 2 {
			t.Errorf("left %q", left)
		}
		b, err := os.ReadFile(dir + "/box/maildirsize")
		if want := fmt.Sprintf("%dS\n0 0\n%d 1\n%d 1\n", 2*messageSize+5, messageSize, messageSize); err != nil || string(b) != want {
			t.Errorf("%q, %v, want %q", b, err, want)
		}
		// A reader deletes one: once the file is old, that is noticed.
		must(t, os.Remove(files(t, dir+"/box/new")[0]))
		if got := got(t, a, "q4"); got == ok {
			t.Error("the file was not believed")
		}
		old := time.Now().Add(-time.Hour)
		must(t, os.Chtimes(dir+"/box/maildirsize", old, old))
		if got := got(t, a, "q5"); got != ok {
			t.Error("there is room again:", got)
		}
	}
}

func TestQuotaOfMessages(t *testing.T) {
	a, dir := agent(t, "DIR/box", func(a *Agent) { a.QuotaMessages, a.TagFolders = 3, tagsExisting })
	for _, d := range []string{"/box/.lists/cur", "/box/.Trash/cur", "/box/cur"} {
		must(t, os.MkdirAll(dir+d, 0o700))
		must(t, os.WriteFile(dir+d+"/1.x.h,S=1000:2,S", []byte("x"), 0o600))
	}
	if got := got(t, a, "q1"); got != ok {
		t.Error(got)
	}
	if got := got(t, a, "q2"); got != "failed 552 5.2.2" {
		t.Error(got)
	}
	b, err := os.ReadFile(dir + "/box/maildirsize")
	if want := fmt.Sprintf("3C\n2000 2\n%d 1\n", messageSize); err != nil || string(b) != want {
		t.Errorf("%q, %v, want %q", b, err, want)
	}
}

// TestStrangeSizeFile: whatever its owner makes of the file, mail arrives.
func TestStrangeSizeFile(t *testing.T) {
	for name, make := range map[string]func(path string) error{
		"nonsense":       func(p string) error { return os.WriteFile(p, []byte("nonsense"), 0o600) },
		"other quota":    func(p string) error { return os.WriteFile(p, []byte("9S\n99999999 1\n"), 0o600) },
		"negative":       func(p string) error { return os.WriteFile(p, []byte("10000S\n-5 1\n"), 0o600) },
		"not numbers":    func(p string) error { return os.WriteFile(p, []byte("10000S\n1 x\n"), 0o600) },
		"three words":    func(p string) error { return os.WriteFile(p, []byte("10000S\n1 2 3\n"), 0o600) },
		"long":           func(p string) error { return os.WriteFile(p, []byte("10000S\n"+strings.Repeat("0 0\n", 5000)), 0o600) },
		"pipe":           func(p string) error { return syscall.Mkfifo(p, 0o600) },
		"link":           func(p string) error { return os.Symlink("/etc/passwd", p) },
		"link to itself": func(p string) error { return os.Symlink("maildirsize", p) },
	} {
		a, dir := agent(t, "DIR/box", func(a *Agent) { a.Quota = 10000 })
		must(t, os.Mkdir(dir+"/box", 0o700))
		must(t, make(dir+"/box/maildirsize"))
		if got := got(t, a, "q1"); got != ok {
			t.Errorf("%s: %s", name, got)
		}
		b, err := os.ReadFile(dir + "/box/maildirsize")
		if want := fmt.Sprintf("10000S\n0 0\n%d 1\n", messageSize); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
}

func FuzzSizeFile(f *testing.F) {
	f.Add("10S,3C\n1 1\n-1 -1\n")
	q := &quota{bytes: 10, count: 3}
	f.Fuzz(func(t *testing.T, s string) {
		if u, ok := q.parse([]byte(s)); ok && (u.bytes < 0 || u.count < 0 || !strings.HasPrefix(s, "10S,3C")) {
			t.Errorf("%q: %+v", s, u)
		}
	})
}

// TestTagFolders: which tags have which folder.
func TestTagFolders(t *testing.T) {
	for _, tc := range []struct{ mode, to, tag, folder string }{
		{tagsExisting, "al@b.test", "lists", ".lists"}, {tagsExisting, "al+lists@b.test", "", ".lists"}, {tagsExisting, "al@b.test", "LISTS", ".lists"},
		{tagsExisting, "al@b.test", "other", ""}, {tagsCreate, "al@b.test", "other", ".other"}, {tagsCreate, "al@b.test", "lists.sub", ".lists.sub"},
		{"", "al@b.test", "lists", ""}, {tagsCreate, "al@b.test", "", ""}, {tagsExisting, "al@b.test", "file", ""}, {tagsExisting, "al@b.test", "out", ""},
		{tagsCreate, "al@b.test", "..", ""}, {tagsCreate, "al@b.test", ".x", ""}, {tagsCreate, "al@b.test", "x.", ""}, {tagsCreate, "al@b.test", "x..y", ""},
		{tagsCreate, "al@b.test", "a/b", ""}, {tagsCreate, "al@b.test", "a b", ""}, {tagsCreate, "al@b.test", "ü", ""}, {tagsCreate, "al@b.test", "a&b", ""}, {tagsCreate, "al@b.test", strings.Repeat("x", 65), ""},
	} {
		a, dir := agent(t, "DIR/box", func(a *Agent) { a.TagFolders = tc.mode })
		must(t, a.Validate())
		must(t, os.MkdirAll(dir+"/box/.lists", 0o700))
		must(t, os.WriteFile(dir+"/box/.file", nil, 0o600))
		must(t, os.Mkdir(dir+"/outside", 0o700))
		must(t, os.Symlink("../outside", dir+"/box/.out"))
		d := delivery(t, "q1", tc.to)
		d.Envelope.Recipients[0].Tag = tc.tag
		check(t, a.Deliver(t.Context(), d), queue.Delivered)
		if in := files(t, filepath.Join(dir, "box", tc.folder, "new")); len(in) != 1 {
			t.Errorf("%+v: not there", tc)
		}
		if _, err := os.Stat(filepath.Join(dir, "box", tc.folder, "maildirfolder")); tc.folder != "" && err != nil {
			t.Errorf("%+v: %v", tc, err)
		}
		if left := files(t, dir+"/outside"); len(left) > 0 {
			t.Errorf("%+v: outside: %q", tc, left)
		}
		d.Attempt = 2
		check(t, a.Deliver(t.Context(), d), queue.Delivered)
		if in := files(t, filepath.Join(dir, "box", tc.folder, "new")); len(in) != 1 {
			t.Errorf("%+v: there %d times", tc, len(in))
		}
	}
}

func TestOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	a, dir := agent(t, "DIR/mail/{smtp.rcpt.local}", func(a *Agent) {
		a.Owner, a.Group, a.Mode, a.TagFolders, a.Quota = "nobody", "mail", "0640", tagsCreate, 1<<20
	})
	must(t, a.Start())
	d := delivery(t, "q1", "a@b.test")
	d.Envelope.Recipients[0].Tag = "x"
	check(t, a.Deliver(t.Context(), d), queue.Delivered)
	o, err := mda.LookupOwner("nobody", "mail")
	must(t, err)
	n := 0
	must(t, filepath.WalkDir(dir+"/mail", func(p string, e fs.DirEntry, err error) error {
		must(t, err)
		st, err := e.Info()
		must(t, err)
		want := fs.FileMode(0o640)
		if e.IsDir() {
			want = 0o750
		}
		if s := st.Sys().(*syscall.Stat_t); int(s.Uid) != o.UID || int(s.Gid) != o.GID || st.Mode().Perm() != want {
			t.Errorf("%s: %d %d %v", p, s.Uid, s.Gid, st.Mode())
		}
		n++
		return nil
	}))
	if n != 12 { // mail, a, and in both it and .x cur, new, tmp; .x, maildirfolder, maildirsize, the message
		t.Errorf("%d files and directories", n)
	}
}

func TestOptionErrors(t *testing.T) {
	for want, a := range map[string]*Agent{
		"tag_folders 'x'": {Path: "/m", TagFolders: "x"}, "quota is negative": {Path: "/m", Quota: -1}, "quota_later is for": {Path: "/m", QuotaLater: true},
		"a group is for": {Path: "/m", Group: "mail"}, "there is no user": {Path: "/m", Owner: "no-such-user"}, "there is no group": {Path: "/m", Owner: "nobody", Group: "no-such-group"},
	} {
		err := a.Provision(caddy.Context{Context: t.Context()})
		if err == nil {
			err = a.Validate()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %s", a, err, want)
		}
	}
}
