package client_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/client"
	"github.com/caddymail/caddy-smtp/smtpapp/client/clienttest"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

type content string

func (c content) Size() int64 { return int64(len(c)) }
func (c content) NewReader() (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader(string(c))), nil
}

const hello = content("Subject: hello\r\n\r\n.dot\r\n")

func address(s string) mail.Address {
	a, err := mail.ParseAddress(s)
	if err != nil {
		panic(err)
	}
	return a
}

func transaction(rcpts ...string) *client.Transaction {
	tx := &client.Transaction{Envelope: &mail.Envelope{From: address("s@c.test")}, Content: hello}
	for _, r := range rcpts {
		tx.Recipients = append(tx.Recipients, mail.NewRecipient(address(r)))
	}
	return tx
}

// send sends a message that must be taken.
func send(t *testing.T, c *client.Conn, rcpts ...string) {
	t.Helper()
	res, err := c.Send(t.Context(), transaction(rcpts...))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range res {
		if !r.Accepted() {
			t.Fatalf("got %+v", r)
		}
	}
}

// summary writes results as "250 dot, 550 rcpt, -".
func summary(res []client.Result) string {
	var out []string
	for _, r := range res {
		switch {
		case r.Reply == nil:
			out = append(out, "-")
		case r.Local:
			out = append(out, fmt.Sprintf("%d %s %s local", r.Reply.Code, r.Reply.Enh, r.Phase))
		default:
			out = append(out, fmt.Sprintf("%d %s", r.Reply.Code, r.Phase))
		}
	}
	return strings.Join(out, ", ")
}

// ways are the ways that content can travel.
var ways = map[string][]string{
	"lockstep":  {},
	"pipelined": {"PIPELINING"},
	"chunked":   {"CHUNKING"},
	"both":      {"PIPELINING", "CHUNKING"},
}

func TestSend(t *testing.T) {
	for name, ext := range ways {
		t.Run(name, func(t *testing.T) {
			s := clienttest.Start(t, clienttest.Options{Extensions: ext})
			c := dial(t, s, client.Options{})
			for range 3 {
				send(t, c, "a@b.test", "b@b.test")
			}
			m := s.Messages()
			if len(m) != 3 || string(m[2].Content) != string(hello) || m[2].Mail != "<s@c.test>" || !slices.Equal(m[2].Rcpt, []string{"<a@b.test>", "<b@b.test>"}) {
				t.Errorf("got %+v", m)
			}
			if chunked := slices.Contains(ext, "CHUNKING"); chunked != (m[0].Chunks > 0) {
				t.Errorf("%d chunks", m[0].Chunks)
			}
		})
	}
}

func TestNoBareLineEndLeaves(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for name, ext := range ways {
		s := clienttest.Start(t, clienttest.Options{Extensions: ext})
		c := dial(t, s, client.Options{})
		var want []string
		for _, size := range []int{0, 1, 3, 100, 32767, 32768, 32769, 600_000} {
			b := make([]byte, size)
			for i := range b {
				b[i] = "ab.\r\n"[r.IntN(5)]
			}
			tx := transaction("a@b.test")
			tx.Content = content(b)
			if res, err := c.Send(t.Context(), tx); err != nil || !res[0].Accepted() {
				t.Fatalf("%s: %v, %v", name, res, err)
			}
			w := strings.NewReplacer("\r\n", "\r\n", "\r", "\r\n", "\n", "\r\n").Replace(string(b))
			if w != "" && !strings.HasSuffix(w, "\n") {
				w += "\r\n"
			}
			want = append(want, w)
		}
		for i, m := range s.Messages() {
			if string(m.Content) != want[i] {
				t.Errorf("%s: content %d of %d octets arrived as %d others", name, i, len(want[i]), len(m.Content))
			}
		}
	}
}

