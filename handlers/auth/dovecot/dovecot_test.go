package dovecot

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/login"
)

const hello = "VERSION\t1\t2\nMECH\tLOGIN\tplaintext\nMECH\tPLAIN\tplaintext\nSPID\t1\nCOOKIE\tx\nDONE\n"

// A server plays Dovecot. Its function gets the id, and the decoded response.
type server struct {
	t      *testing.T
	path   string
	ln     net.Listener
	hello  string
	answer func(id, response string) string

	mu    sync.Mutex
	lines []string
	conns map[net.Conn]bool
}

func newServer(t *testing.T, answer func(id, response string) string) *server {
	t.Helper()
	dir, err := os.MkdirTemp("", "dovecot")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, path: filepath.Join(dir, "auth"), hello: hello, answer: answer, conns: map[net.Conn]bool{}}
	s.listen()
	t.Cleanup(func() { s.ln.Close(); s.drop(); os.RemoveAll(dir) })
	return s
}

func (s *server) listen() {
	s.t.Helper()
	ln, err := net.Listen("unix", s.path)
	if err != nil {
		s.t.Fatal(err)
	}
	s.ln = ln
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns[c] = true
			s.mu.Unlock()
			go s.serve(c)
		}
	}()
}

func (s *server) serve(c net.Conn) {
	defer c.Close()
	s.mu.Lock()
	hello := s.hello
	s.mu.Unlock()
	c.Write([]byte(hello))
	for sc := bufio.NewScanner(c); sc.Scan(); {
		line := sc.Text()
		s.mu.Lock()
		s.lines = append(s.lines, line)
		s.mu.Unlock()
		f := strings.Split(line, "\t")
		if f[0] != "AUTH" {
			continue
		}
		b, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(f[len(f)-1], "resp="))
		if err != nil {
			s.t.Error(err)
		}
		if a := s.answer(f[1], string(b)); a != "" {
			c.Write([]byte(a))
		}
	}
}

func (s *server) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.Close()
	}
	clear(s.conns)
}

func (s *server) heard() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.lines, "\n")
}

// users is an answer for alice, whose password is "right".
func users(id, response string) string {
	if response == "\x00alice\x00right" {
		return "OK\t" + id + "\tuser=Alice\tquota=a\x01tb\tpass=canary\n"
	}
	return "FAIL\t" + id + "\tuser=alice\n"
}

func provisioned(t *testing.T, s *Source) *Source {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	if err := s.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.Validate(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Cleanup() })
	return s
}

func TestCheckPassword(t *testing.T) {
	srv := newServer(t, users)
	s := provisioned(t, &Source{Address: "unix/" + srv.path, Attributes: []string{"quota", "none"}})
	ctx := login.WithClient(t.Context(), login.Client{Remote: netip.MustParseAddrPort("192.0.2.1:99"), Local: netip.MustParseAddrPort("[2001:db8::1]:587"), TLS: true})
	id, known, err := s.CheckPassword(ctx, "alice", "right")
	if err != nil || !known || !reflect.DeepEqual(id, &login.Identity{User: "alice", Attributes: map[string]string{"quota": "a\tb"}}) {
		t.Errorf("%+v %v %v", id, known, err)
	}
	want := "\tPLAIN\tservice=smtp\tnologin\tsecured\trip=192.0.2.1\trport=99\tlip=2001:db8::1\tlport=587\tresp=" + base64.StdEncoding.EncodeToString([]byte("\x00alice\x00right"))
	if got := srv.heard(); !strings.HasPrefix(got, "VERSION\t1\t1\nCPID\t") || !strings.HasSuffix(got, want) {
		t.Error(got)
	}
	for _, c := range [][2]string{{"alice", "wrong"}, {"bob", "right"}, {"", "x"}, {"alice", ""}, {"alice", "a\x00b"}, {"alice", strings.Repeat("x", maxPassword+1)}} {
		if id, known, err := s.CheckPassword(t.Context(), c[0], c[1]); id != nil || known || err != nil {
			t.Error(c[0], id, known, err)
		}
	}
	if got := srv.heard(); strings.Count(got, "CPID") != 1 || strings.Count(got, "AUTH\t") != 3 {
		t.Error(got)
	}
}

