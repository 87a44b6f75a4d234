package tests

import (
	"bytes"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	_ "modernc.org/sqlite" // to spoil what is in it

	"github.com/caddymail/caddy-smtp/smtpapp/client/clienttest"
)

// TestDamagedContent: where what is stored of a message is damaged while it waits,
// the next hop is not given its end, by whatever command it would have come, and
// the entry waits for an operator. All else is delivered.
func TestDamagedContent(t *testing.T) {
	not := clienttest.Rule{At: "RCPT ", Reply: "451 4.2.1 later"}
	peers := map[string]*clienttest.Server{
		"data":  clienttest.Start(t, clienttest.Options{Extensions: []string{"8BITMIME", "PIPELINING"}}, not),
		"chunk": clienttest.Start(t, clienttest.Options{Extensions: []string{"8BITMIME", "PIPELINING", "CHUNKING"}}, not),
		"old":   clienttest.Start(t, clienttest.Options{Extensions: []string{"SIZE 99999999"}}, not), // for which 8-bit content is converted
		"store": clienttest.Start(t, clienttest.Options{LMTP: true, Extensions: []string{"8BITMIME"}}, not),
	}
	h := newHost(t)
	agents, config := "", "server in ADDR(in) {\ntls off\n"
	for name, p := range peers {
		agent, options := "relay", "tls off"
		if name == "store" {
			agent, options = "lmtp", "verify off"
		}
		agents += fmt.Sprintf("agent %s %s %s {\n%s\n}\n", name, agent, p.Addr, options)
		config += fmt.Sprintf("@%[1]s rcpt_domain %[1]s.test\ndeliver @%[1]s %[1]s\n", name)
	}
	h.load(agents + config + "}")

	line := strings.Repeat("ä", 30) + "\r\n"
	harm := map[string]func(path string, b []byte) error{
		"flip": func(path string, b []byte) error { b[len(b)-100] ^= 4; return os.WriteFile(path, b, 0o600) },
		"break": func(path string, b []byte) error {
			return os.WriteFile(path, bytes.Replace(b, []byte("--b"), []byte("--c"), 1), 0o600)
		},
		"rename": func(path string, b []byte) error {
			return os.WriteFile(path, bytes.Replace(b, []byte("8bit"), []byte("9bit"), 1), 0o600)
		},
		"shorten":  func(path string, b []byte) error { return os.Truncate(path, int64(len(b)-62)) },
		"lengthen": func(path string, b []byte) error { return os.WriteFile(path, append(b, line...), 0o600) },
		"remove":   func(path string, _ []byte) error { return os.Remove(path) },
		"none":     func(string, []byte) error { return nil },
		"small":    nil,
	}
	k := greet(t, h.addr("in"))
	for name := range peers {
		for what := range harm {
			n := 5000
			if what == "small" {
				n = 3
			}
			k.say("250", "MAIL FROM:<a@b.test> BODY=8BITMIME")
			k.say("250", "RCPT TO:<%s@%s.test>", what, name)
			k.say("354", "DATA")
			k.say("250", "Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n(%s of %s)\r\n%s--b--\r\n%s.", what, name, strings.Repeat(line, n), strings.Repeat("nobody reads this\r\n", n))
		}
	}
	all := len(peers) * len(harm)
	wait(t, "attempts", func() bool {
		n := 0
		for _, e := range h.queue("") {
			n += min(e.Recipients[0].Attempts, 1)
		}
		return n == all
	})
	h.operate("?do=hold&all=true")
	h.spoil(harm)
	for _, p := range peers {
		p.Set()
	}
	h.operate("?do=release&held=true")
	wait(t, "the rest to be held", func() bool {
		held := h.queue("held=true")
		return len(held) == all-len(peers) && len(h.queue("")) == len(held)
	})
	for _, e := range h.queue("") {
		if r := e.Recipients[0]; r.Reason != "stored content is damaged; held" {
			t.Errorf("%s: %s", r.Address, r.Reason)
		}
	}
	for name, p := range peers {
		ms := p.Messages()
		if len(ms) != 1 || ms[0].Recipients[0] != "none@"+name+".test" {
			t.Errorf("%s took %d messages", name, len(ms))
			for _, m := range ms {
				t.Errorf("%s, %d octets", m.Recipients, len(m.Content))
			}
		}
		lasts := 0
		for _, c := range p.Commands() {
			if strings.HasPrefix(c, "BDAT ") && strings.HasSuffix(c, " LAST") {
				lasts++
			}
		}
		if want := map[string]int{"chunk": 1}[name]; lasts != want {
			t.Errorf("%s was given %d ends by BDAT", name, lasts)
		}
	}
}

// spoil damages the content that is stored: of messages that say so, in files, and
// of those without a file, in the database.
func (h *host) spoil(harm map[string]func(path string, b []byte) error) {
	h.t.Helper()
	files, err := filepath.Glob(filepath.Join(h.dir, "queue", "content", "*"))
	if err != nil {
		h.t.Fatal(err)
	}
	for _, path := range files {
		b, err := os.ReadFile(path)
		if err != nil {
			h.t.Fatal(err)
		}
		_, what, _ := bytes.Cut(b, []byte("("))
		what, _, _ = bytes.Cut(what, []byte(" of "))
		if err := harm[string(what)](path, b); err != nil {
			h.t.Fatal(err)
		}
	}
	db, err := sql.Open("sqlite", filepath.Join(h.dir, "queue", "queue.db")+"?_pragma=busy_timeout(10000)")
	if err != nil {
		h.t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec("update content set inline = cast(substr(inline, 1, size - 1) || 'x' as blob) where file is null"); err != nil {
		h.t.Fatal(err)
	}
}
