package session_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

// model is RFC 5321, section 4.1.4, and RFC 3030 again, in as few words as they
// take, to hold the session to. It knows nothing of the session's code.
type model struct {
	hello, esmtp, user bool
	mail               bool
	rcpts              int
	refused            bool // an RCPT of the transaction was
	chunks             int  // octets that came by BDAT, without LAST so far; -1 for no BDAT
	binary             bool // BODY=BINARYMIME
	accepted           int
}

func (m *model) reset() { m.mail, m.rcpts, m.refused, m.chunks = false, 0, false, -1 }

// A move is what a client says, what follows it unasked, and what it hears.
type move struct {
	line string
	more string // content, sent when the 354 is there or (BDAT) at once
	want int    // code; to DATA that of its content if it is let through
}

const text = "Subject: x\r\n\r\nhello\r\n"

// next makes a move. Each command is as likely in every state as in those in
// which it makes sense.
func (m *model) next(r *rand.Rand) move {
	open := m.chunks < 0
	switch k := r.IntN(16); {
	case k == 0:
		return m.ehlo(open, "EHLO client.example", true)
	case k == 1 && r.IntN(4) == 0:
		return m.ehlo(open, "HELO client.example", false)
	case k <= 4:
		return m.mailFrom(r, open)
	case k <= 8:
		return m.rcptTo(r, open)
	case k <= 10:
		return m.data()
	case k <= 13:
		return m.bdat(r)
	case k == 14:
		return m.other(r, open)
	default:
		if r.IntN(4) == 0 {
			m.reset()
			return move{"RSET", "", map[bool]int{true: 250, false: 250}[m.hello]}
		}
		return m.auth(r, open)
	}
}

func (m *model) ehlo(open bool, line string, esmtp bool) move {
	if !open {
		return move{line, "", 503}
	}
	m.hello, m.esmtp = true, esmtp
	m.reset()
	return move{line, "", 250}
}

func (m *model) mailFrom(r *rand.Rand, open bool) move {
	line, want := "MAIL FROM:<s@example.org>", 250
	param := ""
	switch r.IntN(8) {
	case 0:
		line, want = "MAIL FROM:s@example.org", 501
	case 1:
		line, want = "MAIL FROM:<refused@example.org>", 550
	case 2:
		line, param = "MAIL FROM:<>", " SIZE=10 BODY=8BITMIME"
	case 3:
		line, param = "MAIL FROM:<>", " BODY=BINARYMIME"
	case 4:
		param, want = m.priority(r)
	case 5:
		param, want = m.time(r)
	}
	if line += param; param != "" && !m.esmtp {
		want = 555
	}
	if !m.hello || !open || m.mail {
		return move{line, "", 503}
	}
	if want == 250 {
		m.mail = true
		m.binary = strings.HasSuffix(line, "BINARYMIME")
	}
	return move{line, "", want}
}

// priority is RFC 6710, on a server that takes -5 and more, of which strangers get
// no more than 0 and others hear that they want too much.
func (m *model) priority(r *rand.Rand) (param string, want int) {
	n := r.IntN(21) - 10
	param, want = fmt.Sprint(" MT-PRIORITY=", n), 250
	switch most := map[bool]int{true: 6, false: 0}[m.user]; {
	case n < -9 || n > 9:
		want = 501
	case n < -5:
		want = 450
	case n > most:
		want = 550
	}
	return param, want
}

// time is RFC 2852, on a server that announces a minute.
func (m *model) time(r *rand.Rand) (param string, want int) {
	n, mode := []int{-90, 0, 59, 60, 1_000_000_000}[r.IntN(5)], []string{"N", "R", "NT", "RT", "T"}[r.IntN(5)]
	param, want = fmt.Sprintf(" BY=%d;%s", n, mode), 250
	switch {
	case n > 999_999_999, mode == "T", mode[0] == 'R' && n <= 0:
		want = 501
	case mode[0] == 'R' && n < 60:
		want = 555
	}
	return param, want
}

