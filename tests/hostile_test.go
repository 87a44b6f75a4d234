package tests

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// hostile listens, and treats each connection as serve does, until it is stopped.
func hostile(t *testing.T, cfg *tls.Config, serve treatment) (addr string, stop func()) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var conns []net.Conn
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			wg.Go(func() {
				defer c.Close()
				if cfg == nil {
					serve(c)
					return
				}
				serve(tls.Server(c, cfg))
			})
		}
	})
	return ln.Addr().String(), func() {
		ln.Close()
		mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	}
}

// What peers do when they were asked something. Each returns when the connection
// has ended.
type treatment func(c net.Conn)

func silent(c net.Conn) { io.Copy(io.Discard, c) }

// says answers with a text, and then with nothing.
func saying(text string) treatment {
	return func(c net.Conn) {
		io.WriteString(c, text)
		silent(c)
	}
}

// cut answers with a text, and breaks off.
func cut(text string) treatment {
	return func(c net.Conn) {
		io.WriteString(c, text)
		if tc, ok := c.(*net.TCPConn); ok {
			tc.SetLinger(0)
		}
	}
}

// endless answers with a text, and with another again and again.
func endless(text, more string) treatment {
	return func(c net.Conn) {
		io.WriteString(c, text)
		b := bytes.Repeat([]byte(more), 1+32<<10/len(more))
		for {
			if _, err := c.Write(b); err != nil {
				return
			}
		}
	}
}

