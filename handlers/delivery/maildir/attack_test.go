package maildir

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/mda"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

// TestAddressesThatArePaths: none makes a path, and none delivers anything.
func TestAddressesThatArePaths(t *testing.T) {
	for _, path := range []string{perUser, "DIR/mail/{smtp.rcpt}", "DIR/mail/u-{smtp.rcpt.local}", "DIR/mail/{smtp.rcpt.local}/Maildir"} {
		a, dir := agent(t, path)
		for _, local := range []string{
			"", ".", "..", "...", ".hidden", "../x", "../../etc/passwd", "a/b", "/etc", "a/../..", "a\x00b", "a\nb", "a\x7fb", "a\u0085b",
			strings.Repeat("x", 256),
		} {
			to := mail.Address{Local: local, Domain: "b.test"}
			rel, err := a.path.Expand(mail.NewRecipient(to))
			if path == "DIR/mail/{smtp.rcpt}" && filepath.IsLocal(rel) && !strings.Contains(rel, "/") {
				continue // it is quoted, or has its domain: one harmless name
			}
			if !errors.Is(err, mda.ErrNoMailbox) {
				t.Errorf("%s, %q: %q, %v", path, local, rel, err)
			}
			d := delivery(t, "q1")
			d.Envelope.Recipients = []*mail.Recipient{mail.NewRecipient(to)}
			got := a.Deliver(t.Context(), d)
			check(t, got, queue.Failed)
			if got[0].Reply.Code != 550 || got[0].Reply.Enh != "5.1.1" {
				t.Error(got[0].Reply)
			}
		}
		if left := files(t, dir); len(left) > 0 {
			t.Errorf("made %q", left)
		}
	}
}

// TestLinksLeadNowhere: a mailbox whose owner made it point elsewhere gets no
// mail, and neither does elsewhere.
func TestLinksLeadNowhere(t *testing.T) {
	for _, link := range []string{"new", "tmp", "cur", "."} {
		for _, absolute := range []bool{true, false} {
			a, dir := agent(t, perUser)
			at, victim := filepath.Join(dir, "mail/b.test/a", link), dir+"/victim"
			must(t, os.MkdirAll(filepath.Dir(at), 0o700))
			must(t, os.Mkdir(victim, 0o700))
			to := victim
			if !absolute {
				to, _ = filepath.Rel(filepath.Dir(at), victim)
			}
			must(t, os.Symlink(to, at))
			d := delivery(t, "q1", "a@b.test")
			d.Attempt = 2
			got := a.Deliver(t.Context(), d)
			check(t, got, queue.Delayed)
			if got[0].Reply.Code != 451 || got[0].Reply.Enh != "4.2.0" || strings.Contains(got[0].Reply.Text, dir) {
				t.Errorf("%s: %v", link, got[0].Reply)
			}
			if left := files(t, victim); len(left) > 0 {
				t.Errorf("%s: wrote %q", link, left)
			}
		}
	}
}

// TestNeighbour: a link inside a mailbox cannot lead to the one beside it.
func TestNeighbour(t *testing.T) {
	a, dir := agent(t, perUser)
	bob, alice := dir+"/mail/b.test/bob", dir+"/mail/b.test/alice"
	must(t, os.MkdirAll(bob+"/new", 0o700))
	must(t, os.MkdirAll(alice, 0o700))
	must(t, os.Symlink("../bob/new", alice+"/new"))
	check(t, a.Deliver(t.Context(), delivery(t, "q1", "alice@b.test")), queue.Delayed)
	if left := files(t, bob+"/new"); len(left) > 0 {
		t.Errorf("wrote %q", left)
	}
}

