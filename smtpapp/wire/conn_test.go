package wire

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

// simple is a session without rules, and a dispatcher that knows DATA alone.
type simple struct {
	c      *Conn
	sink   func(io.Reader) error
	silent bool // answers nothing
	hasty  bool // leaves at once
	phase  Phase
	lines  []string // that the dispatcher saw
	asked  []string // that the handler saw
}

func (s *simple) Phase() Phase { return s.phase }

func (s *simple) Malformed(r *mail.Reply) *mail.Reply { return r }

func (s *simple) Response(line string) (string, *mail.Reply) {
	return "response " + line, &mail.Reply{Code: 235, Text: "in"}
}

func (s *simple) Command(verb, arg string) (string, *mail.Reply) {
	s.asked = append(s.asked, verb+"|"+arg)
	switch verb {
	case "DATA", "BDAT":
		return "DATA", nil
	case "AUTH":
		return "AUTH", nil
	case "PANIC":
		panic(arg)
	case "RSET":
		return "RSET", &mail.Reply{Code: 250, Text: "reset"}
	case "QUIT":
		return "", &mail.Reply{Code: 221, Text: "bye", Close: true}
	case "REFUSE":
		return "", &mail.Reply{Code: 550, Enh: "5.7.1", Text: arg}
	}
	return "", &mail.Reply{Code: 250, Text: "ok"}
}

func (s *simple) serve(ctx context.Context) {
	stop := s.c.CutOff(ctx)
	defer stop()
	s.c.Greet(&mail.Reply{Code: 220, Text: "hello"})
	for s.c.Await() {
		s.dispatch()
	}
	_ = s.c.Close()
}

func (s *simple) dispatch() {
	p, _ := s.c.Listener().Accept()
	for r := bufio.NewScanner(p); r.Scan(); {
		if s.hasty {
			break
		}
		s.lines = append(s.lines, r.Text())
		switch {
		case s.silent:
		case r.Text() == "AUTH":
			s.c.Answer(&mail.Reply{Code: 334})
		case r.Text() == "DATA":
			r := &mail.Reply{Code: 250, Text: "taken"}
			if err := s.sink(s.c.Content()); err != nil {
				r = mail.ReplyFor(err)
			}
			s.c.Answer(r)
		}
	}
}

// talk plays what the client says, in writes of their own, and returns all
// that the server does.
func talk(t *testing.T, cfg Config, s *simple, said ...string) (heard string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		client, srv := net.Pipe()
		cfg.Handler = s
		s.c = New(srv, cfg)
		var wg sync.WaitGroup
		wg.Go(func() { s.serve(t.Context()) })
		wg.Go(func() {
			b, _ := io.ReadAll(client)
			heard = string(b)
		})
		for _, l := range said {
			time.Sleep(time.Second)
			if _, err := io.WriteString(client, l); err != nil {
				break
			}
		}
		time.Sleep(time.Second)
		client.Close()
		wg.Wait()
	})
	return heard
}

func TestDispatcherSeesOnlyWhatIsForwarded(t *testing.T) {
	var got []string
	s := &simple{sink: func(r io.Reader) error {
		b, err := io.ReadAll(r)
		got = append(got, string(b))
		return err
	}}
	heard := talk(t, Config{}, s, "noop  x  \r\nAUTH\r\n", "secret\r\nDATA\r\n", "a\r\n.\r\nBDAT 1\r\nbRSET\r\n", "BDAT 1 LAST\r\nc", "QUIT\r\nNOOP\r\n")
	want := "220 hello\r\n250 ok\r\n334 \r\n235 in\r\n354 end with <CRLF>.<CRLF>\r\n250 taken\r\n250 2.0.0 1 octets so far\r\n250 reset\r\n250 taken\r\n221 bye\r\n"
	if heard != want {
		t.Errorf("heard %q", heard)
	}
	if g := fmt.Sprintf("%q", got); g != `["a\r\n" "b" "c\r\n"]` {
		t.Error(g)
	}
	if g := strings.Join(s.lines, ","); g != "EHLO x,AUTH,response secret,DATA,.,DATA,.,RSET,DATA,." {
		t.Error(g)
	}
	if g := strings.Join(s.asked, ","); g != "NOOP|x,AUTH|,DATA|,BDAT|1,RSET|,BDAT|1 LAST,QUIT|" {
		t.Error(g)
	}
}

