package session_test

import (
	"context"
	"encoding/base64"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

// inBubble runs f with a client of a fresh session, in a time of its own.
func inBubble(t *testing.T, f func(c *client, s *server, sess *session.Session, cancel func())) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		conn, sess := s.pipe(ctx)
		c := newClient(t, conn)
		f(c, s, sess, cancel)
		conn.Close()
		<-s.closed
	})
}

func (c *client) begin() {
	c.t.Helper()
	c.expect("220")
	c.send("EHLO client.example")
	c.expect("250")
}

// after checks how long it took.
func after(t testing.TB, began time.Time, least, most time.Duration) {
	t.Helper()
	if d := time.Since(began); d < least || d > most {
		t.Errorf("took %v, want %v to %v", d, least, most)
	}
}

// TestFailuresTakeAsLong is promise P30: the time until a login has failed does
// not tell what was compared.
func TestFailuresTakeAsLong(t *testing.T) {
	for took, want := range map[string]time.Duration{
		"0s": time.Second + 500*time.Millisecond, "3ms": time.Second + 500*time.Millisecond,
		"490ms": time.Second + 500*time.Millisecond, "510ms": 2 * time.Second,
	} {
		inBubble(t, func(c *client, _ *server, _ *session.Session, _ func()) {
			c.begin()
			c.send("AUTH TWO")
			c.expect("334")
			began := time.Now()
			c.send(base64.StdEncoding.EncodeToString([]byte(took)))
			c.expect("535 5.7.8")
			if d := time.Since(began); d != want {
				t.Errorf("%s: %s, want %s", took, d, want)
			}
		})
	}
}

// TestTimeouts is case 51: silence at each phase.
func TestTimeouts(t *testing.T) {
	for _, tt := range []struct {
		name string
		say  func(c *client)
		want time.Duration
	}{
		{"before hello", func(c *client) { c.expect("220") }, 30 * time.Second},
		{"half a hello", func(c *client) { c.expect("220"); c.raw("EHLO ") }, 30 * time.Second},
		{"command", func(c *client) { c.begin() }, 5 * time.Minute},
		{"transaction", func(c *client) { c.begin(); c.envelope() }, 5 * time.Minute},
		{"after a transaction", func(c *client) { c.begin(); c.envelope(); c.send("RSET"); c.expect("250") }, 5 * time.Minute},
		{"login", func(c *client) { c.begin(); c.send("AUTH PLAIN"); c.expect("334") }, 5 * time.Minute},
		{"content", func(c *client) { c.begin(); c.envelope(); c.send("DATA"); c.expect("354"); c.raw("x") }, time.Minute},
		{"chunk", func(c *client) { c.begin(); c.envelope(); c.raw("BDAT 5\r\nx") }, time.Minute},
		{"between chunks", func(c *client) {
			c.begin()
			c.envelope()
			c.raw("BDAT 5\r\nabcde")
			c.expect("250")
		}, 5 * time.Minute},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(c *client, s *server, _ *session.Session, _ func()) {
				tt.say(c)
				began := time.Now()
				c.expect("421 4.4.2")
				c.gone()
				after(t, began, tt.want-time.Second, tt.want+time.Second)
			})
		})
	}
}

// TestGoingOn: a client may be silent for a while and go on then.
func TestGoingOn(t *testing.T) {
	inBubble(t, func(c *client, s *server, _ *session.Session, _ func()) {
		c.begin()
		for range 3 {
			time.Sleep(4 * time.Minute)
			c.message()
			time.Sleep(4 * time.Minute)
			c.send("NOOP")
			c.expect("250")
		}
		time.Sleep(time.Minute)
		c.send("AUTH PLAIN AGEAc2VjcmV0")
		c.expect("235")
		if n := len(s.messages()); n != 3 {
			t.Error(n)
		}
	})
}

// TestTrickle: an octet now and then is no progress.
func TestTrickle(t *testing.T) {
	for _, tt := range []struct {
		octets int // a second
		least  time.Duration
		most   time.Duration
	}{
		{1, time.Minute, 2 * time.Minute},
		{400, 4 * time.Minute, 6 * time.Minute},
		{600, 59 * time.Minute, 61 * time.Minute}, // long enough
	} {
		inBubble(t, func(c *client, s *server, _ *session.Session, _ func()) {
			s.cfg.Limits.MessageSize = 1 << 30
			c.begin()
			c.envelope()
			c.send("DATA")
			c.expect("354")
			began := time.Now()
			c.send("")
			var wg sync.WaitGroup
			defer func() { c.Close(); wg.Wait() }()
			said := strings.Repeat("x", tt.octets)
			if tt.octets > 2 {
				said = said[2:] + "\r\n"
			}
			wg.Go(func() {
				for {
					if _, err := io.WriteString(c, said); err != nil {
						return
					}
					time.Sleep(time.Second)
				}
			})
			c.expect("421 4.4.2")
			after(t, began, tt.least, tt.most)
		})
	}
}

// TestUnreadReplies: a client that does not read is not waited for.
func TestUnreadReplies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		began := time.Now()
		c, _ := s.pipe(t.Context())
		<-s.closed
		after(t, began, 5*time.Minute, 5*time.Minute+time.Second)
		c.Close()
	})
}

