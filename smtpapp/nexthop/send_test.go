package nexthop

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/client"
	"github.com/caddymail/caddy-smtp/smtpapp/client/clienttest"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

// A net of hosts: what is dialled under each address.
type world struct {
	mu     sync.Mutex
	at     map[string]*clienttest.Server
	dialed []string
}

func (w *world) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	w.mu.Lock()
	w.dialed = append(w.dialed, addr)
	s := w.at[addr]
	w.mu.Unlock()
	if s == nil {
		return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	}
	return new(net.Dialer).DialContext(ctx, "tcp", s.Addr)
}

// sender returns one in w, as an MTA on its way to MX hosts.
func sender(t testing.TB, w *world, change ...func(*Sender)) *Sender {
	s := &Sender{
		Client: client.Options{Hello: "us.test", Dial: w.dial}, Resolver: zone(),
		TLS: TLS{Mode: TLSOpportunistic}, Pool: NewPool(PoolOptions{}), Log: slog.New(slog.DiscardHandler), Done: queue.Relayed,
	}
	for _, c := range change {
		c(s)
	}
	t.Cleanup(func() { s.Pool.Close() })
	return s
}

func delivery(t testing.TB, to ...string) *queue.Delivery {
	t.Helper()
	m, err := message.Parse([]byte("Subject: hi\r\n\r\nhello\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	env := &mail.Envelope{From: mail.Address{Local: "bob", Domain: "us.test"}}
	for _, s := range to {
		a, err := mail.ParseAddress(s)
		if err != nil {
			t.Fatal(err)
		}
		env.Recipients = append(env.Recipients, mail.NewRecipient(a))
	}
	return &queue.Delivery{ID: "q1", Envelope: env, Content: m, Attempt: 1, Queued: time.Now(), Log: slog.New(slog.DiscardHandler)}
}

// hosts are MX hosts of zone.
func hosts(names ...string) []Host {
	var hs []Host
	for _, n := range names {
		hs = append(hs, finder().host(n))
	}
	return hs
}

// chosen are the same hosts, as our own configuration would name them.
func chosen(names ...string) []Host {
	hs := hosts(names...)
	for i := range hs {
		hs[i].chosen = true
	}
	return hs
}

// words puts statuses into a line each: action, reply, host.
func words(sts []queue.Status) string {
	var b strings.Builder
	for _, s := range sts {
		about := s.RemoteMTA
		if s.Unreachable {
			about = strings.TrimSpace(about + " unreachable")
		}
		if s.InDoubt {
			about += " in doubt"
		}
		fmt.Fprintf(&b, "%s %d %s %s\n", s.Action, s.Reply.Code, s.Reply.Enh, about)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func rule(at, reply string) clienttest.Rule { return clienttest.Rule{At: at, Reply: reply} }

func cut(at string) clienttest.Rule { return clienttest.Rule{At: at, Close: true} }

// TestScopes: what goes wrong at the first host, what becomes of two
// recipients where the second host takes all, and where there is no second.
func TestScopes(t *testing.T) {
	const taken = "relayed 250 2.0.0 "
	for name, tc := range map[string]struct {
		rules  []clienttest.Rule
		second bool   // it is asked
		alone  string // without it
	}{
		"nobody there":         {nil, true, "delayed 451 4.4.1 unreachable"},
		"cut at once":          {[]clienttest.Rule{cut("connect")}, true, "delayed 451 4.4.1 unreachable"},
		"greeting 421":         {[]clienttest.Rule{rule("connect", "421 4.3.2 busy")}, true, "delayed 421 4.3.2 a.mx.test unreachable"},
		"greeting 554":         {[]clienttest.Rule{rule("connect", "554 5.7.1 go away")}, true, "failed 554 5.7.1 a.mx.test"},
		"greeting 521":         {[]clienttest.Rule{rule("connect", "521 5.3.2 no mail here")}, true, "failed 521 5.3.2 a.mx.test"},
		"greeting not SMTP":    {[]clienttest.Rule{rule("connect", "HTTP/1.1 400 what")}, true, "delayed 451 4.5.0 unreachable"},
		"EHLO 450":             {[]clienttest.Rule{rule("EHLO", "450 4.7.1 not now")}, true, "delayed 450 4.7.1 a.mx.test unreachable"},
		"EHLO 550":             {[]clienttest.Rule{rule("EHLO", "550 5.7.1 no"), rule("HELO", "550 5.7.1 no")}, true, "failed 550 5.7.1 a.mx.test"},
		"MAIL 451":             {[]clienttest.Rule{rule("MAIL", "451 4.7.1 later")}, true, "delayed 451 4.7.1 a.mx.test"},
		"MAIL 550":             {[]clienttest.Rule{rule("MAIL", "550 5.7.1 no")}, false, "failed 550 5.7.1 a.mx.test"},
		"cut at MAIL":          {[]clienttest.Rule{cut("MAIL")}, true, "delayed 451 4.4.2 a.mx.test"},
		"RCPT 450":             {[]clienttest.Rule{rule("RCPT", "450 4.2.1 greylisted")}, false, "delayed 450 4.2.1 a.mx.test"},
		"RCPT 550":             {[]clienttest.Rule{rule("RCPT", "550 5.1.1 who")}, false, "failed 550 5.1.1 a.mx.test"},
		"RCPT 421":             {[]clienttest.Rule{rule("RCPT", "421 4.3.2 bye")}, true, "delayed 421 4.3.2 a.mx.test"},
		"DATA 451":             {[]clienttest.Rule{rule("DATA", "451 4.3.0 no")}, false, "delayed 451 4.3.0 a.mx.test"},
		"DATA 554":             {[]clienttest.Rule{rule("DATA", "554 5.7.1 no")}, false, "failed 554 5.7.1 a.mx.test"},
		"cut in short content": {[]clienttest.Rule{cut("content")}, false, "delayed 451 4.4.2 a.mx.test in doubt"},
		"dot 451":              {[]clienttest.Rule{rule(".", "451 4.3.0 no")}, false, "delayed 451 4.3.0 a.mx.test"},
		"dot 550":              {[]clienttest.Rule{rule(".", "550 5.7.1 spam")}, false, "failed 550 5.7.1 a.mx.test"},
		"cut after the dot":    {[]clienttest.Rule{cut(".")}, false, "delayed 451 4.4.2 a.mx.test in doubt"},
		"talk before MAIL":     {[]clienttest.Rule{rule("EHLO", "250-x\n250 y\n250 2.0.0 and you?")}, true, "delayed 451 4.5.0 a.mx.test"},
		"endless reply":        {[]clienttest.Rule{rule("EHLO", strings.Repeat("250-x\n", 5000)+"250 x")}, true, "delayed 451 4.5.0 a.mx.test"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			good := clienttest.Start(t, clienttest.Options{})
			w := &world{at: map[string]*clienttest.Server{"192.0.2.2:25": good}}
			if tc.rules != nil {
				w.at["192.0.2.1:25"] = clienttest.Start(t, clienttest.Options{}, tc.rules...)
			}
			s, d := sender(t, w), delivery(t, "x@order.test", "y@order.test")
			got := words(s.Send(t.Context(), d, d.Envelope.Recipients, hosts("a.mx.test", "b.mx.test")))
			want := tc.alone + "\n" + tc.alone
			if tc.second {
				want = taken + "b.mx.test\n" + taken + "b.mx.test"
			}
			if got != want || (len(good.Messages()) == 1) != tc.second {
				t.Errorf("with a second host:\n%s\nwant\n%s\n%d messages there", got, want, len(good.Messages()))
			}
			got = words(s.Send(t.Context(), d, d.Envelope.Recipients[:1], hosts("a.mx.test")))
			if got != tc.alone {
				t.Errorf("alone: %s, want %s", got, tc.alone)
			}
		})
	}
}

func TestEachRecipientHasItsStatus(t *testing.T) {
	srv := clienttest.Start(t, clienttest.Options{},
		rule("RCPT TO:<b@", "550 5.1.1 who"), rule("RCPT TO:<c@", "450 4.2.2 full"))
	s := sender(t, &world{at: map[string]*clienttest.Server{"192.0.2.1:25": srv}})
	d := delivery(t, "a@order.test", "b@order.test", "c@order.test", "d@order.test")
	got := words(s.Send(t.Context(), d, d.Envelope.Recipients, hosts("a.mx.test")))
	const want = "relayed 250 2.0.0 a.mx.test\nfailed 550 5.1.1 a.mx.test\ndelayed 450 4.2.2 a.mx.test\nrelayed 250 2.0.0 a.mx.test"
	if got != want {
		t.Errorf("got\n%s", got)
	}
	if m := srv.Messages(); len(m) != 1 || len(m[0].Recipients) != 2 || m[0].Hello != "us.test" {
		t.Errorf("got %+v", m)
	}
}

// TestManyRecipients: what the peer doesn't take at once comes in another
// transaction.
func TestManyRecipients(t *testing.T) {
	for name, opts := range map[string]clienttest.Options{
		"announced": {Extensions: []string{"PIPELINING", "LIMITS RCPTMAX=2"}},
		"refused":   {Extensions: []string{"PIPELINING"}},
	} {
		var rules []clienttest.Rule
		if name == "refused" {
			rules = []clienttest.Rule{
				{At: "RCPT TO:<c@", Reply: "452 4.5.3 too many", Times: 1}, {At: "RCPT TO:<d@", Reply: "452 4.5.3 too many", Times: 1},
				{At: "RCPT TO:<e@", Reply: "452 4.5.3 too many", Times: 2},
			}
		}
		srv := clienttest.Start(t, opts, rules...)
		s := sender(t, &world{at: map[string]*clienttest.Server{"192.0.2.1:25": srv}})
		d := delivery(t, "a@o.test", "b@o.test", "c@o.test", "d@o.test", "e@o.test")
		for i, st := range s.Send(t.Context(), d, d.Envelope.Recipients, hosts("a.mx.test")) {
			if st.Action != queue.Relayed {
				t.Errorf("%s: recipient %d: %v", name, i, st)
			}
		}
		if m := srv.Messages(); len(m) != 3 || srv.Connections() != 1 {
			t.Errorf("%s: %d messages, %d connections", name, len(m), srv.Connections())
		}
	}
	srv := clienttest.Start(t, clienttest.Options{Extensions: []string{"LIMITS RCPTMAX=1 MAILMAX=2"}})
	s := sender(t, &world{at: map[string]*clienttest.Server{"192.0.2.1:25": srv}})
	d := delivery(t, "a@o.test", "b@o.test", "c@o.test")
	got := words(s.Send(t.Context(), d, d.Envelope.Recipients, hosts("a.mx.test")))
	if strings.Count(got, "relayed") != 3 || len(srv.Messages()) != 3 || srv.Connections() != 2 {
		t.Errorf("got\n%s", got)
	}
}

// TestLimits: what the peer announces by RFC 9422 is kept to, on connections that
// are used again too, and whatever it leaves over has another connection.
func TestLimits(t *testing.T) {
	for _, tc := range []struct {
		limits           string
		to               []string
		messages, onConn int // of the first attempt; the second has its connection too
	}{
		{"MAILMAX=1", []string{"a@o.test", "b@o.test"}, 1, 1},
		{"RCPTMAX=1 MAILMAX=1", []string{"a@o.test", "b@o.test", "c@p.test"}, 3, 3},
		{"RCPTDOMAINMAX=1", []string{"a@o.test", "b@o.test", "c@p.test", "d@o.test"}, 3, 3},
		{"RCPTDOMAINMAX=2", []string{"a@o.test", "b@p.test", "c@o.test", "d@q.test"}, 2, 2},
		{"RCPTDOMAINMAX=0 RCPTMAX=x FOO=1 MAILMAX", []string{"a@o.test", "b@p.test", "c@o.test"}, 1, 1},
	} {
		srv := clienttest.Start(t, clienttest.Options{Extensions: []string{"LIMITS " + tc.limits}})
		s := sender(t, &world{at: map[string]*clienttest.Server{"192.0.2.1:25": srv}}, func(s *Sender) {
			s.Pool = NewPool(PoolOptions{Idle: time.Minute, Max: 1})
		})
		for range 2 {
			d := delivery(t, tc.to...)
			if got := words(s.Send(t.Context(), d, d.Envelope.Recipients, hosts("a.mx.test"))); strings.Count(got, "relayed") != len(tc.to) {
				t.Errorf("%s:\n%s", tc.limits, got)
			}
		}
		ms, conns := srv.Messages(), srv.Connections()
		if len(ms) < 2*tc.messages || conns > 2*tc.onConn || conns < tc.onConn {
			t.Errorf("%s: %d messages, %d connections", tc.limits, len(ms), conns)
		}
	}
}

// TestTunnels: what a peer does not know goes on in header fields.
func TestTunnels(t *testing.T) {
	since := time.Date(2024, 4, 3, 23, 1, 0, 0, time.UTC)
	send := func(ext []string, edit func(*queue.Delivery), to ...string) []clienttest.Message {
		srv := clienttest.Start(t, clienttest.Options{Extensions: ext})
		s := sender(t, &world{at: map[string]*clienttest.Server{"192.0.2.1:25": srv}}, func(s *Sender) { s.TunnelPriority = true })
		d := delivery(t, to...)
		edit(d)
		if got := words(s.Send(t.Context(), d, d.Envelope.Recipients, hosts("a.mx.test"))); strings.Count(got, "relayed") != len(to) {
			t.Errorf("%q:\n%s", ext, got)
		}
		if n := d.Content.Header.Len(); n > 2 {
			t.Errorf("the queue's own content was changed: %d fields", n)
		}
		return srv.Messages()
	}
	const field = "Require-Recipient-Valid-Since: b@o.test; Wed, 3 Apr 2024 23:01:00 +0000\r\n"
	owned := func(d *queue.Delivery) { d.Envelope.Recipients[1].RRVS = since }
	ms := send([]string{"PIPELINING"}, owned, "a@o.test", "b@o.test", "c@o.test")
	if len(ms) != 3 || strings.Count(string(ms[0].Content)+string(ms[1].Content)+string(ms[2].Content), field) != 1 || !strings.Contains(string(ms[1].Content), field) {
		t.Errorf("%+v", ms)
	}
	ms = send([]string{"RRVS"}, owned, "a@o.test", "b@o.test")
	if len(ms) != 1 || strings.Contains(string(ms[0].Content), "Require") || ms[0].Rcpt[1] != "<b@o.test> RRVS=2024-04-03T23:01:00Z;C" {
		t.Errorf("%+v", ms)
	}
	for _, tc := range []struct {
		ext         []string
		asked       bool
		field, want string
	}{
		{nil, true, "", "MT-Priority: 4\r\nSubject"},
		{nil, true, "-9", "MT-Priority: 4\r\nSubject"},
		{nil, false, "-9", "MT-Priority: 4\r\nSubject"},
		{nil, false, "", "Subject"},
		{[]string{"MT-PRIORITY"}, true, "-9", "MT-Priority: -9\r\nSubject"},
		{[]string{"MT-PRIORITY"}, true, "", "Subject"},
	} {
		ms := send(tc.ext, func(d *queue.Delivery) {
			d.Envelope.Priority, d.Envelope.Prioritized = 4, tc.asked
			if tc.field != "" {
				d.Content.Header.Prepend("MT-Priority", tc.field)
			}
		}, "a@o.test")
		if len(ms) != 1 || !strings.HasPrefix(string(ms[0].Content), tc.want) || strings.Contains(ms[0].Mail, " MT-PRIORITY=4") != (tc.ext != nil) {
			t.Errorf("%+v: %+v", tc, ms)
		}
	}
}

// TestWhoTells: what the peer takes over with a message is in its status.
func TestWhoTells(t *testing.T) {
	for ext, want := range map[string]queue.Status{
		"PIPELINING": {}, "DSN": {Notifies: true}, "DELIVERBY 60": {KeepsTime: true},
	} {
		srv := clienttest.Start(t, clienttest.Options{Extensions: []string{ext}})
		d := delivery(t, "a@o.test")
		st := sender(t, &world{at: map[string]*clienttest.Server{"192.0.2.1:25": srv}}).Send(t.Context(), d, d.Envelope.Recipients, hosts("a.mx.test"))[0]
		if st.Action != queue.Relayed || st.Notifies != want.Notifies || st.KeepsTime != want.KeepsTime {
			t.Errorf("%s: %+v", ext, st)
		}
	}
}

// TestBounds: no more than five addresses, no more than two sessions.
func TestBounds(t *testing.T) {
	f := finder()
	z := zone()
	for i := range 500 {
		z.Host[fmt.Sprintf("mx%d.many.test", i)] = []string{fmt.Sprintf("192.0.2.%d", i%200+1)}
	}
	f.Resolver = z
	many, err := f.Hosts(t.Context(), "many.test")
	if err != nil || len(many) != 500 {
		t.Fatal(len(many), err)
	}
	w := &world{}
	d := delivery(t, "a@many.test")
	got := words(sender(t, w, func(s *Sender) { s.Resolver = z }).Send(t.Context(), d, d.Envelope.Recipients, many))
	if got != "delayed 451 4.4.1 unreachable" || len(w.dialed) != 5 {
		t.Errorf("%s; dialled %v", got, w.dialed)
	}
	busy := clienttest.Start(t, clienttest.Options{}, rule("MAIL", "451 4.3.2 busy"))
	w = &world{at: map[string]*clienttest.Server{"192.0.2.1:25": busy, "192.0.2.2:25": busy, "192.0.2.3:25": busy}}
	got = words(sender(t, w).Send(t.Context(), d, d.Envelope.Recipients, hosts("a.mx.test", "b.mx.test", "c.mx.test")))
	if got != "delayed 451 4.3.2 b.mx.test" || len(w.dialed) != 2 {
		t.Errorf("%s; dialled %v", got, w.dialed)
	}
}

// TestAddressesInTurn: the second address of a host is as good as the first.
func TestAddressesInTurn(t *testing.T) {
	srv := clienttest.Start(t, clienttest.Options{})
	w := &world{at: map[string]*clienttest.Server{"[2001:db8::2]:25": srv}}
	d := delivery(t, "a@o.test")
	if got := words(sender(t, w).Send(t.Context(), d, d.Envelope.Recipients, hosts("gone.mx.test", "b.mx.test"))); got != "relayed 250 2.0.0 b.mx.test" {
		t.Error(got)
	}
}

// TestWhoSpeaks: of several failures, the one that may pass decides.
func TestWhoSpeaks(t *testing.T) {
	no := clienttest.Start(t, clienttest.Options{}, rule("connect", "554 5.7.1 no"))
	busy := clienttest.Start(t, clienttest.Options{}, rule("connect", "421 4.3.2 busy"))
	for names, want := range map[string]string{
		"a.mx.test b.mx.test":         "delayed 421 4.3.2 b.mx.test unreachable",
		"b.mx.test a.mx.test":         "delayed 421 4.3.2 b.mx.test unreachable",
		"c.mx.test a.mx.test":         "delayed 451 4.4.1 unreachable",
		"c.mx.test b.mx.test":         "delayed 421 4.3.2 b.mx.test unreachable",
		"b.mx.test c.mx.test":         "delayed 421 4.3.2 b.mx.test unreachable",
		"a.mx.test gone.mx.test":      "failed 550 5.4.4 ",
		"gone.mx.test broken.mx.test": "delayed 451 4.4.3 ",
		"local.mx.test":               "failed 554 5.4.6 ",
	} {
		w := &world{at: map[string]*clienttest.Server{"192.0.2.1:25": no, "192.0.2.2:25": busy}}
		d := delivery(t, "x@o.test")
		if got := words(sender(t, w).Send(t.Context(), d, d.Envelope.Recipients, hosts(strings.Fields(names)...))); got != want {
			t.Errorf("%s: %s, want %s", names, got, want)
		}
	}
}

// TestOwnHosts: what a smarthost has against us is not the message's fault.
func TestOwnHosts(t *testing.T) {
	no := clienttest.Start(t, clienttest.Options{}, rule("connect", "554 5.7.1 no"))
	w := &world{at: map[string]*clienttest.Server{"192.0.2.1:25": no}}
	d := delivery(t, "x@o.test")
	for host, want := range map[string]string{"a.mx.test": "delayed 454 4.7.1 a.mx.test", "gone.mx.test": "delayed 450 4.4.4 "} {
		s := sender(t, w, func(s *Sender) { s.Own = true })
		if got := words(s.Send(t.Context(), d, d.Envelope.Recipients, hosts(host))); got != want {
			t.Errorf("%s: %s", host, got)
		}
	}
}

func TestContentThatCannotBeRead(t *testing.T) {
	srv := clienttest.Start(t, clienttest.Options{})
	w := &world{at: map[string]*clienttest.Server{"192.0.2.1:25": srv, "192.0.2.2:25": srv}}
	d := delivery(t, "x@o.test")
	d.Content = message.New(d.Content.Header, message.OpenBody(t.TempDir()+"/gone", 1, "none"))
	got := words(sender(t, w).Send(t.Context(), d, d.Envelope.Recipients, hosts("a.mx.test", "b.mx.test")))
	if got != "delayed 451 4.3.0 a.mx.test" || len(srv.Messages()) != 0 {
		t.Error(got)
	}
}

func TestCalledOff(t *testing.T) {
	d := delivery(t, "x@o.test")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	w := &world{}
	if got := words(sender(t, w).Send(ctx, d, d.Envelope.Recipients, hosts("a.mx.test"))); got != "delayed 451 4.3.2 " || w.dialed != nil {
		t.Error(got)
	}
	slow := clienttest.Start(t, clienttest.Options{}, clienttest.Rule{At: "EHLO", Delay: time.Minute})
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	w.at = map[string]*clienttest.Server{"192.0.2.1:25": slow, "192.0.2.2:25": slow}
	if got := words(sender(t, w).Send(ctx, d, d.Envelope.Recipients, hosts("a.mx.test", "b.mx.test"))); got != "delayed 451 4.4.2 a.mx.test" {
		t.Error(got)
	}
}

func TestRefuse(t *testing.T) {
	if got := words(Refuse(errNullMX, 2)); got != "failed 556 5.1.10 \nfailed 556 5.1.10 " {
		t.Error(got)
	}
	if got := words(Refuse(errDNS, 1)); got != "delayed 451 4.4.3 " {
		t.Error(got)
	}
}

// TestTLS: modes against what a host can do.
func TestTLS(t *testing.T) {
	good, trust := clienttest.Certificate(t, "a.mx.test")
	other, _ := clienttest.Certificate(t, "a.mx.test")
	named, trustNamed := clienttest.Certificate(t, "else.test")
	broken := &tls.Config{} // no certificate: every handshake fails
	for _, tc := range []struct {
		server *tls.Config
		policy TLS
		rules  []clienttest.Rule
		want   string // of the message
	}{
		{good, TLS{Mode: TLSOpportunistic}, nil, "tls"},
		{other, TLS{Mode: TLSOpportunistic, Roots: trust.RootCAs}, nil, "tls"},
		{nil, TLS{Mode: TLSOpportunistic}, nil, "clear"},
		{broken, TLS{Mode: TLSOpportunistic}, nil, "clear"},
		{good, TLS{Mode: TLSOpportunistic}, []clienttest.Rule{rule("STARTTLS", "454 4.7.0 not now")}, "clear"},
		{good, TLS{Mode: TLSOpportunistic}, []clienttest.Rule{rule("STARTTLS", "220 go\n250 injected")}, "clear"},
		{good, TLS{Mode: TLSOff}, nil, "clear"},
		{good, TLS{Mode: TLSRequired, Roots: trust.RootCAs}, nil, "tls"},
		{other, TLS{Mode: TLSRequired, Roots: trust.RootCAs}, nil, "delayed 451 4.7.5 a.mx.test"},
		{other, TLS{Mode: TLSRequired, Unverified: true}, nil, "tls"},
		{named, TLS{Mode: TLSRequired, Roots: trustNamed.RootCAs}, nil, "delayed 451 4.7.5 a.mx.test"},
		{nil, TLS{Mode: TLSRequired}, nil, "delayed 451 4.7.4 a.mx.test"},
		{broken, TLS{Mode: TLSRequired, Unverified: true}, nil, "delayed 451 4.7.5 a.mx.test"},
		{good, TLS{Mode: TLSRequired, Roots: trust.RootCAs}, []clienttest.Rule{rule("STARTTLS", "454 4.7.0 not now")}, "delayed 451 4.7.5 a.mx.test"},
		{good, TLS{Mode: TLSImplicit, Roots: trust.RootCAs}, nil, "tls"},
		{other, TLS{Mode: TLSImplicit, Roots: trust.RootCAs}, nil, "delayed 451 4.7.5 a.mx.test"},
	} {
		srv := clienttest.Start(t, clienttest.Options{TLS: tc.server, Implicit: tc.policy.Mode == TLSImplicit}, tc.rules...)
		w := &world{at: map[string]*clienttest.Server{"192.0.2.1:25": srv}}
		d := delivery(t, "x@o.test")
		got := words(sender(t, w, func(s *Sender) { s.TLS = tc.policy }).Send(t.Context(), d, d.Envelope.Recipients, hosts("a.mx.test")))
		if m := srv.Messages(); len(m) == 1 {
			got = map[bool]string{true: "tls", false: "clear"}[m[0].TLS]
		}
		if got != tc.want {
			t.Errorf("%+v, %v: %s, want %s", tc.policy, tc.rules, got, tc.want)
		}
	}
}

// TestRequireTLS: a message that demands TLS gets it, whatever the policy.
func TestRequireTLS(t *testing.T) {
	good, trust := clienttest.Certificate(t, "a.mx.test")
	srv := clienttest.Start(t, clienttest.Options{TLS: good, Extensions: []string{"REQUIRETLS"}})
	w := &world{at: map[string]*clienttest.Server{"192.0.2.1:25": srv}}
	d := delivery(t, "x@o.test")
	d.Envelope.RequireTLS = true
	for i, roots := range []TLS{{Mode: TLSOpportunistic}, {Mode: TLSOpportunistic, Roots: trust.RootCAs}} {
		sender(t, w, func(s *Sender) { s.TLS = roots }).Send(t.Context(), d, d.Envelope.Recipients, chosen("a.mx.test"))
		if len(srv.Messages()) != i {
			t.Errorf("%d messages with %+v", len(srv.Messages()), roots)
		}
	}
	// Nothing vouches for what DNS says.
	st := sender(t, w, func(s *Sender) { s.TLS.Roots = trust.RootCAs }).Send(t.Context(), d, d.Envelope.Recipients, hosts("a.mx.test"))
	if st[0].Action != queue.Failed || st[0].Reply.Enh != "5.7.30" || len(srv.Messages()) != 1 {
		t.Error(words(st))
	}
	// The mailbox is not another hop.
	plain := clienttest.Start(t, clienttest.Options{LMTP: true})
	w = &world{at: map[string]*clienttest.Server{"192.0.2.1:25": plain}}
	st = sender(t, w, func(s *Sender) { s.Done, s.Client.LMTP = queue.Delivered, true }).Send(t.Context(), d, d.Envelope.Recipients, hosts("a.mx.test"))
	if st[0].Action != queue.Delivered {
		t.Error(words(st))
	}
}

func TestAuth(t *testing.T) {
	cert, trust := clienttest.Certificate(t, "a.mx.test")
	opts := clienttest.Options{TLS: cert, Users: map[string]string{"u": "right"}}
	for _, tc := range []struct {
		password, want string
		rules          []clienttest.Rule
		policy         TLS
	}{
		{"right", "relayed 250 2.0.0 a.mx.test", nil, TLS{Mode: TLSRequired, Roots: trust.RootCAs}},
		{"wrong", "delayed 435 4.7.8 a.mx.test", nil, TLS{Mode: TLSRequired, Roots: trust.RootCAs}},
		{"right", "delayed 454 4.7.0 a.mx.test", []clienttest.Rule{rule("AUTH", "454 4.7.0 not now")}, TLS{Mode: TLSRequired, Roots: trust.RootCAs}},
		{"right", "delayed 451 4.7.0 a.mx.test", nil, TLS{Mode: TLSOff}},
	} {
		srv := clienttest.Start(t, opts, tc.rules...)
		w := &world{at: map[string]*clienttest.Server{"192.0.2.1:25": srv}}
		d := delivery(t, "x@o.test")
		var log bytes.Buffer
		d.Log = slog.New(slog.NewTextHandler(&log, nil))
		s := sender(t, w, func(s *Sender) {
			s.TLS, s.Auth, s.Own = tc.policy, &client.Credentials{Username: "u", Password: tc.password}, true
		})
		got := words(s.Send(t.Context(), d, d.Envelope.Recipients, hosts("a.mx.test")))
		if got != tc.want {
			t.Errorf("%s: %s, want %s", tc.password, got, tc.want)
		}
		if m := srv.Messages(); len(m) == 1 && m[0].User != "u" {
			t.Errorf("sent as %q", m[0].User)
		}
		if strings.Contains(got, "delayed") != strings.Contains(log.String(), "level=WARN") || strings.Contains(log.String(), tc.password) && tc.password == "wrong" {
			t.Errorf("log: %s", log.String())
		}
	}
}

func TestLMTP(t *testing.T) {
	srv := clienttest.Start(t, clienttest.Options{LMTP: true},
		rule("RCPT TO:<b@", "550 5.1.1 who"), rule(". c@", "452 4.2.2 full"), cut(". d@"))
	w := &world{at: map[string]*clienttest.Server{"192.0.2.1:25": srv}}
	d := delivery(t, "a@o.test", "b@o.test", "c@o.test", "d@o.test", "e@o.test")
	s := sender(t, w, func(s *Sender) { s.Client.LMTP, s.Done, s.Own, s.TLS.Mode = true, queue.Delivered, true, TLSOff })
	var taken []string
	d.Taken = func(rs []*mail.Recipient) {
		for _, r := range rs {
			taken = append(taken, r.Address.Local)
		}
	}
	got := words(s.Send(t.Context(), d, d.Envelope.Recipients, hosts("a.mx.test")))
	if len(taken) != 1 || taken[0] != "a" {
		t.Errorf("taken: %v", taken)
	}
	const h = " a.mx.test"
	if want := "delivered 250 2.0.0" + h + "\nfailed 550 5.1.1" + h + "\ndelayed 452 4.2.2" + h + "\ndelayed 451 4.4.2" + h + " in doubt\ndelayed 451 4.4.2" + h + " in doubt"; got != want {
		t.Errorf("got\n%s", got)
	}
}

// TestTimeAtTheMailbox: a mail store is the end of the way, whatever it knows of
// RFC 2852; another host has to know it.
func TestTimeAtTheMailbox(t *testing.T) {
	for _, lmtp := range []bool{true, false} {
		srv := clienttest.Start(t, clienttest.Options{LMTP: lmtp, Extensions: []string{"PIPELINING"}})
		s := sender(t, &world{at: map[string]*clienttest.Server{"192.0.2.1:25": srv}}, func(s *Sender) {
			if s.Client.LMTP = lmtp; lmtp {
				s.Done = queue.Delivered
			}
		})
		d := delivery(t, "x@o.test")
		d.Envelope.DeliverBy, d.Envelope.DeliverByReturn = time.Now().Add(time.Hour), true
		want := map[bool]string{true: "delivered 250 2.0.0 a.mx.test", false: "failed 554 5.4.7 "}[lmtp]
		if got := words(s.Send(t.Context(), d, d.Envelope.Recipients, hosts("a.mx.test"))); got != want {
			t.Errorf("LMTP %t: %s, want %s", lmtp, got, want)
		}
	}
}
