// Package watchfile keeps what a file says, and reads the file again when it
// has changed. It has no goroutine: whoever asks pays, at most once a second,
// for a look at the file's time and size. It knows nothing of what is in files.
package watchfile

import (
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// interval is the least time between two looks at a file.
	interval = time.Second
	// coarse is how far apart two writes may be and still have the same
	// modification time on some file systems. A file that was that young when
	// it was read is read again.
	coarse = 2 * time.Second
)

// A File is the contents of a file as a T.
type File[T any] struct {
	path  string
	limit int64
	parse func([]byte) (T, error)
	log   *slog.Logger

	value atomic.Pointer[T]
	next  atomic.Int64 // when to look again, UnixNano
	mu    sync.Mutex   // one at a time looks; guards the rest
	info  fs.FileInfo  // of what was read last
	young bool         // it was written just before
	err   error        // of the last read
	fault string       // what was logged last
}

// Open reads a file of at most limit octets. Later versions that cannot be read
// or parsed are logged once each, and the last good one stays in force.
func Open[T any](path string, limit int64, parse func([]byte) (T, error), log *slog.Logger) (*File[T], error) {
	f := &File[T]{path: path, limit: limit, parse: parse, log: log}
	if err := f.read(); err != nil {
		return nil, err
	}
	f.next.Store(time.Now().Add(interval).UnixNano())
	return f, nil
}

// Value returns what the file says. It must not be changed.
func (f *File[T]) Value() T {
	now := time.Now()
	if now.UnixNano() >= f.next.Load() && f.mu.TryLock() {
		f.next.Store(now.Add(interval).UnixNano())
		f.refresh()
		f.mu.Unlock()
	}
	return *f.value.Load()
}

// refresh reads the file if it is not the one that was read.
func (f *File[T]) refresh() {
	err := f.changed()
	if err == nil {
		f.fault = ""
		return
	}
	if msg := err.Error(); msg != f.fault {
		f.fault = msg
		f.log.Error("cannot reload file; what it said before stays in force", "file", f.path, "error", err)
	}
}

func (f *File[T]) changed() error {
	now, err := os.Stat(f.path)
	if err != nil {
		return err
	}
	same := os.SameFile(now, f.info) && now.ModTime().Equal(f.info.ModTime()) && now.Size() == f.info.Size()
	if !same || f.young {
		f.err = f.read()
	}
	return f.err
}

// read takes the file's facts before its contents, so that a write in between
// shows as a change.
func (f *File[T]) read() error {
	file, err := os.Open(f.path)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", f.path)
	}
	age := time.Since(info.ModTime())
	f.info, f.young = info, age < coarse
	b, err := io.ReadAll(io.LimitReader(file, f.limit+1))
	if err != nil {
		return err
	}
	if int64(len(b)) > f.limit {
		return fmt.Errorf("%s is over %d octets", f.path, f.limit)
	}
	v, err := f.parse(b)
	if err != nil {
		return fmt.Errorf("%s: %w", f.path, err)
	}
	f.value.Store(&v)
	return nil
}