func TestBinary(t *testing.T) {
	s := clienttest.Start(t, clienttest.Options{Extensions: []string{"CHUNKING", "BINARYMIME", "8BITMIME"}})
	c := dial(t, s, client.Options{})
	tx := transaction("a@b.test")
	tx.Envelope.Body = mail.BodyBinary
	tx.Content = content("a\nb\rc\x00")
	if res, err := c.Send(t.Context(), tx); err != nil || !res[0].Accepted() {
		t.Fatal(res, err)
	}
	if m := s.Messages(); string(m[0].Content) != "a\nb\rc\x00" || m[0].Mail != "<s@c.test> BODY=BINARYMIME" {
		t.Errorf("got %+v", m)
	}
}

func TestRefusals(t *testing.T) {
	type rules = []clienttest.Rule
	for name, ext := range ways {
		_, chunked := map[string]bool{"chunked": true, "both": true}[name]
		for _, tc := range []struct {
			what  string
			rules rules
			want  string
			text  bool // not for chunks
		}{
			{"sender", rules{{At: "MAIL", Reply: "451 4.7.1 greylisted", Times: 1}}, "451 mail, 451 mail", false},
			{"one", rules{{At: "RCPT TO:<a@", Reply: "550-5.1.1 no\n550 5.1.1 user", Times: 1}}, "550 rcpt, 250 dot", false},
			{"all", rules{{At: "RCPT TO:<a@", Reply: "550 no", Times: 1}, {At: "RCPT TO:<b@", Reply: "452 full", Times: 1}}, "550 rcpt, 452 rcpt", false},
			{"all, but DATA is taken", rules{{At: "RCPT", Reply: "550 no", Times: 2}, {At: "DATA", Reply: "354 go", Times: 1}}, "550 rcpt, 550 rcpt", true},
			{"DATA", rules{{At: "DATA", Reply: "451 4.3.0 no", Times: 1}}, "451 data, 451 data", true},
			{"content", rules{{At: ".", Reply: "554 5.7.1 spam", Times: 1}}, "554 dot, 554 dot", false},
			{"other 2xx", rules{{At: "RCPT TO:<a@", Reply: "251 will forward"}, {At: "RCPT TO:<b@", Reply: "252 perhaps"}}, "250 dot, 250 dot", false},
		} {
			if tc.text && chunked {
				continue
			}
			s := clienttest.Start(t, clienttest.Options{Extensions: ext}, tc.rules...)
			c := dial(t, s, client.Options{Timeouts: quick})
			res, err := c.Send(t.Context(), transaction("a@b.test", "b@b.test"))
			if got := summary(res); err != nil || got != tc.want {
				t.Errorf("%s, %s: got %s, %v; want %s", name, tc.what, got, err, tc.want)
				continue
			}
			send(t, c, "c@b.test") // the connection is as good as before
			for _, m := range s.Messages() {
				if len(m.Recipients) == 0 || string(m.Content) != string(hello) {
					t.Errorf("%s, %s: got %+v", name, tc.what, m)
				}
			}
		}
	}
}

func TestGoodbye(t *testing.T) {
	for name, ext := range ways {
		for at, want := range map[string]string{
			"MAIL":        "421 mail, 421 mail",
			"RCPT TO:<a@": "421 rcpt, 421 rcpt",
			"RCPT TO:<b@": "421 rcpt, 421 rcpt",
			".":           "421 dot, 421 dot",
		} {
			s := clienttest.Start(t, clienttest.Options{Extensions: ext}, clienttest.Rule{At: at, Reply: "421 4.3.2 bye", Close: true})
			c := dial(t, s, client.Options{Timeouts: quick})
			res, err := c.Send(t.Context(), transaction("a@b.test", "b@b.test"))
			if got := summary(res); err != nil || got != want || c.Usable() {
				t.Errorf("%s, %s: got %s, %v", name, at, got, err)
			}
		}
	}
}

