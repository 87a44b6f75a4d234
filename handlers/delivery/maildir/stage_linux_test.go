package maildir

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/caddymail/caddy-smtp/smtpapp/mda"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

// staging returns an agent that has a stage, where the file system allows that.
func staging(t testing.TB, path string, change ...func(*Agent)) (a *Agent, dir string) {
	t.Helper()
	a, dir = agent(t, path, change...)
	root, err := os.OpenRoot(dir)
	must(t, err)
	defer mda.Shut(root)
	if disk, err := filesystemOf(root); err != nil || !disk.ordered() {
		t.Skip("temporary files are not on ext4 or XFS")
	}
	must(t, os.MkdirAll(a.store.Dir, 0o700))
	must(t, a.Start())
	t.Cleanup(func() { must(t, a.Cleanup()) })
	return a, dir
}

// now returns the instance of a directory's file system.
func now(t testing.TB, dir string) string {
	t.Helper()
	root, err := os.OpenRoot(dir)
	must(t, err)
	defer mda.Shut(root)
	disk, err := filesystemOf(root)
	must(t, err)
	return disk.instance
}

// TestDeliverNow: what is delivered before the reply is what the queue delivers, and
// of the stage nothing is left.
func TestDeliverNow(t *testing.T) {
	a, dir := staging(t, perUser, func(a *Agent) { a.Mode, a.TagFolders = "0640", tagsCreate })
	for _, to := range []string{"alice@b.test", "bob+lists@b.test"} {
		if !a.DeliverNow(t.Context(), delivery(t, "q1", to)) {
			t.Fatal(to, " was left to the queue")
		}
		box := dir + "/mail/b.test/" + strings.TrimSuffix(to, "@b.test")
		if strings.Contains(to, "+") {
			box += "/.lists"
		}
		path, text := one(t, box)
		must(t, os.RemoveAll(box))
		check(t, a.Deliver(t.Context(), delivery(t, "q1", to)), queue.Delivered)
		queued, same := one(t, box)
		if text != same || filepath.Base(path) != filepath.Base(queued) {
			t.Errorf("%s: %q is %q, by the queue %q is %q", to, path, text, queued, same)
		}
		if st, err := os.Stat(queued); err != nil || st.Mode().Perm() != 0o640 {
			t.Errorf("mode %v, %v", st.Mode(), err)
		}
	}
	on, _ := filepath.Glob(dir + "/mail/.smtp-stage/*/*")
	if st, err := os.Stat(dir + "/mail/.smtp-stage"); err != nil || st.Mode().Perm() != 0o700 || len(on) > 0 {
		t.Error(st, err, on)
	}
	must(t, a.Cleanup())
	if left := files(t, dir+"/mail/.smtp-stage"); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	if a.DeliverNow(t.Context(), delivery(t, "q2", "alice@b.test")) {
		t.Error("delivered by what had ended")
	}
}

// TestDeliverNowAgain: a message that is there is not delivered a second time, and
// neither is the mailbox touched where there is no mail for it.
func TestDeliverNowAgain(t *testing.T) {
	a, dir := staging(t, perUser)
	check(t, a.Deliver(t.Context(), delivery(t, "q1", "a@b.test")), queue.Delivered)
	d := delivery(t, "q1", "a@b.test")
	in := one1(t, dir+"/mail/b.test/a")
	if a.DeliverNow(t.Context(), d) && filepath.Base(in) == fileName(d, d.Envelope.Recipients[0].Address, a.host) {
		t.Error("delivered what was there")
	}
	if a.DeliverNow(t.Context(), delivery(t, "q2", `"a/b"@b.test`)) {
		t.Error("delivered to whom there is no mailbox")
	}
	noStage(t, dir+"/mail")
}

func one1(t testing.TB, box string) string {
	path, _ := one(t, box)
	return path
}

// noStage checks that nothing is on any stage.
func noStage(t testing.TB, store string) {
	t.Helper()
	if on, _ := filepath.Glob(store + "/.smtp-stage/*/*"); len(on) > 0 {
		t.Errorf("on the stage: %q", on)
	}
}

