package match_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	_ "github.com/caddymail/caddy-smtp/handlers/match/authenticated"
	_ "github.com/caddymail/caddy-smtp/handlers/match/expression"
	_ "github.com/caddymail/caddy-smtp/handlers/match/header"
	_ "github.com/caddymail/caddy-smtp/handlers/match/helo"
	_ "github.com/caddymail/caddy-smtp/handlers/match/localport"
	_ "github.com/caddymail/caddy-smtp/handlers/match/lookup"
	_ "github.com/caddymail/caddy-smtp/handlers/match/mailfrom"
	_ "github.com/caddymail/caddy-smtp/handlers/match/mailfromdomain"
	_ "github.com/caddymail/caddy-smtp/handlers/match/not"
	_ "github.com/caddymail/caddy-smtp/handlers/match/rcpt"
	_ "github.com/caddymail/caddy-smtp/handlers/match/rcptdomain"
	_ "github.com/caddymail/caddy-smtp/handlers/match/remoteip"
	_ "github.com/caddymail/caddy-smtp/handlers/match/size"
	_ "github.com/caddymail/caddy-smtp/handlers/match/tls"
	_ "github.com/caddymail/caddy-smtp/handlers/table/inline"
	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

// point is a point at which everything is known.
func point(t *testing.T) *session.Point {
	t.Helper()
	addr := func(s string) mail.Address {
		a, err := mail.ParseAddress(s)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	m, err := message.Parse([]byte("Subject: You have\r\n won\r\nX-Spam: no\r\nX-Spam: Yes, 9.1\r\n\r\nhello\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	s := &session.Session{
		Remote: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 1}, Local: &net.TCPAddr{IP: net.IPv6loopback, Port: 587},
		Hello: "Mail.Example.ORG", ESMTP: true, User: "alice@example.org", Method: "PLAIN",
		TLS: &tls.ConnectionState{Version: tls.VersionTLS12, ServerName: "mx.example.org"},
	}
	r := mail.NewRecipient(addr("Bob+tag@bücher.example"))
	tx := &session.Transaction{Session: s, Envelope: &mail.Envelope{From: addr("News-7@lists.example.org"), Recipients: []*mail.Recipient{r}},
		Results: []session.Result{{Method: "spf", Value: "pass"}, {Method: "dnsbl", Value: "listed"}}}
	return &session.Point{Session: s, Transaction: tx, Recipient: r, Message: m}
}

type host struct {
	Match []caddy.ModuleMap `json:"match,omitempty" caddy:"namespace=smtp.matchers"`
}

// read reads the matchers of a named set.
func read(in string) (*host, error) {
	d := caddyfile.NewTestDispenser("@m " + in)
	d.Next()
	set, err := caddyopt.MatcherSet(d, "smtp.matchers")
	return &host{[]caddy.ModuleMap{set}}, err
}

// load reads and provisions one matcher.
func load(t *testing.T, in string) (session.Matcher, string, error) {
	t.Helper()
	h, err := read(in)
	if err != nil {
		return nil, "", err
	}
	b, err := json.Marshal(h.Match[0])
	if err != nil {
		t.Fatal(err)
	}
	var again host
	if err := caddy.StrictUnmarshalJSON([]byte(`{"match":[`+string(b)+`]}`), &again); err != nil {
		t.Fatal(err)
	}
	before := unprovisioned(t, again.Match[0])
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	sets, err := caddyopt.LoadSets[session.Matcher](ctx, &again, "Match")
	if err != nil {
		return nil, "", err
	}
	m := sets[0][0]
	if before.Stage() != m.Stage() || perRecipient(before) != perRecipient(m) {
		t.Errorf("%s: at %s before and %s after it was provisioned", in, before.Stage(), m.Stage())
	}
	return m, string(b), nil
}

func unprovisioned(t *testing.T, set caddy.ModuleMap) session.Matcher {
	t.Helper()
	for name, raw := range set {
		info, err := caddy.GetModule("smtp.matchers." + name)
		if err != nil {
			t.Fatal(err)
		}
		m := info.New()
		if err := json.Unmarshal(raw, m); err != nil {
			t.Fatal(err)
		}
		return m.(session.Matcher)
	}
	return nil
}

func perRecipient(m session.Matcher) bool {
	p, ok := m.(session.RecipientMatcher)
	return ok && p.PerRecipient()
}

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		in    string
		json  string
		stage session.Stage
		want  bool
	}{
		{"remote_ip 192.0.2.0/24", `{"remote_ip":{"ranges":["192.0.2.0/24"]}}`, session.StageConnect, true},
		{"remote_ip 192.0.2.8 2001:db8::/32", "", session.StageConnect, false},
		{"remote_ip ::ffff:192.0.2.7", "", session.StageConnect, true},
		{"remote_ip private_ranges", `{"remote_ip":{"ranges":["private_ranges"]}}`, session.StageConnect, false},
		{"{\nremote_ip 10.0.0.0/8\nremote_ip 192.0.2.7\n}", `{"remote_ip":{"ranges":["10.0.0.0/8","192.0.2.7"]}}`, session.StageConnect, true},
		{"local_port 25 587", `{"local_port":[25,587]}`, session.StageConnect, true},
		{"local_port 25", "", session.StageConnect, false},
		{"helo mail.example.org", `{"helo":["mail.example.org"]}`, session.StageHello, true},
		{"helo x *.example.ORG", "", session.StageHello, true},
		{"helo example.org", "", session.StageHello, false},
		{"tls", `{"tls":{}}`, session.StageAuth, true},
		{"tls {\nmin tls1.2\nserver_name mx.*\n}", `{"tls":{"min":"tls1.2","server_names":["mx.*"]}}`, session.StageAuth, true},
		{"tls {\nmin tls1.3\n}", "", session.StageAuth, false},
		{"tls {\nserver_name other\n}", "", session.StageAuth, false},
		{"tls {\nclient_certificate\n}", `{"tls":{"client_certificate":true}}`, session.StageAuth, false},
		{"authenticated", `{"authenticated":{}}`, session.StageMail, true},
		{"authenticated bob *@example.org", `{"authenticated":{"users":["bob","*@example.org"]}}`, session.StageMail, true},
		{"authenticated bob", "", session.StageMail, false},
		{"mail_from news-*@lists.example.org", `{"mail_from":["news-*@lists.example.org"]}`, session.StageMail, true},
		{"mail_from *@example.org <>", "", session.StageMail, false},
		{"mail_from_domain *.example.org", `{"mail_from_domain":["*.example.org"]}`, session.StageMail, true},
		{"mail_from_domain example.org", "", session.StageMail, false},
		{"rcpt bob+*@*", `{"rcpt":["bob+*@*"]}`, session.StageRcpt, true},
		{"rcpt bob", "", session.StageRcpt, false},
		{"rcpt_domain other.example bücher.example", `{"rcpt_domain":["other.example","bücher.example"]}`, session.StageRcpt, true},
		{"rcpt_domain xn--bcher-kva.example", "", session.StageRcpt, true},
		{"rcpt_domain example", "", session.StageRcpt, false},
		{"size {\nmin 1\nmax 1KB\n}", `{"size":{"min":1,"max":1000}}`, session.StageMessage, true},
		{"size {\nmin 1KB\n}", "", session.StageMessage, false},
		{"size {\nmax 10\n}", "", session.StageMessage, false},
		{"header Subject", `{"header":[{"name":"Subject"}]}`, session.StageMessage, true},
		{"header subject *have*won", "", session.StageMessage, true},
		{"header X-Spam yes*", "", session.StageMessage, true},
		{"header X-Spam regexp ^Yes", `{"header":[{"name":"X-Spam","regexp":"^Yes"}]}`, session.StageMessage, true},
		{"header X-Spam regexp ^yes", "", session.StageMessage, false},
		{"header Absent", "", session.StageMessage, false},
		{"{\nheader X-Spam maybe\nheader x-spam no\n}", "", session.StageMessage, true},
		{"{\nheader X-Spam no\nheader Subject lost\n}", "", session.StageMessage, false},
		{"not helo x", `{"not":{"match":[{"helo":["x"]}]}}`, session.StageHello, true},
		{"not {\ntls\nrcpt_domain *\n}", "", session.StageRcpt, false},
		{"not {\nlocal_port 25\nrcpt_domain *\n}", "", session.StageRcpt, true},
		{"{\nnot local_port 25\nnot helo *\n}", `{"not":{"match":[{"local_port":[25]},{"helo":["*"]}]}}`, session.StageHello, false},
		{"not not rcpt *@*", "", session.StageRcpt, true},
		{"lookup rcpt_domain inline {\nxn--bcher-kva.example\n}",
			`{"lookup":{"subject":"rcpt_domain","table":{"entries":{"xn--bcher-kva.example":[]},"table":"inline"}}}`, session.StageRcpt, true},
		{"lookup rcpt inline {\nbob+tag@xn--bcher-kva.example\n}", "", session.StageRcpt, true},
		{"lookup mail_from_domain inline {\n.example.org\n}", "", session.StageMail, true},
		{"lookup mail_from_domain inline {\nexample.org\n}", "", session.StageMail, false},
		{"lookup mail_from inline {\n<>\n}", "", session.StageMail, false},
		{"lookup user inline {\nalice@example.org\n}", "", session.StageMail, true},
		{"lookup remote_ip inline {\n192.0.2.7\n}", "", session.StageConnect, true},
		{"lookup helo inline {\n.org\n}", "", session.StageHello, true},
		{"expression `local_port == 587`", `{"expression":{"expr":"local_port == 587"}}`, session.StageConnect, true},
		{"`helo == 'Mail.Example.ORG' && esmtp`", `{"expression":{"expr":"helo == 'Mail.Example.ORG' \u0026\u0026 esmtp"}}`, session.StageHello, true},
	} {
		m, js, err := load(t, c.in)
		if err != nil {
			t.Errorf("%s: %v", c.in, err)
			continue
		}
		if c.json != "" && js != c.json {
			t.Errorf("%s: %s, want %s", c.in, js, c.json)
		}
		if got := m.Stage(); got != c.stage {
			t.Errorf("%s: decides at %s", c.in, got)
		}
		if got := perRecipient(m); got != (c.stage == session.StageRcpt) {
			t.Errorf("%s: per recipient %v", c.in, got)
		}
		if got, err := m.Match(context.Background(), point(t)); got != c.want || err != nil {
			t.Errorf("%s: %v %v", c.in, got, err)
		}
	}
}