func TestCut(t *testing.T) {
	for name, ext := range ways {
		for at, want := range map[string]struct {
			phase   client.Phase
			inDoubt bool
		}{
			"MAIL": {client.PhaseMail, false},
			"RCPT": {client.PhaseRcpt, false},
			".":    {client.PhaseDot, true},
		} {
			s := clienttest.Start(t, clienttest.Options{Extensions: ext}, clienttest.Rule{At: at, Close: true})
			c := dial(t, s, client.Options{Timeouts: quick})
			res, err := c.Send(t.Context(), transaction("a@b.test"))
			e := wantError(t, err, want.phase)
			if e.InDoubt != want.inDoubt || summary(res) != "-" || c.Usable() {
				t.Errorf("%s, %s: got %s, %v", name, at, summary(res), err)
			}
		}
	}
}

func TestCutInContent(t *testing.T) {
	for name, ext := range ways {
		s := clienttest.Start(t, clienttest.Options{Extensions: ext}, clienttest.Rule{At: "content", Close: true})
		c := dial(t, s, client.Options{Timeouts: quick})
		tx := transaction("a@b.test")
		tx.Content = content(strings.Repeat("line\r\n", 4_000_000))
		res, err := c.Send(t.Context(), tx)
		if e, ok := errors.AsType[*client.Error](err); !ok || e.InDoubt || summary(res) != "-" {
			t.Errorf("%s: got %s, %v", name, summary(res), err)
		}
	}
}

// TestEarlyReply has peers that answer before the end of the content is said.
func TestEarlyReply(t *testing.T) {
	for _, tc := range []struct {
		reply, want string
		fails       bool
	}{
		{"250 taken already", "-", true},
		{"552 5.3.4 too big", "552 data", false},
		{"421 4.3.0 bye", "421 data", false},
	} {
		s := clienttest.Start(t, clienttest.Options{Extensions: []string{}}, clienttest.Rule{At: "content", Reply: tc.reply})
		c := dial(t, s, client.Options{})
		tx := transaction("a@b.test")
		tx.Content = slow{content: content(strings.Repeat("x\r\n", 20_000)), wait: 50 * time.Millisecond}
		tx.Commit = func(context.Context) error { t.Error("committed"); return nil }
		res, err := c.Send(t.Context(), tx)
		if got := summary(res); got != tc.want || (err != nil) != tc.fails || c.Usable() {
			t.Errorf("%s: got %s, %v", tc.reply, got, err)
		}
		if tc.fails && (!errors.Is(err, client.ErrUnsolicited) || wantError(t, err, client.PhaseData).InDoubt) {
			t.Errorf("%s: got %v", tc.reply, err)
		}
		if m := s.Messages(); len(m) > 0 {
			t.Errorf("%s: delivered %+v", tc.reply, m)
		}
	}
}

// slow is content that takes a while at its end.
type slow struct {
	content
	wait time.Duration
}

func (s slow) NewReader() (io.ReadCloser, error) {
	return io.NopCloser(io.MultiReader(strings.NewReader(string(s.content)), &pause{s.wait})), nil
}

type pause struct{ d time.Duration }

func (p *pause) Read([]byte) (int, error) {
	time.Sleep(p.d)
	return 0, io.EOF
}

func TestChunkRefused(t *testing.T) {
	for _, ext := range [][]string{{"CHUNKING"}, {"CHUNKING", "PIPELINING"}} {
		s := clienttest.Start(t, clienttest.Options{Extensions: ext}, clienttest.Rule{At: "BDAT 262", Reply: "552 5.2.2 full"})
		c := dial(t, s, client.Options{})
		tx := transaction("a@b.test")
		tx.Content = content(strings.Repeat("0123456789abcd\r\n", 200_000))
		res, err := c.Send(t.Context(), tx)
		if got := summary(res); err != nil || got != "552 data" {
			t.Errorf("got %s, %v", got, err)
		}
		send(t, c, "a@b.test")
		if got := len(s.Messages()); got != 1 {
			t.Errorf("%d messages", got)
		}
	}
}

