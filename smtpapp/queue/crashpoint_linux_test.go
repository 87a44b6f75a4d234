package queue_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
	"github.com/caddymail/caddy-smtp/smtpapp/queue/sqlstore"
)

// A life is what is done with a queue from its first message to its last: messages
// small and large for recipients who are delivered to, at the second attempt, and
// never, of which the sender hears.
type life struct {
	mu  sync.Mutex
	say func(line string) // of what was answered or delivered
}

func (l *life) tell(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.say(fmt.Sprintf(format, args...))
}

// agents are those that see to the recipients ok, later and never, and to DSNs.
func (l *life) agents() map[string]queue.Agent {
	subject := func(d *queue.Delivery) string { return d.Content.Header.Get("Subject") }
	return map[string]queue.Agent{
		"a": newAgent(func(d *queue.Delivery, r *mail.Recipient) queue.Status {
			switch {
			case r.Address.Local == "later" && d.Attempt == 1:
				return queue.Status{Reply: mail.Refuse(451, "4.2.0", "not now")}
			case r.Address.Local == "never":
				return queue.Status{Action: queue.Failed, Reply: mail.Refuse(550, "5.1.1", "nobody here")}
			}
			if !whole(d.Content) {
				l.tell("damaged %s", subject(d))
			}
			l.tell("%s %s", r.Address.Local, subject(d))
			return queue.Status{Action: queue.Delivered}
		}),
		"dsn": newAgent(func(d *queue.Delivery, _ *mail.Recipient) queue.Status {
			for i := range lives {
				if text(d.Content, fmt.Sprint("Subject: m", i)) {
					l.tell("dsn m%d", i)
				}
			}
			return queue.Status{Action: queue.Delivered}
		}),
	}
}

const lives = 4 // messages in one

var largeBody = strings.Repeat("0123456789\r\n", 8000)

func whole(m *message.Message) bool {
	return text(m, "\r\n\r\nsmall\r\n") || text(m, "\r\n\r\n"+largeBody)
}

func text(m *message.Message, part string) bool {
	r, err := m.NewReader()
	if err != nil {
		return false
	}
	defer r.Close()
	var b bytes.Buffer
	_, err = b.ReadFrom(r)
	return err == nil && strings.Contains(b.String(), part)
}

// accept has all messages taken.
func (l *life) accept(q *queue.Queue) error {
	var t testing.T
	for i := range lives {
		o := object(&t, fmt.Sprintf("Subject: m%d\r\n\r\nsmall\r\n", i), "ok@a.test a", "later@a.test a", "never@a.test a")
		if i%2 == 1 {
			m, err := message.Receive(strings.NewReader(fmt.Sprintf("Subject: m%d\r\n\r\n%s", i, largeBody)), message.Limits{}, q)
			if err != nil {
				return err
			}
			o.Content = m
		}
		if _, err := q.Accept(context.Background(), []*message.Object{o}); err != nil {
			return err
		}
		l.tell("answered m%d", i)
	}
	return nil
}

// stepwise is the process that is killed.
func stepwise(dir string) {
	s, err := sqlstore.Open(dir, sqlstore.Options{FreeSpace: -1})
	if err != nil {
		panic(err)
	}
	q, err := queue.Open(s, nil)
	if err != nil {
		panic(err)
	}
	l := &life{say: func(line string) { os.Stdout.WriteString(line + "\n") }}
	q.Attach(policy(l.agents(), 10*time.Millisecond))
	if err := l.accept(q); err != nil {
		panic(err)
	}
	for q.Active() > 0 || q.Loading() {
		time.Sleep(time.Millisecond)
	}
	if err := q.Close(context.Background()); err != nil {
		panic(err)
	}
	os.Exit(0)
}