// TestNothing is of a client on a unix socket in clear with the null
// reverse-path.
func TestNothing(t *testing.T) {
	p := point(t)
	p.Session.Remote, p.Session.Local, p.Session.TLS, p.Session.User = &net.UnixAddr{}, &net.UnixAddr{}, nil, ""
	p.Transaction.Envelope.From = mail.Address{}
	for in, want := range map[string]bool{
		"remote_ip 0.0.0.0/0 ::/0": false, "local_port 25": false, "tls": false, "authenticated *": false, "mail_from *@*": false,
		"mail_from <>": true, "mail_from_domain *": false, "lookup mail_from inline {\n<>\n}": true, "lookup remote_ip inline {\nx\n}": false,
		"lookup user inline {\nx\n}": false, "lookup mail_from_domain inline {\nx\n}": false, "`remote_ip == '' && local_port == 0`": true,
		"`tls || tls_client || tls_version + tls_server_name != ''`": false, "`mail_from == ''`": true,
	} {
		m, _, err := load(t, in)
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if got, err := m.Match(context.Background(), p); got != want || err != nil {
			t.Errorf("%s: %v %v", in, got, err)
		}
	}
}

func TestClientCertificate(t *testing.T) {
	p := point(t)
	p.Session.TLS.VerifiedChains = [][]*x509.Certificate{{{}}}
	m, _, err := load(t, "tls {\nclient_certificate\n}")
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := m.Match(context.Background(), p); !ok || err != nil {
		t.Error(ok, err)
	}
}

