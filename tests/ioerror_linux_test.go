package tests

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// inject has system calls of the process fail until heal is called. Of files, if
// any are named, only calls that are about them do.
func (p *process) inject(fault string, files ...string) (heal func()) {
	p.t.Helper()
	calls, _, _ := strings.Cut(fault, ":")
	args := []string{"-f", "-qq", "-o", "/dev/null", "-e", "trace=" + calls, "-e", "inject=" + fault, "-p", fmt.Sprint(p.cmd.Process.Pid)}
	for _, f := range files {
		args = append(args, "-P", f)
	}
	cmd := command(p.t, "strace", args...)
	var out strings.Builder
	cmd.Stderr = &out
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	for !p.traced() {
		select {
		case <-ended:
			p.t.Skip("strace cannot attach: ", out.String())
		case <-time.After(10 * time.Millisecond):
		}
	}
	return func() {
		p.t.Helper()
		cmd.Process.Signal(syscall.SIGINT)
		<-ended
	}
}

// traced reports whether all threads are.
func (p *process) traced() bool {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", p.cmd.Process.Pid))
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && strings.Contains(string(b), "TracerPid:\t0\n") {
			return false
		}
	}
	return true
}

func needStrace(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("strace"); err != nil {
		if os.Getenv("CADDY_SMTP_REQUIRE_ALL") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
}

// TestIOErrors is promise P8: where the disk fails, mail is put off with 451 or
// 452, nothing is said of the disk, and all is well when the disk is.
func TestIOErrors(t *testing.T) {
	needStrace(t)
	p := runCaddy(t, strings.Replace(fmt.Sprintf(receivingAll, "queue {\nretry 1s\n}", ""), "create", "create\ndirect off", 1))
	wal, db := filepath.Join(p.dir, "queue/queue.db-wal"), filepath.Join(p.dir, "queue/queue.db")
	small, large := "hello", strings.Repeat(strings.Repeat("x", 70)+"\r\n", 2000)
	taken := 0
	send := func(subject, body, want string) {
		t.Helper()
		k := greet(t, p.addr("mx"))
		defer k.conn.Close()
		r := offer(k, subject, body)
		switch {
		case strings.HasPrefix(r, "250"):
			taken++
		case !strings.HasPrefix(r, "451 4.3.") && !strings.HasPrefix(r, "452 4.3.1"), strings.Contains(r, "/"), strings.Contains(r, "error:"):
			t.Errorf("%s: got %q", subject, r)
		}
		if want != "" && !strings.HasPrefix(r, want) {
			t.Errorf("%s: got %q, want %s", subject, r, want)
		}
	}
	for _, c := range []struct {
		fault        string
		files        []string
		small, large string // what the reply begins with, if that is sure
	}{
		{"pwrite64:error=EIO", []string{wal}, "451", "451"},
		{"pwrite64:error=ENOSPC", []string{wal}, "452", "452"},
		{"pwrite64:error=EIO", []string{db}, "", ""}, // at a checkpoint
		{"fsync,fdatasync:error=EIO", nil, "451", "451"},
		{"fsync,fdatasync:error=EIO:when=1+2", nil, "", ""},
		{"openat:error=EIO", nil, "", "451"},
		{"openat:error=ENOSPC", nil, "", "452"},
		{"linkat,renameat,rename:error=EIO", nil, "250", "451"},
		{"pread64:error=EIO", nil, "", ""},
	} {
		name := c.fault + " " + filepath.Base(strings.Join(c.files, ""))
		send("before "+name, small, "250")
		heal := p.inject(c.fault, c.files...)
		for range many(1, 5) {
			send("small, "+name, small, c.small)
			send("large, "+name, large, c.large)
		}
		heal()
		end := time.Now().Add(10 * time.Second)
		for got := taken; got == taken && time.Now().Before(end); {
			send("after "+name, large, "")
		}
		send("after "+name, small, "250")
		if t.Failed() {
			t.Fatal(name)
		}
	}
	p.cmd.Process.Kill()
	p.cmd.Wait()
	p.restart()
	p.inbox("u", taken)
}
