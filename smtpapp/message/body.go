package message

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
)

// ErrCorrupt says that a stored body is not what was stored.
var ErrCorrupt = errors.New("stored content is damaged")

// A Body is what follows a header and the empty line, as it came. It is in
// memory, in a spool file that is open, or in a stored file that is opened for
// each reader. Its methods may be called from several goroutines.
type Body struct {
	data []byte   // in memory if file and path are not set
	file *os.File // a spool file
	path string   // a stored file
	size int64

	owned atomic.Bool // the spool file is ours to remove
	sum   lazy[Sum]
	stats lazy[Stats]
}

// lazy is a value that is found out when it is first wanted.
type lazy[T any] struct {
	once sync.Once
	v    T
}

func (l *lazy[T]) get(find func() T) T {
	l.once.Do(func() { l.v = find() })
	return l.v
}

func (l *lazy[T]) set(v T) { l.get(func() T { return v }) }

// NewBody returns a body in memory. data must not change any more.
func NewBody(data []byte) *Body { return &Body{data: data, size: int64(len(data))} }

// OpenBody returns the body in a stored file. Nothing is opened yet. A reader
// that comes to the end fails with ErrCorrupt if the file has not this size and
// this sum.
func OpenBody(path string, size int64, sum Sum) *Body {
	b := &Body{path: path, size: size}
	b.sum.set(sum)
	return b
}

// WithStats tells a stored body what is known about its lines, so that it need
// not be read for that. It returns b.
func (b *Body) WithStats(s Stats) *Body {
	b.stats.set(s)
	return b
}

// Size returns its octets.
func (b *Body) Size() int64 { return b.size }

// Sum returns what it is checked against.
func (b *Body) Sum() Sum { return b.sum.get(func() Sum { return SumOf(b.data) }) }

// Stats returns what is known about its lines. A stored body is read for it,
// unless WithStats told.
func (b *Body) Stats() Stats { return b.stats.get(b.measure) }

func (b *Body) measure() Stats {
	var c lineCounter
	r, err := b.NewReader()
	if err == nil {
		_, err = io.Copy(&c, r)
		_ = r.Close()
	}
	if err != nil { // whoever delivers it will see the error: until then, the worst
		return Stats{EightBit: true, NUL: true, LongestLine: int(b.size)}
	}
	return c.result()
}

// EightBit reports an octet over 127.
func (b *Body) EightBit() bool { return b.Stats().EightBit }

// LongestLine returns the octets of the longest line, without its CRLF.
func (b *Body) LongestLine() int { return b.Stats().LongestLine }

// HasNUL reports a NUL.
func (b *Body) HasNUL() bool { return b.Stats().NUL }

// Bytes returns the body if it is in memory. It must not be changed.
func (b *Body) Bytes() (data []byte, ok bool) {
	return b.data, b.file == nil && b.path == ""
}

// File returns the spool file, nil for a body in memory or in a stored file.
func (b *Body) File() *os.File { return b.file }

// Keep gives the spool file to the caller: Discard leaves it alone from then
// on. The body can be read until the caller closes the file.
func (b *Body) Keep() { b.owned.Store(false) }

// Discard closes and removes the spool file, unless it was kept. A body in
// memory or in a stored file is not affected.
func (b *Body) Discard() error {
	if !b.owned.CompareAndSwap(true, false) {
		return nil
	}
	err := b.file.Close()
	if rm := os.Remove(b.file.Name()); err == nil {
		err = rm
	}
	if err != nil {
		return fmt.Errorf("discard content: %w", err)
	}
	return nil
}

// NewReader reads the body from its beginning. Several readers may be open.
func (b *Body) NewReader() (io.ReadCloser, error) {
	switch {
	case b.file != nil:
		return io.NopCloser(io.NewSectionReader(b.file, 0, b.size)), nil
	case b.path != "":
		return b.open()
	}
	return io.NopCloser(bytes.NewReader(b.data)), nil
}

func (b *Body) open() (io.ReadCloser, error) {
	f, err := os.Open(b.path)
	if err != nil {
		return nil, fmt.Errorf("open content: %w", err)
	}
	if st, err := f.Stat(); err != nil || st.Size() != b.size {
		_ = f.Close()
		if err == nil {
			err = fmt.Errorf("%w: %s has %d octets, not %d", ErrCorrupt, b.path, st.Size(), b.size)
		}
		return nil, err
	}
	return &storedReader{f: f, b: b, digest: b.Sum().digest()}, nil
}

// storedReader compares what it read with the sum when it comes to the end.
type storedReader struct {
	f      *os.File
	b      *Body
	digest digest
}

func (r *storedReader) Close() error { return r.f.Close() }

func (r *storedReader) Read(p []byte) (int, error) {
	n, err := r.f.Read(p)
	r.digest.Write(p[:n])
	if err == io.EOF && r.digest.sum() != r.b.Sum() {
		return n, fmt.Errorf("%w: %s", ErrCorrupt, r.b.path)
	}
	return n, err
}
