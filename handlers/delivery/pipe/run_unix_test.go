//go:build unix

package pipe

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/mda"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

func read(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestContent: what the program reads.
func TestContent(t *testing.T) {
	file := filepath.Join(t.TempDir(), "mail")
	for want, change := range map[string]func(*Agent){
		"Return-Path: <bob@far.test>\nDelivered-To: a+x@b.test\nSubject: hi\n\none\nFrom two\n":                      func(*Agent) {},
		"Return-Path: <bob@far.test>\r\nDelivered-To: a+x@b.test\r\nSubject: hi\r\n\r\none\r\nFrom two\r\n":          func(a *Agent) { a.CRLF = true },
		"From bob@far.test *\nReturn-Path: <bob@far.test>\nDelivered-To: a+x@b.test\nSubject: hi\n\none\nFrom two\n": func(a *Agent) { a.FromLine = true },
	} {
		a := script(t, `cat >"$0"`, func(a *Agent) { a.Command = append(a.Command, file) }, change)
		if got := one(t, a, delivery(t, "a+x@b.test")); got != "delivered 250 2.0.0 delivered" {
			t.Fatal(got)
		}
		got := read(t, file)
		if first, rest, _ := strings.Cut(got, "\n"); a.FromLine {
			got = strings.Join(strings.Fields(first)[:2], " ") + " *\n" + rest
		}
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestEnvironment(t *testing.T) {
	t.Setenv("CANARY", "canary")
	file := filepath.Join(t.TempDir(), "env")
	a := script(t, `pwd; env`, func(a *Agent) {
		a.Command[2] = `(pwd; env | sort) >` + file
		a.Env = map[string]string{"B": "{env.CANARY}", "A": "x y"}
	})
	d := delivery(t, "al@b.test")
	d.Envelope.Recipients[0].Tag = "lists"
	d.Envelope.From.Local = "$(id);é"
	if got := one(t, a, d); !strings.HasPrefix(got, "delivered") {
		t.Fatal(got)
	}
	got := read(t, file)
	for _, own := range []string{"PWD=/\n", "_=/usr/bin/env\n", "OLDPWD=/\n", "SHLVL=0\n", "SHLVL=1\n"} { // the shell's
		got = strings.Replace(got, own, "", 1)
	}
	want := "/\nA=x y\nB=canary\nCLIENT_ADDRESS=192.0.2.1\nCLIENT_HELO=h.far.test\nDOMAIN=b.test\nEXTENSION=lists\nLOCAL=al\nORIGINAL_RECIPIENT=al@b.test\n" +
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nQUEUE_ID=q1\nRECIPIENT=al@b.test\nSASL_USERNAME=u\nSENDER=\"$(id);é\"@far.test\n"
	if got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}

func TestUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can run a program as another user")
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "id")
	if err := os.WriteFile(file, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(file, 0o666), os.Chmod(dir, 0o755), os.Chmod(filepath.Dir(dir), 0o755)); err != nil {
		t.Fatal(err)
	}
	a := script(t, "(id -un; id -G; echo $HOME $USER) >"+file, func(a *Agent) { a.User = "nobody" })
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	if got := one(t, a, delivery(t, "a@b.test")); !strings.HasPrefix(got, "delivered") {
		t.Fatal(got)
	}
	o, err := mda.LookupOwner("nobody", "")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := read(t, file), fmt.Sprintf("nobody\n%d\n%s nobody\n", o.GID, o.Home); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if err := script(t, "exit 0").Start(); err == nil || !strings.Contains(err.Error(), "runs as root") {
		t.Error("root runs a program without being told so:", err)
	}
}

// TestStatuses of real programs.
func TestStatuses(t *testing.T) {
	for text, want := range map[string]string{
		"exit 0":                          "delivered 250 2.0.0",
		"exec <&-; exit 0":                "delivered 250 2.0.0",
		"echo 5.2.1 no box >&2; exit 67":  "failed 550 5.2.1 no box",
		"echo busy; exit 75":              "delayed 451 4.3.0 busy",
		"kill -9 $$":                      "delayed 451 4.3.0 local error",
		"kill -TERM $$":                   "delayed 451 4.3.0 local error",
		"exit 3":                          "delayed 451 4.3.0 local error",
		"exec /nonexistent/program":       "delayed 451 4.3.0 local error",
		"yes | head -c 50000000; exit 69": "failed 554 5.3.0 y",
		"(sleep 60 &) ; exit 0":           "delivered 250 2.0.0",
		"setsid sleep 3 & exit 0":         "delivered 250 2.0.0",
		"setsid sleep 3 & exit 67":        "failed 550 5.1.1",
	} {
		t.Run(text, func(t *testing.T) {
			t.Parallel()
			if got := one(t, script(t, text), delivery(t, "a@b.test")); !strings.HasPrefix(got, want) {
				t.Errorf("%s, want %s", got, want)
			}
		})
	}
	a := &Agent{Command: []string{"/nonexistent/program"}}
	if err := provision(t, a); err != nil {
		t.Fatal(err)
	}
	if got := one(t, a, delivery(t, "a@b.test")); got != "delayed 451 4.3.0 local error in processing" {
		t.Error(got)
	}
}

// big is a message that no pipe holds.
func big(t testing.TB, d *queue.Delivery) *queue.Delivery {
	t.Helper()
	d.Content = message.New(d.Content.Header, message.NewBody([]byte(strings.Repeat(strings.Repeat("x", 70)+"\r\n", 100000))))
	return d
}

// TestUnread: a program need not read what it is given, nor to its end.
func TestUnread(t *testing.T) {
	for _, text := range []string{"exit 0", "head -c 10 >/dev/null", "setsid sleep 3 <&0 & exit 0"} {
		if got := one(t, script(t, text), big(t, delivery(t, "a@b.test"))); !strings.HasPrefix(got, "delivered") {
			t.Errorf("%s: %s", text, got)
		}
	}
}

func gone(pid string) bool {
	n, err := strconv.Atoi(strings.TrimSpace(pid))
	if err != nil {
		return false
	}
	b, err := os.ReadFile("/proc/" + strings.TrimSpace(pid) + "/stat")
	return syscall.Kill(n, 0) != nil || err == nil && strings.Contains(string(b), ") Z ")
}

// TestTimeout: all processes of its group end, whether they read or not.
func TestTimeout(t *testing.T) {
	for name, text := range map[string]string{
		"waits":       "sleep 60 & echo $! >%s; wait",
		"never reads": "echo $$ >%s; exec sleep 60",
		"talks":       "echo $$ >%s; exec yes",
		"is deaf":     "trap '' TERM HUP INT; echo $$ >%s; while :; do sleep 1; done",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "pid")
			a := script(t, fmt.Sprintf(text, file), func(a *Agent) { a.Timeout = caddy.Duration(2 * time.Second) })
			began := time.Now()
			if got := one(t, a, big(t, delivery(t, "a@b.test"))); got != "delayed 451 4.3.0 the program takes too long" {
				t.Error(got)
			}
			if time.Since(began) > 30*time.Second {
				t.Error("it took", time.Since(began))
			}
			pid := read(t, file)
			for end := time.Now().Add(10 * time.Second); !gone(pid); time.Sleep(10 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatal("a process is left")
				}
			}
		})
	}
}

