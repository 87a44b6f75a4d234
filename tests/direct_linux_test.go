package tests

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// beforeReply are messages in a mailbox, new ones, at this moment.
func (h *host) beforeReply(user string) int {
	h.t.Helper()
	in, err := filepath.Glob(filepath.Join(h.dir, "mail/example.test", user, "new/*"))
	if err != nil {
		h.t.Fatal(err)
	}
	return len(in)
}

// staged makes the store, without which there is no stage, and skips where its file
// system gives none.
func (h *host) staged() {
	h.t.Helper()
	store := filepath.Join(h.dir, "mail")
	if err := os.Mkdir(store, 0o700); err != nil {
		h.t.Fatal(err)
	}
	out, err := exec.Command("stat", "-f", "-c", "%T", store).Output()
	if kind := strings.TrimSpace(string(out)); err != nil || kind != "ext2/ext3" && kind != "xfs" {
		h.t.Skip("temporary files are not on ext4 or XFS: ", kind, err)
	}
}

const directly = `
	queue {
		retry 1h
	}
	agent local maildir DIR/mail/{smtp.rcpt.domain}/{smtp.rcpt.local} {
		create
		%s
	}
	server mx ADDR(mx) {
		tls off
		deliver local
	}
`

// TestBeforeTheReply: mail for one recipient is in the mailbox when the reply comes,
// and the queue has never had it; it has what is for two, or what its sender wants to
// hear of.
func TestBeforeTheReply(t *testing.T) {
	for _, direct := range []bool{true, false} {
		h := newHost(t)
		h.staged()
		option := ""
		if !direct {
			option = "direct off"
		}
		h.load(fmt.Sprintf(directly, option))
		queue := func() string { // which is another after each commit
			st, err := os.Stat(filepath.Join(h.dir, "queue/queue.db-wal"))
			if err != nil {
				t.Fatal(err)
			}
			return fmt.Sprint(st.Size(), st.ModTime())
		}
		k := greet(t, h.addr("mx"))
		before := queue()
		for i, size := range []int{1, 20_000} { // in memory, and in a file
			k.say("250", "MAIL FROM:<s@elsewhere.test>")
			k.say("250", "RCPT TO:<u@example.test>")
			k.say("354", "DATA")
			k.say("250", "Subject: x\r\n\r\n%s.", strings.Repeat("0123456789\r\n", size))
			if in := h.beforeReply("u"); direct && in != i+1 {
				t.Errorf("%d messages are in the mailbox at the reply, want %d", in, i+1)
			}
		}
		h.inbox("u", 2)
		if untouched := queue() == before; untouched != direct {
			t.Errorf("direct %v: the queue was left alone: %v", direct, untouched)
		}
		k.say("250", "MAIL FROM:<s@elsewhere.test>")
		k.say("250", "RCPT TO:<v@example.test>")
		k.say("250", "RCPT TO:<w@example.test>")
		k.say("354", "DATA")
		k.say("250", "Subject: x\r\n\r\n.")
		k.say("250", "MAIL FROM:<s@example.test>")
		k.say("250", "RCPT TO:<v@example.test> NOTIFY=SUCCESS")
		k.say("354", "DATA")
		k.say("250", "Subject: x\r\n\r\n.")
		h.inbox("v", 2)
		h.inbox("w", 1)
		h.inbox("s", 1)
		if left, _ := filepath.Glob(filepath.Join(h.dir, "mail/.smtp-stage/*/*")); len(left) > 0 {
			t.Errorf("left on the stage: %q", left)
		}
		for _, dir := range []string{"incoming", "content"} {
			wait(t, "the queue's files to go", func() bool {
				left, _ := filepath.Glob(filepath.Join(h.dir, "queue", dir, "*"))
				return len(left) == 0
			})
		}
	}
}

// TestKilledBeforeTheReply: a process that is killed while it delivers, wherever
// that is, leaves nothing of a message that its client has no reply for, and so the
// client's next try is the only copy.
func TestKilledBeforeTheReply(t *testing.T) {
	needStrace(t)
	for _, call := range []string{"sync_file_range", "renameat", "fsync", "renameat2"} {
		for _, body := range []string{"hello", strings.Repeat("0123456789\r\n", 20_000)} {
			p := runCaddy(t, fmt.Sprintf(directly, ""))
			p.staged()
			k := greet(t, p.addr("mx"))
			if r := offer(k, "first", body); !strings.HasPrefix(r, "250") || p.beforeReply("u") != 1 {
				t.Fatalf("%q, and %d in the mailbox", r, p.beforeReply("u"))
			}
			p.inject(call + ":signal=KILL")
			if r := offer(k, "second", body); r != "" {
				t.Errorf("killed at %s: %q", call, r)
			}
			p.cmd.Wait()
			p.restart()
			if in := p.beforeReply("u"); in != 1 {
				t.Errorf("killed at %s: %d in the mailbox, want 1", call, in)
			}
			if r := offer(greet(t, p.addr("mx")), "second", body); !strings.HasPrefix(r, "250") {
				t.Errorf("after a kill at %s: %q", call, r)
			}
			p.inbox("u", 2)
			if left, _ := filepath.Glob(filepath.Join(p.dir, "mail/.smtp-stage/*/*")); len(left) > 0 {
				t.Errorf("killed at %s, left on the stage: %q", call, left)
			}
			p.cmd.Process.Kill()
		}
	}
}

// TestIOErrorsBeforeTheReply: where the disk fails while a message is delivered, the
// queue takes it or the client hears 451, and there is one copy of what is taken.
func TestIOErrorsBeforeTheReply(t *testing.T) {
	for _, c := range []struct{ fault, want string }{
		{"sync_file_range:error=EIO", "250"},
		{"renameat:error=EIO:when=1", "250"},
		{"renameat:error=EPERM", "250"},
		{"renameat2:error=EIO", "250"},
		{"renameat2:error=ENOSPC", "250"},
		{"fsync,fdatasync:error=EIO:when=1", ""},
		{"fsync,fdatasync:error=EIO", "451"},
		{"fsync,fdatasync:error=EIO:when=1+2", ""},
		{"openat:error=EMFILE", ""},
		{"openat:error=EIO:when=2+3", ""},
		{"unlinkat:error=EIO", ""},
		{"renameat2,unlinkat:error=EIO", ""},
	} {
		t.Run(c.fault, func(t *testing.T) {
			needStrace(t)
			p := runCaddy(t, strings.Replace(fmt.Sprintf(directly, ""), "1h", "1s", 1))
			p.staged()
			k := greet(t, p.addr("mx"))
			taken := 0
			send := func(want string) {
				t.Helper()
				r := offer(k, "x", "hello")
				if !strings.HasPrefix(r, want) || want == "" && !strings.HasPrefix(r, "250") && !strings.HasPrefix(r, "451") {
					t.Errorf("got %q, want %s", r, want)
				}
				if strings.HasPrefix(r, "250") {
					taken++
				}
			}
			send("250")
			heal := p.inject(c.fault)
			send(c.want)
			send("")
			heal()
			wait(t, "the queue to be well again", func() bool { before := taken; send(""); return taken > before })
			p.inbox("u", taken)
			p.cmd.Process.Kill()
			p.cmd.Wait()
			p.restart()
			p.inbox("u", taken)
		})
	}
}
