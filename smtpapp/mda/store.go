// Package mda is what agents of final delivery share, that put messages into
// files or hand them to programs: directories that hold mailboxes, content as it
// is kept there, and what a failure comes to. It knows no format of mailboxes and
// nothing of configuration.
package mda

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// A Store is the directory below which all mailboxes of an agent are. Nothing
// is done below it but through an os.Root.
type Store struct {
	Dir   string
	Mode  fs.FileMode // of messages
	Owner *Owner      // of what is made, nil to leave it to the system
}

// dirMode lets those enter who may read.
func (s *Store) dirMode() fs.FileMode { return 0o700 | s.Mode | s.Mode>>2&0o111 }

// ErrNoStore says that the directory of all mailboxes is missing.
var ErrNoStore = errors.New("there is no directory of mailboxes")

// Lstat returns what is at rel. Without a store it is ErrNoStore.
func (s *Store) Lstat(rel string) (fs.FileInfo, error) {
	root, err := os.OpenRoot(s.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNoStore
	}
	if err != nil {
		return nil, err
	}
	defer Shut(root)
	return root.Lstat(rel)
}

// Dress gives a file that was made its mode and owner, whatever the umask says.
func (s *Store) Dress(f *os.File) error {
	if err := f.Chmod(s.Mode); err != nil {
		return err
	}
	if s.Owner != nil {
		return f.Chown(s.Owner.UID, s.Owner.GID)
	}
	return nil
}

// Has reports whether there is a directory at rel. The error wraps
// fs.ErrNotExist only if there is no store.
func (s *Store) Has(rel string) (bool, error) {
	root, err := os.OpenRoot(s.Dir)
	if err != nil {
		return false, err
	}
	defer Shut(root)
	st, err := root.Stat(rel)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && st.IsDir(), err
}

// Open opens the directory at rel. What is missing of it is made. Links in it
// lead no further than there.
func (s *Store) Open(rel string) (*os.Root, error) {
	root, err := os.OpenRoot(s.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		if err = s.make(); err == nil {
			root, err = os.OpenRoot(s.Dir)
		}
	}
	if err != nil {
		return nil, err
	}
	defer Shut(root)
	if box, err := root.OpenRoot(rel); !errors.Is(err, fs.ErrNotExist) { // as nearly always
		return box, err
	}
	for path := range ancestors(rel) {
		if err := s.Mkdir(root, path); err != nil {
			return nil, err
		}
	}
	return root.OpenRoot(rel)
}

// Shut closes a directory, of which nothing can be lost.
func Shut(root *os.Root) { _ = root.Close() }

// make makes the store itself, and what is missing above it.
func (s *Store) make() error {
	parent := s.Dir
	for {
		if _, err := os.Stat(parent); !errors.Is(err, fs.ErrNotExist) || parent == filepath.Dir(parent) {
			break
		}
		parent = filepath.Dir(parent)
	}
	root, err := os.OpenRoot(parent)
	if err != nil {
		return err
	}
	defer Shut(root)
	rel, err := filepath.Rel(parent, s.Dir)
	if err != nil {
		return err
	}
	for path := range ancestors(rel) {
		if err := s.Mkdir(root, path); err != nil {
			return err
		}
	}
	return nil
}

// ancestors yields a, a/b and a/b/c for a/b/c.
func ancestors(rel string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		if rel == "." {
			return
		}
		path := ""
		for name := range strings.SplitSeq(rel, string(filepath.Separator)) {
			path = filepath.Join(path, name)
			if !yield(path) {
				return
			}
		}
	}
}

// Mkdir makes a directory that will be there after a power cut, unless there
// is one.
func (s *Store) Mkdir(root *os.Root, path string) error {
	if _, err := root.Lstat(path); err == nil {
		return nil
	}
	err := root.Mkdir(path, 0o700)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err == nil && s.dirMode() != 0o700 { // whatever the umask says
		err = root.Chmod(path, s.dirMode())
	}
	if err == nil && s.Owner != nil {
		err = root.Lchown(path, s.Owner.UID, s.Owner.GID)
	}
	if err != nil {
		return err
	}
	return SyncDir(root, filepath.Dir(path))
}

// SyncDir makes durable which names a directory has.
func SyncDir(root *os.Root, path string) error {
	f, err := root.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return Sync(f)
}

// Sync does the same with an open directory. Some file systems don't know how to.
func Sync(dir *os.File) error {
	if err := dir.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	return nil
}
