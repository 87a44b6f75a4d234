package mbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

var (
	errLocked  = mail.Refuse(451, "4.2.0", "mailbox is locked by another program")
	errStrange = errors.New("not a plain file with one name")
	errMoved   = errors.New("another program has put a new file there")
	errHeld    = errors.New("the lock is held")
)

// staleAfter is the age of a lock file that was left behind.
const staleAfter = 5 * time.Minute

// locked runs do with the file of a name, which is locked meanwhile.
func (a *Agent) locked(ctx context.Context, root *os.Root, name string, do func(*file) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, time.Duration(a.LockTimeout), errLocked)
	waiting := ctx
	defer cancel()
	if a.Dotlock {
		if err := wait(waiting, func() error { return dotlock(root, name+".lock") }); err != nil {
			return err
		}
		defer func() { _ = root.Remove(name + ".lock") }()
	}
	var f *file
	err := wait(waiting, func() (err error) {
		f, err = a.open(root, name)
		return err
	})
	if err != nil {
		return err
	}
	defer f.Close() // which unlocks
	return do(f)
}

// wait tries until it works, or fails otherwise than by somebody's lock.
func wait(ctx context.Context, try func() error) error {
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, time.Second/2) {
		err := try()
		if !errors.Is(err, errHeld) && !errors.Is(err, errMoved) {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// open opens and locks the file, which is made if it is missing.
func (a *Agent) open(root *os.Root, name string) (*file, error) {
	f := &file{root: root}
	err := plain(root.Lstat(name))
	if errors.Is(err, fs.ErrNotExist) {
		f.File, err = root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if errors.Is(err, fs.ErrExist) {
			return nil, errMoved
		}
		f.made = true
	} else if err == nil {
		f.File, err = root.OpenFile(name, os.O_RDWR|nonblock, 0)
	}
	if err != nil {
		return nil, err
	}
	if f.made {
		err = a.store.Dress(f.File)
	}
	if err == nil {
		err = lock(f.File)
	}
	if err == nil {
		err = f.still(name)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// still is an error unless the file has its name still, and no other.
func (f *file) still(name string) error {
	here, err := f.Stat()
	if err = plain(here, err); err != nil {
		return err
	}
	there, err := f.root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(here, there) {
		return errMoved
	}
	return err
}

// plain refuses what is not a plain file with one name: the owner of a link could
// have our mail end anywhere.
func plain(st fs.FileInfo, err error) error {
	if err == nil && (!st.Mode().IsRegular() || links(st) > 1) {
		return errStrange
	}
	return err
}

// dotlock makes a lock file.
func dotlock(root *os.Root, name string) error {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		if st, err := root.Lstat(name); err == nil && time.Since(st.ModTime()) > staleAfter {
			_ = root.Remove(name)
		}
		return errHeld
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "%d\n", os.Getpid())
	if err = errors.Join(err, f.Close()); err != nil {
		_ = root.Remove(name)
	}
	return err
}