// abandon leaves a message for a recipient on a stage of that name.
func abandon(t testing.TB, a *Agent, stage, to, text string) (name string) {
	t.Helper()
	d := delivery(t, "q1", to)
	d.Queued = time.Unix(1e9, 0)
	box, it, err := a.open(d, d.Envelope.Recipients[0])
	must(t, err)
	defer box.shut()
	dir := filepath.Join(a.store.Dir, a.stage.path)
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		t.Fatal(err)
	}
	must(t, os.MkdirAll(filepath.Join(dir, stage), 0o700))
	must(t, os.WriteFile(filepath.Join(dir, stage, staged(box, it.name)), []byte(text), 0o600))
	return it.name
}

// TestAbandoned: what a process leaves on its stage was not replied to. It is gone
// at the next start, unless the machine has ended too.
func TestAbandoned(t *testing.T) {
	for _, direct := range []bool{true, false} {
		a, dir := staging(t, perUser, func(a *Agent) { a.TagFolders = tagsCreate })
		box, folder := dir+"/mail/b.test/a", dir+"/mail/b.test/b+lists/.lists"
		same, other := now(t, dir)+".x", "0-0.x"
		abandon(t, a, same, "a@b.test", "unanswered")
		again := a
		start := func() {
			t.Helper()
			must(t, again.Cleanup())
			again, _ = agent(t, strings.Replace(perUser, "DIR", dir, 1), func(a *Agent) { a.Direct, a.TagFolders = new(direct), tagsCreate })
			must(t, again.Start())
		}
		start()
		if in := files(t, box+"/new"); len(in) > 0 {
			t.Errorf("in new: %q", in)
		}
		name := abandon(t, a, other, "a@b.test", "answered")
		must(t, os.WriteFile(filepath.Join(dir, "mail/.smtp-stage", other, unfinished+"1.Q,2.h,YQA"), nil, 0o600))
		abandon(t, a, other, "b+lists@b.test", "answered")
		start()
		for _, box := range []string{box, folder} {
			if in := files(t, box+"/new"); len(in) != 1 {
				t.Fatalf("in new: %q", in)
			} else if b, _ := os.ReadFile(in[0]); string(b) != "answered" {
				t.Errorf("%q", b)
			}
		}
		// There, and read meanwhile.
		must(t, os.Rename(box+"/new/"+name, box+"/cur/"+name+":2,S"))
		abandon(t, a, other, "a@b.test", "answered")
		abandon(t, a, other, "b+lists@b.test", "answered")
		start()
		if in := files(t, box+"/new"); len(in) != 0 {
			t.Errorf("twice: %q", in)
		}
		if in := files(t, folder+"/new"); len(in) != 1 {
			t.Errorf("twice: %q", in)
		}
		must(t, again.Cleanup())
		if left := files(t, dir+"/mail/.smtp-stage"); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
	}
}

// TestAbandonedLater: what cannot be delivered now is kept for the next start, and
// what nobody knows is left alone.
func TestAbandonedLater(t *testing.T) {
	a, dir := staging(t, perUser)
	abandon(t, a, "0-0.x", "a@b.test", "answered")
	strange := dir + "/mail/.smtp-stage/0-0.x/strange"
	must(t, os.WriteFile(strange, nil, 0o600))
	must(t, os.RemoveAll(dir+"/mail/b.test"))
	must(t, os.WriteFile(dir+"/mail/b.test", nil, 0o600)) // in the way
	must(t, a.Cleanup())
	b, _ := agent(t, strings.Replace(perUser, "DIR", dir, 1))
	must(t, b.Start())
	must(t, b.Cleanup())
	if left := files(t, dir+"/mail/.smtp-stage/0-0.x"); len(left) != 2 {
		t.Fatalf("left: %q", left)
	}
	must(t, os.Remove(dir+"/mail/b.test"))
	b, _ = agent(t, strings.Replace(perUser, "DIR", dir, 1))
	must(t, b.Start())
	defer b.Cleanup()
	one(t, dir+"/mail/b.test/a")
	if left := files(t, dir+"/mail/.smtp-stage/0-0.x"); len(left) != 1 || left[0] != strange {
		t.Errorf("left: %q", left)
	}
}