// TestCalledOff: an attempt that is called off ends its programs.
func TestCalledOff(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	file := filepath.Join(t.TempDir(), "pid")
	a := script(t, "echo $$ >"+file+"; exec sleep 60")
	go func() {
		for s := ""; s == ""; time.Sleep(10 * time.Millisecond) {
			b, _ := os.ReadFile(file)
			s = string(b)
		}
		cancel()
	}()
	got := a.Deliver(ctx, delivery(t, "a@b.test", "b@b.test"))
	if len(got) != 2 || got[0].Action != queue.Delayed || got[1].Action != queue.Delayed {
		t.Error(got)
	}
}

// TestDamagedContent: no program takes a beginning for the whole.
func TestDamagedContent(t *testing.T) {
	dir := t.TempDir()
	body := strings.Repeat("x\r\n", 100000)
	if err := os.WriteFile(dir+"/body", []byte(body), 0o600); err != nil {
		t.Fatal(err)
	}
	d := delivery(t, "a@b.test")
	d.Content = message.New(d.Content.Header, message.OpenBody(dir+"/body", int64(len(body)), "none"))
	a := script(t, "cat >/dev/null; touch "+dir+"/done")
	if got := one(t, a, d); got != "delayed 451 4.3.0 local error in processing" {
		t.Error(got)
	}
	if _, err := os.Stat(dir + "/done"); err == nil {
		t.Error("the program saw the end of a damaged message")
	}
}

