//go:build !linux

package mbox

import (
	"errors"
	"io/fs"
	"os"
)

const nonblock = 0

// lock fails: the locks of fcntl belong to the process elsewhere, so that its own
// deliveries would not exclude each other.
func lock(*os.File) error { return errors.New("files cannot be locked on this system") }

func links(fs.FileInfo) uint64 { return 1 }
