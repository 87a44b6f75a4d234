package queue_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
	"github.com/caddymail/caddy-smtp/smtpapp/queue/sqlstore"
)

func readAll(t testing.TB, r io.Reader) string {
	t.Helper()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

// left fails if a closed queue that is empty has left files of content.
func left(t *testing.T, dir string) {
	t.Helper()
	for _, sub := range []string{"content", "incoming"} {
		fs, err := os.ReadDir(filepath.Join(dir, sub))
		if err != nil || len(fs) > 0 {
			t.Errorf("%s: %d files are left, %v", sub, len(fs), err)
		}
	}
	for _, f := range []string{"queue.db", "lock"} {
		if st, err := os.Stat(filepath.Join(dir, f)); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", f, st.Mode(), err)
		}
	}
}

// TestMain is also the process that the tests of kills kill.
func TestMain(m *testing.M) {
	if dir := os.Getenv("QUEUE_TO_KILL"); dir != "" {
		victim(dir)
	}
	if dir := os.Getenv("QUEUE_STEPWISE"); dir != "" {
		stepwise(dir)
	}
	if dir := os.Getenv("QUEUE_WITH_POISON"); dir != "" {
		poisoned(dir)
	}
	if dir := os.Getenv("QUEUE_DOOMED"); dir != "" {
		doomed(dir)
	}
	if dir := os.Getenv("QUEUE_CUT_SHORT"); dir != "" {
		cutShort(dir)
	}
	os.Exit(m.Run())
}

// victim accepts mail from several goroutines and says which ids it has
// acknowledged, until it is killed.
func victim(dir string) {
	s, err := sqlstore.Open(dir, sqlstore.Options{FreeSpace: -1})
	if err != nil {
		panic(err)
	}
	q, err := queue.Open(s, nil)
	if err != nil {
		panic(err)
	}
	var t testing.T
	for range 8 {
		go func() {
			for {
				id, err := q.Accept(context.Background(), []*message.Object{object(&t, content, "x@a.test a")})
				if err != nil {
					panic(err)
				}
				os.Stdout.WriteString(id + "\n") // one write a line
			}
		}()
	}
	select {}
}

// TestKill: what was acknowledged is there after a kill, whenever it comes.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	acked := map[string]bool{}
	rounds := 5
	if os.Getenv("CADDY_SMTP_SOAK") != "" {
		rounds = 200
	}
	for range rounds {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "QUEUE_TO_KILL="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		timer := time.AfterFunc(300*time.Millisecond, func() { cmd.Process.Kill() })
		for sc := bufio.NewScanner(out); sc.Scan(); {
			if len(sc.Text()) == 24 { // whole
				acked[sc.Text()] = true
			}
		}
		timer.Stop()
		cmd.Wait()
	}
	if len(acked) < 100 {
		t.Fatalf("only %d were acknowledged", len(acked))
	}
	q := open(t, dir)
	n := 0
	es, err := q.List(t.Context(), queue.Filter{Limit: 10_000_000})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range es {
		if acked[e.ID] {
			n++
		}
	}
	t.Logf("%d kills, %d acknowledged, %d stored", rounds, len(acked), len(es))
	if n != len(acked) {
		t.Errorf("%d of %d acknowledged messages are lost", len(acked)-n, len(acked))
	}
}

// BenchmarkAccept is the durable accept of 4 KiB, and its delivery to nowhere.
func BenchmarkAccept(b *testing.B) {
	for _, writers := range []int{1, 50, 200} {
		b.Run(fmt.Sprint(writers), func(b *testing.B) {
			s, err := sqlstore.Open(b.TempDir(), sqlstore.Options{FreeSpace: -1})
			if err != nil {
				b.Fatal(err)
			}
			q, err := queue.Open(s, nil)
			if err != nil {
				b.Fatal(err)
			}
			var n atomic.Int64
			a := newAgent(delivered)
			a.told = make(chan string, 10_000_000)
			q.Attach(policy(map[string]queue.Agent{"a": a}))
			text := content + string(make([]byte, 4000))
			b.ResetTimer()
			done := make(chan bool)
			for range writers {
				go func() {
					for n.Add(1) <= int64(b.N) {
						if _, err := q.Accept(context.Background(), []*message.Object{object(b, text, "x@a.test a")}); err != nil {
							b.Error(err)
						}
					}
					done <- true
				}()
			}
			for range writers {
				<-done
			}
			for range b.N {
				<-a.told
			}
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
			if err := q.Close(context.Background()); err != nil {
				b.Error(err)
			}
		})
	}
}

// poisoned is a process that a message kills whenever it is delivered. It says
// whom it has delivered to.
func poisoned(dir string) {
	s, err := sqlstore.Open(dir, sqlstore.Options{FreeSpace: -1})
	if err != nil {
		panic(err)
	}
	q, err := queue.Open(s, nil)
	if err != nil {
		panic(err)
	}
	q.Attach(policy(map[string]queue.Agent{"a": newAgent(func(_ *queue.Delivery, r *mail.Recipient) queue.Status {
		if r.Address.Local == "poison" {
			if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
				panic(err)
			}
			select {}
		}
		os.Stdout.WriteString(r.Address.Local + "\n")
		return queue.Status{Action: queue.Delivered}
	})}))
	for q.Active() > 0 || q.Loading() {
		time.Sleep(5 * time.Millisecond)
	}
	if err := q.Close(context.Background()); err != nil {
		panic(err)
	}
	os.Exit(0)
}