// TestOthersStage: the stage of a process that lives is let be.
func TestOthersStage(t *testing.T) {
	a, dir := staging(t, perUser)
	b, _ := agent(t, strings.Replace(perUser, "DIR", dir, 1))
	must(t, b.Start())
	for i, a := range []*Agent{a, b, a} {
		if !a.DeliverNow(t.Context(), delivery(t, fmt.Sprint("q", i), "a@b.test")) {
			t.Error("was left to the queue: ", i)
		}
	}
	must(t, b.Cleanup())
	if left := files(t, dir+"/mail/.smtp-stage"); len(left) != 1 {
		t.Errorf("stages: %q", left)
	}
}

// TestForeignStage: a directory of stages that others may write to, or a link in its
// place, is not made use of.
func TestForeignStage(t *testing.T) {
	for what, make := range map[string]func(at, victim string) error{
		"mode": func(at, _ string) error { return errors.Join(os.Mkdir(at, 0o700), os.Chmod(at, 0o770)) },
		"link": func(at, victim string) error { return os.Symlink(victim, at) },
		"file": func(at, _ string) error { return os.WriteFile(at, nil, 0o600) },
		"owner": func(at, _ string) error {
			if os.Getuid() != 0 {
				return errors.Join(os.Mkdir(at, 0o700), os.Chmod(at, 0o701))
			}
			return errors.Join(os.Mkdir(at, 0o700), os.Chown(at, 65534, 65534))
		},
	} {
		a, dir := staging(t, perUser)
		must(t, a.Cleanup())
		must(t, os.Remove(dir+"/mail/.smtp-stage"))
		victim := dir + "/victim"
		must(t, os.Mkdir(victim, 0o700))
		must(t, make(dir+"/mail/.smtp-stage", victim))
		b, _ := agent(t, strings.Replace(perUser, "DIR", dir, 1))
		must(t, b.Start())
		if b.DeliverNow(t.Context(), delivery(t, "q1", "a@b.test")) {
			t.Errorf("%s: delivered over a stage of somebody else", what)
		}
		check(t, b.Deliver(t.Context(), delivery(t, "q1", "a@b.test")), queue.Delivered)
		must(t, b.Cleanup())
		if left := files(t, victim); len(left) > 0 {
			t.Errorf("%s: wrote %q", what, left)
		}
	}
}

// TestStageOfOneMailbox: where a Maildir is all there is, readers would take a
// directory whose name begins with a dot for a folder.
func TestStageOfOneMailbox(t *testing.T) {
	a, dir := staging(t, "DIR/box")
	if a.DeliverNow(t.Context(), delivery(t, "q1", "a@b.test")) {
		t.Error("there was no tmp to have a stage in")
	}
	check(t, a.Deliver(t.Context(), delivery(t, "q1", "a@b.test")), queue.Delivered)
	if !a.DeliverNow(t.Context(), delivery(t, "q2", "a@b.test")) {
		t.Error("was left to the queue")
	}
	if in := files(t, dir+"/box/new"); len(in) != 2 {
		t.Errorf("in new: %q", in)
	}
	if hidden, _ := filepath.Glob(dir + "/box/.*"); len(hidden) > 0 {
		t.Errorf("folders: %q", hidden)
	}
}

