package queue_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

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

// TestMain is also the process that TestKill kills.
func TestMain(m *testing.M) {
	if dir := os.Getenv("QUEUE_TO_KILL"); dir != "" {
		victim(dir)
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
