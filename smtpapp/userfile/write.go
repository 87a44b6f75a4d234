package userfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// patience is how long to wait for another who edits the file.
const patience = 10 * time.Second

// Edit changes a file in one step: readers see it as it was or as it is then, and
// another Edit waits. Mode and owner are kept. A file that is not there is made if
// create says so, for its owner alone.
func Edit(path string, create bool, change func(*File) error) error {
	return replace(path, create, func(b []byte) ([]byte, error) {
		f, err := Parse(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if err := change(f); err != nil {
			return nil, err
		}
		return f.Bytes(), nil
	})
}

// replace puts what f makes of a file in its place. A file that it had to make,
// so as to hold it, goes again if nothing comes of it: whoever waits for it sees
// that, and begins anew.
func replace(path string, create bool, f func([]byte) ([]byte, error)) (err error) {
	_, missing := os.Stat(path)
	held, err := lock(path, create)
	if err != nil {
		return err
	}
	defer held.Close()
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return err
	}
	old, err := io.ReadAll(io.LimitReader(held, MaxSize+1))
	if err != nil {
		return err
	}
	if os.IsNotExist(missing) && len(old) == 0 {
		defer func() {
			if current(held, path) {
				err = errors.Join(err, os.Remove(path))
			}
		}()
	}
	text, err := f(old)
	switch {
	case err != nil:
		return err
	case len(text) > MaxSize || len(old) > MaxSize:
		return fmt.Errorf("%s is over %d octets", path, MaxSize)
	case string(text) == string(old):
		return nil
	}
	info, err := held.Stat()
	if err != nil {
		return err
	}
	return put(path, text, info)
}

// lock opens a file and keeps other writers away until it is closed. The file that
// was opened may have been replaced while we waited.
func lock(path string, create bool) (*os.File, error) {
	flags := os.O_RDONLY
	if create {
		flags |= os.O_CREATE
	}
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		f, err := os.OpenFile(path, flags, 0o600)
		if err != nil {
			return nil, err
		}
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil && current(f, path) {
			return f, nil
		}
		f.Close()
		switch {
		case err != nil && !errors.Is(err, syscall.EWOULDBLOCK):
			return nil, fmt.Errorf("locking %s: %w", path, err)
		case time.Now().After(end):
			return nil, fmt.Errorf("%s is in use", path)
		}
	}
}

func current(f *os.File, path string) bool {
	a, err := f.Stat()
	b, err2 := os.Stat(path)
	return err == nil && err2 == nil && os.SameFile(a, b)
}

// put writes a file beside the old one and moves it there, with the mode and the
// owner that it had.
func put(path string, text []byte, was fs.FileInfo) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if st, ok := was.Sys().(*syscall.Stat_t); ok && (int(st.Uid) != os.Geteuid() || int(st.Gid) != os.Getegid()) {
		if err := f.Chown(int(st.Uid), int(st.Gid)); err != nil {
			return fmt.Errorf("keeping the owner: %w", err)
		}
	}
	if err := f.Chmod(was.Mode().Perm()); err != nil {
		return err
	}
	if _, err := f.Write(text); err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// CheckMode says what is wrong with who may read and write the file, given that it
// holds passwords as they are, or only hashes: an error that forbids its use, or a
// warning.
func CheckMode(mode fs.FileMode, plain bool) (warning string, err error) {
	switch {
	case mode.Perm()&0o002 != 0:
		return "", fmt.Errorf("everybody may write it (mode %04o)", mode.Perm())
	case mode.Perm()&0o004 != 0 && plain:
		return "", fmt.Errorf("everybody may read the passwords in it (mode %04o)", mode.Perm())
	case mode.Perm()&0o004 != 0:
		return fmt.Sprintf("everybody may read the hashes in it (mode %04o)", mode.Perm()), nil
	}
	return "", nil
}
