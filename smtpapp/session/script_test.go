package session_test

import (
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
)

// TestScripts plays the dialogues in testdata. Each line of a script is
//
//	set: Name value       a field of session.Limits
//	C: text               a line; lines without a reply between go in one write
//	C> "text"             octets as Go quotes them, "…"*n for n times as many
//	S: 250 2.1.0          a reply whose last line begins so
//	S~ text               that reply has the text
//	S! text               that reply does not have it
//	X:                    the server closes
//	M: "content"          a message was accepted, in order, and is this
//
// Messages that no M: names are faults. A # begins a comment.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.smtp")
	if err != nil || len(files) == 0 {
		t.Fatal("no scripts", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".smtp"), func(t *testing.T) {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			synctest.Test(t, func(t *testing.T) { play(t, string(b)) })
		})
	}
}

type player struct {
	t      *testing.T
	srv    *server
	out    chan string
	client *client
	last   string // reply
	unsent string
	seen   int // messages
}

func play(t *testing.T, script string) {
	p := &player{t: t, srv: newServer(t), out: make(chan string, 1000)}
	lines := strings.Split(script, "\n")
	for len(lines) > 0 && (strings.HasPrefix(lines[0], "set:") || strings.HasPrefix(lines[0], "#")) {
		p.set(lines[0])
		lines = lines[1:]
	}
	c, _ := p.srv.pipe(t.Context())
	p.client = newClient(t, c)
	go p.write(c)
	defer func() {
		close(p.out)
		c.Close()
		<-p.srv.closed
	}()
	for i, l := range lines {
		p.line(i+1, l)
	}
	p.flush()
	synctest.Wait()
	if n := len(p.srv.messages()); n != p.seen {
		t.Fatalf("%d messages were accepted, want %d: %+v", n, p.seen, p.srv.messages()[p.seen:])
	}
}

// write sends beside the reading of replies, as the pipe has no room.
func (p *player) write(c net.Conn) {
	for s := range p.out {
		if _, err := c.Write([]byte(s)); err != nil {
			for range p.out {
				continue
			}
			return
		}
	}
}

func (p *player) set(l string) {
	f := strings.Fields(l)
	if len(f) == 3 && f[0] == "set:" {
		n, err := strconv.ParseInt(f[2], 10, 64)
		if err != nil {
			p.t.Fatal(err)
		}
		reflect.ValueOf(&p.srv.cfg.Limits).Elem().FieldByName(f[1]).SetInt(n)
	}
}

func (p *player) flush() {
	if p.unsent != "" {
		p.out <- p.unsent
		p.unsent = ""
	}
}

func (p *player) line(n int, l string) {
	p.t.Helper()
	if l == "" || l[0] == '#' {
		return
	}
	kind, arg := l[:2], strings.TrimPrefix(l[2:], " ")
	if kind == "C:" {
		p.unsent += arg + "\r\n"
		return
	}
	if kind == "C>" {
		p.unsent += p.unquote(arg)
		return
	}
	p.flush()
	switch kind {
	case "S:":
		p.last = p.client.reply()
		lines := strings.Split(strings.TrimSuffix(p.last, "\r\n"), "\r\n")
		if p.last == "" || !strings.HasPrefix(lines[len(lines)-1], arg) {
			p.t.Fatalf("line %d: want %q, got %q", n, arg, p.last)
		}
	case "S~", "S!":
		if strings.Contains(p.last, arg) != (kind == "S~") {
			p.t.Fatalf("line %d: %s, got %q", n, l, p.last)
		}
	case "X:":
		if got := p.client.reply(); got != "" {
			p.t.Fatalf("line %d: want the end, got %q", n, got)
		}
	case "M:":
		p.message(n, p.unquote(arg))
	default:
		p.t.Fatalf("line %d: %q", n, l)
	}
}

func (p *player) message(n int, want string) {
	p.t.Helper()
	synctest.Wait()
	ms := p.srv.messages()
	if len(ms) <= p.seen {
		p.t.Fatalf("line %d: no message", n)
	}
	if got := ms[p.seen].body; got != want {
		p.t.Fatalf("line %d: message is %q, want %q", n, got, want)
	}
	p.seen++
}

func (p *player) unquote(s string) string {
	p.t.Helper()
	s, times, many := strings.Cut(s, "*")
	if many && !strings.HasSuffix(s, `"`) {
		s, many = s+"*"+times, false
	}
	u, err := strconv.Unquote(s)
	if err != nil {
		p.t.Fatalf("%q: %v", s, err)
	}
	if many {
		n, err := strconv.Atoi(times)
		if err != nil {
			p.t.Fatal(err)
		}
		u = strings.Repeat(u, n)
	}
	return u
}