// owner is RFC 7293, for mailboxes that have had their owners since 2020, since
// 2025, since nobody knows when, elsewhere, or are none.
func (m *model) owner(r *rand.Rand) (line string, want int) {
	who := []string{"old", "new", "u1", "away", "list"}[r.IntN(5)]
	since := []string{"2019-01-01T00:00:00Z", "2024-01-01T00:00:00Z;C", "2026-01-01T00:00:00Z;R", "2024-13-01T00:00:00Z"}[r.IntN(4)]
	line = "RCPT TO:<" + who + "@local.example> RRVS=" + since
	switch year := since[:4]; {
	case !m.esmtp:
		return line, 555
	case strings.Contains(since, "-13-"):
		return line, 501
	case who == "old" && year >= "2020", who == "new" && year >= "2025", who == "away":
		return line, 250
	}
	return line, 550
}

func (m *model) rcptTo(r *rand.Rand, open bool) move {
	line, want := fmt.Sprintf("RCPT TO:<u%d@local.example>", r.IntN(3)), 250
	switch r.IntN(8) {
	case 3:
		line, want = m.owner(r)
	case 0:
		line, want = "RCPT TO:<unknown@local.example>", 550
	case 1:
		line, want = "RCPT TO:<later@local.example>", 451
	case 2:
		line, want = "RCPT TO:<>", 501
	}
	if !m.mail || !open {
		return move{line, "", 503}
	}
	if want == 250 {
		m.rcpts++
	} else {
		m.refused = true
	}
	return move{line, "", want}
}

// without is the reply to content when nobody is to have it.
func (m *model) without() int {
	if m.mail && m.refused {
		return 554
	}
	return 503
}

func (m *model) data() move {
	if m.rcpts == 0 || m.chunks >= 0 {
		want := m.without()
		if m.chunks >= 0 {
			want = 503
		}
		return move{"DATA", "", want}
	}
	if m.binary {
		return move{"DATA", "", 503}
	}
	m.accepted++
	m.reset()
	return move{"DATA", text + ".\r\n", 250}
}

func (m *model) bdat(r *rand.Rand) move {
	last := r.IntN(2) == 0
	line := fmt.Sprintf("BDAT %d", len(text))
	if last {
		line += " LAST"
	}
	if m.rcpts == 0 && m.chunks < 0 {
		return move{line + "\r\n" + text, "", m.without()}
	}
	m.chunks = max(m.chunks, 0) + len(text)
	if last {
		m.accepted++
		m.reset()
	}
	return move{line + "\r\n" + text, "", 250}
}

func (m *model) other(r *rand.Rand, open bool) move {
	o := []struct {
		line             string
		between, chunked int
	}{
		{"NOOP x", 250, 250}, {"HELP", 214, 503}, {"FOO", 500, 500}, {"LHLO x", 500, 503}, {"RSET x", 501, 501},
		{"VRFY root", m.asked(252, 250), 503}, {"VRFY unknown", m.asked(252, 550), 503}, {"VRFY <", m.asked(252, 501), 503},
		{"EXPN list", m.asked(502, 250), 503}, {"EXPN root", m.asked(502, 550), 503}, {"ETRN away.example", m.etrn(), 503},
	}[r.IntN(11)]
	if open {
		return move{o.line, "", o.between}
	}
	return move{o.line, "", o.chunked}
}

// asked is the reply to a question that strangers are not answered.
func (m *model) asked(stranger, user int) int {
	if m.user {
		return user
	}
	return stranger
}

// etrn is RFC 1985, for which there must be no transaction.
func (m *model) etrn() int {
	if !m.hello || m.mail {
		return 503
	}
	return 250
}