func TestErrors(t *testing.T) {
	const args = "wrong argument count or unexpected line ending"
	for in, want := range map[string]string{
		"remote_ip": args, "{\nhelo x\nremote_ip\n}": "after 'remote_ip', at Testfile:3", "remote_ip 192.0.2.0/33": "neither an address nor a network", "remote_ip me": "neither an address nor a network",
		"remote_ip ::ffff:10.0.0.0/100": "write networks of IPv4 as such", "remote_ip 10.0.0.1 {\nx\n}": args,
		"local_port": args, "local_port x": "'x' is not a port, at Testfile:1", "local_port 0": "not a port", "local_port 70000": "not a port",
		"helo": args, "tls on": args, "tls {\nmix tls1.3\n}": "unrecognized option 'mix', at Testfile:2", "tls {\nmin\n}": args, "tls {\nmin ssl3\n}": "'ssl3' is not a version",
		"authenticated {\nx\n}": "unrecognized option 'x'", "mail_from": args, "mail_from @": "'@' is not an address", "mail_from_domain": args, "mail_from_domain a@b": "'a@b' is not a domain",
		"rcpt": args, "rcpt <a@b.example>": "is not an address", "rcpt_domain": args, "rcpt_domain -": "is not a domain", "rcpt_domain a {\nb\n}": args,
		"size": "size needs min or max", "size 10": args, "size {\nmax big\n}": "'big' is not a size, at Testfile:2",
		"header": args, "header a b c": args, "header a regexp (": "missing closing", "header a {\nb\n}": args,
		"not": args, "not nothing": "no module 'nothing' in smtp.matchers", "not rcpt": args,
		"lookup": args, "lookup rcpt": args, "lookup weather inline {\nx\n}": "'weather' cannot be looked up", "lookup rcpt none": "no module 'none' in smtp.tables",
		"{\nlookup rcpt inline {\nx\n}\nlookup user inline {\nx\n}\n}": "lookup is given twice",
		"expression": "wants one argument", "expression a == b": "wants one argument", "`nothing == 1`": "undeclared reference", "`1 + 1`": "its type is int, not bool",
		"`helo ==`": "Syntax error", "`helo == 1`": "no matching overload", "{\nexpression tls\nexpression tls\n}": "expression is given twice",
		"`header(1) == ''`": "no matching overload", "`header('a', 'b') == ''`": "no matching overload", "`@point == @point`": "Syntax error",
	} {
		if _, _, err := load(t, in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", in, err, want)
		}
	}
}

