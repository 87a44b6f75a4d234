package sqlstore

import (
	"log/slog"
	"os"
	"sync"
	"syscall"
)

const (
	minSpace  = 512 << 20 // octets, or 5 %
	minInodes = 1000      // or 5 %, where nothing was configured
)

// Room reports whether there is room for new mail, while what is queued can
// still be worked on.
func (s *Store) Room() bool {
	var st syscall.Statfs_t
	wanted := s.reserve.Load()
	if wanted < 0 || syscall.Statfs(s.dir, &st) != nil {
		return true
	}
	block := int64(st.Bsize) //nolint:unconvert // other systems have other types
	free := int64(st.Bavail) * block
	inodes := uint64(minInodes)
	if wanted == 0 {
		wanted = max(minSpace, int64(st.Blocks)*block/20)
		inodes = max(inodes, st.Files/20)
	}
	if free < wanted || st.Files > 0 && st.Ffree < inodes || !s.ballast.keep(min(maxBallast, wanted/8), free-wanted) {
		s.opts.Log.Warn("no room for new mail", "free", free, "wanted", wanted, "inodes", st.Ffree)
		return false
	}
	return true
}

// Reserve sets what must stay free, as Options.FreeSpace does.
func (s *Store) Reserve(octets int64) { s.reserve.Store(octets) }

// maxBallast is enough for the results of deliveries while somebody makes room.
const maxBallast = 64 << 20

// ballast is a file that is of no use but for its size: it is removed when the
// file system is full, so that what became of deliveries can be written down.
// Until there is room for it again no mail is taken.
type ballast struct {
	path string
	log  *slog.Logger
	mu   sync.Mutex
	here bool
}

// keep makes the file if it is not there, out of what is free.
func (b *ballast) keep(size, free int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.here {
		return true
	}
	if st, err := os.Stat(b.path); err == nil && st.Size() >= size {
		b.here = true
		return true
	}
	if free < size {
		return false
	}
	if err := os.WriteFile(b.path, make([]byte, size), 0o600); err != nil {
		b.log.Error("making the ballast", "error", err)
		os.Remove(b.path)
		return false
	}
	b.here = true
	return true
}

// drop removes the file and reports whether that made room.
func (b *ballast) drop() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.here = false
	if os.Remove(b.path) != nil {
		return false
	}
	b.log.Error("the file system of the queue is full: the ballast is gone, no mail is taken")
	return true
}
