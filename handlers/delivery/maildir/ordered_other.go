//go:build !linux

package maildir

import (
	"errors"
	"io/fs"
	"os"
)

// A filesystem is one that keeps the order of what is done to a file. Elsewhere
// than on Linux none is known.
type filesystem struct{ instance string }

func filesystemOf(*os.Root) (*filesystem, error) { return nil, errNoStage }

func (*filesystem) ordered() bool { return false }

func (*filesystem) has(*os.File) bool { return false }

func settle(*os.File) error { return errors.ErrUnsupported }

func move(*os.File, string, *os.File, string) error { return errors.ErrUnsupported }

func lock(*os.File) error { return errors.ErrUnsupported }

func private(fs.FileInfo) bool { return false }
