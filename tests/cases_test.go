package tests

import (
	"bufio"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/caddymail/caddy-smtp/smtpapp/dns/dnstest"
)

// TestCases plays the dialogues in testdata/cases, which need more of a server
// than a session. What stands before the first line with a colon at its fourth
// place or before is the configuration; then a line is
//
//	txt: name text        a record in DNS, in the configuration
//	dir: path             a folder, and
//	link: path target     a symbolic link, both made before anything is said
//	rude: name text       ADDR(name) refuses recipients with this, as Go quotes it
//	to: name              a connection to ADDR(name)
//	C: text               a line, sent at once; {n:10 text} is ten of the
//	                      text, with the number for %, and the next one for %+
//	C> "text"             octets
//	S: 250                a reply begins so; 250|554 for either
//	X:                    the server closes
//	box: path 1 text      so many messages in a Maildir, and one has the text
//	none: path            a folder that is empty
//	queue: text           the queue's list has the text, soon
//	log: text             the log has the text
//
// In no line of the log may there be a control character or what is no UTF-8.
func TestCases(t *testing.T) {
	files, err := filepath.Glob("testdata/cases/*.smtp")
	if err != nil || len(files) == 0 {
		t.Fatal("no scripts", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".smtp"), func(t *testing.T) {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			playCase(t, string(b))
		})
	}
}

var (
	caseLine = regexp.MustCompile(`^([A-Za-z]+)(:|>) ?(.*)$`)
	times    = regexp.MustCompile(`\{n:(\d+) ([^}]*)\}`)
)

type casePlayer struct {
	h    *host
	k    *talker
	log  string
	zone dnstest.Zone
	cfg  strings.Builder
}

func playCase(t *testing.T, script string) {
	h := newHost(t)
	p := &casePlayer{h: h, log: filepath.Join(h.dir, "log"), zone: dnstest.Zone{TTL: time.Second, TXT: map[string][]string{}}}
	started := false
	for i, l := range strings.Split(script, "\n") {
		m := caseLine.FindStringSubmatch(l)
		if !started && (m == nil || p.prepare(m[1], m[3])) {
			if !strings.HasPrefix(l, "#") && m == nil {
				p.cfg.WriteString(l + "\n")
			}
			continue
		}
		if !started {
			started = true
			p.start()
		}
		if m != nil {
			p.line(i+1, m[1], m[2] == ">", m[3])
		}
	}
	b, err := os.ReadFile(p.log)
	if err != nil {
		t.Fatal(err)
	}
	for l := range strings.SplitSeq(string(b), "\n") {
		if !utf8.ValidString(l) || strings.ContainsFunc(l, func(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 || r == 0x2028 || r == 0x2029 }) {
			t.Errorf("log: %q", l)
		}
	}
}

// prepare does what comes before the server, and reports whether it did.
func (p *casePlayer) prepare(kind, arg string) bool {
	name, rest, _ := strings.Cut(arg, " ")
	path := filepath.Join(p.h.dir, name)
	var err error
	switch kind {
	case "txt":
		p.zone.TXT[name] = append(p.zone.TXT[name], rest)
	case "dir":
		err = os.MkdirAll(path, 0o755)
	case "link":
		err = os.Symlink(filepath.Join(p.h.dir, rest), path)
	case "rude":
		p.rude(p.h.addr(name), rest)
	default:
		return false
	}
	if err != nil {
		p.h.t.Fatal(err)
	}
	return true
}

// rude is a server that refuses recipients with a text of its own.
func (p *casePlayer) rude(addr, quoted string) {
	p.h.t.Helper()
	text, err := strconv.Unquote(quoted)
	if err != nil {
		p.h.t.Fatal(err)
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		p.h.t.Fatal(err)
	}
	p.h.t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				fmt.Fprint(c, "220 rude.test\r\n")
				for in := bufio.NewScanner(c); in.Scan(); {
					if strings.HasPrefix(in.Text(), "RCPT") {
						fmt.Fprint(c, text)
					} else {
						fmt.Fprint(c, "250 ok\r\n")
					}
				}
			}()
		}
	}()
}

func (p *casePlayer) start() {
	p.h.t.Helper()
	smtp := times.ReplaceAllStringFunc(p.cfg.String(), manyTimes)
	smtp = "resolver " + dnstest.Serve(p.h.t, &p.zone) + "\n" + smtp
	cfg, err := adapt(p.h.t, strings.Replace(p.h.config(smtp, ""), "level ERROR", "level DEBUG\n\t\toutput file "+p.log, 1))
	if err != nil {
		p.h.t.Fatal(err)
	}
	loadJSON(p.h.t, cfg)
}

