package maildir

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/mda"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

// A stage is where a message is that is delivered before the reply to its client:
// on the disk, but in nobody's mailbox. From there it is moved into its mailbox,
// and then the reply goes out. So one may be found on a stage for two reasons:
//
//   - The process has ended, and nothing else. It was not moved, its client has
//     heard nothing, and will come again.
//   - The machine has ended, and may have forgotten moves that replies had
//     followed. It belongs into its mailbox, unless it is there.
//
// The name of a stage tells the one from the other: it begins with the instance of
// the file system, which is another each time that one is mounted.
type stage struct {
	path string // of the directory of all stages, below the store
	log  *slog.Logger

	mu    sync.RWMutex // held for reading while something is on it
	root  *os.Root     // nil for none
	dir   *os.File     // the same, locked
	base  *os.Root     // in which it is
	tried time.Time    // to have one
	ended bool

	disk atomic.Pointer[filesystem] // on which it is, nil for none
}

const (
	// maxStaged is the longest name of a file, in octets.
	maxStaged = 255
	// restaged is after what time a stage is looked for again where there was none.
	restaged = time.Minute
)

var errNoStage = errors.New("there is no stage")

// DeliverNow delivers a message whose client waits. It leaves to the queue what it
// cannot do, or not as surely.
func (a *Agent) DeliverNow(ctx context.Context, d *queue.Delivery) bool {
	if !a.direct() || !a.haveStage() {
		return false
	}
	box, it, err := a.open(d, d.Envelope.Recipients[0])
	if err != nil {
		return false
	}
	defer box.shut()
	return a.stage.perform(ctx, box, it) == nil
}

// haveStage reports whether there is a stage. Where there is none, one is looked for
// now and then.
func (a *Agent) haveStage() bool {
	s := a.stage
	s.mu.RLock()
	have, rest := s.root != nil, s.ended || time.Since(s.tried) < restaged
	s.mu.RUnlock()
	if !have && !rest {
		a.takeStage()
		s.mu.RLock()
		defer s.mu.RUnlock()
		return s.root != nil
	}
	return have
}

// perform has a message go over the stage. After an error nothing is left of it.
func (s *stage) perform(ctx context.Context, m *mailbox, it *item) error {
	s.mu.RLock()
	err := s.deliver(ctx, m, it)
	s.mu.RUnlock()
	if errors.Is(err, errStage) {
		s.log.Warn("mail goes by the queue for a while", "error", err)
		s.leave(false)
	}
	return err
}

// errStage is of the stage itself, so that the next message would meet it too.
var errStage = errors.New("delivering before the reply")

func (s *stage) deliver(ctx context.Context, m *mailbox, it *item) error {
	name := staged(m, it.name)
	if s.root == nil || len(name) >= maxStaged {
		return errNoStage
	}
	d, err := m.draft(ctx, s.root, unfinished+name, it)
	if err != nil {
		return blame(err)
	}
	defer d.discard()
	if err := s.pass(d, name, m.new, it.name); err != nil {
		return blame(err)
	}
	if m.quota != nil {
		m.quota.add(m.top, d.size)
	}
	return nil
}

// unfinished is before the name of what is being written.
const unfinished = "."

// pass has a draft come onto the stage, onto the disk and into new.
func (s *stage) pass(d *draft, name string, box *os.File, as string) error {
	if err := settle(d.File); err != nil {
		return err
	}
	if err := s.root.Rename(d.name, name); err != nil {
		return err
	}
	d.name = name
	if err := d.Sync(); err != nil {
		return err
	}
	if err := move(s.dir, name, box, as); err != nil {
		return err
	}
	d.name = ""
	return nil
}

// blame tells errors of the stage from those of a mailbox, a message or a moment.
func blame(err error) error {
	for _, e := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EXDEV, fs.ErrExist} {
		if errors.Is(err, e) {
			return err
		}
	}
	_, ofContent := errors.AsType[mda.ContentError](err)
	if _, refused := errors.AsType[*mail.Reply](err); refused || ofContent {
		return err
	}
	return fmt.Errorf("%w: %w", errStage, err)
}

// staged is the name of a message on the stage: what it will be called, and where.
func staged(m *mailbox, name string) string {
	return name + "," + base64.RawURLEncoding.EncodeToString([]byte(m.rel+"\x00"+m.folder))
}

// unstaged reads such a name.
func unstaged(s string) (name, rel, folder string, ok bool) {
	i := strings.LastIndexByte(s, ',')
	if i < 0 {
		return "", "", "", false
	}
	at, err := base64.RawURLEncoding.DecodeString(s[i+1:])
	rel, folder, ok = strings.Cut(string(at), "\x00")
	return s[:i], rel, folder, ok && err == nil && filepath.IsLocal(rel) && (folder == "" || filepath.IsLocal(folder))
}

// takeStage sees to what earlier ones have left, and makes one where it is of use.
func (a *Agent) takeStage() {
	s := a.stage
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.root != nil || s.ended {
		return
	}
	err := a.enter(s)
	if !errors.Is(err, fs.ErrNotExist) { // without a store, which the first delivery makes
		s.tried = time.Now()
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errNoStage) {
		s.log.Warn("local mail goes by the queue", "error", err)
	}
}

