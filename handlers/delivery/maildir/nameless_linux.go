package maildir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// ordered reports whether the file system of a directory keeps the order of what
// is done to one file: ext4 and XFS, whose journals have a new name of a file
// before, or in, what a later sync of that file waits for.
func ordered(dir *os.File) bool {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &st); err != nil {
		return false
	}
	return st.Type == unix.EXT4_SUPER_MAGIC || st.Type == unix.XFS_SUPER_MAGIC
}

// createNameless makes a file in a directory that has no name there: if the
// process ends, it was never there.
func createNameless(dir *os.File) (*os.File, error) {
	fd, err := unix.Openat(int(dir.Fd()), ".", unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: dir.Name(), Err: err}
	}
	return os.NewFile(uintptr(fd), dir.Name()), nil
}

// settle writes what a file has to the disk, but for what the disk itself keeps
// back: so much is then ahead of a name that it is given.
func settle(f *os.File) error {
	const all = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
	return os.NewSyscallError("sync_file_range", unix.SyncFileRange(int(f.Fd()), 0, 0, all))
}

// link gives a nameless file a name, which nothing else may have.
func link(f, dir *os.File, name string) error {
	err := unix.Linkat(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(int(f.Fd())), int(dir.Fd()), name, unix.AT_SYMLINK_FOLLOW)
	if err != nil {
		return &os.LinkError{Op: "link", Old: dir.Name(), New: name, Err: err}
	}
	return nil
}

// move renames a file, unless something has the new name.
func move(from *os.File, name string, to *os.File, as string) error {
	err := unix.Renameat2(int(from.Fd()), name, int(to.Fd()), as, unix.RENAME_NOREPLACE)
	if err != nil {
		return &os.LinkError{Op: "rename", Old: name, New: as, Err: err}
	}
	return nil
}

// remove takes a name away.
func remove(dir *os.File, name string) error {
	if err := unix.Unlinkat(int(dir.Fd()), name, 0); err != nil {
		return &fs.PathError{Op: "unlink", Path: name, Err: err}
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

// instance names a file system as it is mounted, if it keeps order: by the boot
// of the system, and the number that the kernel's own directory for it has, which
// no other gets before the next boot. It is errNoStage for other file systems.
func instance(root *os.Root) (string, error) {
	dir, err := root.Open(".")
	if err != nil {
		return "", err
	}
	defer dir.Close()
	var st unix.Stat_t
	if !ordered(dir) || unix.Fstat(int(dir.Fd()), &st) != nil {
		return "", errNoStage
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", errNoStage
	}
	device, err := os.Readlink(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)))
	if err != nil {
		return "", errNoStage
	}
	for _, kind := range []string{"ext4", "xfs"} {
		err := unix.Stat("/sys/fs/"+kind+"/"+filepath.Base(device), &st)
		if err == nil {
			return fmt.Sprintf("%s-%x", strings.TrimSpace(string(boot)), st.Ino), nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	return "", errNoStage
}
