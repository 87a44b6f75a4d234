package session_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

// diary is a Guard that writes down what it is told.
type diary struct {
	refuse map[string]*mail.Reply // by user; "connect" for the connection
	delay  time.Duration

	mu    sync.Mutex
	lines []string
	open  int
}

func (d *diary) note(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, fmt.Sprintf(format, args...))
}

func (d *diary) Admit(*session.Session) *mail.Reply { return d.refuse["connect"] }

func (d *diary) Attempt(_ context.Context, _ *session.Session, user string) (func(session.Outcome) time.Duration, error) {
	if r := d.refuse[user]; r != nil {
		d.note("refused %s", user)
		return nil, r
	}
	d.mu.Lock()
	d.open++
	d.mu.Unlock()
	return func(o session.Outcome) time.Duration {
		d.mu.Lock()
		d.open--
		d.mu.Unlock()
		d.note("%s: %s %s %s", user, [...]string{"void", "wrong", "right"}[o.Verdict], o.Mechanism, o.User)
		return d.delay
	}, nil
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// TestGuard: what the guard hears of each way in which an exchange can end.
func TestGuard(t *testing.T) {
	plain := func(user, password string) string { return "AUTH PLAIN " + b64("\x00"+user+"\x00"+password) }
	for name, tt := range map[string]struct {
		say  []string
		want []string // replies
		told []string
	}{
		"right":         {[]string{plain("alice", "secret")}, []string{"235"}, []string{"alice: right PLAIN alice"}},
		"wrong":         {[]string{plain("alice", "x")}, []string{"535 5.7.8"}, []string{"alice: wrong PLAIN alice"}},
		"of nobody":     {[]string{plain("stranger", "x")}, []string{"535 5.7.8"}, []string{"stranger: wrong PLAIN "}},
		"fault of ours": {[]string{plain("broken", "x")}, []string{"454 4.7.0"}, []string{"broken: void  "}},
		"panic":         {[]string{plain("panic", "x")}, []string{"421 4.3.0"}, []string{"panic: void  "}},
		"refused":       {[]string{plain("mallory", "secret")}, []string{"454 4.7.0"}, []string{"refused mallory"}},
		"not claimed":   {[]string{"AUTH NOBODY " + b64("x")}, []string{"235"}, nil},
		"malformed":     {[]string{"AUTH PLAIN " + b64("x")}, []string{"535 5.7.8"}, []string{": wrong PLAIN "}},
		"cancelled": {
			[]string{"AUTH TWO", "*"}, []string{"334", "501 5.7.0"}, []string{"somebody: void  "},
		},
		"two steps": {
			[]string{"AUTH TWO", b64("bob"), ""}, []string{"334", "334", "235"}, []string{"somebody: right TWO bob"},
		},
		"wrong, with a last word": {
			[]string{"AUTH TWO", b64("wrong"), ""}, []string{"334", "334", "535"}, []string{"somebody: wrong TWO "},
		},
		"goes away": {[]string{"AUTH TWO"}, []string{"334"}, []string{"somebody: void  "}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := &diary{refuse: map[string]*mail.Reply{"mallory": mail.Refuse(454, "4.7.0", "too many")}}
				s := newServer(t)
				s.cfg.Guard = d
				conn, _ := s.pipe(t.Context())
				c := newClient(t, conn)
				c.begin()
				for i, l := range tt.say {
					c.send(l)
					c.expect(tt.want[i])
				}
				conn.Close()
				<-s.closed
				if !slices.Equal(d.lines, tt.told) || d.open != 0 {
					t.Errorf("told %q, %d open; want %q", d.lines, d.open, tt.told)
				}
			})
		})
	}
}

// TestGuardDelay: failures are answered as late as the guard wants, and a client
// that it does not admit hears so before the greeting.
func TestGuardDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		s.cfg.Guard = &diary{delay: 8 * time.Second}
		conn, _ := s.pipe(t.Context())
		c := newClient(t, conn)
		c.begin()
		began := time.Now()
		c.send("AUTH PLAIN " + b64("\x00alice\x00x"))
		c.expect("535")
		after(t, began, 8*time.Second, 9*time.Second)
		conn.Close()
		<-s.closed

		s.cfg.Guard = &diary{refuse: map[string]*mail.Reply{"connect": {Code: 421, Enh: "4.7.0", Text: "banned", Close: true}}}
		conn, _ = s.pipe(t.Context())
		c = newClient(t, conn)
		c.expect("421 4.7.0 banned")
		c.gone()
		<-s.closed

		client, srv := net.Pipe()
		go func() { _ = session.New(srv, s.cfg, true).Serve(t.Context()) }()
		c = newClient(t, client)
		c.expect("421 4.7.0 banned") // no handshake is made for it
		c.gone()
	})
}