func TestCommit(t *testing.T) {
	stop := errors.New("cancelled by its sender")
	for name, ext := range ways {
		s := clienttest.Start(t, clienttest.Options{Extensions: ext})
		c := dial(t, s, client.Options{})
		calls := 0
		tx := transaction("a@b.test")
		tx.Commit = func(context.Context) error { calls++; return nil }
		if res, err := c.Send(t.Context(), tx); err != nil || !res[0].Accepted() || calls != 1 {
			t.Errorf("%s: got %v, %v, %d calls", name, res, err, calls)
		}
		tx.Commit = func(context.Context) error { return stop }
		res, err := c.Send(t.Context(), tx)
		if e := wantError(t, err, client.PhaseDot); e.InDoubt || !errors.Is(err, stop) || c.Usable() || summary(res) != "-" {
			t.Errorf("%s: got %v", name, err)
		}
		time.Sleep(20 * time.Millisecond)
		if n := len(s.Messages()); n != 1 {
			t.Errorf("%s: %d messages", name, n)
		}
	}
}

type unreadable struct{ content }

func (unreadable) NewReader() (io.ReadCloser, error) { return nil, io.ErrClosedPipe }

type breaking struct{ content }

func (b breaking) NewReader() (io.ReadCloser, error) {
	pr, pw := io.Pipe()
	go func() {
		pw.Write([]byte(b.content))
		pw.CloseWithError(io.ErrNoProgress)
	}()
	return pr, nil
}

func TestContentFails(t *testing.T) {
	for name, ext := range ways {
		s := clienttest.Start(t, clienttest.Options{Extensions: ext})
		c := dial(t, s, client.Options{})
		tx := transaction("a@b.test")
		tx.Content = unreadable{hello}
		_, err := c.Send(t.Context(), tx)
		if wantError(t, err, client.PhaseContent); !c.Usable() {
			t.Errorf("%s: unusable, though nothing was said", name)
		}
		tx.Content = breaking{hello}
		_, err = c.Send(t.Context(), tx)
		if wantError(t, err, client.PhaseContent); !errors.Is(err, io.ErrNoProgress) || c.Usable() {
			t.Errorf("%s: got %v", name, err)
		}
		if n := len(s.Messages()); n != 0 {
			t.Errorf("%s: half a message was delivered", name)
		}
	}
}

func TestLMTP(t *testing.T) {
	for name, ext := range ways {
		s := clienttest.Start(t, clienttest.Options{LMTP: true, Extensions: ext},
			clienttest.Rule{At: "RCPT TO:<no@", Reply: "550 5.1.1 no"},
			clienttest.Rule{At: ". full@", Reply: "452 4.2.2 full"},
			clienttest.Rule{At: ". cut@", Close: true},
			clienttest.Rule{At: ". bye@", Reply: "421 4.3.2 bye", Close: true})
		c := dial(t, s, client.Options{LMTP: true, Timeouts: quick})
		for _, tc := range []struct {
			rcpts []string
			want  string
		}{
			{[]string{"no@b.test"}, "550 rcpt"},
			{[]string{"a@b.test", "no@b.test", "full@b.test", "b@b.test"}, "250 dot, 550 rcpt, 452 dot, 250 dot"},
		} {
			res, err := c.Send(t.Context(), transaction(tc.rcpts...))
			if got := summary(res); err != nil || got != tc.want {
				t.Errorf("%s: got %s, %v; want %s", name, got, err, tc.want)
			}
		}
		res, err := c.Send(t.Context(), transaction("a@b.test", "cut@b.test", "b@b.test"))
		if e := wantError(t, err, client.PhaseDot); !e.InDoubt || summary(res) != "250 dot, -, -" {
			t.Errorf("%s: got %s, %v", name, summary(res), err)
		}
		c = dial(t, s, client.Options{LMTP: true})
		res, err = c.Send(t.Context(), transaction("a@b.test", "bye@b.test", "b@b.test"))
		if got := summary(res); err != nil || got != "250 dot, 421 dot, 421 dot" || c.Usable() {
			t.Errorf("%s: got %s, %v", name, got, err)
		}
	}
}