// TestLinkRace: somebody swaps new for a link and back all the time.
func TestLinkRace(t *testing.T) {
	a, dir := agent(t, "DIR/box")
	victim := dir + "/victim"
	must(t, os.Mkdir(victim, 0o700))
	check(t, a.Deliver(t.Context(), delivery(t, "q0", "a@b.test")), queue.Delivered)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		must(t, os.Symlink(victim, dir+"/box/link"))
		for {
			select {
			case <-stop:
				return
			default:
				_ = exchange(dir+"/box/link", dir+"/box/new")
			}
		}
	}()
	tries := 300
	if os.Getenv("CADDY_SMTP_SOAK") != "" {
		tries = 100_000
	}
	for i := range tries {
		a.Deliver(t.Context(), delivery(t, fmt.Sprint("r", i), "a@b.test"))
	}
	close(stop)
	<-done
	if left := files(t, victim); len(left) > 0 {
		t.Errorf("%d files outside", len(left))
	}
}

// exchange swaps two names, as far as that can be done without help.
func exchange(a, b string) error {
	return errors.Join(os.Rename(a, a+"~"), os.Rename(b, a), os.Rename(a+"~", b))
}

func TestPermission(t *testing.T) {
	a, dir := agent(t, perUser)
	must(t, os.MkdirAll(dir+"/mail/b.test/a", 0o500))
	if os.Geteuid() == 0 {
		t.Skip("root may write anywhere")
	}
	got := a.Deliver(t.Context(), delivery(t, "q1", "a@b.test"))
	check(t, got, queue.Delayed)
	if got[0].Reply.Enh != "4.2.0" {
		t.Error(got[0].Reply)
	}
}

// TestNoPlaceForDirectory is what a missing permission is, for root as well.
func TestNoPlaceForDirectory(t *testing.T) {
	a, dir := agent(t, perUser)
	must(t, os.WriteFile(dir+"/mail", nil, 0o600))
	got := a.Deliver(t.Context(), delivery(t, "q1", "a@b.test"))
	check(t, got, queue.Delayed)
	if got[0].Reply.Enh != "4.2.0" {
		t.Error(got[0].Reply)
	}
}

// TestDiskFull needs to mount a file system.
func TestDiskFull(t *testing.T) {
	a, dir := agent(t, "DIR/box")
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=16k,nr_inodes=64", "tmpfs", dir).CombinedOutput(); err != nil {
		t.Skipf("cannot mount a tmpfs: %v, %s", err, out)
	}
	t.Cleanup(func() { must(t, exec.Command("umount", dir).Run()) })
	check(t, a.Deliver(t.Context(), delivery(t, "q0", "a@b.test")), queue.Delivered)
	must(t, os.WriteFile(dir+"/filler", make([]byte, 4096), 0o600))
	if err := os.WriteFile(dir+"/filler2", make([]byte, 1<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	got := a.Deliver(t.Context(), delivery(t, "q1", "a@b.test"))
	check(t, got, queue.Delayed)
	if got[0].Reply.Code != 452 || got[0].Reply.Enh != "4.3.1" {
		t.Error(got[0].Reply)
	}
	must(t, os.Remove(dir+"/filler2"))
	d := delivery(t, "q1", "a@b.test")
	d.Attempt = 2
	check(t, a.Deliver(t.Context(), d), queue.Delivered)
	if in := files(t, dir+"/box/new"); len(in) != 2 || len(files(t, dir+"/box/tmp")) != 0 {
		t.Errorf("in new: %q", in)
	}
}

// TestNoHardLinks is a file system on which link fails.
func TestNoHardLinks(t *testing.T) {
	root, err := os.OpenRoot(t.TempDir())
	must(t, err)
	m := &mailbox{root: root, top: root}
	defer mda.Shut(root)
	must(t, root.WriteFile("a", []byte("1"), 0o600))
	for i := range 2 {
		if there, err := m.rename("a", "b"); there != (i == 1) || err != nil {
			t.Error(there, err)
		}
		must(t, root.WriteFile("a", []byte("2"), 0o600))
	}
	if b, err := root.ReadFile("b"); err != nil || string(b) != "1" {
		t.Errorf("got %q, %v", b, err)
	}
}
