package tests

import (
	"bufio"
	"bytes"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// sinking takes everything and delivers it to nowhere.
const sinking = `
	connections none
	server mx ADDR(mx) {
		tls internal
		deliver discard
	}`

// many is how many of something there are: all in a long run.
func many(short, long int) int {
	if os.Getenv("CADDY_SMTP_SOAK") != "" {
		return long
	}
	return short
}

// status reads a number of KiB from the process's status.
func (p *process) status(field string) int {
	p.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	s := bufio.NewScanner(bytes.NewReader(b))
	for s.Scan() {
		if f := strings.Fields(s.Text()); len(f) > 1 && f[0] == field+":" {
			n, err := strconv.Atoi(f[1])
			if err != nil {
				p.t.Fatal(err)
			}
			return n
		}
	}
	p.t.Fatalf("no %s", field)
	return 0
}

// resident is what the process holds after it has collected its garbage.
func (p *process) resident() int {
	p.t.Helper()
	for range 3 {
		resp, err := http.Get("http://" + p.admin + "/debug/pprof/heap?gc=1")
		if err != nil {
			p.t.Fatal(err)
		}
		resp.Body.Close()
		time.Sleep(time.Second)
	}
	return p.status("VmRSS")
}

// crowd has n clients connect, say EHLO, and fall silent.
func crowd(t *testing.T, addr string, n int, begin func(*talker)) []*talker {
	t.Helper()
	all := make([]*talker, n)
	var wg sync.WaitGroup
	for part := range 8 {
		wg.Go(func() {
			for i := part; i < n; i += 8 {
				k := dial(t, addr)
				k.conn.SetDeadline(time.Now().Add(5 * time.Minute))
				k.want("220")
				k.say("250", "EHLO client.test")
				if begin != nil {
					begin(k)
				}
				all[i] = k
			}
		})
	}
	wg.Wait()
	return all
}

// TestIdleMemory: what a client costs that says nothing, all told: at most 20
// KiB, or 48 with TLS.
func TestIdleMemory(t *testing.T) {
	p := runCaddy(t, sinking)
	crowd(t, p.addr("mx"), 20, func(k *talker) { k.starttls(insecure("mx.example.test")) })
	n := many(500, 5000)
	before := p.resident()
	crowd(t, p.addr("mx"), n, nil)
	plain := p.resident()
	crowd(t, p.addr("mx"), n, func(k *talker) {
		k.starttls(insecure("mx.example.test"))
		k.say("250", "EHLO client.test")
	})
	secure := p.resident()
	costs := func(what string, kib, limit int) {
		t.Logf("%d idle %s clients: %.1f KiB each", n, what, float64(kib)/float64(n))
		if kib > limit*n+4096 { // what the runtime has over is not theirs
			t.Errorf("an idle %s client costs more than %d KiB", what, limit)
		}
	}
	costs("plaintext", plain-before, 20)
	costs("TLS", secure-plain, 48)
}

// TestLargeMemory: 200 clients that send 25 MB each and 2,000 that say nothing
// live in 256 MiB.
func TestLargeMemory(t *testing.T) {
	p := runCaddy(t, sinking)
	crowd(t, p.addr("mx"), many(200, 2000), nil)
	line := strings.Repeat("x", 76) + "\r\n"
	content := "Subject: large\r\n\r\n" + strings.Repeat(line, 25_000_000/len(line)) + ".\r\n"
	senders := crowd(t, p.addr("mx"), many(16, 200), nil)
	var wg sync.WaitGroup
	for _, k := range senders {
		wg.Go(func() {
			k.say("250", "MAIL FROM:<s@elsewhere.test>")
			k.say("250", "RCPT TO:<a@example.test>")
			k.say("354", "DATA")
			if _, err := k.conn.Write([]byte(content)); err != nil {
				t.Error(err)
			}
			k.want("250")
		})
	}
	wg.Wait()
	peak := p.status("VmHWM")
	t.Logf("%d clients of 25 MB at a time: at most %d MiB", len(senders), peak>>10)
	if peak > 256<<10 {
		t.Errorf("the process had %d MiB", peak>>10)
	}
}
