package mbox

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// nonblock keeps the open of a pipe, which somebody has put there a moment ago,
// from waiting.
const nonblock = syscall.O_NONBLOCK

// ofdSetlk is F_OFD_SETLK of fcntl(2), which package syscall lacks.
const ofdSetlk = 37

// lock locks a file as fcntl does. Such a lock belongs to the open file and not
// to the process, so that goroutines exclude each other as well.
func lock(f *os.File) error {
	err := syscall.FcntlFlock(f.Fd(), ofdSetlk, &syscall.Flock_t{Type: syscall.F_WRLCK})
	if errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EACCES) {
		return errHeld
	}
	return err
}

// links is how many names a file has.
func links(st fs.FileInfo) uint64 {
	if s, ok := st.Sys().(*syscall.Stat_t); ok {
		return uint64(s.Nlink) //nolint:unconvert // narrower on other architectures
	}
	return 1
}
