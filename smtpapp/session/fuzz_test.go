package session_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

// memory is a connection whose client says what was written down before. It
// waits for the greeting and for 354.
type memory struct {
	pieces [][]byte
	begun  bool
	out    bytes.Buffer
}

func (m *memory) Read(p []byte) (int, error) {
	if !m.begun { // nothing comes before the greeting
		m.begun = true
		return 0, os.ErrDeadlineExceeded
	}
	for len(m.pieces) > 0 && len(m.pieces[0]) == 0 {
		m.pieces = m.pieces[1:]
	}
	if len(m.pieces) == 0 {
		return 0, io.EOF
	}
	n := copy(p, m.pieces[0])
	m.pieces[0] = m.pieces[0][n:]
	return n, nil
}

func (m *memory) Write(p []byte) (int, error)      { return m.out.Write(p) }
func (m *memory) Close() error                     { return nil }
func (m *memory) LocalAddr() net.Addr              { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1)} }
func (m *memory) RemoteAddr() net.Addr             { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 2)} }
func (m *memory) SetDeadline(time.Time) error      { return nil }
func (m *memory) SetReadDeadline(time.Time) error  { return nil }
func (m *memory) SetWriteDeadline(time.Time) error { return nil }

var (
	dataLine  = regexp.MustCompile(`(?i)DATA *\r\n`)
	replyLine = regexp.MustCompile(`^[2345][0-9][0-9][ -][\t -~]*$`)
	bareNL    = regexp.MustCompile(`\r[^\n]|[^\r]\n|^\n|\r$|\x00`)
)

// conversation cuts what a client says where it has to wait for a 354.
func conversation(b []byte) *memory {
	m := new(memory)
	for {
		at := dataLine.FindIndex(b)
		if at == nil {
			m.pieces = append(m.pieces, b)
			return m
		}
		m.pieces = append(m.pieces, b[:at[1]])
		b = b[at[1]:]
	}
}

// FuzzSession says anything to a session. Whatever it is, the session ends,
// its replies are well-formed, it accepts what it says it accepts, and nothing
// in that can be the end of content for anyone.
func FuzzSession(f *testing.F) {
	scripts, err := filepath.Glob("testdata/*.smtp")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range scripts {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		var said strings.Builder
		for l := range strings.Lines(string(b)) {
			if text, ok := strings.CutPrefix(strings.TrimSuffix(l, "\n"), "C: "); ok {
				said.WriteString(text + "\r\n")
			}
		}
		f.Add([]byte(said.String()))
	}
	const tx = "EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<user@local.example>\r\n"
	f.Add([]byte(tx + "DATA\r\na: b\r\n\r\nx\n.\r\nMAIL FROM:<>\r\n\r\n.\r\nQUIT\r\n"))
	f.Add([]byte(tx + "BDAT 3\r\na: BDAT 5 LAST\r\nb\r\n\r\nNOOP\r\n"))
	f.Add([]byte(tx + "BDAT 3\r\na: RSET\r\n" + tx + "BDAT 2 LAST\r\na:"))
	srv := newServer(f)
	srv.cfg.TLS = nil
	srv.cfg.Limits.SoftErrors, srv.cfg.Limits.HardErrors, srv.cfg.Limits.FailedAuth = 0, 0, 1
	srv.cfg.Limits.MessageSize = 1000
	f.Fuzz(func(t *testing.T, said []byte) {
		if bytes.Contains(bytes.ToUpper(said), []byte("AUTH")) {
			return // failed logins take their time
		}
		srv.mu.Lock()
		srv.taken = nil
		srv.mu.Unlock()
		conn := conversation(said)
		if err := session.New(conn, srv.cfg, false).Serve(context.Background()); err != nil {
			t.Fatal(err)
		}
		queued := 0
		for l := range strings.SplitSeq(strings.TrimSuffix(conn.out.String(), "\r\n"), "\r\n") {
			if !replyLine.MatchString(l) || len(l) > 510 {
				t.Fatalf("reply %q", l)
			}
			if strings.HasPrefix(l, "250 2.0.0 queued") {
				queued++
			}
			if strings.Contains(l, "421 4.3.0") && !bytes.Contains(said, []byte("panic")) {
				t.Fatalf("reply %q", l)
			}
		}
		if n := len(srv.messages()); n != queued {
			t.Fatalf("%d messages, %d replies", n, queued)
		}
		for _, m := range srv.messages() {
			if m.env.Body == mail.BodyBinary { // all but the header means itself
				if h, _, err := message.ParseHeader([]byte(m.body)); err != nil || h.HasNUL() {
					t.Fatalf("content %q: %v", m.body, err)
				}
				continue
			}
			if bareNL.MatchString(m.body) || !strings.HasSuffix(m.body, "\r\n") {
				t.Fatalf("content %q", m.body)
			}
			checkFraming(t, said, m.body)
		}
	})
}

// checkFraming looks for the content in what the client said: stuffed, between
// a line and an end of its own; or, if it came by BDAT, somewhere.
func checkFraming(t *testing.T, said []byte, body string) {
	if bytes.Contains(bytes.ToUpper(said), []byte("BDAT")) || len(body) > 1000 {
		return
	}
	lenient := regexp.MustCompile(`\r?\n`).ReplaceAllString(string(said), "\n")
	body = strings.TrimSuffix(strings.ReplaceAll(body, "\r\n", "\n"), "\n")
	for _, l := range strings.Split(body, "\n") {
		if l != "" && !strings.Contains(lenient, l+"\n") {
			t.Fatalf("a line of the content was not said: %q", l)
		}
	}
	if i := strings.LastIndex(lenient, "\n.\n"); i < 0 && !strings.Contains(lenient, "\n.\n") {
		t.Fatal("content without an end")
	}
}