func TestAnswers(t *testing.T) {
	for text, want := range map[string]struct{ known, fault bool }{
		"FAIL\t%s":                         {false, false},
		"FAIL\t%s\tuser=alice\ttemp":       {false, true},
		"FAIL\t%s\tcode=temp_fail":         {false, true},
		"FAIL\t%s\tauthz":                  {true, false},
		"FAIL\t%s\tuser_disabled":          {true, false},
		"FAIL\t%s\tcode=x\tpass_expired":   {true, false},
		"OK\t%s\tuser=alice\tnologin":      {true, false},
		"OK\t%s\tuser=two words":           {true, true},
		"CONT\t%s\t":                       {false, true},
		"junk\nOK\t0\tx\nOK\t77\nFAIL\t%s": {false, false},
	} {
		srv := newServer(t, func(id, _ string) string { return fmt.Sprintf(text, id) + "\n" })
		s := provisioned(t, &Source{Address: "unix/" + srv.path})
		id, known, err := s.CheckPassword(t.Context(), "alice", "right")
		if id != nil || known != want.known || (err != nil) != want.fault {
			t.Errorf("%q: %v %v %v", text, id, known, err)
		}
	}
}

func TestFaults(t *testing.T) {
	for name, c := range map[string]struct{ hello, answer, want string }{
		"version 2":      {"VERSION\t2\t0\nMECH\tPLAIN\nDONE\n", "", "not of version 1"},
		"no version":     {"MECH\tPLAIN\nDONE\n", "", "does not offer PLAIN"},
		"no PLAIN":       {"VERSION\t1\t0\nMECH\tCRAM-MD5\nDONE\n", "", "does not offer PLAIN"},
		"the wrong port": {"220 mx.test ESMTP\r\n", "", "deadline"},
		"without end":    {strings.Repeat("x\n", maxLines+1), "", "no end"},
		"a long line":    {strings.Repeat("x", maxLine+1), "", "too long"},
		"silent":         {"", "", "deadline"},
		"no answer":      {hello, "", "deadline"},
		"a long answer":  {hello, strings.Repeat("x", maxLine+1), "too long"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := newServer(t, func(string, string) string { return c.answer })
			srv.mu.Lock()
			srv.hello = c.hello
			srv.mu.Unlock()
			s := provisioned(t, &Source{Address: "unix/" + srv.path, Timeout: caddy.Duration(500 * time.Millisecond)})
			if id, _, err := s.CheckPassword(t.Context(), "alice", "right"); id != nil || err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %s", err, c.want)
			}
			if name == "no answer" && !strings.Contains(srv.heard(), "\nCANCEL\t") {
				for end := time.Now().Add(5 * time.Second); !strings.Contains(srv.heard(), "\nCANCEL\t"); time.Sleep(time.Millisecond) {
					if time.Now().After(end) {
						t.Fatal("it is not cancelled")
					}
				}
			}
		})
	}
}

// TestReconnect: Dovecot restarts between two logins, and stays away.
func TestReconnect(t *testing.T) {
	srv := newServer(t, users)
	s := provisioned(t, &Source{Address: "unix/" + srv.path})
	for range 3 {
		if id, _, err := s.CheckPassword(t.Context(), "alice", "right"); id == nil || err != nil {
			t.Fatal(id, err)
		}
		srv.drop()
	}
	srv.ln.Close()
	if id, _, err := s.CheckPassword(t.Context(), "alice", "right"); id != nil || err == nil {
		t.Error(id, err)
	}
	srv.listen()
	if id, _, err := s.CheckPassword(t.Context(), "alice", "right"); id == nil || err != nil {
		t.Error(id, err)
	}
}

