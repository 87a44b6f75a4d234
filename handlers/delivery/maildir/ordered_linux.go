package maildir

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// settle writes what a file has to the disk, but for what the disk itself keeps
// back: so much is then ahead of whatever name it is given.
func settle(f *os.File) error {
	const all = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
	return os.NewSyscallError("sync_file_range", unix.SyncFileRange(int(f.Fd()), 0, 0, all))
}

// move renames a file, unless something has the new name.
func move(from *os.File, name string, to *os.File, as string) error {
	err := unix.Renameat2(int(from.Fd()), name, int(to.Fd()), as, unix.RENAME_NOREPLACE)
	if err != nil {
		return &os.LinkError{Op: "rename", Old: name, New: as, Err: err}
	}
	return nil
}

// lock takes a directory for as long as it is open, unless somebody has it.
func lock(dir *os.File) error {
	return os.NewSyscallError("flock", unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB))
}

// private reports whether nobody but this user may do anything in a directory.
func private(st fs.FileInfo) bool {
	sys, ok := st.Sys().(*syscall.Stat_t)
	return ok && int(sys.Uid) == os.Geteuid() && st.Mode().Perm()&0o077 == 0
}

// A filesystem is one that is mounted.
type filesystem struct {
	// instance is the boot of the system, and the number that the kernel's own
	// directory for it has, which no other gets before the next boot.
	instance string
	device   uint64
	commits  string // where the kernel counts the fast commits of an ext4
}

// filesystemOf returns the file system of a directory if it is one that may keep the
// order of what is done to a file: ext4 and XFS, whose journals have a new name of a
// file before, or in, what a later sync of that file waits for. Otherwise it
// is errNoStage.
func filesystemOf(root *os.Root) (*filesystem, error) {
	dir, err := root.Open(".")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	var fs unix.Statfs_t
	var st unix.Stat_t
	if unix.Fstatfs(int(dir.Fd()), &fs) != nil || unix.Fstat(int(dir.Fd()), &st) != nil {
		return nil, errNoStage
	}
	kind := map[int64]string{unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs"}[int64(fs.Type)] //nolint:unconvert // other systems have other types
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil || kind == "" {
		return nil, errNoStage
	}
	link, err := os.Readlink(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)))
	if err != nil {
		return nil, errNoStage
	}
	f := &filesystem{device: st.Dev}
	name := filepath.Base(link)
	if kind == "ext4" {
		f.commits = "/proc/fs/ext4/" + name + "/fc_info"
	}
	if unix.Stat("/sys/fs/"+kind+"/"+name, &st) != nil {
		return nil, errNoStage
	}
	f.instance = fmt.Sprintf("%s-%x", strings.TrimSpace(string(boot)), st.Ino)
	return f, nil
}

// ordered reports whether the order is kept, once there was a sync. Those of an
// ext4 with fast commits have been seen to have a name without its file.
func (f *filesystem) ordered() bool {
	if f.commits == "" {
		return true
	}
	b, err := os.ReadFile(f.commits)
	return err == nil && strings.Contains(string(b), "\n0 commits\n0 ineligible\n")
}

// has reports whether a directory is on it.
func (f *filesystem) has(dir *os.File) bool {
	var st unix.Stat_t
	return unix.Fstat(int(dir.Fd()), &st) == nil && st.Dev == f.device
}
