//go:build linux

package mbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/mda"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

// agent returns an agent for path, "DIR" in which is a new directory.
func agent(t testing.TB, path string, change ...func(*Agent)) (a *Agent, dir string) {
	t.Helper()
	dir = t.TempDir()
	a = &Agent{Path: strings.ReplaceAll(path, "DIR", dir)}
	for _, c := range change {
		c(a)
	}
	must(t, a.Provision(caddy.Context{Context: context.Background()}))
	must(t, a.Validate())
	return a, dir
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// delivery is that of a message, queued at a fixed time.
func delivery(t testing.TB, id string, to ...string) *queue.Delivery {
	t.Helper()
	m, err := message.Parse([]byte("Return-Path: <forged@x.test>\r\nX-Delivery-Id: forged\r\nSubject: hi\r\n\r\none\r\nFrom two\r\n>From three\r\n"))
	must(t, err)
	env := &mail.Envelope{From: mail.Address{Local: "bob", Domain: "far.test"}}
	for _, s := range to {
		a, err := mail.ParseAddress(s)
		must(t, err)
		env.Recipients = append(env.Recipients, mail.NewRecipient(a))
	}
	return &queue.Delivery{ID: id, Envelope: env, Content: m, Attempt: 1, Queued: time.Now().Add(time.Hour), Log: slog.New(slog.DiscardHandler)}
}

// one delivers to one recipient and returns "action code".
func one(t testing.TB, a *Agent, d *queue.Delivery) string {
	t.Helper()
	got := a.Deliver(t.Context(), d)
	if len(got) != 1 {
		t.Fatalf("%d statuses", len(got))
	}
	return fmt.Sprintf("%s %d %s", got[0].Action, got[0].Reply.Code, got[0].Reply.Enh)
}

const delivered = "delivered 250 2.0.0"

func read(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return string(b)
}

// text is the message as an mbox has it.
func text(d *queue.Delivery, to, quote string) string {
	a, _ := mail.ParseAddress(to)
	it := newItem(d, a, a, quote)
	return it.first + it.id + "\nReturn-Path: <bob@far.test>\nDelivered-To: " + to + "\nSubject: hi\n\none\n>From two\n" + map[string]string{quoteRD: ">", quoteO: ""}[quote] + ">From three\n\n"
}

func TestDelivers(t *testing.T) {
	for _, quote := range []string{quoteRD, quoteO} {
		a, dir := agent(t, "DIR/mail/{smtp.rcpt.domain}/{smtp.rcpt.local}", func(a *Agent) { a.Quote = quote })
		d1, d2 := delivery(t, "q1", "alice@b.test"), delivery(t, "q2", "alice@b.test")
		if got := one(t, a, d1); got != delivered {
			t.Fatal(got)
		}
		if got := one(t, a, d2); got != delivered {
			t.Fatal(got)
		}
		file := dir + "/mail/b.test/alice"
		if got, want := read(t, file), text(d1, "alice@b.test", quote)+text(d2, "alice@b.test", quote); got != want {
			t.Errorf("got %q\nwant %q", got, want)
		}
		for p, want := range map[string]fs.FileMode{file: 0o600, dir + "/mail/b.test": 0o700, dir + "/mail": 0o700} {
			if st, err := os.Stat(p); err != nil || st.Mode().Perm() != want {
				t.Errorf("%s: %v, %v; want %v", p, st.Mode(), err, want)
			}
		}
	}
}

// TestOpenLine: what somebody else has left open is ended first.
func TestOpenLine(t *testing.T) {
	for before, gap := range map[string]string{"": "", "x": "\n\n", "x\n": "\n", "x\n\n": "", "\n": "\n"} {
		a, dir := agent(t, "DIR/box")
		must(t, os.WriteFile(dir+"/box", []byte(before), 0o600))
		d := delivery(t, "q1", "a@b.test")
		if got := one(t, a, d); got != delivered {
			t.Fatal(got)
		}
		if got, want := read(t, dir+"/box"), before+gap+text(d, "a@b.test", quoteRD); got != want {
			t.Errorf("after %q: %q", before, got)
		}
	}
}

// TestCrashPoints: wherever an attempt broke off, the next one makes a whole of
// it, and one only.
func TestCrashPoints(t *testing.T) {
	a, dir := agent(t, "DIR/box")
	for _, before := range []string{"", "From x@y.test Thu Jan  1 00:00:00 1970\nSubject: old\n\nold\n\n"} {
		d := delivery(t, "q1", "a@b.test")
		d.Attempt = 2
		whole := text(d, "a@b.test", quoteRD)
		for n := 0; n <= len(whole); n++ {
			must(t, os.WriteFile(dir+"/box", []byte(before+whole[:n]), 0o600))
			if got := one(t, a, d); got != delivered {
				t.Fatal(n, got)
			}
			if got := read(t, dir+"/box"); got != before+whole {
				t.Fatalf("broken off after %d of %d: %q", n, len(whole), got)
			}
		}
	}
}

// TestRepeats: what was delivered is found, also when readers have been there.
func TestRepeats(t *testing.T) {
	a, dir := agent(t, "DIR/box")
	d := delivery(t, "q1", "a@b.test")
	d.Attempt = 2
	whole := text(d, "a@b.test", quoteRD)
	other := "From x@y.test Thu Jan  1 00:00:00 1970\nSubject: other\n\n" + newItem(d, d.Envelope.Recipients[0].Address, d.Envelope.Recipients[0].Address, quoteRD).id + "\n\n"
	for before, again := range map[string]bool{
		whole:         false,
		whole + other: false,
		other + whole: false,
		other:         true, // the id stands in a body
		"":            true,
		strings.Replace(whole, "Subject", "Status: RO\nSubject", 1):                false,
		strings.Replace(whole, "Subject", "Status: RO\nSubject", 1) + other:        false,
		strings.Replace(whole, "one\n", "", 1):                                     true, // something is missing
		strings.Replace(whole, "Subject", "Status: RO\nSubject", 1)[:len(whole)-9]: true,
		whole[:len(whole)-20] + "\n\n" + other:                                     true, // it broke off, and another program went on
	} {
		must(t, os.WriteFile(dir+"/box", []byte(before), 0o600))
		if got := one(t, a, d); got != delivered {
			t.Fatal(got)
		}
		got := read(t, dir+"/box")
		if !strings.HasPrefix(got, before) || (got != before) != again || again && !strings.HasSuffix(got, whole) {
			t.Errorf("with %q: %q", before, got)
		}
	}
	// Another recipient, and another message, are not the same.
	must(t, os.WriteFile(dir+"/box", []byte(whole), 0o600))
	d2 := delivery(t, "q1", "b@b.test")
	d2.Attempt = 2
	if one(t, a, d2); read(t, dir+"/box") != whole+text(d2, "b@b.test", quoteRD) {
		t.Error(read(t, dir+"/box"))
	}
}

// TestDamagedContent: what cannot be read to its end is taken back.
func TestDamagedContent(t *testing.T) {
	a, dir := agent(t, "DIR/box")
	body := strings.Repeat("x\r\n", 100000)
	must(t, os.WriteFile(dir+"/body", []byte(body), 0o600))
	must(t, os.WriteFile(dir+"/box", []byte("before\n\n"), 0o600))
	d := delivery(t, "q1", "a@b.test")
	d.Content = message.New(d.Content.Header, message.OpenBody(dir+"/body", int64(len(body)), "none"))
	for d.Attempt = 1; d.Attempt < 3; d.Attempt++ {
		if got := one(t, a, d); got != "delayed 451 4.3.0" {
			t.Error(got)
		}
		if got := read(t, dir+"/box"); got != "before\n\n" {
			t.Errorf("left %d octets", len(got))
		}
	}
}

// TestDiskFull needs to mount a file system.
func TestDiskFull(t *testing.T) {
	a, dir := agent(t, "DIR/box")
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=64k,nr_inodes=64", "tmpfs", dir).CombinedOutput(); err != nil {
		t.Skipf("cannot mount a tmpfs: %v, %s", err, out)
	}
	t.Cleanup(func() { must(t, exec.Command("umount", dir).Run()) })
	first := delivery(t, "q0", "a@b.test")
	if got := one(t, a, first); got != delivered {
		t.Fatal(got)
	}
	was := read(t, dir+"/box")
	d := delivery(t, "q1", "a@b.test")
	d.Content = message.New(d.Content.Header, message.NewBody([]byte(strings.Repeat("x\r\n", 50000))))
	if got := one(t, a, d); got != "delayed 452 4.3.1" {
		t.Error(got)
	}
	if got := read(t, dir+"/box"); got != was {
		t.Errorf("%d octets are left of a message", len(got)-len(was))
	}
	if got := one(t, a, delivery(t, "q2", "a@b.test")); got != delivered {
		t.Error("there is room again:", got)
	}
}