// TestKilledAtEachCall is promise P3: wherever in what it does for a message the
// process ends, before any call by which it changes a file, what was answered is
// delivered or its sender hears, whole, and hardly ever twice; what was not is taken
// in whole or not at all; and nothing is left behind.
func TestKilledAtEachCall(t *testing.T) {
	if _, err := exec.LookPath("strace"); err != nil {
		if os.Getenv("CADDY_SMTP_REQUIRE_ALL") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	calls := []string{"pwrite64", "write", "fdatasync", "fsync", "openat", "linkat", "renameat,renameat2,rename", "unlinkat,unlink", "ftruncate", "fallocate", "mkdirat"}
	points, step := 0, func() int { return 1 + rand.IntN(15) }
	if os.Getenv("CADDY_SMTP_SOAK") != "" {
		step = func() int { return 1 }
	}
	for rounds := 0; rounds == 0 || os.Getenv("CADDY_SMTP_SOAK") != "" && points < 2000; rounds++ {
		for _, call := range calls {
			for n := step(); killedAt(t, call, n); n += step() {
				points++
				if t.Failed() {
					return
				}
			}
		}
	}
	t.Logf("%d points", points)
	if points < 5 {
		t.Error("it was hardly ever killed")
	}
}

// killedAt kills a life before a thread's n-th call, and looks at what is left. It
// reports whether it came so far.
func killedAt(t *testing.T, call string, n int) bool {
	t.Helper()
	dir := t.TempDir()
	defer os.RemoveAll(dir)
	cmd := exec.Command("strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace="+call, "-e", fmt.Sprintf("inject=%s:signal=KILL:when=%d", call, n), os.Args[0])
	cmd.Env = append(os.Environ(), "QUEUE_STEPWISE="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.Output()
	if err != nil && cmd.ProcessState.ExitCode() != -1 && cmd.ProcessState.ExitCode() != 128+int(syscall.SIGKILL) {
		var failed *exec.ExitError
		if errors.As(err, &failed) {
			t.Skipf("strace: %v: %s", err, failed.Stderr)
		}
		t.Fatal(err)
	}
	said := map[string]int{}
	for line := range strings.Lines(string(out)) {
		said[strings.TrimSuffix(line, "\n")]++
	}
	if err == nil {
		judge(t, "never killed", said)
		return false
	}
	q := open(t, dir)
	l := &life{say: func(line string) { said[line]++ }}
	q.Attach(policy(l.agents(), 10*time.Millisecond))
	makeAllDue(t, q)
	q.empty()
	q.close()
	l.mu.Lock()
	defer l.mu.Unlock()
	judge(t, fmt.Sprintf("killed before %s %d", call, n), said)
	left(t, dir)
	return true
}

// makeAllDue has what waits tried at once, where it would be spread over a minute.
func makeAllDue(t *testing.T, q *fixture) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); q.Loading() && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	es, err := q.List(t.Context(), queue.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range es {
		if err := q.Retry(t.Context(), e.ID); err != nil && !errors.Is(err, queue.ErrNotFound) {
			t.Fatal(err)
		}
	}
}

// judge compares what was answered with what arrived.
func judge(t *testing.T, what string, said map[string]int) {
	t.Helper()
	twice := 0
	for i := range lives {
		m := fmt.Sprint("m", i)
		for _, event := range []string{"ok ", "later ", "dsn "} {
			n := said[event+m]
			if said["answered "+m] > 0 && n == 0 {
				t.Errorf("%s: %s was answered and is lost for %s", what, m, event)
			}
			if n == 0 != (said["ok "+m] == 0) {
				t.Errorf("%s: of %s there is a part: %v", what, m, said)
			}
			if n > 2 {
				t.Errorf("%s: %s%s: %d times", what, event, m, n)
			}
			twice += max(0, n-1)
		}
		if said["damaged "+m] > 0 {
			t.Errorf("%s: %s is damaged", what, m)
		}
	}
	if twice > 3 { // that were under way
		t.Errorf("%s: %d copies too many: %v", what, twice, said)
	}
}
