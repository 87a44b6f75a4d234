package dmarcreport

import (
	"bufio"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// child runs a test of this binary as a process of its own.
func child(t *testing.T, test, dir string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^"+test+"$", "-test.v")
	cmd.Env = append(os.Environ(), "CADDY_SMTP_LEDGER="+dir)
	return cmd
}

// TestChildCounts is run by TestLedgerKilled: it tells what it has written.
func TestChildCounts(t *testing.T) {
	dir := os.Getenv("CADDY_SMTP_LEDGER")
	if dir == "" {
		t.Skip("run by TestLedgerKilled")
	}
	l := openLedger(t, dir)
	for i := 1; ; i++ {
		add(t, l, day, policyOf("a.test", "r@a.test"), record(fmt.Sprintf("192.0.2.%d", i%200)))
		if err := l.Flush(); err != nil {
			t.Fatal(err)
		}
		fmt.Println("written", i)
	}
}

// TestLedgerKilled: what was written is there after the process was killed, and
// the folder is free again.
func TestLedgerKilled(t *testing.T) {
	dir := t.TempDir()
	least := 0
	for round := range 5 {
		cmd := child(t, "TestChildCounts", dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		written := 0
		for s := bufio.NewScanner(out); s.Scan(); {
			n, ok := strings.CutPrefix(s.Text(), "written ")
			if !ok {
				continue
			}
			if written, err = strconv.Atoi(n); err != nil {
				t.Fatal(err)
			}
			if written == 20+7*round {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait() // it was killed
		if written < 20 {
			t.Fatalf("the process ended after %d", written)
		}
		least += written
		l := openLedger(t, dir)
		sum := int64(0)
		due, err := l.Due(t.Context(), day.Add(Day))
		if err != nil || len(due) != 1 {
			t.Fatal(due, err)
		}
		rs, err := l.Records(t.Context(), due[0])
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rs {
			sum += r.Row.Count
		}
		if sum < int64(least) || sum > int64(least)+int64(round)+1 { // one may be written and not told
			t.Errorf("round %d: %d counted, %d written", round, sum, least)
		}
		least = int(sum)
		var check string
		if err := l.db.QueryRow("pragma integrity_check").Scan(&check); err != nil || check != "ok" {
			t.Errorf("%s, %v", check, err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestChildFull is run by TestLedgerFull.
func TestChildFull(t *testing.T) {
	dir := os.Getenv("CADDY_SMTP_LEDGER")
	if dir == "" {
		t.Skip("run by TestLedgerFull")
	}
	signal.Ignore(syscall.SIGXFSZ)
	l, err := Open(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	l.timer.Stop() // nothing is written but by Flush below
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 256 << 10, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	n, full := 0, 0
	for n < 20*maxPending && full < 3 {
		for i := range maxPending {
			n++
			add(t, l, day, policyOf(fmt.Sprintf("d%d.test", n), "r@a.test"), record(fmt.Sprintf("192.0.2.%d", i%200)))
		}
		if err := l.Flush(); err != nil {
			t.Log(err)
			full++
		}
	}
	if full == 0 || len(l.pending) > maxPending {
		t.Fatalf("after %d: %d failures, %d pending", n, full, len(l.pending))
	}
	pending := len(l.pending)
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	if err := l.Flush(); err != nil || pending == 0 || len(l.pending) != 0 {
		t.Errorf("with room again: %v, %d of %d pending", err, len(l.pending), pending)
	}
	due, err := l.Due(t.Context(), day.Add(Day))
	if err != nil || len(due) < pending {
		t.Errorf("%d due, %v", len(due), err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	fmt.Println("survived")
}

// TestLedgerFull: while there is no room on the disk, what is counted waits in
// bounded memory, and it is written when there is room again.
func TestLedgerFull(t *testing.T) {
	cmd := child(t, "TestChildFull", t.TempDir())
	defer time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() }).Stop()
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "survived") {
		t.Errorf("%v\n%s", err, out)
	}
}
