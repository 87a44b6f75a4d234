package tests

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"
)

// A disk is a file system of its own, on a loop device, whose power can be cut.
type disk struct {
	t               *testing.T
	kind, image, at string
}

// newDisk makes and mounts one. Where there can be no loop device, the test is
// skipped.
func newDisk(t *testing.T, kind string) *disk {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("a loop device needs root")
	}
	if known, _ := os.ReadFile("/proc/filesystems"); !slices.Contains(strings.Fields(string(known)), kind) {
		t.Skip("the kernel has no ", kind)
	}
	runtime.LockOSThread() // for good: the thread ends with the test
	if err := syscall.Unshare(syscall.CLONE_FS | syscall.CLONE_NEWNS); err != nil {
		t.Skip("no mounts of its own: ", err) // which somebody else's would keep in use
	}
	if err := syscall.Mount("", "/", "", syscall.MS_PRIVATE|syscall.MS_REC, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		t.Skip("there are no loop devices: ", err)
	}
	if _, err := exec.LookPath("mkfs." + kind); err != nil {
		if os.Getenv("CADDY_SMTP_REQUIRE_ALL") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	dir := folder(t)
	d := &disk{t, kind, filepath.Join(dir, "image"), filepath.Join(dir, "disk")}
	if err := os.Mkdir(d.at, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(d.image, 4<<30); err != nil {
		t.Fatal(err)
	}
	if out, err := command(t, "mkfs."+kind, "-q", d.image).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := d.mount(); err != nil {
		t.Skipf("cannot mount on a loop device: %v: %s", err, out)
	}
	t.Cleanup(func() { syscall.Unmount(d.at, syscall.MNT_DETACH) })
	return d
}

func (d *disk) mount() ([]byte, error) {
	return command(d.t, "mount", "-o", "loop", d.image, d.at).CombinedOutput()
}

// cut has the file system forget what it has not written, journal and all
// (_IOR('X', 125, __u32), which XFS and ext4 share, without a flush of the log).
func (d *disk) cut() {
	d.t.Helper()
	const shutdown, withoutLog = 0x8004587d, 2
	f, err := os.Open(d.at)
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	var how [4]byte
	binary.NativeEndian.PutUint32(how[:], withoutLog)
	if _, _, e := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), shutdown, uintptr(unsafe.Pointer(&how))); e != 0 { //nolint:gosec // how ioctl is called
		d.t.Fatal("shutdown of the file system: ", e)
	}
}

// again mounts it as after a start of the machine.
func (d *disk) again() {
	d.t.Helper()
	if err := syscall.Unmount(d.at, 0); err != nil {
		d.t.Fatal("unmount: ", err)
	}
	if out, err := d.mount(); err != nil {
		d.t.Fatalf("mount: %v: %s", err, out)
	}
}

// TestPowerCut is promise P2: what was answered 250 is there when the power comes
// back, whole, in a queue and Maildirs on ext4 and on XFS.
func TestPowerCut(t *testing.T) {
	for _, kind := range []string{"ext4", "xfs"} {
		for clients, cuts := range map[int]int{1: many(0, 34), 16: many(2, 33), 64: many(0, 33)} {
			if cuts == 0 {
				continue
			}
			t.Run(fmt.Sprintf("%s, clients %d", kind, clients), func(t *testing.T) { powerCuts(t, kind, clients, cuts) })
		}
	}
}

func powerCuts(t *testing.T, kind string, clients, n int) {
	d := newDisk(t, kind)
	sink, far := counted(t)
	p := runCaddyIn(t, d.at, ":", mixedConfig(sink, "tls off"))
	tr := newTraffic(p.addr("mx"), clients, false, 0)
	var slowest time.Duration
	for range n {
		time.Sleep(time.Duration(200+rand.IntN(800)) * time.Millisecond)
		// While a file system is being shut down, its syncs may succeed for what it then
		// forgets: with the power, their callers would be gone as well.
		tr.doubtful(true)
		d.cut()
		time.Sleep(100 * time.Millisecond)
		tr.doubtful(false)
		time.Sleep(rand.N(100 * time.Millisecond)) // in which nothing more may be taken
		p.cmd.Process.Kill()
		p.cmd.Wait()
		d.again()
		began := time.Now()
		p.restart()
		slowest = max(slowest, time.Since(began))
	}
	tr.end()
	p.release()
	box := arrived(t, p.host, far)
	far.mu.Lock()
	defer far.mu.Unlock()
	tr.check(t, box, far)
	extra, most := far.repeated()
	t.Logf("%d cuts, it served again within %v; %.2f copies too many for each", n, slowest, float64(extra)/float64(n))
	if len(tr.acked) < n {
		t.Errorf("only %d were answered", len(tr.acked))
	}
	if extra > 20*n || most > 1+n { // what was under way, at most
		t.Errorf("%d copies too many at the sink after %d cuts, at most %d of one", extra, n, most)
	}
}