// TestLinksLeadNowhere: nothing but a plain file with one name gets mail.
func TestLinksLeadNowhere(t *testing.T) {
	for name, prepare := range map[string]func(dir string) error{
		"link to a neighbour": func(dir string) error { return os.Symlink("victim", dir+"/mail/a") },
		"link to outside":     func(dir string) error { return os.Symlink("../victim", dir+"/mail/a") },
		"absolute link":       func(dir string) error { return os.Symlink(dir+"/victim", dir+"/mail/a") },
		"dangling link":       func(dir string) error { return os.Symlink("new", dir+"/mail/a") },
		"hard link":           func(dir string) error { return os.Link(dir+"/mail/victim", dir+"/mail/a") },
		"directory":           func(dir string) error { return os.Mkdir(dir+"/mail/a", 0o700) },
		"pipe":                func(dir string) error { return syscall.Mkfifo(dir+"/mail/a", 0o600) },
	} {
		a, dir := agent(t, "DIR/mail/{smtp.rcpt.local}")
		must(t, os.Mkdir(dir+"/mail", 0o700))
		for _, v := range []string{"/victim", "/mail/victim"} {
			must(t, os.WriteFile(dir+v, nil, 0o600))
		}
		must(t, prepare(dir))
		if got := one(t, a, delivery(t, "q1", "a@b.test")); got != "delayed 451 4.2.0" {
			t.Errorf("%s: %s", name, got)
		}
		for _, v := range []string{"/victim", "/mail/victim"} {
			if read(t, dir+v) != "" {
				t.Errorf("%s: delivered to %s", name, v)
			}
		}
		if _, err := os.Stat(dir + "/mail/new"); err == nil {
			t.Errorf("%s: made a file", name)
		}
	}
	// A directory on the way that leads elsewhere.
	a, dir := agent(t, "DIR/mail/{smtp.rcpt.local}/box")
	must(t, os.MkdirAll(dir+"/mail", 0o700))
	must(t, os.Symlink(dir, dir+"/mail/a"))
	if got := one(t, a, delivery(t, "q1", "a@b.test")); got != "delayed 451 4.2.0" {
		t.Error(got)
	}
	if _, err := os.Stat(dir + "/box"); err == nil {
		t.Error("delivered outside")
	}
}

