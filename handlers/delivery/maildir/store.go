package maildir

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// A store is the directory below which all mailboxes of an agent are. Nothing
// is done below it but through an os.Root.
type store struct {
	dir  string
	mode fs.FileMode // of messages
}

// dirMode lets those enter who may read.
func (s *store) dirMode() fs.FileMode { return 0o700 | s.mode | s.mode>>2&0o111 }

// has reports whether there is a directory at rel. The error wraps
// fs.ErrNotExist only if there is no store.
func (s *store) has(rel string) (bool, error) {
	root, err := os.OpenRoot(s.dir)
	if err != nil {
		return false, err
	}
	defer shut(root)
	st, err := root.Stat(rel)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && st.IsDir(), err
}

// mailbox opens the Maildir at rel. What is missing of it is made.
func (s *store) mailbox(rel string) (*mailbox, error) {
	root, err := os.OpenRoot(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		if err = s.make(); err == nil {
			root, err = os.OpenRoot(s.dir)
		}
	}
	if err != nil {
		return nil, err
	}
	defer shut(root)
	for path := range ancestors(rel) {
		if err := s.mkdir(root, path); err != nil {
			return nil, err
		}
	}
	sub, err := root.OpenRoot(rel) // links of the mailbox's owner lead no further than here
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"tmp", "new", "cur"} {
		if err := s.mkdir(sub, name); err != nil {
			shut(sub)
			return nil, err
		}
	}
	return &mailbox{sub, s.mode}, nil
}

// shut closes a directory, of which nothing can be lost.
func shut(root *os.Root) { _ = root.Close() }

// make makes the store itself, and what is missing above it.
func (s *store) make() error {
	parent := s.dir
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
	defer shut(root)
	rel, err := filepath.Rel(parent, s.dir)
	if err != nil {
		return err
	}
	for path := range ancestors(rel) {
		if err := s.mkdir(root, path); err != nil {
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

// mkdir makes a directory that will be there after a power cut, unless there
// is one.
func (s *store) mkdir(root *os.Root, path string) error {
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
	if err != nil {
		return err
	}
	return syncDir(root, filepath.Dir(path))
}

// syncDir makes durable which names a directory has. Some file systems don't
// know how to.
func syncDir(root *os.Root, path string) error {
	f, err := root.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	return nil
}