// enter opens the directory of all stages, if it is one's own and on a file system
// that keeps order, and in it makes a new one.
func (a *Agent) enter(s *stage) error {
	root, err := os.OpenRoot(a.store.Dir)
	if err != nil {
		return err
	}
	defer mda.Shut(root)
	disk, err := filesystemOf(root)
	if err != nil {
		return err
	}
	if !a.direct() {
		if _, err := root.Lstat(s.path); err != nil {
			return errNoStage // and nothing that one has left
		}
	}
	base, err := openPrivate(root, s.path)
	if err != nil {
		return err
	}
	a.clear(base, disk.instance)
	if !a.direct() {
		mda.Shut(base)
		return errNoStage
	}
	if err := s.set(base, disk); err != nil {
		mda.Shut(base)
		return err
	}
	return nil
}

// openPrivate opens a directory that is for this user alone, and makes it before.
func openPrivate(root *os.Root, path string) (*os.Root, error) {
	err := root.Mkdir(path, 0o700)
	if err == nil {
		err = mda.SyncDir(root, filepath.Dir(path))
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	base, err := root.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	st, err := base.Stat(".")
	if err == nil && !private(st) {
		err = fmt.Errorf("%s is not this user's alone", filepath.Join(root.Name(), path))
	}
	if err != nil {
		mda.Shut(base)
		return nil, err
	}
	return base, nil
}

// set makes a stage and locks it.
func (s *stage) set(base *os.Root, disk *filesystem) error {
	name := disk.instance + "." + rand.Text()[:8]
	if err := base.Mkdir(name, 0o700); err != nil {
		return err
	}
	root, err := base.OpenRoot(name)
	if err != nil {
		return err
	}
	dir, err := root.Open(".")
	if err == nil {
		err = errors.Join(lock(dir), probe(root), mda.SyncDir(base, "."))
	}
	if err == nil && !disk.ordered() {
		err = errNoStage
	}
	if err != nil {
		_ = dir.Close()
		mda.Shut(root)
		return errors.Join(err, base.Remove(name))
	}
	s.base, s.root, s.dir = base, root, dir
	s.disk.Store(disk)
	return nil
}

// probe does what is done for each message, to see how the file system goes about it.
func probe(root *os.Root) error {
	f, err := root.Create(unfinished + "probe")
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString("probe")
	return errors.Join(err, f.Sync(), root.Remove(unfinished+"probe"))
}

// covers reports whether a directory is on the file system of the stage.
func (s *stage) covers(dir *os.File) bool {
	disk := s.disk.Load()
	return disk != nil && disk.has(dir)
}

// leave gives the stage back, for good or until one is looked for again.
func (s *stage) leave(forGood bool) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = s.ended || forGood
	if s.root == nil {
		return
	}
	s.tried = time.Now()
	_ = s.base.Remove(filepath.Base(s.root.Name())) // unless something is on it
	_ = s.dir.Close()
	mda.Shut(s.root)
	mda.Shut(s.base)
	s.dir, s.root, s.base = nil, nil, nil
	s.disk.Store(nil)
}

// clear sees to what stages have whose processes have ended.
func (a *Agent) clear(base *os.Root, now string) {
	err := names(base, ".", func(n string) {
		if err := a.clearOne(base, n, now); err != nil {
			a.stage.log.Error("what was being delivered when the server ended is left where it is", "stage", n, "error", err)
		}
	})
	if err != nil {
		a.stage.log.Error("reading stages", "error", err)
	}
}

func (a *Agent) clearOne(base *os.Root, stage, now string) error {
	root, err := base.OpenRoot(stage)
	if err != nil {
		return err
	}
	defer mda.Shut(root)
	dir, err := root.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	if lock(dir) != nil {
		return nil // it is in use
	}
	unanswered := strings.HasPrefix(stage, now+".")
	files, err := dir.Readdirnames(-1)
	for _, f := range files {
		if unanswered || strings.HasPrefix(f, unfinished) {
			err = errors.Join(err, root.Remove(f))
		} else {
			err = errors.Join(err, a.restore(root, dir, f))
		}
	}
	if err != nil {
		return err
	}
	return base.Remove(stage)
}

// restore puts a message into its mailbox, unless it is there.
func (a *Agent) restore(root *os.Root, dir *os.File, file string) error {
	name, rel, folder, ok := unstaged(file)
	if !ok {
		return fmt.Errorf("%q is no message", file)
	}
	m, err := a.mailbox(rel, folder)
	if err != nil {
		return err
	}
	defer m.shut()
	in, err := m.find(name)
	switch {
	case err != nil:
		return err
	case in != "":
		return root.Remove(file)
	}
	if err := move(dir, file, m.new, name); err != nil {
		return err
	}
	a.stage.log.Info("delivered what a power cut had held up", "mailbox", rel)
	if m.quota != nil {
		if size, ok := sizeOf(m.root, "new/"+name); ok {
			m.quota.add(m.top, size)
		}
	}
	return mda.Sync(m.new)
}