// TestLocks: no two at a time, of this process or another.
func TestLocks(t *testing.T) {
	a, dir := agent(t, "DIR/box", func(a *Agent) { a.LockTimeout = caddy.Duration(2 * time.Second) })
	must(t, os.WriteFile(dir+"/box", nil, 0o600))
	cmd := exec.Command("python3", "-c", `
import fcntl, sys
f = open(sys.argv[1], "r+")
fcntl.lockf(f, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()`, dir+"/box")
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	if err := cmd.Start(); err != nil {
		t.Skipf("python3: %v", err)
	}
	if _, err := out.Read(make([]byte, 7)); err != nil {
		t.Fatal(err)
	}
	if got := one(t, a, delivery(t, "q1", "a@b.test")); got != "delayed 451 4.2.0" {
		t.Error(got)
	}
	if read(t, dir+"/box") != "" {
		t.Error("wrote to a locked file")
	}
	must(t, in.Close())
	must(t, cmd.Wait())
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			a2 := *a // a configuration beside it
			a2.LockTimeout = caddy.Duration(time.Minute)
			if got := one(t, &a2, delivery(t, fmt.Sprint("q", i), "a@b.test")); got != delivered {
				t.Error(got)
			}
		})
	}
	wg.Wait()
	if got, want := read(t, dir+"/box"), len(text(delivery(t, "q1", "a@b.test"), "a@b.test", quoteRD)); len(got) != 20*want || strings.Count("\n"+got, "\n\nFrom ")+1 != 20 {
		t.Errorf("%d octets, want %d", len(got), 20*want)
	}
}

func TestDotlock(t *testing.T) {
	a, dir := agent(t, "DIR/box", func(a *Agent) { a.Dotlock, a.LockTimeout = true, caddy.Duration(time.Second) })
	must(t, os.WriteFile(dir+"/box.lock", []byte("1"), 0o600))
	if got := one(t, a, delivery(t, "q1", "a@b.test")); got != "delayed 451 4.2.0" {
		t.Error(got)
	}
	if _, err := os.Stat(dir + "/box"); err == nil {
		t.Error("wrote to a locked file")
	}
	old := time.Now().Add(-2 * staleAfter)
	must(t, os.Chtimes(dir+"/box.lock", old, old))
	if got := one(t, a, delivery(t, "q1", "a@b.test")); got != delivered {
		t.Error(got)
	}
	if _, err := os.Stat(dir + "/box.lock"); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the lock is left behind:", err)
	}
}

// TestReplaced: a file that another program has put in the place of what was
// opened is the mailbox.
func TestReplaced(t *testing.T) {
	a, dir := agent(t, "DIR/box")
	root, err := os.OpenRoot(dir)
	must(t, err)
	defer mda.Shut(root)
	must(t, os.WriteFile(dir+"/box", nil, 0o600))
	f, err := a.open(root, "box")
	must(t, err)
	must(t, os.WriteFile(dir+"/new", nil, 0o600))
	must(t, os.Rename(dir+"/new", dir+"/box"))
	if err := f.still("box"); !errors.Is(err, errMoved) {
		t.Error(err)
	}
	must(t, f.Close())
}

func TestOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	a, dir := agent(t, "DIR/mail/{smtp.rcpt.local}", func(a *Agent) { a.Owner, a.Group, a.Mode = "nobody", "mail", "0660" })
	must(t, a.Start())
	if got := one(t, a, delivery(t, "q1", "a@b.test")); got != delivered {
		t.Fatal(got)
	}
	o, err := mda.LookupOwner("nobody", "mail")
	must(t, err)
	for p, mode := range map[string]fs.FileMode{dir + "/mail": 0o770, dir + "/mail/a": 0o660} {
		st, err := os.Stat(p)
		must(t, err)
		if s := st.Sys().(*syscall.Stat_t); int(s.Uid) != o.UID || int(s.Gid) != o.GID || st.Mode().Perm() != mode {
			t.Errorf("%s: %d %d %v", p, s.Uid, s.Gid, st.Mode())
		}
	}
}

func TestVerify(t *testing.T) {
	a, dir := agent(t, "DIR/mail/{smtp.rcpt.local}")
	verify := func(local string) int {
		err := a.Verify(t.Context(), mail.Address{Local: local, Domain: "b.test"})
		if err == nil {
			return 250
		}
		return mail.ReplyFor(err).Code
	}
	if got := verify("a"); got != 451 {
		t.Error("no store:", got)
	}
	must(t, os.Mkdir(dir+"/mail", 0o700))
	must(t, os.WriteFile(dir+"/mail/a", nil, 0o600))
	must(t, os.Symlink("a", dir+"/mail/link"))
	for local, want := range map[string]int{"a": 250, "A": 250, "b": 550, "link": 550, "..": 550, ".": 550} {
		if got := verify(local); got != want {
			t.Errorf("%s: %d, want %d", local, got, want)
		}
	}
	if a.Create = true; verify("b") != 250 {
		t.Error("create")
	}
	// One file for all.
	all, dir := agent(t, "DIR/all")
	if err := all.Verify(t.Context(), mail.Address{Local: "x", Domain: "b.test"}); mail.ReplyFor(err).Code != 550 {
		t.Error(err)
	}
	must(t, os.WriteFile(dir+"/all", nil, 0o600))
	if err := all.Verify(t.Context(), mail.Address{Local: "x", Domain: "b.test"}); err != nil {
		t.Error(err)
	}
}

func TestCaddyfile(t *testing.T) {
	for in, want := range map[string]string{
		"mbox /var/mail/{smtp.rcpt.local}": `{"path":"/var/mail/{smtp.rcpt.local}"}`,
		"mbox /m {\ncreate\nlowercase off\nmode 0660\nowner vmail mail\ndotlock\nquote o\nlock_timeout 5s\n}": `{"path":"/m","create":true,"lowercase":false,"mode":"0660","owner":"vmail","group":"mail","dotlock":true,"quote":"o","lock_timeout":5000000000}`,
		"mbox":                                      "wrong argument count",
		"mbox a b":                                  "wrong argument count",
		"mbox /m/{smtp.mail.from}":                  "placeholders of a path are",
		"mbox /m {\nowner\n}":                       "wrong argument count",
		"mbox /m {\nflock\n}":                       "unrecognized option 'flock', at Testfile:2",
		"mbox /m {\nmode 99\n}":                     "not a file mode, at Testfile:2",
		"mbox /m {\ncreate\ncreate\n}":              "option 'create' is given twice, at Testfile:3",
		"mbox /m {\nlowercase on\nlowercase off\n}": "option 'lowercase' is given twice, at Testfile:3",
		"mbox /m {\nmode 0600\nmode 0660\n}":        "option 'mode' is given twice, at Testfile:3",
		"mbox /m {\nowner a\nowner b\n}":            "option 'owner' is given twice, at Testfile:3",
		"mbox /m {\nquote o\nquote rd\n}":           "option 'quote' is given twice, at Testfile:3",
	} {
		a := new(Agent)
		if err := a.UnmarshalCaddyfile(caddyfile.NewTestDispenser(in)); err != nil {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q: %v, want %s", in, err, want)
			}
			continue
		}
		b, _ := json.Marshal(a)
		if string(b) != want {
			t.Errorf("%q: %s, want %s", in, b, want)
		}
		if err := caddy.StrictUnmarshalJSON(b, new(Agent)); err != nil {
			t.Error(err)
		}
	}
	for want, a := range map[string]*Agent{
		"quote 'x' is neither": {Path: "/m", Quote: "x"}, "lock_timeout is": {Path: "/m", LockTimeout: -1}, "a group is for": {Path: "/m", Group: "mail"},
		"no path": {}, "there is no user": {Path: "/m", Owner: "no-such-user"}, "mode": {Path: "/m", Mode: "x"},
	} {
		err := a.Provision(caddy.Context{Context: context.Background()})
		if err == nil {
			err = a.Validate()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %s", a, err, want)
		}
	}
}
