// Package clienttest is an SMTP and LMTP server for tests of clients: it keeps
// what it is sent, and misbehaves where a test has it do so. It is as strict
// as a server can be about line ends.
package clienttest

import (
	"crypto/tls"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Options say what a Server is.
type Options struct {
	LMTP bool

	// Extensions are the lines of the reply to EHLO after the first. nil means
	// PIPELINING, 8BITMIME, SIZE, SMTPUTF8, DSN and ENHANCEDSTATUSCODES.
	// STARTTLS and AUTH are added as TLS and Users have it.
	Extensions []string

	// TLS has the server offer STARTTLS, and with Implicit begin with TLS.
	TLS      *tls.Config
	Implicit bool

	// Users has the server demand AUTH PLAIN or LOGIN before MAIL.
	Users map[string]string

	// Auth are the mechanisms announced; the default is "PLAIN LOGIN".
	Auth string
}

// A Rule is what happens at one point instead of what would: first Delay
// passes, then Reply is sent, then the connection is cut. A rule with no more
// than a delay changes nothing else.
type Rule struct {
	// At names the point: the beginning of a command line, in any case
	// ("RCPT TO:<a@b.test>", "EHLO"), or "connect", "content" (when the first
	// of the content came), "." (when all of it came), or with LMTP
	// ". a@b.test" for the reply about one recipient.
	At string

	Delay time.Duration
	Reply string // lines end with "\n"; one with a "\r" is sent as it is
	Close bool
	Times int // how often it applies, 0 for always
}

// A Message is a message that the server took.
type Message struct {
	Hello      string
	TLS        bool
	User       string
	Mail       string   // what MAIL FROM: had after the colon, parameters too
	Rcpt       []string // the same of each RCPT that was taken
	Recipients []string // their addresses
	Content    []byte
	Chunks     int // BDATs, 0 for DATA
}

// A Server listens until the test ends.
type Server struct {
	Addr string // on 127.0.0.1

	opts Options
	ln   net.Listener
	wg   sync.WaitGroup
	done chan struct{} // closed when the test ends

	mu       sync.Mutex
	rules    []Rule
	used     []int
	messages []Message
	commands []string
	open     map[net.Conn]bool
	accepted int
	most     int
}

// Start starts a server. Of the rules that match, the first applies.
func Start(t testing.TB, opts Options, rules ...Rule) *Server {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if opts.Extensions == nil {
		opts.Extensions = []string{"PIPELINING", "8BITMIME", "SIZE 1000000", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES"}
	}
	if opts.Auth == "" {
		opts.Auth = "PLAIN LOGIN"
	}
	s := &Server{Addr: ln.Addr().String(), opts: opts, ln: ln, open: make(map[net.Conn]bool), done: make(chan struct{})}
	s.Set(rules...)
	s.wg.Go(s.accept)
	t.Cleanup(s.stop)
	return s
}

// Set replaces the rules.
func (s *Server) Set(rules ...Rule) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rules, s.used = rules, make([]int, len(rules))
}

// Messages returns what was taken so far.
func (s *Server) Messages() []Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.messages)
}

// Commands returns all command lines so far, of all connections; that of AUTH
// is cut after the mechanism.
func (s *Server) Commands() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.commands)
}

// Connections returns how many connections there were.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.accepted
}

// Most returns how many connections there were at once.
func (s *Server) Most() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.most
}

func (s *Server) accept() {
	for {
		nc, err := s.ln.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.open[nc] = true
		s.accepted++
		s.most = max(s.most, len(s.open))
		s.mu.Unlock()
		s.wg.Go(func() {
			s.Serve(nc)
			s.mu.Lock()
			delete(s.open, nc)
			s.mu.Unlock()
		})
	}
}

func (s *Server) stop() {
	close(s.done)
	s.ln.Close()
	s.mu.Lock()
	for nc := range s.open {
		nc.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

// sleep waits, but not beyond the test's end.
func (s *Server) sleep(d time.Duration) {
	if d <= 0 {
		return
	}
	select {
	case <-time.After(d):
	case <-s.done:
	}
}

// rule returns the rule for a point.
func (s *Server) rule(point string) (Rule, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, r := range s.rules {
		if len(point) < len(r.At) || !strings.EqualFold(point[:len(r.At)], r.At) || r.Times > 0 && s.used[i] >= r.Times {
			continue
		}
		if (r.At == ".") != (point == ".") {
			continue
		}
		s.used[i]++
		return r, true
	}
	return Rule{}, false
}