// TestConcurrency: as many as configured, over all attempts and recipients, each
// with its own status.
func TestConcurrency(t *testing.T) {
	dir := t.TempDir()
	a := script(t, "mkdir "+dir+"/one || exit 100; sleep 0.02; rmdir "+dir+"/one; test $LOCAL != u1 || exit 67", func(a *Agent) { a.Concurrency = 1 })
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for i, s := range a.Deliver(t.Context(), delivery(t, "u0@b.test", "u1@b.test", "u2@b.test")) {
				want := queue.Delivered
				if i == 1 {
					want = queue.Failed
				}
				if s.Action != want || i == 1 && s.Reply.Enh != "5.1.1" {
					t.Errorf("recipient %d: %v", i, s.Reply)
				}
			}
		})
	}
	wg.Wait()
}

// TestStuckRecipients: those who come behind some that hang have their turn in
// a later attempt.
func TestStuckRecipients(t *testing.T) {
	t.Parallel()
	a := script(t, "case $LOCAL in stuck*) sleep 60;; esac", func(a *Agent) {
		a.Concurrency, a.Timeout = 2, caddy.Duration(3*time.Second)
	})
	d := delivery(t, "stuck1@b.test", "stuck2@b.test", "ok1@b.test", "ok2@b.test")
	if got := a.Deliver(t.Context(), d); got[0].Action != queue.Delayed || got[1].Action != queue.Delayed {
		t.Error(got)
	}
	d.Attempt = 2
	got := a.Deliver(t.Context(), d)
	if got[2].Action != queue.Delivered || got[3].Action != queue.Delivered {
		t.Error(got[2].Reply, got[3].Reply)
	}
}

// TestLeaks: deliveries leave neither goroutines nor files behind.
func TestLeaks(t *testing.T) {
	count := func() (goroutines, files int) {
		runtime.GC()
		list, _ := os.ReadDir("/proc/self/fd")
		return runtime.NumGoroutine(), len(list)
	}
	a := script(t, "test $LOCAL = cat || exec <&-; cat >/dev/null; exit 0")
	a.Deliver(t.Context(), delivery(t, "cat@b.test"))
	g, f := count()
	for range 50 {
		a.Deliver(t.Context(), big(t, delivery(t, "cat@b.test", "no@b.test")))
	}
	if g2, f2 := count(); g2 > g+2 || f2 > f+2 {
		t.Errorf("goroutines %d, were %d; files %d, were %d", g2, g, f2, f)
	}
}

func TestNullReversePath(t *testing.T) {
	file := filepath.Join(t.TempDir(), "mail")
	a := script(t, `echo "[$1]" >"$0"; head -n 1 >>"$0"`, func(a *Agent) {
		a.Command = append(a.Command, file, "{smtp.mail.from}")
		a.FromLine = true
	})
	d := delivery(t, "a@b.test")
	d.Envelope.From = mail.Address{}
	if got := one(t, a, d); !strings.HasPrefix(got, "delivered") {
		t.Fatal(got)
	}
	if got := read(t, file); !strings.HasPrefix(got, "[]\nFrom MAILER-DAEMON ") {
		t.Errorf("got %q", got)
	}
}
