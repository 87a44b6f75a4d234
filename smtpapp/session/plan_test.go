package session

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

// when is a matcher made of a function.
type when struct {
	stage Stage
	rcpt  bool
	f     func(*Point) bool
}

func (w when) Stage() Stage       { return w.stage }
func (w when) PerRecipient() bool { return w.rcpt }
func (w when) Match(_ context.Context, p *Point) (bool, error) {
	return w.f(p), nil
}

func domain(d string) []Matcher {
	return []Matcher{when{StageRcpt, true, func(p *Point) bool { return p.Recipient.Address.Domain == d }}}
}

func larger(n int64) []Matcher {
	return []Matcher{when{StageMessage, false, func(p *Point) bool { return p.Message.Size() > n }}}
}

// Handlers that note that they ran.
type (
	onMail    func() error
	onRcpt    func(*Transaction, *mail.Recipient) error
	onMessage func(*Transaction, *message.Message) error
	note      func(*message.Message) // a message handler that never refuses
)

func (f onMail) HandleMail(context.Context, *Transaction) error { return f() }
func (f onMessage) HandleMessage(_ context.Context, tx *Transaction, m *message.Message) error {
	return f(tx, m)
}

func (f onRcpt) HandleRcpt(_ context.Context, tx *Transaction, r *mail.Recipient) error {
	return f(tx, r)
}

func (f note) OnlyAnnotates() bool { return true }
func (f note) HandleMessage(_ context.Context, _ *Transaction, m *message.Message) error {
	f(m)
	return nil
}

// claims is a delivery handler.
type claims struct {
	agent string
	all   bool
}

func (c claims) Agents() []string { return []string{c.agent} }
func (c claims) ClaimsAll() bool  { return c.all }
func (c claims) HandleRcpt(_ context.Context, _ *Transaction, r *mail.Recipient) error {
	r.Claim(c.agent)
	return nil
}

// refuses acts at every stage it is let to, but at one only, as reject does.
type refuses struct{}

func (refuses) StartsAt(route Stage, conditional bool) Stage {
	if !conditional {
		return StageRcpt
	}
	return route
}
func (refuses) HandleConnect(context.Context, *Session) error {
	return mail.Refuse(554, "5.7.1", "connect")
}
func (refuses) HandleMail(context.Context, *Transaction) error {
	return mail.Refuse(550, "5.7.1", "mail")
}
func (refuses) HandleRcpt(context.Context, *Transaction, *mail.Recipient) error {
	return mail.Refuse(550, "5.7.1", "rcpt")
}

func (refuses) HandleMessage(context.Context, *Transaction, *message.Message) error {
	return mail.Refuse(550, "5.7.1", "message")
}

func h(name string, m any) Handler { return Handler{Name: name, Module: m, Where: name} }

func line(set []Matcher, hs ...Handler) Route {
	r := Route{Handlers: hs, Where: hs[0].Name}
	if set != nil {
		r.Matchers = [][]Matcher{set}
	}
	return r
}

func handle(set []Matcher, hs ...Handler) Route {
	r := line(set, Handler{Name: "handle", Routes: []Route{line(nil, hs...)}, Where: "handle"})
	r.Group = "handle"
	return r
}