// TestIdleClient has no dispatcher, and gets one when it goes on.
func TestIdleClient(t *testing.T) {
	s := new(simple)
	synctest.Test(t, func(t *testing.T) {
		client, srv := net.Pipe()
		s.c = New(srv, Config{Handler: s})
		done := make(chan struct{})
		go func() { s.serve(t.Context()); close(done) }()
		r := bufio.NewReader(client)
		for range 2 {
			_, _ = r.ReadString('\n')
			time.Sleep(time.Second)
			_, _ = io.WriteString(client, "RSET\r\n")
			_, _ = r.ReadString('\n')
			time.Sleep(10 * time.Second)
			_, _ = io.WriteString(client, "NOOP\r\n")
		}
		client.Close()
		<-done
	})
	if g := strings.Join(s.lines, ","); g != "EHLO x,RSET,EHLO x,RSET" {
		t.Error(g)
	}
}

// TestSilentDispatcher: what go-smtp answers on its own account, after an
// upgrade say, is not trusted.
func TestSilentDispatcher(t *testing.T) {
	if heard := talk(t, Config{}, &simple{silent: true}, "AUTH\r\n", "NOOP\r\n"); heard != "220 hello\r\n421 4.3.0 local error in processing\r\n" {
		t.Errorf("%q", heard)
	}
	if heard := talk(t, Config{}, &simple{hasty: true}, "AUTH\r\n", "NOOP\r\n"); heard != "220 hello\r\n421 4.3.0 local error in processing\r\n" {
		t.Errorf("%q", heard)
	}
	if heard := talk(t, Config{}, &simple{silent: true}, "DATA\r\n", "NOOP\r\n"); heard != "220 hello\r\n421 4.3.0 local error in processing\r\n" {
		t.Errorf("%q", heard)
	}
}

// TestPanic: a panic ends the session and nothing else.
func TestPanic(t *testing.T) {
	if heard := talk(t, Config{}, new(simple), "PANIC\r\n", "NOOP\r\n"); heard != "220 hello\r\n421 4.3.0 local error in processing\r\n" {
		t.Errorf("%q", heard)
	}
}

