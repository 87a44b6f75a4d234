//go:build linux

package interop

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestPrograms: the MDAs that others call from a pipe deliver, and say what is
// wrong by their exit code.
func TestPrograms(t *testing.T) {
	t.Parallel()
	need(t, "procmail", "maildrop", "sh")
	h := newHost(t)
	if err := os.MkdirAll(h.dir+"/by", 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(h.dir+"/by", 0o777); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"procmailrc": "DEFAULT=" + h.dir + "/by/procmail/\n:0\n* ^Subject: refuse\n{\n EXITCODE=67\n HOST\n}\n:0\n* ^Subject: later\n{\n EXITCODE=75\n HOST\n}\n",
		"filter":     "EXITCODE=0\nif (/^Subject: refuse/)\n{\n  EXITCODE=77\n  exit\n}\nto \"" + h.dir + "/by/maildrop/.\"\n",
	} {
		if err := os.WriteFile(filepath.Join(h.dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("maildirmake.maildrop", h.dir+"/by/maildrop").CombinedOutput(); err != nil {
		missing(t, fmt.Sprintf("maildirmake: %v %s", err, out))
	}
	// Root would have each drop what it may.
	for _, dir := range []string{"", "/tmp", "/new", "/cur"} {
		if err := os.Chmod(h.dir+"/by/maildrop"+dir, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	user := "user nobody"
	if os.Getuid() == 0 {
		if out, err := exec.Command("chown", "-R", "nobody", h.dir+"/by").CombinedOutput(); err != nil {
			t.Fatalf("chown: %v %s", err, out)
		}
	} else {
		user = ""
	}
	for _, name := range []string{"procmailrc", "filter"} {
		if os.Getuid() == 0 {
			if out, err := exec.Command("chown", "nobody", filepath.Join(h.dir, name)).CombinedOutput(); err != nil {
				t.Fatalf("chown: %v %s", err, out)
			}
		}
	}
	if err := os.Chmod(h.dir+"/filter", 0o600); err != nil {
		t.Fatal(err)
	}
	h.serve(boxes+`
	agent procmail pipe /usr/bin/procmail -t -m TAG={smtp.rcpt.tag} DIR/procmailrc {
		`+user+`
		from_line
		env HOME DIR/by
	}
	agent maildrop pipe /usr/bin/maildrop DIR/filter {
		`+user+`
		env HOME DIR/by
	}
	agent script pipe /bin/sh -c "cat >DIR/by/script-$EXTENSION; echo no luck >&2; exit 69" {
		`+user+`
	}
	server mx ADDR(mx) {
		tls internal
		@procmail rcpt procmail@example.test
		deliver @procmail procmail
		@maildrop rcpt maildrop@example.test
		deliver @maildrop maildrop
		@script rcpt script+*@example.test
		deliver @script script
		deliver boxes
	}`, "mx")
	for _, name := range []string{"procmail", "maildrop"} {
		send(t, h.addr("mx"), "alice@example.test", name+"@example.test", "takes "+name)
		m := got(t, h.dir+"/by/"+name, "takes "+name)
		contains(t, m.text, "Delivered-To: "+name+"@example.test", "Return-Path: <alice@example.test>", "hello\n.dot\n")
		send(t, h.addr("mx"), name+"-sender@example.test", name+"@example.test", "refuse")
		dsn := arrive(t, h.inbox(name+"-sender"), 1)[0]
		contains(t, dsn, "Final-Recipient: rfc822;"+name+"@example.test", "Action: failed")
	}
	contains(t, arrive(t, h.inbox("procmail-sender"), 1)[0], "Status: 5.1.1")
	contains(t, arrive(t, h.inbox("maildrop-sender"), 1)[0], "Status: 5.7.0")

	send(t, h.addr("mx"), "procmail-sender@example.test", "procmail@example.test", "later")
	wait(t, "a second attempt", func() bool { return strings.Contains(h.queued(), "procmail@example.test") })

	send(t, h.addr("mx"), "script-sender@example.test", "script+$x'y@example.test", "hi")
	contains(t, arrive(t, h.inbox("script-sender"), 1)[0], "Status: 5.3.0", "no luck")
	if _, err := os.Stat(h.dir + "/by/script-$x'y"); err != nil {
		t.Error("the script has not seen the tag:", err)
	}
}

// TestMbox: what we append, other programs read, each message as it was sent.
func TestMbox(t *testing.T) {
	t.Parallel()
	need(t, "python3")
	h := newHost(t)
	h.serve(`
	agent spool mbox DIR/spool/{smtp.rcpt.local} {
		create
		dotlock
	}
	server mx ADDR(mx) {
		tls internal
		deliver spool
	}`, "mx")
	for i := range 5 {
		if err := goSends(h.addr("mx"), "bob@example.test", "alice@example.test", fmt.Sprintf("Subject: number %d\r\n\r\nFrom here on\r\n>From there\r\n\r\nFrom a@b Thu Jan  1 00:00:00 1970\r\nSubject: fake\r\n\r\nend\r\n", i)); err != nil {
			t.Fatal(err)
		}
	}
	file := h.dir + "/spool/alice"
	count := func() string {
		out, err := exec.Command("python3", "-c", `
import mailbox, sys
for m in mailbox.mbox(sys.argv[1], create=False):
    assert m.get_from().startswith("bob@example.test "), m.get_from()
    assert m["Return-Path"] == "<bob@example.test>"
    lines = m.get_payload().splitlines()
    assert lines[0] == ">From here on" and lines[1] == ">>From there" and lines[-1] == "end", lines
    print(m["Subject"])`, file).CombinedOutput()
		if err != nil && len(out) > 0 && !strings.Contains(string(out), "NoSuchMailbox") {
			t.Fatalf("python3: %v %s", err, out)
		}
		return strings.TrimSpace(string(out))
	}
	wait(t, "five messages", func() bool { return strings.Count(count(), "number ") == 5 })
	for i := range 5 {
		contains(t, count(), fmt.Sprintf("number %d", i))
	}
	// A reader puts a new file in the place of the old one, under its locks, while
	// mail comes in.
	for i := 5; i < 10; i++ {
		send(t, h.addr("mx"), "bob@example.test", "alice@example.test", fmt.Sprintf("later %d", i))
		out, err := exec.Command("timeout", "30", "python3", "-c", `
import mailbox, sys, time
box = mailbox.mbox(sys.argv[1], create=False)
while True:
    try:
        box.lock()
        break
    except mailbox.ExternalClashError:
        time.sleep(0.01)
for key in box.keys():
    if box[key]["Subject"].startswith("number"):
        box.remove(key)
        break
box.flush()
box.unlock()`, file).CombinedOutput()
		if err != nil {
			t.Fatalf("python3: %v %s", err, out)
		}
	}
	wait(t, "what came meanwhile", func() bool {
		b, err := os.ReadFile(file)
		return err == nil && strings.Count(string(b), "Subject: later") == 5
	})
	b, err := os.ReadFile(file)
	if err != nil || strings.Contains(string(b), "Subject: number") {
		t.Errorf("deletions are undone: %v", err)
	}
}