func TestCompileErrors(t *testing.T) {
	deliver := h("deliver", claims{"a", true})
	for name, tc := range map[string]struct {
		routes []Route
		want   string
	}{
		"too early": {
			[]Route{line(domain("x"), h("greylist", onMail(func() error { return nil })))},
			"greylist: greylist acts at MAIL, before its matcher can decide at RCPT",
		},
		"too early by an outer route": {
			[]Route{line(larger(1), Handler{Name: "route", Routes: []Route{line(nil, deliver)}})},
			"deliver: deliver acts at RCPT, before its matcher can decide at message",
		},
		"no stage":       {[]Route{line(nil, h("odd", struct{}{}))}, "odd: odd handles no stage"},
		"two catch-alls": {[]Route{handle(nil, deliver), handle(nil, h("d", claims{"b", true}))}, "handle: unreachable"},
		"behind a terminal catch-all": {
			[]Route{{Handlers: []Handler{h("a", onMail(nil))}, Terminal: true, Where: "first"}, line(nil, h("b", onMail(nil)))},
			"b: unreachable: the route at first matches everything",
		},
		"nobody left to claim": {[]Route{line(nil, deliver), line(domain("x"), h("relay", claims{"r", false}))}, "relay: unreachable: deliver"},
		"fine":                 {[]Route{line(domain("x"), deliver), line(nil, h("relay", claims{"r", false}))}, ""},
	} {
		_, err := Compile(tc.routes)
		if got := errText(err); !strings.HasPrefix(got, tc.want) || (tc.want == "") != (got == "") {
			t.Errorf("%s: got %q, want %q", name, got, tc.want)
		}
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// accepted is a queue that keeps what it gets.
type accepted struct{ objects []*message.Object }

func (a *accepted) Accept(_ context.Context, o []*message.Object) (string, error) {
	a.objects = append(a.objects, o...)
	return "Q1", nil
}

// to returns the recipients of each object.
func (a *accepted) to() []string {
	var out []string
	for _, o := range a.objects {
		var rs []string
		for _, r := range o.Envelope.Recipients {
			s := r.Address.String()
			if r.Refused != nil {
				s += " refused"
			}
			rs = append(rs, s)
		}
		out = append(out, strings.Join(rs, " "))
	}
	slices.Sort(out)
	return out
}

// newTest returns a session in the middle of a transaction.
func newTest(t *testing.T, trusted bool, routes ...Route) (*Session, *accepted) {
	t.Helper()
	plan, err := Compile(routes)
	if err != nil {
		t.Fatal(err)
	}
	q := new(accepted)
	cfg := &Config{
		Server: "test", Hostname: "mx.example.test", Plan: plan, Accept: q, Limits: Limits{Hops: 5, Recipients: 100},
		NewID: func() string { return "T1" }, Log: slog.New(slog.DiscardHandler),
	}
	if trusted {
		cfg.Trusted = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	}
	s := &Session{Remote: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1}, Hello: "client.test", ESMTP: true, Log: cfg.Log, cfg: cfg}
	return s, q
}

// send runs a whole transaction and returns the replies to MAIL, each RCPT and
// the content.
func send(t *testing.T, s *Session, content string, to ...string) []string {
	t.Helper()
	replies := []string{}
	say := func(err error) bool {
		r := "250"
		if err != nil {
			r = mail.ReplyFor(err).Error()
		}
		replies = append(replies, r[:3])
		return err == nil
	}
	if !say(s.stageMail(t.Context(), &mail.Envelope{From: mail.Address{Local: "s", Domain: "from.test"}})) {
		return replies
	}
	for _, a := range to {
		addr, err := mail.ParseAddress(a)
		if err != nil {
			t.Fatal(err)
		}
		say(s.stageRcpt(t.Context(), mail.NewRecipient(addr)))
	}
	if len(s.tx.Envelope.Recipients) == 0 {
		return replies
	}
	m, err := message.Parse([]byte(content))
	if err != nil {
		t.Fatal(err)
	}
	say(s.stageMessage(t.Context(), m))
	return replies
}

const hello = "From: s@from.test\r\nSubject: hello\r\n\r\nbody\r\n"

func TestClaims(t *testing.T) {
	s, q := newTest(t, false,
		line(domain("a.test"), h("deliver", claims{"local", true})),
		line(nil, h("reject", refuses{})))
	got := send(t, s, hello, "x@a.test", "x@b.test")
	if want := []string{"250", "250", "550", "250"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if len(q.objects) != 1 || q.objects[0].Envelope.Recipients[0].Agent != "local" {
		t.Errorf("got %v", q.to())
	}
	rec := q.objects[0].Content.Header.Get("Received")
	for _, part := range []string{"from client.test ([192.0.2.1])", "by mx.example.test", "with ESMTP", "id T1", "for <x@a.test>"} {
		if !strings.Contains(rec, part) {
			t.Errorf("Received lacks %q: %s", part, rec)
		}
	}
}

func TestUnclaimedIsRefused(t *testing.T) {
	s, _ := newTest(t, true)
	if got := send(t, s, hello, "x@b.test"); !slices.Equal(got, []string{"250", "550"}) {
		t.Errorf("got %v", got)
	}
}

func TestFirstMatchOfGroup(t *testing.T) {
	mark := func(v string) Handler {
		return h("mark", note(func(m *message.Message) { m.Header.Prepend("X-Mark", v) }))
	}
	s, q := newTest(t, false,
		handle(domain("a.test"), mark("a"), h("deliver", claims{"a", true})),
		handle(nil, mark("rest"), h("deliver", claims{"rest", true})))
	if got := send(t, s, hello, "x@a.test", "x@b.test", "y@a.test"); !slices.Equal(got, []string{"250", "250", "250", "250", "250"}) {
		t.Fatalf("got %v", got)
	}
	if want := []string{"x@a.test y@a.test", "x@b.test"}; !slices.Equal(q.to(), want) {
		t.Fatalf("got %q, want %q", q.to(), want)
	}
	for _, o := range q.objects {
		want := map[string]string{"a": "a", "rest": "rest"}[o.Envelope.Recipients[0].Agent]
		if got := o.Content.Header.Values("X-Mark"); !slices.Equal(got, []string{want}) {
			t.Errorf("%s: got %v, want %s", o.Envelope.Recipients[0].Address, got, want)
		}
	}
}

// TestDecisionHolds: a route that was decided for a recipient stays so at the
// message stage, though a handler has rewritten the address.
func TestDecisionHolds(t *testing.T) {
	rewrite := onRcpt(func(_ *Transaction, r *mail.Recipient) error {
		r.Rewrite(mail.Address{Local: "x", Domain: "elsewhere.test"})
		return nil
	})
	marked := 0
	s, _ := newTest(t, false, handle(domain("a.test"), h("rewrite", rewrite), h("deliver", claims{"a", true}), h("mark", note(func(*message.Message) { marked++ }))))
	if got := send(t, s, hello, "x@a.test"); !slices.Equal(got, []string{"250", "250", "250"}) || marked != 1 {
		t.Errorf("got %v, marked %d", got, marked)
	}
}

func TestExpand(t *testing.T) {
	alias := onRcpt(func(tx *Transaction, r *mail.Recipient) error {
		if r.Address.Local == "all" {
			tx.Expand(r, mail.Address{Local: "x", Domain: "a.test"}, mail.Address{Local: "y", Domain: "a.test"}, mail.Address{Local: "dead", Domain: "b.test"})
		}
		if r.Address.Local == "both" {
			tx.Expand(r, mail.Address{Local: "x", Domain: "a.test"}, mail.Address{Local: "y", Domain: "a.test"})
		}
		return nil
	})
	s, q := newTest(t, false, line(nil, h("aliases", alias)), line(domain("a.test"), h("deliver", claims{"a", true})))
	got := send(t, s, hello, "all@a.test", "both@a.test", "x@a.test")
	if !slices.Equal(got, []string{"250", "550", "250", "250", "250"}) {
		t.Fatalf("got %v: a dead target refuses the alias", got)
	}
	if want := []string{"x@a.test y@a.test"}; !slices.Equal(q.to(), want) {
		t.Errorf("got %q, want %q: nobody twice", q.to(), want)
	}
	if r := q.objects[0].Envelope.Recipients[0]; !r.Expanded || r.Given.Local != "both" {
		t.Errorf("got %+v", r)
	}
}

func TestExpansionIsBounded(t *testing.T) {
	for name, n := range map[string]int{"loop": 1, "bomb": 3} {
		alias := onRcpt(func(tx *Transaction, r *mail.Recipient) error {
			tx.Expand(r, slices.Repeat([]mail.Address{r.Address}, n*1000)...)
			return nil
		})
		var routes []Route
		for range 5 {
			routes = append(routes, line(nil, h("aliases", alias)))
		}
		s, _ := newTest(t, false, append(routes, line(nil, h("deliver", claims{"a", true})))...)
		if got := send(t, s, hello, "x@a.test"); got[1] != "550" {
			t.Errorf("%s: got %v", name, got)
		}
	}
}

// TestStrangersShareOneReply: whoever may be refused differently waits.
func TestStrangersShareOneReply(t *testing.T) {
	routes := []Route{
		line(domain("strict.test"), h("filter", onMessage(func(*Transaction, *message.Message) error { return mail.Refuse(550, "5.7.1", "spam") }))),
		line(nil, h("deliver", claims{"a", true})),
	}
	s, q := newTest(t, false, routes...)
	if got := send(t, s, hello, "x@a.test", "x@strict.test", "y@a.test"); !slices.Equal(got, []string{"250", "250", "452", "250", "250"}) {
		t.Errorf("stranger: got %v", got)
	}
	if got := send(t, s, hello, "x@strict.test"); !slices.Equal(got, []string{"250", "250", "550"}) {
		t.Errorf("stranger, apart: got %v", got)
	}
	if want := []string{"x@a.test y@a.test"}; !slices.Equal(q.to(), want) {
		t.Errorf("got %q, want %q", q.to(), want)
	}

	s, q = newTest(t, true, routes...)
	if got := send(t, s, hello, "x@a.test", "x@strict.test"); !slices.Equal(got, []string{"250", "250", "250", "250"}) {
		t.Errorf("own user: got %v", got)
	}
	if want := []string{"x@a.test", "x@strict.test refused"}; !slices.Equal(q.to(), want) {
		t.Errorf("own user: got %q, want %q", q.to(), want)
	}
	s, _ = newTest(t, true, routes...)
	if got := send(t, s, hello, "x@strict.test"); got[2] != "550" {
		t.Errorf("own user, all refused: got %v", got)
	}
}

// TestRejectActsOnce: at its route's stage, and without a matcher at RCPT.
func TestRejectActsOnce(t *testing.T) {
	deliver := line(nil, h("deliver", claims{"a", false}))
	for name, tc := range map[string]struct {
		set  []Matcher
		want []string
	}{
		"sender":  {[]Matcher{when{StageMail, false, func(*Point) bool { return true }}}, []string{"550"}},
		"nothing": {nil, []string{"250", "550"}},
		"size":    {larger(1), []string{"250", "250", "550"}},
		"larger":  {larger(1 << 30), []string{"250", "250", "250"}},
	} {
		s, _ := newTest(t, false, line(tc.set, h("reject", refuses{})), deliver)
		if got := send(t, s, hello, "x@a.test"); !slices.Equal(got, tc.want) {
			t.Errorf("%s: got %v, want %v", name, got, tc.want)
		}
	}
	s, _ := newTest(t, false, line(nil, h("reject", refuses{})))
	if err := s.stageConnect(t.Context()); err != nil {
		t.Errorf("without a matcher it refused the connection: %v", err)
	}
}

func TestMailLoop(t *testing.T) {
	s, _ := newTest(t, false, line(nil, h("deliver", claims{"a", true})))
	if got := send(t, s, strings.Repeat("Received: by x\r\n", 6)+hello, "x@a.test"); got[2] != "554" {
		t.Errorf("got %v", got)
	}
}

// TestFaultsAreOurs: an error that is no reply is temporary and says nothing.
func TestFaultsAreOurs(t *testing.T) {
	s, _ := newTest(t, false, line(nil, h("broken", onRcpt(func(*Transaction, *mail.Recipient) error { return net.ErrClosed }))), line(nil, h("d", claims{"a", true})))
	if got := send(t, s, hello, "x@a.test"); !slices.Equal(got, []string{"250", "451"}) {
		t.Errorf("got %v", got)
	}
}

func TestAuthenticationResults(t *testing.T) {
	s, q := newTest(t, false, line(nil, h("spf", resultOf{})), line(nil, h("deliver", claims{"a", true})))
	s.cfg.AuthservID = "mail.example.test"
	forged := "Authentication-Results: mx.example.test; spf=pass\r\nAuthentication-Results: other.test; spf=pass\r\n" +
		"AUTHENTICATION-Results : (x) \"MAIL.example\\.test\"\r\n\t1; spf=pass\r\n"
	send(t, s, forged+hello, "x@a.test")
	got := q.objects[0].Content.Header.Values("Authentication-Results")
	want := []string{`mail.example.test; spf=fail (x\(\)) reason="a \"b\" c" smtp.mailfrom="x;y"`, "other.test; spf=pass"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

type resultOf struct{}

func (resultOf) HandleMail(_ context.Context, tx *Transaction) error {
	tx.Results = append(tx.Results,
		Result{Method: "spf", Value: "fail", Comment: "x()", Reason: "a \"b\"\nc", Props: []Property{{Type: "smtp", Name: "mailfrom", Value: "x;y"}}},
		Result{Method: "score", Value: "3", Private: true})
	return nil
}

// TestOnEnd: a handler hears once for each fork whether the message was taken,
// even if a later handler refuses it.
func TestOnEnd(t *testing.T) {
	var ends []bool
	hears := onMessage(func(tx *Transaction, _ *message.Message) error {
		tx.OnEnd(func(accepted bool) { ends = append(ends, accepted) })
		return nil
	})
	picky := onMessage(func(_ *Transaction, m *message.Message) error {
		switch m.Header.Get("Subject") {
		case "no":
			return mail.Refuse(550, "5.7.1", "no")
		case "panic":
			panic("in a handler")
		}
		return nil
	})
	for subject, want := range map[string][]bool{"hello": {true}, "no": {false}, "panic": {false}} {
		ends = nil
		s, _ := newTest(t, true, line(nil, h("hears", hears)), line(nil, h("picky", picky)), line(nil, h("deliver", claims{"a", true})))
		func() {
			defer func() { _ = recover() }()
			send(t, s, "Subject: "+subject+"\r\n\r\n", "x@a.test", "y@b.test")
		}()
		if !slices.Equal(ends, want) {
			t.Errorf("%s: %v, want %v", subject, ends, want)
		}
	}
	ends = nil
	s, _ := newTest(t, true, line(nil, h("deliver", claims{"a", true})), line(domain("a.test"), h("note", note(func(*message.Message) {}))), line(nil, h("hears", hears)))
	if send(t, s, hello, "x@a.test", "y@b.test"); !slices.Equal(ends, []bool{true, true}) {
		t.Errorf("forked: %v", ends)
	}
	new(Transaction).end(true) // as in a handler's own tests
}

// TestNeedlessExtensions: what a client declares because it is offered does not
// bind the next hop.
func TestNeedlessExtensions(t *testing.T) {
	for name, tc := range map[string]struct {
		content, to string
		utf8        bool
		body        mail.Body
	}{
		"ASCII":            {hello, "x@a.test", false, mail.Body7Bit},
		"8-bit body":       {hello + "\xc3\xa4\r\n", "x@a.test", false, mail.Body8Bit},
		"UTF-8 header":     {"Subject: \xc3\xa4\r\n\r\n", "x@a.test", true, mail.Body8Bit},
		"UTF-8 recipient":  {hello, "\xc3\xa4@a.test", true, mail.Body8Bit}, // it stands in Received
		"A-label, no more": {hello, "x@xn--bcher-kva.test", false, mail.Body7Bit},
	} {
		s, q := newTest(t, true, line(nil, h("deliver", claims{"a", true})))
		if err := s.stageMail(t.Context(), &mail.Envelope{From: mail.Address{Local: "s", Domain: "from.test"}, UTF8: true, Body: mail.Body8Bit}); err != nil {
			t.Fatal(err)
		}
		a, err := mail.ParseAddress(tc.to)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.stageRcpt(t.Context(), mail.NewRecipient(a)); err != nil {
			t.Fatal(err)
		}
		m, err := message.Parse([]byte(tc.content))
		if err != nil {
			t.Fatal(err)
		}
		if r := s.stageMessage(t.Context(), m); r.Code != 250 {
			t.Fatal(r)
		}
		if env := q.objects[0].Envelope; env.UTF8 != tc.utf8 || env.Body != tc.body {
			t.Errorf("%s: got SMTPUTF8 %t, BODY=%s", name, env.UTF8, env.Body)
		}
	}
}

// verdict is a Verifier that says the same of everyone.
type verdict struct{ err error }

func (v verdict) Verify(context.Context, string, mail.Address) error { return v.err }

// TestRouteTo: a message of our own goes where a stranger's would, or one of
// our users', and waits for a mailbox that cannot be asked now.
func TestRouteTo(t *testing.T) {
	own := onRcpt(func(tx *Transaction, r *mail.Recipient) error {
		if tx.Session.User != "" {
			r.Claim("out")
		}
		return nil
	})
	s, _ := newTest(t, false, line(domain("a.test"), h("deliver", claims{"local", true})), line(nil, h("relay", own)))
	for name, tc := range map[string]struct {
		own    bool
		to     string
		verify error
		want   string
	}{
		"local":             {false, "x@a.test", nil, "local"},
		"elsewhere":         {false, "x@b.test", nil, ""},
		"elsewhere, as own": {true, "x@b.test", nil, "out"},
		"nobody":            {false, "x@a.test", mail.Refuse(550, "5.1.1", "no"), ""},
		"cannot be asked":   {false, "x@a.test", mail.Refuse(451, "4.4.1", "down"), "local"},
	} {
		s.cfg.Verify = verdict{tc.verify}
		a, err := mail.ParseAddress(tc.to)
		if err != nil {
			t.Fatal(err)
		}
		rs, err := RouteTo(t.Context(), s.cfg, tc.own, a)
		got := ""
		if len(rs) > 0 {
			got = rs[0].Agent
		}
		if got != tc.want || (err == nil) != (tc.want != "") {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
	}
}