func TestParameters(t *testing.T) {
	server, config := clienttest.Certificate(t, "mx.test")
	ext := []string{"SIZE", "8BITMIME", "SMTPUTF8", "DSN", "REQUIRETLS"}
	s := clienttest.Start(t, clienttest.Options{TLS: server, Extensions: ext})
	c := dial(t, s, client.Options{})
	if err := c.StartTLS(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	tx := transaction("ü@b.test", "b@b.test")
	tx.Envelope = &mail.Envelope{From: address("s@c.test"), Body: mail.Body8Bit, RequireTLS: true, Return: mail.ReturnHeaders, ID: "a+b=c d", Auth: "x@y.test"}
	tx.Recipients[0].Notify = mail.NotifySuccess | mail.NotifyDelay
	tx.Recipients[0].Original = "rfc822;a+b@c.test"
	tx.Recipients[1].Notify = mail.NotifyNever
	if res, err := c.Send(t.Context(), tx); err != nil || summary(res) != "250 dot, 250 dot" {
		t.Fatalf("got %s, %v", summary(res), err)
	}
	m := s.Messages()[0]
	if want := "<s@c.test> SIZE=24 BODY=8BITMIME SMTPUTF8 REQUIRETLS RET=HDRS ENVID=a+2Bb+3Dc+20d"; m.Mail != want {
		t.Errorf("got  %s\nwant %s", m.Mail, want)
	}
	if want := []string{"<ü@b.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;a+2Bb@c.test", "<b@b.test> NOTIFY=NEVER"}; !slices.Equal(m.Rcpt, want) {
		t.Errorf("got  %q\nwant %q", m.Rcpt, want)
	}
}

// TestTimeAndOwnerParameters: what the peer announced of RFC 2852, 6710, 7293 and
// 4954 is said to it.
func TestTimeAndOwnerParameters(t *testing.T) {
	began := time.Now()
	by := began.Add(90*time.Second + 999*time.Millisecond)
	since := time.Date(2024, 4, 3, 23, 1, 0, 0, time.FixedZone("", 7200))
	for _, tc := range []struct {
		ext  []string
		env  mail.Envelope
		rcpt mail.Recipient
		want string // MAIL's and RCPT's parameters, or the reply
	}{
		{[]string{"DELIVERBY"}, mail.Envelope{DeliverBy: by}, mail.Recipient{}, "BY=91;N | "},
		{[]string{"DELIVERBY 60,x"}, mail.Envelope{DeliverBy: by, DeliverByReturn: true, DeliverByTrace: true}, mail.Recipient{}, "BY=91;RT | "},
		{[]string{"DELIVERBY 92"}, mail.Envelope{DeliverBy: by, DeliverByReturn: true}, mail.Recipient{}, "554 5.4.7 mail local"},
		{[]string{"DELIVERBY 92"}, mail.Envelope{DeliverBy: by}, mail.Recipient{}, "BY=91;N | "},
		{[]string{"DELIVERBY"}, mail.Envelope{DeliverBy: by.Add(-10 * time.Minute)}, mail.Recipient{}, "BY=-509;N | "},
		{[]string{"DELIVERBY"}, mail.Envelope{DeliverBy: by.Add(-10 * time.Minute), DeliverByReturn: true}, mail.Recipient{}, "554 5.4.7 mail local"},
		{[]string{"DELIVERBY"}, mail.Envelope{DeliverBy: by.Add(100 * 365 * 24 * time.Hour)}, mail.Recipient{}, "BY=999999999;N | "},
		{[]string{"DSN"}, mail.Envelope{DeliverBy: by, DeliverByReturn: true}, mail.Recipient{}, "554 5.4.7 mail local"},
		{[]string{"DSN"}, mail.Envelope{DeliverBy: by}, mail.Recipient{}, " | NOTIFY=FAILURE,DELAY"},
		{[]string{"DSN"}, mail.Envelope{DeliverBy: by}, mail.Recipient{Notify: mail.NotifySuccess}, " | NOTIFY=SUCCESS,DELAY"},
		{[]string{"DSN"}, mail.Envelope{DeliverBy: by}, mail.Recipient{Notify: mail.NotifyNever}, " | NOTIFY=NEVER"},
		{[]string{"DSN", "DELIVERBY"}, mail.Envelope{DeliverBy: by}, mail.Recipient{}, "BY=91;N | "},
		{[]string{"MT-PRIORITY MIXER"}, mail.Envelope{Priority: -3}, mail.Recipient{}, "MT-PRIORITY=-3 | "},
		{[]string{"MT-PRIORITY"}, mail.Envelope{}, mail.Recipient{}, "MT-PRIORITY=0 | "},
		{[]string{}, mail.Envelope{Priority: 9}, mail.Recipient{}, " | "},
		{[]string{"AUTH PLAIN"}, mail.Envelope{Auth: "e+mc2@c.test"}, mail.Recipient{}, "AUTH=e+2Bmc2@c.test | "},
		{[]string{"AUTH PLAIN"}, mail.Envelope{Auth: "<>"}, mail.Recipient{}, "AUTH=<> | "},
		{[]string{"AUTH PLAIN"}, mail.Envelope{}, mail.Recipient{}, " | "},
		{[]string{}, mail.Envelope{Auth: "a@c.test"}, mail.Recipient{}, " | "},
		{[]string{"RRVS"}, mail.Envelope{}, mail.Recipient{RRVS: since}, " | RRVS=2024-04-03T21:01:00Z;C"},
		{[]string{"RRVS"}, mail.Envelope{}, mail.Recipient{RRVS: since, RRVSReject: true}, " | RRVS=2024-04-03T21:01:00Z;R"},
		{[]string{}, mail.Envelope{}, mail.Recipient{RRVS: since, RRVSReject: true}, "550 5.7.19 rcpt local"},
		{[]string{}, mail.Envelope{}, mail.Recipient{RRVS: since}, " | "},
	} {
		s := clienttest.Start(t, clienttest.Options{Extensions: tc.ext})
		c := dial(t, s, client.Options{})
		tx := transaction("a@b.test")
		tc.env.From, tc.rcpt.Address = tx.Envelope.From, tx.Recipients[0].Address
		tx.Envelope, tx.Recipients[0] = &tc.env, &tc.rcpt
		if !tc.env.DeliverBy.IsZero() { // however long the cases before took
			tc.env.DeliverBy = tc.env.DeliverBy.Add(time.Since(began))
		}
		res, err := c.Send(t.Context(), tx)
		got := summary(res)
		if ms := s.Messages(); len(ms) == 1 {
			got = strings.TrimPrefix(strings.TrimPrefix(ms[0].Mail, "<s@c.test>"), " ") + " | " + strings.TrimPrefix(strings.TrimPrefix(ms[0].Rcpt[0], "<a@b.test>"), " ")
		}
		if err != nil || got != tc.want {
			t.Errorf("%q: got %q, %v; want %q", tc.ext, got, err, tc.want)
		}
	}
}

// TestAuthParameterAfterLogin: who knows us hears that nobody is known.
func TestAuthParameterAfterLogin(t *testing.T) {
	s := clienttest.Start(t, clienttest.Options{Extensions: []string{}, Users: map[string]string{"u": "p"}})
	c := dial(t, s, client.Options{InsecureAuth: true})
	if err := c.Auth(t.Context(), client.Credentials{Username: "u", Password: "p"}); err != nil {
		t.Fatal(err)
	}
	send(t, c, "a@b.test")
	if got := s.Messages()[0].Mail; got != "<s@c.test> AUTH=<>" {
		t.Errorf("got %s", got)
	}
}

func TestNullSenderAndPlainPeer(t *testing.T) {
	s := clienttest.Start(t, clienttest.Options{Extensions: []string{}})
	c := dial(t, s, client.Options{})
	tx := transaction("a@b.test")
	tx.Envelope = &mail.Envelope{Body: mail.Body7Bit, Return: mail.ReturnFull, ID: "x"}
	tx.Recipients[0].Notify = mail.NotifyNever
	if res, err := c.Send(t.Context(), tx); err != nil || !res[0].Accepted() {
		t.Fatal(res, err)
	}
	if m := s.Messages()[0]; m.Mail != "<>" || m.Rcpt[0] != "<a@b.test>" {
		t.Errorf("got %+v", m)
	}
}

func TestLocalRefusals(t *testing.T) {
	s := clienttest.Start(t, clienttest.Options{Extensions: []string{"SIZE 20", "REQUIRETLS"}})
	c := dial(t, s, client.Options{})
	small := content("a\r\n")
	for _, tc := range []struct {
		what string
		tx   func() *client.Transaction
		want string
	}{
		{"size", func() *client.Transaction { return transaction("a@b.test") }, "552 5.3.4 mail local"},
		{"UTF-8 message", func() *client.Transaction {
			tx := transaction("a@b.test")
			tx.Content, tx.Envelope.UTF8 = small, true
			return tx
		}, "550 5.6.7 mail local"},
		{"UTF-8 recipient", func() *client.Transaction {
			tx := transaction("ü@b.test", "a@b.test")
			tx.Content = small
			return tx
		}, "550 5.6.7 rcpt local, 250 dot"},
		{"8-bit", func() *client.Transaction {
			tx := transaction("a@b.test")
			tx.Content, tx.Envelope.Body = small, mail.Body8Bit
			return tx
		}, "554 5.6.3 mail local"},
		{"binary", func() *client.Transaction {
			tx := transaction("a@b.test")
			tx.Content, tx.Envelope.Body = small, mail.BodyBinary
			return tx
		}, "554 5.6.3 mail local"},
		{"REQUIRETLS without TLS", func() *client.Transaction {
			tx := transaction("a@b.test")
			tx.Content, tx.Envelope.RequireTLS = small, true
			return tx
		}, "550 5.7.30 mail local"},
		{"line end in a recipient", func() *client.Transaction {
			tx := transaction("a@b.test")
			tx.Content, tx.Recipients[0].Address.Local = small, "a\r\nRSET"
			return tx
		}, "553 5.1.3 rcpt local"},
		{"line end in the sender", func() *client.Transaction {
			tx := transaction("a@b.test")
			tx.Content, tx.Envelope.From.Domain = small, "a\nb"
			return tx
		}, "553 5.1.7 mail local"},
	} {
		res, err := c.Send(t.Context(), tc.tx())
		if got := summary(res); err != nil || got != tc.want {
			t.Errorf("%s: got %s, %v; want %s", tc.what, got, err, tc.want)
		}
	}
	if cmds := strings.Join(s.Commands(), "|"); strings.Contains(cmds, "ü") || strings.Count(cmds, "MAIL") != 1 {
		t.Errorf("said %s", cmds)
	}
}

func TestManyRecipients(t *testing.T) {
	s := clienttest.Start(t, clienttest.Options{})
	c := dial(t, s, client.Options{})
	var rcpts []string
	for i := range 1000 {
		rcpts = append(rcpts, fmt.Sprintf("user%d@b.test", i))
	}
	send(t, c, rcpts...)
	if m := s.Messages(); len(m) != 1 || !slices.Equal(m[0].Recipients, rcpts) {
		t.Error("recipients were lost")
	}
}

// TestHostilePeers has replies that are no replies, at the place of each.
func TestHostilePeers(t *testing.T) {
	for name, bad := range map[string]string{
		"endless":  strings.Repeat("250-more\n", 5000) + "250 end",
		"long":     "250 " + strings.Repeat("x", 100_000),
		"codes":    "250-a\n550 b",
		"bare LF":  "550 no <a\n250 ok>\r",
		"nonsense": "HTTP/1.1 200 OK",
		"354":      "354 go on",
	} {
		for _, at := range []string{"MAIL", "RCPT", "."} {
			if name == "bare LF" {
				continue // see TestReadReplyErrors: the server ends lines itself
			}
			s := clienttest.Start(t, clienttest.Options{Extensions: []string{}}, clienttest.Rule{At: at, Reply: bad})
			c := dial(t, s, client.Options{Timeouts: quick})
			_, err := c.Send(t.Context(), transaction("a@b.test"))
			e, ok := errors.AsType[*client.Error](err)
			if !ok || !errors.Is(err, client.ErrProtocol) || e.InDoubt != (at == ".") || c.Usable() {
				t.Errorf("%s at %s: got %v", name, at, err)
			}
		}
	}
}

func TestReplyTextIsClean(t *testing.T) {
	s := clienttest.Start(t, clienttest.Options{}, clienttest.Rule{At: ".", Reply: "554-5.7.1 a\x1b[2Jb\u2028\n554 5.7.1 \xff"})
	c := dial(t, s, client.Options{})
	res, err := c.Send(t.Context(), transaction("a@b.test"))
	if err != nil || res[0].Reply.Text != "a?[2Jb?\n?" || res[0].Reply.Enh != "5.7.1" {
		t.Errorf("got %q, %v", res[0].Reply, err)
	}
}

// TestPipe speaks over net.Pipe, which has no socket to look into and no buffer.
func TestPipe(t *testing.T) {
	s := clienttest.Start(t, clienttest.Options{})
	near, far := net.Pipe()
	go s.Serve(far)
	c := client.New(near, client.Options{Hello: "client.test"})
	if err := c.Hello(t.Context()); err != nil {
		t.Fatal(err)
	}
	send(t, c, "a@b.test")
	send(t, c, "a@b.test")
	if err := c.Quit(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestEarlyOverTLS has the early reply in the same TLS record flight as 354,
// where no socket shows it.
func TestEarlyOverTLS(t *testing.T) {
	server, config := clienttest.Certificate(t, "mx.test")
	near, far := net.Pipe()
	go func() {
		peer := tls.Server(far, server)
		b := make([]byte, 4096)
		for _, s := range []string{"220 x\r\n", "250 x\r\n", "250 x\r\n", "250 x\r\n", "354 x\r\n250 early\r\n"} {
			peer.Write([]byte(s))
			peer.Read(b)
		}
		io.Copy(io.Discard, peer)
	}()
	c := client.New(tls.Client(near, config), client.Options{})
	if err := c.Hello(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err := c.Send(t.Context(), transaction("a@b.test"))
	if !errors.Is(err, client.ErrUnsolicited) {
		t.Errorf("got %v", err)
	}
	if _, on := c.TLS(); !on {
		t.Error("TLS of the caller's was not seen")
	}
}

func BenchmarkSend(b *testing.B) {
	for _, size := range []int{4 << 10, 1 << 20} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			s := clienttest.Start(b, clienttest.Options{Extensions: []string{"PIPELINING"}})
			c, err := client.Dial(b.Context(), "tcp", s.Addr, client.Options{})
			if err != nil {
				b.Fatal(err)
			}
			tx := transaction("a@b.test")
			tx.Content = content(bytes.Repeat([]byte(strings.Repeat("x", 76)+"\r\n"), size/78))
			b.SetBytes(int64(size))
			for b.Loop() {
				if _, err := c.Send(b.Context(), tx); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