// TestLateErrors: the sixth error is answered a second later than the fifth.
func TestLateErrors(t *testing.T) {
	inBubble(t, func(c *client, s *server, _ *session.Session, _ func()) {
		c.begin()
		for n := 1; n <= 10; n++ {
			began := time.Now()
			c.send("FOO")
			c.expect("500")
			if n <= 5 {
				after(t, began, 0, 0)
			} else {
				after(t, began, time.Second, time.Second)
			}
		}
	})
}

// message sends one.
func (c *client) message() {
	c.t.Helper()
	c.envelope()
	c.send("DATA")
	c.expect("354")
	c.send("a: b", "", ".")
	c.expect("250")
}

// leaves expects to be sent away.
func (c *client) leaves() {
	c.t.Helper()
	c.expect("421 4.3.2")
	c.gone()
}

// drains are the moments at which a session can be drained.
var drains = []struct {
	name string
	play func(c *client, sess *session.Session, cancel func())
}{
	{"idle after a message", func(c *client, sess *session.Session, _ func()) {
		c.begin()
		c.message()
		sess.Drain(false)
		c.leaves()
	}},
	{"before the first message", func(c *client, sess *session.Session, _ func()) {
		c.begin()
		sess.Drain(false)
		c.message()
		c.leaves()
	}},
	{"before the first message, exiting", func(c *client, sess *session.Session, _ func()) {
		c.begin()
		sess.Drain(true)
		c.leaves()
	}},
	{"first for a reload, then exiting", func(c *client, sess *session.Session, _ func()) {
		c.begin()
		sess.Drain(false)
		c.send("NOOP")
		c.expect("250")
		sess.Drain(true)
		sess.Drain(false)
		c.leaves()
	}},
	{"in a transaction", func(c *client, sess *session.Session, _ func()) {
		c.begin()
		c.message()
		c.send("MAIL FROM:<>")
		c.expect("250")
		sess.Drain(true)
		c.send("RCPT TO:<user@local.example>", "DATA")
		c.expect("250", "354")
		c.send("a: b", "", ".")
		c.expect("250")
		c.leaves()
	}},
	{"in a transaction that is given up", func(c *client, sess *session.Session, _ func()) {
		c.begin()
		c.envelope()
		sess.Drain(true)
		c.send("RSET")
		c.expect("250")
		c.leaves()
	}},
	{"in a login", func(c *client, sess *session.Session, _ func()) {
		c.begin()
		c.send("AUTH PLAIN")
		c.expect("334")
		sess.Drain(true)
		c.send("AGEAc2VjcmV0")
		c.expect("235")
		c.leaves()
	}},
	{"the end, idle", func(c *client, _ *session.Session, cancel func()) {
		c.begin()
		cancel()
		c.leaves()
	}},
	{"the end, in a transaction", func(c *client, _ *session.Session, cancel func()) {
		c.begin()
		c.envelope()
		cancel()
		c.leaves()
	}},
	{"the end, in content", func(c *client, _ *session.Session, cancel func()) {
		c.begin()
		c.envelope()
		c.send("DATA")
		c.expect("354")
		c.send("a: b")
		cancel()
		c.leaves()
	}},
	{"the end, in a chunk", func(c *client, _ *session.Session, cancel func()) {
		c.begin()
		c.envelope()
		c.raw("BDAT 10\r\nabc")
		cancel()
		c.leaves()
	}},
}

func TestDrain(t *testing.T) {
	for _, tt := range drains {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(c *client, s *server, sess *session.Session, cancel func()) {
				began := time.Now()
				tt.play(c, sess, cancel)
				after(t, began, 0, time.Second)
			})
		})
	}
}

// TestEndWhileUnread: nobody reads the last reply, and the session ends soon
// all the same.
func TestEndWhileUnread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		ctx, cancel := context.WithCancel(t.Context())
		c, _ := s.pipe(ctx)
		time.Sleep(time.Second)
		began := time.Now()
		cancel()
		<-s.closed
		after(t, began, 0, 2*time.Second)
		c.Close()
	})
}

// TestDrainRace drains sessions at any moment. A message is either accepted or
// not begun.
func TestDrainRace(t *testing.T) {
	s := newServer(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	accepted := 0
	for range 50 {
		cl, srv := net.Pipe()
		sess := session.New(srv, s.cfg, false)
		wg.Go(func() { _ = sess.Serve(context.Background()) })
		wg.Go(func() {
			for n := range 2 {
				time.Sleep(time.Duration(rand.IntN(2000)) * time.Microsecond)
				sess.Drain(n == 1)
			}
		})
		wg.Go(func() {
			defer cl.Close()
			c := newClient(t, cl)
			for _, step := range []string{"", "EHLO x\r\n", "MAIL FROM:<>\r\n", "RCPT TO:<user@local.example>\r\n", "DATA\r\n", "a: b\r\n.\r\n"} {
				go c.Write([]byte(step))
				switch r := c.reply(); {
				case strings.HasPrefix(r, "421 4.3.2"):
					if step != "" && step[0] != 'E' && step[0] != 'M' && step[0] != 'N' {
						t.Errorf("421 to %q", step)
					}
					return
				case r == "":
					t.Errorf("no reply to %q", step)
					return
				}
			}
			mu.Lock()
			accepted++
			mu.Unlock()
		})
	}
	wg.Wait()
	if n := len(s.messages()); n != accepted {
		t.Errorf("%d messages, %d of them answered", n, accepted)
	}
}