func (m *model) auth(r *rand.Rand, open bool) move {
	line, want := "AUTH PLAIN AGEAc2VjcmV0", 235 // a, secret
	if r.IntN(2) == 0 {
		line, want = "AUTH PLAIN !", 501 // a wrong password takes its time, and is tested elsewhere
	}
	switch {
	case !m.hello, !open, m.mail:
		want = 503
	case !m.esmtp, m.user:
		want = 503
	}
	m.user = m.user || want == 235
	return move{line, "", want}
}

// TestModel has clients say commands at random and compares each reply, and what
// was accepted in the end, with the model's. CADDY_SMTP_MODEL is how many
// sequences of up to 20 commands; the default is small.
func TestModel(t *testing.T) {
	sequences := 2000
	if n, err := strconv.Atoi(os.Getenv("CADDY_SMTP_MODEL")); err == nil {
		sequences = n
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	s := newServer(t)
	l := &s.cfg.Limits
	l.Messages, l.SoftErrors, l.HardErrors, l.NonMail, l.FailedAuth, l.ErrorDelay = 0, 0, 0, 0, 0, 0 // they are tested elsewhere
	s.cfg.Offers = session.Offers{
		Priorities: &session.Priorities{Own: 6, Lowest: -5, Refuse: true}, DeliverBy: true, LeastTime: time.Minute, ValidSince: true,
		VRFY: session.ForUsers, EXPN: session.ForTrusted,
	}
	s.cfg.Flush = func(string) *mail.Reply { return nil }
	const perSession = 50
	for done := 0; done < sequences; done += perSession {
		walk(t, s, r, perSession)
		if t.Failed() {
			return
		}
	}
}

// walk is one session of several sequences.
func walk(t *testing.T, s *server, r *rand.Rand, sequences int) {
	t.Helper()
	conn, _ := s.pipe(t.Context())
	c := newClient(t, conn)
	c.expect("220")
	m := &model{chunks: -1}
	before := len(s.messages())
	var said []string
	for range sequences {
		for n := 1 + r.IntN(20); n > 0; {
			n -= group(t, c, m, r, n, &said)
			if t.Failed() {
				t.Logf("the client had said:\n%s", strings.Join(said, "\n"))
				return
			}
		}
	}
	c.send("QUIT")
	c.expect("221")
	conn.Close()
	<-s.closed
	if got := len(s.messages()) - before; got != m.accepted {
		t.Errorf("%d messages were accepted, want %d, by\n%s", got, m.accepted, strings.Join(said, "\n"))
	}
	s.mu.Lock()
	s.taken = nil
	s.mu.Unlock()
}

// group sends up to most moves in one write, of which DATA and AUTH can only be
// the last (RFC 2920, section 3.1), and hears the replies.
func group(t *testing.T, c *client, m *model, r *rand.Rand, most int, said *[]string) int {
	t.Helper()
	var moves []move
	for range 1 + r.IntN(most) {
		mv := m.next(r)
		moves = append(moves, mv)
		if strings.HasPrefix(mv.line, "DATA") || strings.HasPrefix(mv.line, "AUTH") || strings.HasPrefix(mv.line, "EHLO") {
			break
		}
	}
	var out strings.Builder
	for _, mv := range moves {
		out.WriteString(mv.line)
		if !strings.HasPrefix(mv.line, "BDAT") {
			out.WriteString("\r\n")
		}
		*said = append(*said, strings.SplitN(mv.line, "\r", 2)[0])
	}
	go c.raw(out.String())
	for _, mv := range moves {
		if mv.more != "" {
			if got := c.reply(); !strings.HasPrefix(got, "354") {
				t.Errorf("%s: got %q, want 354", mv.line, got)
				return len(moves)
			}
			go c.raw(mv.more)
		}
		if got := c.reply(); !strings.HasPrefix(got, strconv.Itoa(mv.want)) {
			t.Errorf("%q: got %q, want %d", strings.SplitN(mv.line, "\r", 2)[0], got, mv.want)
			return len(moves)
		}
	}
	return len(moves)
}