// TestNoStore: a store that is made by the first delivery has a stage from the
// second on; one that goes away has none, and the mail is left to the queue.
func TestNoStore(t *testing.T) {
	a, dir := agent(t, perUser)
	staging(t, perUser) // skips
	must(t, a.Start())
	defer a.Cleanup()
	if a.DeliverNow(t.Context(), delivery(t, "q1", "a@b.test")) || len(files(t, dir)) > 0 {
		t.Error("made a store to have a stage in")
	}
	check(t, a.Deliver(t.Context(), delivery(t, "q1", "a@b.test")), queue.Delivered)
	if !a.DeliverNow(t.Context(), delivery(t, "q2", "a@b.test")) {
		t.Error("was left to the queue")
	}
	must(t, os.RemoveAll(dir+"/mail"))
	if a.DeliverNow(t.Context(), delivery(t, "q3", "a@b.test")) {
		t.Error("delivered over a stage that is gone")
	}
	check(t, a.Deliver(t.Context(), delivery(t, "q3", "a@b.test")), queue.Delivered)
	if a.DeliverNow(t.Context(), delivery(t, "q4", "a@b.test")) {
		t.Error("a stage was looked for at once")
	}
	a.stage.tried = time.Now().Add(-restaged)
	if !a.DeliverNow(t.Context(), delivery(t, "q4", "a@b.test")) {
		t.Error("no stage was looked for")
	}
}

// TestOtherDisk: a mailbox on another file system is the queue's, and no reason to
// give up the stage.
func TestOtherDisk(t *testing.T) {
	a, dir := staging(t, perUser)
	far := dir + "/mail/b.test/far"
	must(t, os.MkdirAll(far, 0o700))
	if out, err := exec.Command("mount", "-t", "tmpfs", "tmpfs", far).CombinedOutput(); err != nil {
		t.Skipf("cannot mount a tmpfs: %v, %s", err, out)
	}
	t.Cleanup(func() { must(t, exec.Command("umount", far).Run()) })
	if a.DeliverNow(t.Context(), delivery(t, "q1", "far@b.test")) {
		t.Error("renamed a file to another file system")
	}
	check(t, a.Deliver(t.Context(), delivery(t, "q1", "far@b.test")), queue.Delivered)
	if !a.DeliverNow(t.Context(), delivery(t, "q2", "near@b.test")) {
		t.Error("the stage was given up")
	}
	noStage(t, dir+"/mail")
}

// TestDeliverNowQuota: the quota holds, and what is delivered counts.
func TestDeliverNowQuota(t *testing.T) {
	a, dir := staging(t, perUser, func(a *Agent) { a.QuotaMessages = 2 })
	for i, want := range []bool{true, true, false} {
		if got := a.DeliverNow(t.Context(), delivery(t, fmt.Sprint("q", i), "a@b.test")); got != want {
			t.Errorf("message %d: %v", i, got)
		}
	}
	check(t, a.Deliver(t.Context(), delivery(t, "q2", "a@b.test")), queue.Failed)
	noStage(t, dir+"/mail")
}

// TestLongStagedName is for the queue: the name says where the message belongs.
func TestLongStagedName(t *testing.T) {
	a, dir := staging(t, "DIR/mail/{smtp.rcpt.domain}/{smtp.rcpt.local}/{smtp.rcpt.local}/{smtp.rcpt.local}")
	local := strings.Repeat("x", 64)
	if a.DeliverNow(t.Context(), delivery(t, "q1", local+"@b.test")) {
		t.Error("has such a long name")
	}
	if !a.DeliverNow(t.Context(), delivery(t, "q2", "x@b.test")) {
		t.Error("the stage was given up")
	}
	noStage(t, dir+"/mail")
}