func manyTimes(s string) string {
	m := times.FindStringSubmatch(s)
	n, _ := strconv.Atoi(m[1])
	var b strings.Builder
	for i := range n {
		b.WriteString(strings.NewReplacer("%+", strconv.Itoa(i+1), "%", strconv.Itoa(i)).Replace(m[2]))
	}
	return b.String()
}

func (p *casePlayer) line(n int, kind string, quoted bool, arg string) {
	t := p.h.t
	t.Helper()
	switch kind {
	case "to":
		p.k = dial(t, p.h.addr(arg))
	case "C":
		text := times.ReplaceAllStringFunc(arg, manyTimes) + "\r\n"
		if quoted {
			var err error
			if text, err = strconv.Unquote(arg); err != nil {
				t.Fatalf("line %d: %v", n, err)
			}
			text = times.ReplaceAllStringFunc(text, manyTimes)
		}
		fmt.Fprint(p.k.conn, text)
	case "S":
		got, err := p.k.reply()
		if err != nil || !slices.ContainsFunc(strings.Split(arg, "|"), func(want string) bool { return strings.HasPrefix(got, want) }) {
			t.Fatalf("line %d: want %s, got %q, %v", n, arg, got, err)
		}
	case "X":
		if got, err := p.k.reply(); err == nil || got != "" {
			t.Fatalf("line %d: want the end, got %q", n, got)
		}
	case "box":
		f := strings.SplitN(arg, " ", 3)
		want, _ := strconv.Atoi(f[1])
		wait(t, fmt.Sprintf("line %d", n), func() bool {
			got := mails(t, filepath.Join(p.h.dir, f[0]))
			return len(got) == want && strings.Contains(strings.Join(got, "\n"), f[2])
		})
	case "none":
		if files, err := os.ReadDir(filepath.Join(p.h.dir, arg)); err != nil || len(files) > 0 {
			t.Fatalf("line %d: %v, %v", n, files, err)
		}
	case "queue":
		wait(t, fmt.Sprintf("line %d: %s in the queue", n, arg), func() bool {
			var list string
			p.h.get("/smtp/queue", &list)
			return strings.Contains(list, arg)
		})
	case "log":
		wait(t, fmt.Sprintf("line %d: %s in the log", n, arg), func() bool {
			b, _ := os.ReadFile(p.log)
			return strings.Contains(string(b), arg)
		})
	default:
		t.Fatalf("line %d: %s", n, kind)
	}
}

// TestCasesAreComplete: each case that docs/hostile-input.md lists has a dialogue,
// none has a dialogue without being listed, and no number lacks.
func TestCasesAreComplete(t *testing.T) {
	text, err := os.ReadFile("../docs/hostile-input.md")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[int]bool{}
	for _, m := range regexp.MustCompile(`(?m)^\| (\d+) \|`).FindAllStringSubmatch(string(text), -1) {
		n, _ := strconv.Atoi(m[1])
		if listed[n] {
			t.Errorf("case %d is listed twice", n)
		}
		listed[n] = true
	}
	played := map[int]bool{}
	for _, dir := range []string{"../smtpapp/session/testdata", "testdata/cases"} {
		files, err := filepath.Glob(dir + "/case*")
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			m := regexp.MustCompile(`^case-(\d\d)-[a-z0-9-]+\.smtp$`).FindStringSubmatch(filepath.Base(f))
			if m == nil {
				t.Errorf("%s is not named for a case", f)
				continue
			}
			n, _ := strconv.Atoi(m[1])
			played[n] = true
			if !listed[n] {
				t.Errorf("%s: there is no such case", f)
			}
		}
	}
	want := []int{61, 63, 64} // those between are about what others answer to us
	for n := 1; n <= 54; n++ {
		want = append(want, n)
	}
	for _, n := range want {
		if !listed[n] || !played[n] {
			t.Errorf("case %d: listed %v, played %v", n, listed[n], played[n])
		}
	}
	if len(listed) != len(want) {
		t.Errorf("%d cases are listed, want %d", len(listed), len(want))
	}
}

// TestPromises: docs/promises.md has each promise from 19 to 33, and the tests that
// it names are there.
func TestPromises(t *testing.T) {
	text, err := os.ReadFile("../docs/promises.md")
	if err != nil {
		t.Fatal(err)
	}
	for n := 19; n <= 33; n++ {
		if !strings.Contains(string(text), fmt.Sprintf("| P%d |", n)) {
			t.Errorf("P%d is not there", n)
		}
	}
	defined := map[string]bool{}
	err = filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		for _, m := range regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`).FindAllStringSubmatch(string(b), -1) {
			defined[m[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile("`((?:Test|Fuzz)\\w+)`").FindAllStringSubmatch(string(text), -1) {
		if !defined[m[1]] {
			t.Errorf("there is no %s", m[1])
		}
	}
}
