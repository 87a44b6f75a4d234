package maildir

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
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
	if err := a.Provision(caddy.Context{Context: context.Background()}); err != nil {
		t.Fatal(err)
	}
	return a, dir
}

const perUser = "DIR/mail/{smtp.rcpt.domain}/{smtp.rcpt.local}"

// delivery is that of a message, queued now.
func delivery(t testing.TB, id string, to ...string) *queue.Delivery {
	t.Helper()
	m, err := message.Parse([]byte("Return-Path: <forged@x.test>\r\nSubject: hi\r\n\r\none\r\ntwo\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	env := &mail.Envelope{From: mail.Address{Local: "bob", Domain: "far.test"}}
	for _, s := range to {
		a, err := mail.ParseAddress(s)
		if err != nil {
			t.Fatal(err)
		}
		env.Recipients = append(env.Recipients, mail.NewRecipient(a))
	}
	return &queue.Delivery{ID: id, Envelope: env, Content: m, Attempt: 1, Queued: time.Now(), Log: slog.New(slog.DiscardHandler)}
}

func files(t testing.TB, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(dir + "/*")
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// one returns the only message of a Maildir, all else of which is empty.
func one(t testing.TB, box string) (path, content string) {
	t.Helper()
	if left := append(files(t, box+"/tmp"), files(t, box+"/cur")...); len(left) > 0 {
		t.Errorf("left in tmp or cur: %q", left)
	}
	in := files(t, box+"/new")
	if len(in) != 1 {
		t.Fatalf("in new: %q", in)
	}
	b, err := os.ReadFile(in[0])
	if err != nil {
		t.Fatal(err)
	}
	return in[0], string(b)
}

func check(t testing.TB, got []queue.Status, want ...queue.Action) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d statuses, want %d", len(got), len(want))
	}
	for i, s := range got {
		if s.Action != want[i] {
			t.Errorf("recipient %d: action %d, %v; want %d", i, s.Action, s.Reply, want[i])
		}
	}
}

func TestDelivers(t *testing.T) {
	a, dir := agent(t, perUser)
	got := a.Deliver(t.Context(), delivery(t, "q1", "Alice@Example.TEST", "bob@example.test"))
	check(t, got, queue.Delivered, queue.Delivered)
	path, text := one(t, dir+"/mail/example.test/alice")
	want := "Return-Path: <bob@far.test>\nDelivered-To: Alice@example.test\nSubject: hi\n\none\ntwo\n"
	if text != want {
		t.Errorf("got %q", text)
	}
	one(t, dir+"/mail/example.test/bob")
	for p, want := range map[string]fs.FileMode{path: 0o600, filepath.Dir(path): 0o700, dir + "/mail/example.test": 0o700, dir + "/mail": 0o700} {
		if st, err := os.Stat(p); err != nil || st.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want %v", p, st.Mode(), err, want)
		}
	}
}

func TestNullReversePath(t *testing.T) {
	a, dir := agent(t, "DIR/outbox")
	d := delivery(t, "q1", "a@b.test")
	d.Envelope.From = mail.Address{}
	check(t, a.Deliver(t.Context(), d), queue.Delivered)
	if _, text := one(t, dir+"/outbox"); !strings.HasPrefix(text, "Return-Path: <>\n") {
		t.Errorf("got %q", text)
	}
}

func TestModeAndCase(t *testing.T) {
	a, dir := agent(t, perUser+"/.Maildir", func(a *Agent) { a.Mode, a.Lowercase = "0660", new(false) })
	check(t, a.Deliver(t.Context(), delivery(t, "q1", "Alice@b.test")), queue.Delivered)
	path, _ := one(t, dir+"/mail/b.test/Alice/.Maildir")
	for p, want := range map[string]fs.FileMode{path: 0o660, filepath.Dir(path): 0o770, dir + "/mail": 0o770} {
		if st, err := os.Stat(p); err != nil || st.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want %v", p, st.Mode(), err, want)
		}
	}
}

