package tests

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestDiskFull is promise P7: while less is free than is to stay free, or fewer
// inodes are, new mail is put off, and what is queued goes on being delivered, its
// results written down; and mail is taken again soon after there is room.
func TestDiskFull(t *testing.T) {
	for what, fill := range map[string]func(dir string) error{
		"some octets": func(dir string) error { return os.WriteFile(dir+"/filler", make([]byte, 50<<20), 0o600) },
		"all octets":  func(dir string) error { return os.WriteFile(dir+"/filler", make([]byte, 100<<20), 0o600) },
		"inodes": func(dir string) (err error) {
			err = os.Mkdir(dir+"/filler", 0o700)
			for i := 0; err == nil; i++ {
				err = os.WriteFile(fmt.Sprint(dir, "/filler/", i), nil, 0o600)
			}
			return err
		},
	} {
		t.Run(what, func(t *testing.T) { diskFull(t, fill) })
	}
}

func diskFull(t *testing.T, fill func(dir string) error) {
	dir := folder(t)
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=64m,nr_inodes=3000", "tmpfs", dir).CombinedOutput(); err != nil {
		t.Skipf("cannot mount a tmpfs: %v, %s", err, out)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	port := freePort(t)
	p := runCaddyIn(t, dir, ":", fmt.Sprintf(`
	queue {
		retry 1s
		free_space 16MiB
	}
	agent out relay 127.0.0.1:%d {
		tls off
	}
	server mx ADDR(mx) {
		tls off
		deliver out
	}`, port))
	send := func(i int) string {
		body := "hello"
		if i%2 == 1 {
			body = strings.Repeat("0123456789\r\n", 10_000)
		}
		return offer(greet(t, p.addr("mx")), fmt.Sprint("m", i), body)
	}
	taken := 0
	for ; taken < 20; taken++ {
		if r := send(taken); !strings.HasPrefix(r, "250") {
			t.Fatal(r)
		}
	}
	if err := fill(dir); err != nil && !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	for i := range 6 {
		if r := send(i); !strings.HasPrefix(r, "452 4.3.1") {
			t.Errorf("without room: %q", r)
		}
	}
	sink := sinkAt(t, fmt.Sprintf("127.0.0.1:%d", port))
	p.operate("?do=retry&all=true")
	got := map[string]int{}
	for range taken {
		got[subject(sink.next(t))]++
	}
	wait(t, "the results", func() bool { return len(p.queue("")) == 0 })
	if len(got) != taken {
		t.Errorf("%d of %d were delivered: %v", len(got), taken, got)
	}
	if err := os.RemoveAll(filepath.Join(dir, "filler")); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		r := send(0)
		if strings.HasPrefix(r, "250") {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("5 s after there was room: %q", r)
		}
	}
	sink.next(t)
	wait(t, "the last result", func() bool { return len(p.queue("")) == 0 })
	p.cmd.Process.Kill()
	p.cmd.Wait()
	p.restart()
	wait(t, "the queue to be read", func() bool { return len(p.queue("")) == 0 })
	if len(sink.mail) > 0 {
		t.Errorf("%d messages were sent again", len(sink.mail))
	}
}