// TestPoison: a message that ends the process three times is held, and the
// others get through.
func TestPoison(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir)
	poison := q.accept(object(t, content, "poison@a.test a"))
	for i := range 20 {
		q.accept(object(t, content, fmt.Sprintf("x%d@a.test a", i)))
	}
	q.close()
	done := map[string]int{}
	deaths := 0
	for ; deaths < 10; deaths++ {
		if deaths > 0 {
			makeDue(t, dir, poison)
		}
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "QUEUE_WITH_POISON="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		for _, to := range strings.Fields(string(out)) {
			done[to]++
		}
		if err == nil {
			break
		}
		if st, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || st.Signal() != syscall.SIGKILL {
			t.Fatal(err)
		}
	}
	if deaths != 3 {
		t.Errorf("the process was killed %d times, want 3", deaths)
	}
	if len(done) != 20 {
		t.Errorf("%d of 20 others were delivered", len(done))
	}
	q = open(t, dir)
	es, err := q.List(t.Context(), queue.Filter{})
	if err != nil || len(es) != 1 || es[0].ID != poison {
		t.Fatal(es, err)
	}
	if r := es[0].Recipients[0]; !r.Held || !strings.Contains(r.Reason, "ended this server") {
		t.Errorf("got %+v", r)
	}
	if err := q.Retry(t.Context(), poison); err != nil {
		t.Fatal(err)
	}
	q.Attach(policy(map[string]queue.Agent{"a": newAgent(delivered)}))
	q.empty()
}

// makeDue has everything tried at once, where it would be spread over a minute,
// but for one entry, which is the last.
func makeDue(t *testing.T, dir, last string) {
	t.Helper()
	s, err := sqlstore.Open(dir, sqlstore.Options{FreeSpace: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var rs []*queue.Recipient
	if err := s.Each(t.Context(), "", func(e *queue.Entry) bool {
		for _, r := range e.Recipients {
			if r.Due = time.Now(); e.ID == last {
				r.Due = r.Due.Add(time.Second)
			}
		}
		rs = append(rs, e.Recipients...)
		return true
	}); err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(t.Context(), &queue.Change{Update: rs}); err != nil {
		t.Fatal(err)
	}
}

// A fatal store ends the process where it was to write what a delivery has
// come to.
type fatal struct{ *sqlstore.Store }

func (f fatal) Commit(ctx context.Context, c *queue.Change) error {
	if len(c.Update) > 0 {
		die()
	}
	return f.Store.Commit(ctx, c)
}

func die() {
	if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
		panic(err)
	}
	select {}
}

// A leaver is an agent that delivers to two recipients of three, and with whom
// the process ends before he can say so of all.
type leaver struct{}

func (leaver) Deliver(_ context.Context, d *queue.Delivery) []queue.Status {
	for _, r := range d.Envelope.Recipients {
		if r.Address.Local != "later" {
			d.Took(r)
		}
	}
	die()
	return nil
}

func cutShort(dir string) {
	s, err := sqlstore.Open(dir, sqlstore.Options{FreeSpace: -1})
	if err != nil {
		panic(err)
	}
	q, err := queue.Open(s, nil)
	if err != nil {
		panic(err)
	}
	q.Attach(policy(map[string]queue.Agent{"a": leaver{}}))
	select {}
}

// doomed delivers to two recipients of three in such a process.
func doomed(dir string) {
	s, err := sqlstore.Open(dir, sqlstore.Options{FreeSpace: -1})
	if err != nil {
		panic(err)
	}
	q, err := queue.Open(fatal{s}, nil)
	if err != nil {
		panic(err)
	}
	q.Attach(policy(map[string]queue.Agent{"a": newAgent(func(_ *queue.Delivery, r *mail.Recipient) queue.Status {
		if r.Address.Local == "later" {
			return later(nil, nil)
		}
		return queue.Status{Action: queue.Delivered}
	})}))
	select {}
}

// TestKilledBeforeCommit: who is delivered to is not again, though the process
// ended before that was committed, unless the sender is to hear of it.
func TestKilledBeforeCommit(t *testing.T) {
	for _, how := range []string{"QUEUE_DOOMED", "QUEUE_CUT_SHORT"} {
		t.Run(how, func(t *testing.T) { killedBeforeCommit(t, how) })
	}
}

func killedBeforeCommit(t *testing.T, how string) {
	dir := t.TempDir()
	q := open(t, dir)
	o := object(t, content, "x@a.test a", "later@a.test a", "told@a.test a")
	o.Envelope.Recipients[2].Notify = mail.NotifySuccess
	id := q.accept(o)
	q.close()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), how+"="+dir)
	if out, err := cmd.CombinedOutput(); err == nil || len(out) > 0 {
		t.Fatalf("%s, %v", out, err)
	}
	q = open(t, dir)
	e, err := q.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if rs := e.Recipients; len(rs) != 2 || rs[0].Address.Local != "later" || rs[1].Address.Local != "told" || rs[0].Starts != 1 {
		t.Errorf("got %+v", rs)
	}
}
