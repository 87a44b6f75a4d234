//go:build linux

package tests

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// receiving takes mail for example.test into Maildirs, in a process of its own.
const receivingAll = `
	agent local maildir DIR/mail/{smtp.rcpt.domain}/{smtp.rcpt.local} {
		create
	}
	%s
	server mx ADDR(mx) {
		tls internal
		%s
		deliver local
	}
`

// offer says one message, and returns the reply that ended it, "" where the
// connection did.
func offer(k *talker, subject, body string) string {
	for _, l := range []string{"MAIL FROM:<s@elsewhere.test>", "RCPT TO:<u@example.test>", "DATA", "Subject: " + subject + "\r\n\r\n" + body + "\r\n."} {
		fmt.Fprintf(k.conn, "%s\r\n", l)
		r, err := k.reply()
		if err != nil {
			return ""
		}
		if r[0] > '3' || strings.HasPrefix(l, "Subject") {
			return r
		}
	}
	return ""
}

// TestFewFiles is promise P19: in a process that may have 256 files open, a
// thousand clients take nothing away from those that are in, the others are sent
// away or wait, and when they have gone all is well.
func TestFewFiles(t *testing.T) {
	p := runCaddyUnder(t, "ulimit -n 256", fmt.Sprintf(receivingAll, "", ""))
	var inside []*talker
	for range 8 {
		inside = append(inside, greet(t, p.addr("mx")))
	}
	var crowd []net.Conn
	let, refused, waiting := 0, 0, 0
	for range 1000 {
		conn, err := net.DialTimeout("tcp", p.addr("mx"), time.Second)
		if err != nil {
			waiting++
			continue
		}
		crowd = append(crowd, conn)
	}
	for _, conn := range crowd {
		conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		b := make([]byte, 3)
		switch _, err := io.ReadFull(conn, b); {
		case err == nil && string(b) == "220":
			let++
		case err == nil && string(b) == "421":
			refused++
		case errors.Is(err, os.ErrDeadlineExceeded):
			waiting++
		default:
			t.Errorf("%q, %v", b, err)
		}
	}
	t.Logf("%d let in, %d refused, %d waiting", let, refused, waiting)
	if let < 100 || let > 192 {
		t.Errorf("%d were let in", let)
	}
	taken := 0
	for i, k := range inside {
		for j, body := range []string{"small", strings.Repeat(strings.Repeat("x", 70)+"\r\n", 2000)} {
			switch r := offer(k, fmt.Sprintf("%d of %d", j, i), body); {
			case strings.HasPrefix(r, "250"):
				taken++
			case !strings.HasPrefix(r, "4"):
				t.Errorf("got %q", r)
			}
		}
	}
	if taken < 16 {
		t.Errorf("of 16 messages of those who were in, %d were taken", taken)
	}
	for _, conn := range crowd {
		conn.Close()
	}
	began := time.Now()
	wait(t, "room", func() bool {
		k := dial(t, p.addr("mx"))
		defer k.conn.Close()
		r, _ := k.reply()
		return strings.HasPrefix(r, "220")
	})
	t.Logf("room again after %v", time.Since(began))
	greet(t, p.addr("mx")).send("s@elsewhere.test", "u@example.test", "afterwards")
	p.inbox("u", taken+1)
}

// TestSlowClients is promise P23: who sends an octet a second, before EHLO, in
// content or in a handshake, is sent away in time, and holds up nobody.
func TestSlowClients(t *testing.T) {
	p := runCaddy(t, fmt.Sprintf(receivingAll, "", `timeouts {
			before_hello 3s
			command 3s
			block 3s
			content 6s
			handshake 3s
		}`))
	n := many(60, 1000)
	var gone atomic.Int64
	var wg sync.WaitGroup
	begins := []func(k *talker){
		func(*talker) {},
		func(k *talker) {
			k.want("220")
			k.say("250", "EHLO client.test")
			k.say("250", "MAIL FROM:<s@elsewhere.test>")
			k.say("250", "RCPT TO:<u@example.test>")
			k.say("354", "DATA")
		},
		func(k *talker) {
			k.want("220")
			k.say("250", "EHLO client.test")
			k.say("220", "STARTTLS")
		},
	}
	for i := range n {
		wg.Go(func() {
			k := dial(t, p.addr("mx"))
			begins[i%len(begins)](k)
			first := byte('E')
			if i%len(begins) == 2 {
				first = 0x16
			}
			for range 25 {
				if _, err := k.conn.Write([]byte{first}); err != nil {
					gone.Add(1)
					return
				}
				time.Sleep(time.Second)
			}
		})
	}
	time.Sleep(time.Second)
	began := time.Now()
	k := greet(t, p.addr("mx"))
	k.starttls(&tls.Config{InsecureSkipVerify: true}) //nolint:gosec // any will do
	k.say("250", "EHLO client.test")
	k.send("s@elsewhere.test", "u@example.test", "meanwhile")
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("another client needed %v", d)
	}
	wg.Wait()
	if got := gone.Load(); got != int64(n) {
		t.Errorf("of %d slow clients %d were sent away", n, got)
	}
	p.inbox("u", 1)
}

// TestModes is of promise P31: nobody else on the host can read what is queued,
// nor a key.
func TestModes(t *testing.T) {
	dir := folder(t)
	p := runCaddyIn(t, dir, "umask 0; mkdir -p "+dir+"/queue/content", fmt.Sprintf(receivingAll, "", "sign example.test\nquota {\nmessages 100/1h\nkey {smtp.mail.from}\n}"))
	greet(t, p.addr("mx")).send("s@elsewhere.test", "u@example.test", "one")
	k := greet(t, p.addr("mx"))
	if r := offer(k, "large", strings.Repeat(strings.Repeat("x", 70)+"\r\n", 2000)); !strings.HasPrefix(r, "250") {
		t.Fatal(r)
	}
	p.inbox("u", 2)
	seen := 0
	for _, dir := range []string{"queue", "storage", "mail/example.test"} {
		err := filepath.WalkDir(filepath.Join(p.dir, dir), func(path string, d os.DirEntry, err error) error {
			if err != nil {
				return nil // it was there a moment ago
			}
			st, err := d.Info()
			if err != nil {
				return nil
			}
			if strings.Contains(path, "/locks/") {
				return nil
			}
			secret := dir != "storage" || strings.HasSuffix(path, ".key") || strings.Contains(path, "dkim") && !d.IsDir()
			if secret {
				seen++
			}
			if secret && st.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s is %v", path, st.Mode())
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	if seen < 8 {
		t.Errorf("only %d files were looked at", seen)
	}
}