// TestSecrets: passwords do not get into the log, whatever the client takes
// for a command.
func TestSecrets(t *testing.T) {
	var log bytes.Buffer
	cfg := Config{Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	talk(t, cfg, new(simple), "NOOP x\x1b\r\n", "AUTH PLAIN c2VjcmV0\r\n", "c2VjcmV0\r\n", "AUTH\tc2VjcmV0\r\n", "c2VjcmV0\r\n", "QUIT\r\n")
	if l := log.String(); strings.Contains(l, "c2VjcmV0") || strings.Contains(l, "C2VJCMV0") || !strings.Contains(l, `line="NOOP x\x1b"`) || !strings.Contains(l, "221 bye") {
		t.Error(l)
	}
}

// TestEarlyReturn: whatever the session leaves of content is no command.
func TestEarlyReturn(t *testing.T) {
	refuse := func(r io.Reader) error {
		_, _ = r.Read(make([]byte, 1))
		return mail.Refuse(550, "5.7.1", "enough")
	}
	for _, tt := range []struct {
		limit int64
		said  []string
		want  string
	}{
		{0, []string{"DATA\r\n", "aaa\r\nQUIT\r\n.\r\nNOOP\r\n"}, "354 |550 5.7.1|250 ok"},
		{0, []string{"BDAT 6\r\nQUIT\r\nNOOP\r\n"}, "550 5.7.1|250 ok"},
		{3, []string{"DATA\r\n", "aaaaaaaaaaaaaaa\r\n" + strings.Repeat("x", 5000), "\r\nQUIT\r\n"}, "354 |550 5.7.1|"},
		{3, []string{"BDAT 3\r\nabcBDAT 4\r\nabcdNOOP\r\n"}, "550 5.7.1|550 5.7.1|"},
		{3, []string{"BDAT 3\r\nabc", "BDAT 1\r\naNOOP\r\n"}, "550 5.7.1|550 5.7.1|250 ok"},
	} {
		heard := talk(t, Config{MessageSize: tt.limit}, &simple{sink: refuse}, tt.said...)
		lines := strings.Split(strings.TrimPrefix(heard, "220 hello\r\n"), "\r\n")
		for i, w := range strings.Split(tt.want, "|") {
			if i >= len(lines) || !strings.HasPrefix(lines[i], w) || w == "" && lines[i] != "" {
				t.Errorf("%q: %q, want %q", tt.said, lines, tt.want)
				break
			}
		}
	}
}

// TestStrict refuses what is otherwise repaired.
func TestStrict(t *testing.T) {
	all := func(r io.Reader) error { _, err := io.Copy(io.Discard, r); return err }
	heard := talk(t, Config{Strict: true}, &simple{sink: all}, "DATA\r\n", "a\nb\r\n.\r\nNOOP\r\n")
	if !strings.HasSuffix(heard, "550 5.5.2 content has a line that does not end in CRLF\r\n") {
		t.Errorf("%q", heard)
	}
}

// TestReplyLines: nothing breaks the lines of a reply, and none is too long.
func TestReplyLines(t *testing.T) {
	for _, tt := range []struct {
		r    mail.Reply
		want string
	}{
		{mail.Reply{Code: 250, Text: "a\nb"}, "250-a\r\n250 b\r\n"},
		{mail.Reply{Code: 550, Enh: "5.7.1", Text: "a\nb"}, "550-5.7.1 a\r\n550 5.7.1 b\r\n"},
		{mail.Reply{Code: 550, Enh: "5.7.1", Text: "a\r\nb\rc\x00\x1b\u00fc"}, "550-5.7.1 a\r\n550 5.7.1 b?c???\r\n"},
		{mail.Reply{Code: 334, Enh: "3.0.0"}, "334 \r\n"},
		{mail.Reply{Code: 7, Text: "x"}, "451 x\r\n"},
	} {
		var o output
		o.add(&tt.r)
		if string(o.buf) != tt.want {
			t.Errorf("%+v: %q", tt.r, o.buf)
		}
	}
	var o output
	o.add(&mail.Reply{Code: 250, Enh: "2.0.0", Text: strings.Repeat("word ", 200) + strings.Repeat("x", 1000)})
	for l := range bytes.SplitSeq(bytes.TrimSuffix(o.buf, []byte("\r\n")), []byte("\r\n")) {
		if len(l) > maxReplyLine-2 {
			t.Errorf("%d octets: %q", len(l), l)
		}
	}
	o.add(&mail.Reply{Code: 421, Text: "end"})
	n := len(o.buf)
	if o.add(&mail.Reply{Code: 250, Text: "more"}); len(o.buf) != n {
		t.Error("a reply after the last")
	}
}

// TestChunkArgument reads BDAT's argument.
func TestChunkArgument(t *testing.T) {
	for arg, want := range map[string]string{"5": "5 false", "0 LAST": "0 true", "7  last": "7 true", "9223372036854775807": "9223372036854775807 false"} {
		if n, last, ok := parseChunk(arg); !ok || fmt.Sprint(n, last) != want {
			t.Errorf("%q: %d %v %v", arg, n, last, ok)
		}
	}
	for _, arg := range []string{"", "-1", "+1", "1 x", "1 LAST x", "9223372036854775808", "0x1", "1_0", "LAST", "1\tLAST"} {
		if _, _, ok := parseChunk(arg); ok {
			t.Errorf("%q was taken", arg)
		}
	}
}

// BenchmarkContent reads content from a socket.
func BenchmarkContent(b *testing.B) {
	body := strings.Repeat(strings.Repeat("x", 76)+"\r\n", (8<<20)/78)
	for name, said := range map[string][2][]byte{
		"DATA": {[]byte("DATA\r\n"), []byte(body + ".\r\n")},
		"BDAT": {fmt.Appendf(nil, "BDAT %d LAST\r\n", len(body)), []byte(body)},
	} {
		b.Run(name, func(b *testing.B) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			go func() {
				nc, err := l.Accept()
				if err != nil {
					return
				}
				buf := make([]byte, 64<<10)
				s := &simple{sink: func(r io.Reader) error {
					for {
						if _, err := r.Read(buf); err == io.EOF {
							return nil
						} else if err != nil {
							return err
						}
					}
				}}
				s.c = New(nc, Config{Handler: s, MessageSize: 64 << 20})
				s.serve(context.Background())
			}()
			c, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			r := bufio.NewReader(c)
			_, _ = r.ReadString('\n')
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				_, _ = c.Write(said[0])
				if name == "DATA" {
					_, _ = r.ReadString('\n')
				}
				_, _ = c.Write(said[1])
				if l, _ := r.ReadString('\n'); !strings.HasPrefix(l, "250") {
					b.Fatal(l)
				}
			}
		})
	}
}