// trickle answers with a text, an octet at a time, for ever.
func trickle(text, more string) treatment {
	return func(c net.Conn) {
		io.WriteString(c, text)
		for {
			if _, err := io.WriteString(c, more); err != nil {
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
}

// anybody is what peers of any protocol may do.
func anybody() map[string]treatment {
	return map[string]treatment{
		"silence":          silent,
		"gone":             cut(""),
		"endless zeros":    endless("", "\x00"),
		"endless newlines": endless("", "\r\n"),
		"a line as long":   endless("", "x"),
		"slow newlines":    trickle("", "\n"),
		"garbage":          saying(strings.Repeat("\xff\xfe\x00\x7f garbage \x1b[31m\r\n", 100)),
		"another protocol": saying("220 mx.example.test ESMTP\r\n"),
	}
}

// hostileSecret is the password, which peers get to know and may send back.
const hostileSecret = "qzHostileRb6"

// hostileToken is of a token, which an issuer of whom nothing is known yet is not
// told.
const hostileToken = "qzTokenHs8"

// ber is a value of BER of up to 127 octets, or as long as is said.
func ber(tag byte, parts ...string) string {
	s := strings.Join(parts, "")
	return string([]byte{tag, byte(len(s))}) + s
}

func ldapMessage(id byte, op string) string { return ber(0x30, ber(0x02, string(id)), op) }

func ldapResult(tag, code byte, text string) string {
	return ber(tag, ber(0x0a, string([]byte{code})), ber(0x04), ber(0x04, text))
}

// entry is of another user than was asked for.
var entry = ber(0x64, ber(0x04, "uid=other,dc=test"), ber(0x30))

// directories are what a directory may do: it is asked by a search first.
func directories() map[string]treatment {
	all := anybody()
	for name, t := range map[string]treatment{
		"a length of 2 GiB":           endless("\x30\x84\x7f\xff\xff\xff\x02\x01\x01\x64\x84\x7f\xff\xff\xf0\x04\x84\x7f\xff\xff\x00", "x"),
		"nesting":                     endless("", "\x30\x80"),
		"nesting in an answer":        endless("\x30\x80\x02\x01\x01", "\x64\x80"),
		"no operation":                saying(ber(0x30, ber(0x02, "\x01"))),
		"an empty message":            saying(ber(0x30)),
		"an id that is no number":     saying(ber(0x30, ber(0x04, "one"), ldapResult(0x65, 0, ""))),
		"a bind for a search":         saying(ldapMessage(1, ldapResult(0x61, 0, ""))),
		"a result that is no result":  saying(ldapMessage(1, ber(0x65, ber(0x04, "zero")))),
		"an entry that is no entry":   saying(ldapMessage(1, ber(0x64, ber(0x02, "\x01"))) + ldapMessage(1, ldapResult(0x65, 0, ""))),
		"attributes that are none":    saying(ldapMessage(1, ber(0x64, ber(0x04, "uid=a"), ber(0x30, ber(0x30, ber(0x04, "mail"), ber(0x04, "a@b.test"))))) + ldapMessage(1, ldapResult(0x65, 0, ""))),
		"an answer to somebody else":  saying(ldapMessage(7, entry) + ldapMessage(7, ldapResult(0x65, 0, ""))),
		"endless entries":             endless("", ldapMessage(1, entry)),
		"endless answers to others":   endless("", ldapMessage(9, ldapResult(0x65, 0, ""))),
		"an answer that stops":        saying(ldapMessage(1, entry)[:20]),
		"an answer that breaks off":   cut(ldapMessage(1, entry)[:20]),
		"a referral":                  saying(ldapMessage(1, ldapResult(0x65, 10, "ldap://127.0.0.1:1/"))),
		"what it was told":            saying(ldapMessage(1, ldapResult(0x65, 80, hostileSecret))),
		"a disconnection":             saying(ldapMessage(0, ldapResult(0x78, 52, hostileSecret))),
		"an entry and no bind at all": saying(ldapMessage(1, entry) + ldapMessage(1, ldapResult(0x65, 0, ""))),
	} {
		all[name] = t
	}
	return asked(all, func(c net.Conn) { c.Read(make([]byte, 4096)) })
}

// dovecots are what an auth socket may do: first, and after its handshake.
func dovecots() map[string]treatment {
	const handshake = "VERSION\t1\t2\nMECH\tPLAIN\tplaintext\nSPID\t1\nCUID\t1\nCOOKIE\tx\nDONE\n"
	all := anybody()
	for name, t := range anybody() {
		all[name+" to a request"] = func(c net.Conn) {
			io.WriteString(c, handshake)
			c.Read(make([]byte, 4096))
			t(c)
		}
	}
	for name, t := range map[string]treatment{
		"a handshake without end":    endless("VERSION\t1\t2\n", "SPID\t1\n"),
		"a slow handshake":           trickle("VERSION\t1\t2\n", "SPID\t1\n"),
		"another version":            saying("VERSION\t2\t0\nDONE\n"),
		"a version that it was told": saying("VERSION\t" + hostileSecret + "\nDONE\n"),
		"no PLAIN":                   saying("VERSION\t1\t2\nMECH\tLOGIN\nDONE\n"),
		"an answer to somebody else": saying(handshake + "OK\t77\tuser=other\nFAIL\t78\n"),
		"endless answers to others":  endless(handshake, "OK\t77\tuser=other\n"),
		"an id that is no number":    saying(handshake + "OK\tone\tuser=other\nOK\t-1\nOK\t99999999999\nOK\n\t\n"),
		"a second step":              trickle(handshake, "CONT\t1\tAAAA\n"),
		"its own fault":              trickle(handshake, "FAIL\t1\ttemp\treason="+hostileSecret+"\n"),
		"a user that is none":        trickle(handshake, "OK\t1\tuser=a b"+hostileSecret+"\n"),
		"half a line":                cut(handshake + "OK\t1\tuser=oth"),
	} {
		all[name] = t
	}
	return all
}

// endpoints are what an endpoint of HTTP may do.
func endpoints() map[string]treatment {
	const ok = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
	body := func(s string) treatment { return saying(ok + fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(s), s)) }
	redirect := func(code, to string) treatment {
		return saying("HTTP/1.1 " + code + " Moved\r\nLocation: " + to + "\r\nContent-Length: 0\r\n\r\n")
	}
	all := anybody()
	for name, t := range map[string]treatment{
		"endless headers":         endless("HTTP/1.1 200 OK\r\n", "X-More: and more\r\n"),
		"a header as long":        endless("HTTP/1.1 200 OK\r\nX-More: ", "x"),
		"endless 100 Continue":    endless("", "HTTP/1.1 100 Continue\r\n\r\n"),
		"endless 103":             endless("", "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"),
		"an endless body":         endless(ok+"\r\n", "{\"user\":"),
		"an endless 500":          endless("HTTP/1.1 500 Oops\r\n\r\n", "x"),
		"an endless 401":          endless("HTTP/1.1 401 No\r\nContent-Length: 10000000000\r\n\r\n", "x"),
		"a huge length":           endless(ok+"Content-Length: 9223372036854775807\r\n\r\n", " "),
		"endless chunks":          endless(ok+"Transfer-Encoding: chunked\r\n\r\n", "1\r\n{\r\n"),
		"a chunk's extension":     endless(ok+"Transfer-Encoding: chunked\r\n\r\n1;", "x"),
		"a bad chunk":             saying(ok + "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffffff\r\n"),
		"two lengths":             saying(ok + "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}"),
		"compression that lies":   saying(ok + "Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nxxxx"),
		"a slow body":             trickle(ok+"\r\n{\"user\":\"", "a"),
		"half a body":             cut(ok + "Content-Length: 100\r\n\r\n{\"user\":\"other\"}"),
		"an empty body":           body(""),
		"HTML":                    body("<html>log in</html>"),
		"a list":                  body(`[{"user":"other"}]`),
		"a number":                body("7"),
		"null":                    body("null"),
		"users":                   body(`{"user":["other"]}`),
		"a user that is a number": body(`{"user":7}`),
		"a user that is none":     body(`{"user":"` + hostileSecret + ` x"}`),
		"addresses that are one":  body(`{"user":"other","addresses":"a@b.test"}`),
		"attributes of objects":   body(`{"user":"other","attributes":{"` + hostileSecret + `":{"a":1}}}`),
		"deep JSON":               body(`{"user":"other","attributes":` + strings.Repeat(`{"a":`, 12_000)),
		"two answers":             body(`{"user":"other"}{"user":"another"}`),
		"a redirect to itself":    redirect("302", "/check"),
		"a redirect of the POST":  redirect("307", "/check"),
		"a redirect elsewhere":    redirect("308", "http://127.0.0.1:1/"),
		"a status that it knows":  saying("HTTP/1.1 " + hostileSecret + "\r\n\r\n"),
		"a header that it knows":  saying("HTTP/1.1 200 OK\r\n" + hostileSecret + "\r\n\r\n"),
		"another protocol now":    saying("HTTP/1.1 101 Switching Protocols\r\nUpgrade: smtp\r\nConnection: upgrade\r\n\r\n"),
	} {
		all[name] = t
	}
	return asked(all, func(c net.Conn) {
		if req, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
			io.Copy(io.Discard, io.LimitReader(req.Body, req.ContentLength))
		}
	})
}

// asked waits for a request first.
func asked(all map[string]treatment, read func(net.Conn)) map[string]treatment {
	for name, t := range all {
		all[name] = func(c net.Conn) {
			read(c)
			t(c)
		}
	}
	return all
}

// programs are what a program may do, in the language of sh.
var programs = map[string]string{
	"silence":                   "exec sleep 1000",
	"children that stay":        "sleep 1000 & sleep 1000 & exit 0",
	"deaf to signals":           "trap '' TERM INT HUP PIPE; while :; do sleep 1; done",
	"endless output":            "exec yes",
	"output without a line":     "exec cat /dev/zero",
	"an end by a signal":        "kill -9 $$",
	"an exit code of its own":   "exit 77",
	"garbage":                   `printf '\377\376 %s' garbage`,
	"a list":                    `echo '[{"user":"other"}]'`,
	"a user that is a number":   `echo '{"user":7}'`,
	"two answers":               `echo '{"user":"other"}{"user":"another"}'`,
	"half an answer":            `printf '{"user":"oth'`,
	"an attribute that it told": `echo '{"user":"other","attributes":{"` + hostileSecret + `":{}}}'`,
}

// A hostileCase is a source that may not be trusted, and how a client logs in.
type hostileCase struct{ name, source, mechanism, response, code string }

// ask logs in by all of them, each at a server of its own, and wants to be told
// so soon.
func (h *hostileHost) ask(cases []hostileCase) {
	h.t.Helper()
	var servers strings.Builder
	for i, c := range cases {
		fmt.Fprintf(&servers, "server hostile%[1]d unix/DIR/%[1]d.sock {\n\ttls off\n\tplaintext_auth\n\tauth {\n\t\t%[2]s\n\t}\n\tdiscard\n}\n", i, c.source)
	}
	cfg, err := adapt(h.t, strings.Replace(h.config(quickly+"\n"+servers.String(), ""), "level ERROR", "level DEBUG\n\t\toutput file "+h.log, 1))
	if err != nil {
		h.t.Fatal(err)
	}
	loadJSON(h.t, cfg)
	var wg sync.WaitGroup
	turn := make(chan bool, 6)
	for i, c := range cases {
		wg.Go(func() {
			turn <- true
			defer func() { <-turn }()
			conn, err := net.Dial("unix", filepath.Join(h.dir, fmt.Sprint(i, ".sock")))
			if err != nil {
				h.t.Errorf("%s: %v", c.name, err)
				return
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(30 * time.Second))
			k := &talker{h.t, conn, bufio.NewReader(conn)}
			var replies []string
			for _, line := range []string{"", "EHLO client.test\r\n", "AUTH " + c.mechanism + " " + b64(c.response) + "\r\n", "NOOP\r\n"} {
				io.WriteString(conn, line)
				r, err := k.reply()
				if err != nil {
					r += err.Error()
				}
				replies = append(replies, r)
			}
			if !strings.HasPrefix(replies[2], c.code+" ") || !strings.HasPrefix(replies[3], "250 ") {
				h.t.Errorf("%s: %q", c.name, replies[2:])
			}
		})
	}
	wg.Wait()
}

// A hostileHost is a Caddy that asks hostile sources, and what it logs.
type hostileHost struct {
	*host
	log string
}

// TestHostileSources: whatever those do that are asked about passwords, the client
// is told to try again, in time; nothing grows, nothing stays, and nothing secret
// is in the log.
func TestHostileSources(t *testing.T) {
	h := &hostileHost{host: newHost(t)}
	h.log = filepath.Join(h.dir, "log")
	issuer := httptest.NewTLSServer(nil)
	defer issuer.Close()
	ca, program := filepath.Join(h.dir, "ca.pem"), filepath.Join(h.dir, "program")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: issuer.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	password := hostileCase{mechanism: "PLAIN", response: "\x00asked\x00" + hostileSecret}
	token := hostileCase{mechanism: "XOAUTH2", response: "user=asked\x01auth=Bearer " +
		base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"RS256"}`)) + "." + hostileToken + ".AAAA\x01\x01"}
	h.load("server idle ADDR(idle) {\n\ttls off\n\tdiscard\n}")
	goroutines, fds := settled(t)
	peak := watchMemory(t)
	n := 0
	ask := func(kind string, sources map[string]string, c hostileCase) {
		var cases []hostileCase
		for name, source := range sources {
			c.name, c.source, c.code = kind+": "+name, source, "454 4.7.0"
			if c.name == "http: an endless 401" { // is an answer
				c.code = "535 5.7.8"
			}
			cases = append(cases, c)
		}
		n += len(cases)
		h.ask(cases)
	}
	peers := func(kind, source string, all map[string]treatment, cfg *tls.Config, c hostileCase) {
		sources := map[string]string{}
		var end []func()
		for name, f := range all {
			addr, stop := hostile(t, cfg, f)
			sources[name], end = fmt.Sprintf(source, addr), append(end, stop)
		}
		ask(kind, sources, c)
		h.load("server idle ADDR(idle) {\n\ttls off\n\tdiscard\n}")
		for _, stop := range end {
			stop()
		}
	}
	peers("ldap", "ldap ldap://%s {\n\tsearch dc=test (uid={user})\n\ttimeout 1s\n}", directories(), nil, password)
	peers("dovecot", "dovecot tcp/%s {\n\ttimeout 1s\n}", dovecots(), nil, password)
	peers("http", "http http://%s/check {\n\ttimeout 1s\n}", endpoints(), nil, password)
	peers("oidc", "oidc https://%s {\n\taudience smtp\n\ttimeout 1s\n\tca file "+ca+"\n}", endpoints(), issuer.TLS, token)
	sources := map[string]string{}
	for name, script := range programs {
		file := fmt.Sprint(program, len(sources))
		if err := os.WriteFile(file, []byte("cat >/dev/null\n"+script+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		sources[name] = "exec /bin/sh " + file + " {\n\ttimeout 1s\n}"
	}
	ask("exec", sources, password)
	h.load("server idle ADDR(idle) {\n\ttls off\n\tdiscard\n}")
	top := peak()
	g, f := settled(t)
	t.Logf("%d cases: goroutines %d -> %d, descriptors %d -> %d, at most %d MiB more in use", n, goroutines, g, fds, f, top)
	if g > goroutines+10 || f > fds+10 || strings.Contains(stacks(), "handlers/auth/") || top > 256 { // garbage that nobody collected yet is in it
		t.Errorf("something is left:\n%s", stacks())
	}
	log, err := os.ReadFile(h.log)
	if err != nil {
		t.Fatal(err)
	}
	contains(t, string(log), "cannot authenticate", "[secret]")
	for _, line := range bytes.Split(log, []byte("\n")) {
		if bytes.Contains(line, []byte(hostileToken)) || bytes.Contains(line, []byte(hostileSecret)) && !bytes.Contains(line, []byte("XOAUTH2")) {
			t.Errorf("the log has a secret: %s", line)
		}
	}
}

func stacks() string {
	buf := make([]byte, 4<<20)
	return string(buf[:runtime.Stack(buf, true)])
}

// watchMemory looks at how much memory is in use; the most is returned in MiB,
// over what it was at first.
func watchMemory(t *testing.T) (peak func() int) {
	t.Helper()
	inUse := func() uint64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse + m.StackInuse
	}
	runtime.GC()
	first, top := inUse(), uint64(0)
	stop, done := make(chan bool), make(chan bool)
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
				top = max(top, inUse())
			}
		}
	}()
	return func() int {
		close(stop)
		<-done
		return int(max(top, first)-first) >> 20
	}
}