// TestMany: answers come in any order, to whom they are for.
func TestMany(t *testing.T) {
	var mu sync.Mutex
	var held []string
	srv := newServer(t, func(id, response string) string {
		mu.Lock()
		defer mu.Unlock()
		user, _, _ := strings.Cut(response[1:], "\x00")
		held = append([]string{"OK\t" + id + "\tuser=" + user + "\n"}, held...)
		if len(held) < 10 {
			return ""
		}
		all := strings.Join(held, "")
		held = nil
		return all
	})
	s := provisioned(t, &Source{Address: "unix/" + srv.path})
	var wg sync.WaitGroup
	for i := range 500 {
		wg.Go(func() {
			user := fmt.Sprintf("user%d", i)
			if id, _, err := s.CheckPassword(context.Background(), user, "x"); err != nil || id.User != user {
				t.Error(user, id, err)
			}
		})
	}
	wg.Wait()
	if strings.Count(srv.heard(), "CPID") != 1 {
		t.Error("more than one connection")
	}
	if n := len(s.client.link.pending); n != 0 {
		t.Error(n, "requests are left")
	}
}

// TestReload: 200 configurations leave neither goroutines nor files behind.
func TestReload(t *testing.T) {
	srv := newServer(t, users)
	count := func() (goroutines, files int) {
		runtime.GC()
		list, _ := os.ReadDir("/proc/self/fd")
		return runtime.NumGoroutine(), len(list)
	}
	g, f := count()
	for range 200 {
		s := &Source{Address: "unix/" + srv.path}
		ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
		if err := s.Provision(ctx); err != nil {
			t.Fatal(err)
		}
		if id, _, err := s.CheckPassword(ctx, "alice", "right"); id == nil || err != nil {
			t.Fatal(err)
		}
		cancel()
		s.Cleanup()
		if _, _, err := s.CheckPassword(context.Background(), "alice", "right"); err == nil {
			t.Fatal("used after the end")
		}
	}
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		g2, f2 := count()
		if g2 <= g+2 && f2 <= f+2 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("goroutines %d, were %d; files %d, were %d", g2, g, f2, f)
		}
	}
}

func TestConfigurationErrors(t *testing.T) {
	for want, s := range map[string]*Source{
		"'' is neither": {}, "'a.test' is neither": {Address: "a.test"}, "'udp/a.test:1' is": {Address: "udp/a.test:1"}, "'a:1-2' is": {Address: "a:1-2"},
		"':12345' is": {Address: ":12345"}, "timeout is negative": {Address: "a:1", Timeout: -1}, "may be a password": {Address: "a:1", Attributes: []string{"pass"}},
	} {
		ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
		err := s.Provision(ctx)
		if err == nil {
			err = s.Validate()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
		cancel()
	}
	if n, a, err := parseAddress("[::1]:12345"); n != "tcp" || a != "[::1]:12345" || err != nil {
		t.Error(n, a, err)
	}
}

func TestFormatRequest(t *testing.T) {
	if got := formatRequest(7, []string{"service=a\tb\n\x01\x00"}, "x"); got != "AUTH\t7\tPLAIN\tservice=a\x01tb\x01n\x011\x010\tresp=eA==\n" {
		t.Errorf("%q", got)
	}
}

func FuzzServer(f *testing.F) {
	f.Add([]byte(hello + "OK\t1\tuser=a\x01t\n"))
	f.Add([]byte("VERSION\t1\nMECH\nDONE\nFAIL\t4294967296\t=\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := newReader(strings.NewReader(string(b)))
		if readHandshake(r) != nil {
			return
		}
		for {
			line, err := readLine(r)
			if err != nil {
				return
			}
			if id, a := parseAnswer(line); id != 0 {
				if id, _, err := new(Source).judge("a", a); id != nil && (err != nil || id.User == "") {
					t.Error(id, err)
				}
			}
		}
	})
}

func TestCaddyfile(t *testing.T) {
	for in, want := range map[string]string{
		"dovecot unix//run/x {\nservice smtps\nattributes a b\ntimeout 5s\n}": `{"address":"unix//run/x","service":"smtps","attributes":["a","b"],"timeout":5000000000}`,
		"dovecot":                  "wrong argument count or unexpected line ending after 'dovecot', at Testfile:1",
		"dovecot a {\nsocket b\n}": "unrecognized option 'socket', at Testfile:2",
	} {
		s := new(Source)
		err := s.UnmarshalCaddyfile(caddyfile.NewTestDispenser(in))
		got, _ := json.Marshal(s)
		if err != nil {
			got = fmt.Append(nil, err)
		}
		if string(got) != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}