// TestBinaryContent is stored as text that means it.
func TestBinaryContent(t *testing.T) {
	a, dir := agent(t, "DIR/box")
	d := delivery(t, "q1", "a@b.test")
	d.Envelope.Body = mail.BodyBinary
	m, err := message.Parse([]byte("Content-Type: a/b\r\n\r\n\x00\n\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	d.Content = m
	check(t, a.Deliver(t.Context(), d), queue.Delivered)
	if _, text := one(t, dir+"/box"); !strings.HasSuffix(text, "\nContent-Type: a/b\nMIME-Version: 1.0\nContent-Transfer-Encoding: base64\n\nAAoNCg==\n") {
		t.Errorf("got %q", text)
	}
}

// TestAgain: whatever became of an attempt, the next one does not deliver the
// same again.
func TestAgain(t *testing.T) {
	for name, between := range map[string]func(t *testing.T, box, file string){
		"nothing happened": func(*testing.T, string, string) {},
		"it was seen": func(t *testing.T, box, file string) {
			must(t, os.Rename(file, box+"/cur/"+filepath.Base(file)+":2,"))
		},
		"it was read and flagged": func(t *testing.T, box, file string) {
			must(t, os.Rename(file, box+"/cur/"+filepath.Base(file)+",S=33:2,FS"))
		},
		"others are there": func(t *testing.T, box, file string) {
			must(t, os.Rename(file, box+"/cur/"+filepath.Base(file)+":2,S"))
			for i := range 3000 {
				must(t, os.WriteFile(fmt.Sprintf("%s/cur/1.Qff%d.x:2,", box, i), nil, 0o600))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			a, dir := agent(t, "DIR/box")
			d := delivery(t, "q1", "a@b.test")
			check(t, a.Deliver(t.Context(), d), queue.Delivered)
			file, _ := one(t, dir+"/box")
			between(t, dir+"/box", file)
			had := len(files(t, dir+"/box/cur")) + len(files(t, dir+"/box/new"))
			again, _ := agent(t, dir+"/box") // after a restart
			check(t, again.Deliver(t.Context(), d), queue.Delivered)
			d.Attempt = 2
			check(t, a.Deliver(t.Context(), d), queue.Delivered)
			if n := len(files(t, dir+"/box/cur")) + len(files(t, dir+"/box/new")); n != had {
				t.Errorf("%d messages, had %d", n, had)
			}
		})
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestBrokenOff: what a crash left in tmp is neither delivered nor kept.
func TestBrokenOff(t *testing.T) {
	a, dir := agent(t, "DIR/box")
	d := delivery(t, "q1", "a@b.test")
	must(t, os.MkdirAll(dir+"/box/tmp", 0o700))
	left := dir + "/box/tmp/" + fileName(d, d.Envelope.Recipients[0].Address, a.host)
	must(t, os.WriteFile(left+".AAAAAAAA", []byte("half"), 0o600))
	d.Attempt = 2
	check(t, a.Deliver(t.Context(), d), queue.Delivered)
	if _, text := one(t, dir+"/box"); !strings.HasSuffix(text, "two\n") {
		t.Errorf("got %q", text)
	}
}

func TestNames(t *testing.T) {
	d := delivery(t, "q1")
	a, b := mail.Address{Local: "a", Domain: "b.test"}, mail.Address{Local: "b", Domain: "b.test"}
	n := fileName(d, a, "mx:1/x")
	if strings.ContainsAny(n, ":/") || unique(n) == "" || unique(n) != unique(n+",S=9:2,S") {
		t.Errorf("name %q, unique part %q", n, unique(n))
	}
	other := *d
	other.ID = "q2"
	if fileName(d, b, "h") == fileName(d, a, "h") || fileName(&other, a, "h") == fileName(d, a, "h") {
		t.Error("names of different messages are the same")
	}
}

// TestConcurrently: many messages to one new mailbox, each of them twice.
func TestConcurrently(t *testing.T) {
	a, dir := agent(t, perUser)
	const n = 40
	var wg sync.WaitGroup
	for i := range 2 * n {
		d := delivery(t, fmt.Sprint("q", i%n), "a@b.test")
		d.Queued = time.Unix(1e9, 0)
		wg.Go(func() {
			for a.Deliver(t.Context(), d)[0].Action != queue.Delivered {
				time.Sleep(time.Millisecond) // one swept the other's file: delayed
			}
		})
	}
	wg.Wait()
	in := files(t, dir+"/mail/b.test/a/new")
	if len(in) != n {
		t.Errorf("%d messages, want %d", len(in), n)
	}
	for _, f := range in {
		if b, err := os.ReadFile(f); err != nil || !bytes.HasSuffix(b, []byte("\none\ntwo\n")) {
			t.Errorf("%s is %q, %v", f, b, err)
		}
	}
}

func TestVerify(t *testing.T) {
	a, dir := agent(t, perUser)
	alice, ghost := mail.Address{Local: "Alice", Domain: "b.test"}, mail.Address{Local: "ghost", Domain: "b.test"}
	want := func(a *Agent, to mail.Address, code int) {
		t.Helper()
		err := a.Verify(t.Context(), to)
		if code == 250 && err != nil || code != 250 && (err == nil || mail.ReplyFor(err).Code != code) {
			t.Errorf("%v: %v, want %d", to, err, code)
		}
	}
	want(a, alice, 451) // nothing is there: not mounted?
	must(t, os.MkdirAll(dir+"/mail/b.test/alice", 0o700))
	must(t, os.WriteFile(dir+"/mail/b.test/file", nil, 0o600))
	must(t, os.Symlink("/etc", dir+"/mail/b.test/link"))
	want(a, alice, 250)
	want(a, ghost, 550)
	want(a, mail.Address{Local: "file", Domain: "b.test"}, 550)
	want(a, mail.Address{Local: "link", Domain: "b.test"}, 451)
	want(a, mail.Address{Local: "..", Domain: "b.test"}, 550)

	a, dir = agent(t, "DIR/outbox")
	want(a, alice, 550)
	must(t, os.Mkdir(dir+"/outbox", 0o700))
	want(a, alice, 250)

	a, _ = agent(t, perUser, func(a *Agent) { a.Create = true })
	want(a, ghost, 250)
	want(a, mail.Address{Local: "a/b", Domain: "b.test"}, 550)
}

func TestContentThatCannotBeRead(t *testing.T) {
	a, dir := agent(t, "DIR/box")
	d := delivery(t, "q1", "a@b.test")
	d.Content = message.New(d.Content.Header, message.OpenBody(dir+"/gone", 5, "none"))
	got := a.Deliver(t.Context(), d)
	check(t, got, queue.Delayed)
	if got[0].Reply.Enh != "4.3.0" {
		t.Error(got[0].Reply)
	}
	must(t, os.WriteFile(dir+"/gone", []byte("wrong"), 0o600))
	check(t, a.Deliver(t.Context(), d), queue.Delayed)
	if left := append(files(t, dir+"/box/tmp"), files(t, dir+"/box/new")...); len(left) > 0 {
		t.Errorf("left %q", left)
	}
}

func TestCalledOff(t *testing.T) {
	a, dir := agent(t, "DIR/box")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	check(t, a.Deliver(ctx, delivery(t, "q1", "a@b.test")))
	c := mda.Content{Message: delivery(t, "q1").Content}
	if err := c.Copy(ctx, new(bytes.Buffer)); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if len(files(t, dir)) > 0 {
		t.Error("something was made")
	}
}

func TestCaddyfile(t *testing.T) {
	for in, want := range map[string]string{
		"maildir /var/mail/{smtp.rcpt.local}":                          `{"path":"/var/mail/{smtp.rcpt.local}"}`,
		"maildir {env.NOWHERE}/x":                                      `{"path":"{env.NOWHERE}/x"}`,
		"maildir ./mail/outbox {\ncreate\nlowercase off\nmode 0640\n}": `{"path":"./mail/outbox","create":true,"lowercase":false,"mode":"0640"}`,
		"maildir":                               "wrong argument count",
		"maildir a b":                           "wrong argument count",
		"maildir a {\nmode 0999\n}":             "not a file mode, at Testfile:2",
		"maildir a {\nquota many\n}":            "not a size, at Testfile:2",
		"maildir a {\nquota 1GB x\n}":           "not a number of messages, at Testfile:2",
		"maildir a {\nquota\n}":                 "wrong argument count",
		"maildir a {\nowner\n}":                 "wrong argument count",
		"maildir a {\nowner b\nowner c\n}":      "option 'owner' is given twice, at Testfile:3",
		"maildir a {\nquota 1GB\nquota 2GB\n}":  "option 'quota' is given twice, at Testfile:3",
		"maildir a {\nmode 0600\nmode 0660\n}":  "option 'mode' is given twice, at Testfile:3",
		"maildir a {\ndirect on\ndirect off\n}": "option 'direct' is given twice, at Testfile:3",
		"maildir a {\nlimit 3\n}":               "unrecognized option 'limit', at Testfile:2",
		"maildir a {\nowner vmail mail\ntag_folders create\nquota 1GiB 1000\nquota_later\n}": `{"path":"a","owner":"vmail","group":"mail","tag_folders":"create","quota":1073741824,"quota_messages":1000,"quota_later":true}`,
		"maildir /m/{smtp.mail.from}":       "placeholders of a path are",
		"maildir /m/{smtp.rcpt.local}/../b": "'..' behind a placeholder",
		"maildir {smtp.rcpt.local}":         "no directory before",
		"maildir /m}/x":                     "stray brace",
		"maildir /m/{smtp.rcpt.local}}":     "placeholders of a path are",
		"maildir \"\"":                      "no path",
	} {
		a := new(Agent)
		if err := a.UnmarshalCaddyfile(caddyfile.NewTestDispenser(in)); err != nil {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q: %v, want %s", in, err, want)
			}
			continue
		}
		if b, _ := json.Marshal(a); string(b) != want {
			t.Errorf("%q: %s, want %s", in, b, want)
		}
	}
}

func TestProvision(t *testing.T) {
	t.Setenv("MAIL_ROOT", t.TempDir())
	a := &Agent{Path: "{env.MAIL_ROOT}/{smtp.rcpt.local}"}
	must(t, a.Provision(caddy.Context{Context: t.Context()}))
	if a.store.Dir != os.Getenv("MAIL_ROOT") {
		t.Error(a.store.Dir)
	}
	for _, bad := range []Agent{{}, {Path: "{env.NOT_SET_AT_ALL}/x"}, {Path: "x", Mode: "9"}, {Path: "/m/{smtp.helo}"}} {
		if err := bad.Provision(caddy.Context{Context: t.Context()}); err == nil {
			t.Errorf("%+v is provisioned", bad)
		}
	}
}

// TestStoreIsMade with all that is missing above it.
func TestStoreIsMade(t *testing.T) {
	a, dir := agent(t, "DIR/a/b/c/{smtp.rcpt.local}/{smtp.rcpt.tag}/x")
	check(t, a.Deliver(t.Context(), delivery(t, "q1", "a+t@b.test", "a@b.test")), queue.Delivered, queue.Failed)
	one(t, dir+"/a/b/c/a+t/t/x")
	if st, err := os.Stat(dir + "/a"); err != nil || st.Mode().Perm() != 0o700 {
		t.Error(st, err)
	}
}

// TestLostDirectory: a reader may have removed any of the three.
func TestLostDirectory(t *testing.T) {
	a, dir := agent(t, "DIR/box")
	for _, lost := range []string{"tmp", "cur", "new"} {
		must(t, os.RemoveAll(dir+"/box/"+lost))
		d := delivery(t, "q-"+lost, "a@b.test")
		d.Attempt = 2
		check(t, a.Deliver(t.Context(), d), queue.Delivered)
	}
}
