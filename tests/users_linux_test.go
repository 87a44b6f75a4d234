package tests

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"
)

// terminal opens a pseudo terminal: what is written to one end is typed at the
// other.
func terminal(t *testing.T) (person, tty *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skip("no pseudo terminals: ", err)
	}
	t.Cleanup(func() { person.Close() })
	var n, unlock uint32
	for request, arg := range map[uintptr]*uint32{syscall.TIOCSPTLCK: &unlock, syscall.TIOCGPTN: &n} {
		if _, _, e := syscall.Syscall(syscall.SYS_IOCTL, person.Fd(), request, uintptr(unsafe.Pointer(arg))); e != 0 {
			t.Skip("no pseudo terminals: ", e)
		}
	}
	tty, err = os.OpenFile(fmt.Sprint("/dev/pts/", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skip("no pseudo terminals: ", err)
	}
	t.Cleanup(func() { tty.Close() })
	return person, tty
}

// TestPasswordAtTerminal is asked for twice and not shown.
func TestPasswordAtTerminal(t *testing.T) {
	for _, second := range []string{"correct horse", "incorrect horse", "\x03"} {
		person, tty := terminal(t)
		file := filepath.Join(t.TempDir(), "users")
		cmd := command(t, caddyBinary(t), "smtp", "user", "add", "alice", "--file", file)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		seen := make(chan string, 100)
		go func() {
			for b := make([]byte, 1000); ; {
				n, err := person.Read(b)
				if n > 0 {
					seen <- string(b[:n])
				}
				if err != nil {
					close(seen)
					return
				}
			}
		}()
		var all strings.Builder
		until := func(s string) {
			t.Helper()
			for end := time.After(30 * time.Second); !strings.Contains(all.String(), s); {
				select {
				case text := <-seen:
					all.WriteString(text)
				case <-end:
					t.Fatalf("no %q in %q", s, all.String())
				}
			}
		}
		until("Password for alice: ")
		io.WriteString(person, "correct horse\n")
		until("Again: ")
		io.WriteString(person, second+"\n")
		err := cmd.Wait()
		switch second {
		case "correct horse":
			if err != nil || !strings.HasPrefix(text(t, file), "alice:$argon2id$") {
				t.Error(err)
			}
		case "incorrect horse":
			until("the two are not the same")
			if err == nil {
				t.Error("taken")
			}
		default:
			until("interrupted")
			if err == nil {
				t.Error("taken")
			}
		}
		if strings.Contains(all.String(), "horse") {
			t.Errorf("the password is shown: %q", all.String())
		}
	}
}