// TestStageFull: where a disk is full nothing is left on the stage.
func TestStageFull(t *testing.T) {
	dir := loopDisk(t)()
	a, _ := agent(t, strings.Replace(perUser, "DIR", dir, 1))
	must(t, os.Mkdir(dir+"/mail", 0o700))
	must(t, a.Start())
	if !a.DeliverNow(t.Context(), delivery(t, "q0", "a@b.test")) {
		t.Fatal("was left to the queue")
	}
	must(t, os.Mkdir(dir+"/filler", 0o700))
	for range 3 { // what was set aside for writing is given back meanwhile
		var err error
		for err == nil {
			err = os.WriteFile(fmt.Sprint(dir, "/filler/", rand.Text()), make([]byte, 100<<10), 0o600)
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
		f, err := os.Open(dir)
		must(t, err)
		must(t, unix.Syncfs(int(f.Fd())))
		f.Close()
	}
	large := delivery(t, "q1", "a@b.test")
	var err error
	large.Content, err = message.Parse([]byte("A: b\r\n\r\n" + strings.Repeat("0123456789\r\n", 100_000)))
	must(t, err)
	if a.DeliverNow(t.Context(), large) {
		t.Error("delivered what could not be written")
	}
	if in := files(t, dir+"/mail/b.test/a/new"); len(in) != 1 {
		t.Errorf("in new: %q", in)
	}
	noStage(t, dir+"/mail")
	must(t, os.RemoveAll(dir+"/filler"))
	if !a.DeliverNow(t.Context(), large) {
		t.Error("the stage was given up")
	}
	must(t, a.Cleanup())
}

// TestUnstaged: names on a stage lead nowhere but into the store.
func TestUnstaged(t *testing.T) {
	for _, m := range []mailbox{{rel: "../x"}, {rel: "/etc"}, {rel: "a", folder: "../b"}} {
		if _, rel, folder, ok := unstaged(staged(&m, "n")); ok {
			t.Errorf("%q: %q, %q", staged(&m, "n"), rel, folder)
		}
	}
	for _, name := range []string{"", "n", "n,", "n,YQ", "n,?"} {
		if _, _, _, ok := unstaged(name); ok {
			t.Errorf("%q is a name", name)
		}
	}
	if name, rel, folder, ok := unstaged(staged(&mailbox{rel: "b.test/a", folder: ".f"}, "1.Q,2.h")); !ok || name != "1.Q,2.h" || rel != "b.test/a" || folder != ".f" {
		t.Error(name, rel, folder, ok)
	}
}

// TestInstance: a file system is another after it was mounted again.
func TestInstance(t *testing.T) {
	mount := loopDisk(t)
	seen := map[string]bool{}
	for range 3 {
		dir := mount()
		s := now(t, dir)
		if seen[s] || now(t, dir) != s {
			t.Errorf("%s names two", s)
		}
		seen[s] = true
	}
}

// TestFastCommits: on an ext4 with fast commits all goes by the queue, with two syncs.
// Power cuts there have left names without their files.
func TestFastCommits(t *testing.T) {
	dir := loopDisk(t, "-O", "fast_commit")()
	a, _ := agent(t, strings.Replace(perUser, "DIR", dir, 1))
	must(t, os.Mkdir(dir+"/mail", 0o700))
	must(t, a.Start())
	defer a.Cleanup()
	if a.DeliverNow(t.Context(), delivery(t, "q1", "a@b.test")) {
		t.Error("delivered before the reply")
	}
	check(t, a.Deliver(t.Context(), delivery(t, "q1", "a@b.test")), queue.Delivered)
	if a.stage.disk.Load() != nil {
		t.Error("thought to keep order")
	}
	if left := files(t, dir+"/mail/.smtp-stage"); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// loopDisk makes a small ext4 on a loop device, and returns what mounts it, again and
// again.
func loopDisk(t *testing.T, options ...string) (mount func() string) {
	t.Helper()
	image, dir := t.TempDir()+"/image", t.TempDir()
	must(t, os.WriteFile(image, nil, 0o600))
	must(t, os.Truncate(image, 64<<20))
	if out, err := exec.Command("mkfs.ext4", append(options, "-q", image)...).CombinedOutput(); err != nil {
		t.Skipf("no mkfs.ext4: %v, %s", err, out)
	}
	mounted := false
	unmount := func() {
		if mounted {
			must(t, syscall.Unmount(dir, 0))
		}
		mounted = false
	}
	t.Cleanup(unmount)
	return func() string {
		unmount()
		if out, err := exec.Command("mount", "-o", "loop", image, dir).CombinedOutput(); err != nil {
			t.Skipf("cannot mount on a loop device: %v, %s", err, out)
		}
		mounted = true
		return dir
	}
}