func TestExpression(t *testing.T) {
	for in, c := range map[string]struct {
		stage        session.Stage
		perRecipient bool
		want         bool
	}{
		"true": {session.StageConnect, false, true},
		"cidr('192.0.2.0/24').containsIP(remote_ip)":                                                                   {session.StageConnect, false, true},
		"tls && tls_version == 'TLS 1.2' && tls_server_name.endsWith('.org') && !tls_client":                           {session.StageAuth, false, true},
		"user == 'alice@example.org'":                                                                                  {session.StageMail, false, true},
		"mail_from.matches('^News-[0-9]+@') && mail_from_local == 'News-7' && mail_from_domain == 'lists.example.org'": {session.StageMail, false, true},
		"rcpt.startsWith('Bob+') && rcpt_local == 'Bob+tag'":                                                           {session.StageRcpt, true, true},
		"idn('a@bücher.test') == 'a@xn--bcher-kva.test' && idn(rcpt_domain) == rcpt_domain":                            {session.StageRcpt, true, true},
		"size > 10 && size < 1000":                                                                                     {session.StageMessage, false, true},
		"header('subject') == 'You have won' && rcpt_domain.endsWith('.example')":                                      {session.StageMessage, true, true},
		"headers('x-spam').exists(v, v.startsWith('Yes')) && header('absent') == ''":                                   {session.StageMessage, false, true},
		"size(headers('absent')) == 0":                                                                                 {session.StageMessage, false, true},
		"result('spf') == 'pass' && result('dkim') == ''":                                                              {session.StageMessage, false, true},
		"result('dnsbl') == 'listed'":                                                                                  {session.StageRcpt, false, true},
		"result('dns' + 'bl') == 'listed'":                                                                             {session.StageMessage, false, true},
		"[1].exists(rcpt, rcpt == 2)":                                                                                  {session.StageRcpt, true, false},
	} {
		m, _, err := load(t, "`"+in+"`")
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if m.Stage() != c.stage || perRecipient(m) != c.perRecipient {
			t.Errorf("%s: %s %v", in, m.Stage(), perRecipient(m))
		}
		if got, err := m.Match(context.Background(), point(t)); got != c.want || err != nil {
			t.Errorf("%s: %v %v", in, got, err)
		}
	}
}

func TestExpressionIsBounded(t *testing.T) {
	l := "[" + strings.Repeat("1,", 100) + "1]"
	m, _, err := load(t, "`"+l+".all(a, "+l+".all(b, "+l+".all(c, a + b + c + local_port > 0)))`")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Match(context.Background(), point(t)); err == nil || !strings.Contains(err.Error(), "cost limit") {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := m.Match(ctx, point(t)); err == nil {
		t.Error("went on in a context that is done")
	}
}
