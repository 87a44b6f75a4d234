package dmarc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/arc"
	"github.com/caddymail/caddy-smtp/smtpapp/dns/dnstest"
	"github.com/caddymail/caddy-smtp/smtpapp/env"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func theZone() *dnstest.Zone {
	z := &dnstest.Zone{TXT: map[string][]string{}, Fail: map[string]bool{"_dmarc.fail.test": true}}
	for d, txt := range map[string]string{
		"reject.test": "p=reject", "quarantine.test": "p=quarantine", "none.test": "p=none", "testing.test": "p=reject; t=y", "nobody.test": "p=reject; pct=0",
		"strict.test": "p=reject; adkim=s", "wrong.test": "p=x",
	} {
		z.TXT["_dmarc."+d] = []string{"v=DMARC1; " + txt}
	}
	return z
}

func provisioned(t *testing.T, h *Handler) *Handler {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: env.NewContext(context.Background(), &env.Env{Resolver: theZone()})})
	t.Cleanup(cancel)
	if err := h.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	return h
}

// spf and dkim are results as those handlers leave them.
func spf(value, from string) session.Result {
	return session.Result{Method: "spf", Value: value, Props: []session.Property{{Type: "smtp", Name: "mailfrom", Value: from}, {Type: "smtp", Name: "helo", Value: "helo.reject.test"}}}
}

func dkim(value, d string) session.Result {
	return session.Result{Method: "dkim", Value: value, Props: []session.Property{{Type: "header", Name: "d", Value: d}}}
}

func transaction(from string, rs ...session.Result) *session.Transaction {
	s := &session.Session{Remote: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 25}}
	tx := &session.Transaction{ID: "t1", Session: s, Envelope: new(mail.Envelope), Results: rs}
	if from != "" {
		tx.Envelope.From = mail.Address{Local: "a", Domain: from}
	}
	return tx
}

func content(t *testing.T, header string) *message.Message {
	t.Helper()
	m, err := message.Parse([]byte(strings.ReplaceAll(header, "\n", "\r\n") + "\r\n\r\nx\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// words is what a transaction's DMARC results say.
func words(tx *session.Transaction) string {
	var out []string
	for _, r := range tx.Results {
		if !strings.HasPrefix(r.Method, "dmarc") {
			continue
		}
		s := r.Value
		for _, p := range r.Props {
			s += " " + p.Value
		}
		out = append(out, s)
	}
	return strings.Join(out, "; ")
}

func code(err error) string {
	if r, ok := errors.AsType[*mail.Reply](err); ok {
		return fmt.Sprintf("%d %s", r.Code, r.Enh)
	}
	return fmt.Sprint(err)
}

const refused = "550 5.7.1"

// TestVerdicts is of case 46: every author counts, the worst wins.
func TestVerdicts(t *testing.T) {
	for name, tc := range map[string]struct {
		header  string
		from    string
		results []session.Result
		want    string // results
		reply   string
	}{
		"spf aligned":       {"From: a@reject.test", "reject.test", []session.Result{spf("pass", "x@bounce.reject.test")}, "pass reject.test none; none", ""},
		"spf of a domain":   {"From: a@reject.test", "reject.test", []session.Result{spf("pass", "reject.test")}, "pass reject.test none; none", ""},
		"spf of another":    {"From: a@reject.test", "x.test", []session.Result{spf("pass", "a@x.test")}, "fail reject.test reject; reject", refused},
		"spf fails":         {"From: a@reject.test", "reject.test", []session.Result{spf("softfail", "a@reject.test")}, "fail reject.test reject; reject", refused},
		"spf of helo":       {"From: a@reject.test", "", []session.Result{spf("pass", "")}, "pass reject.test none; none", ""},
		"helo does not do":  {"From: a@reject.test", "x.test", []session.Result{spf("pass", "a@x.test")}, "fail reject.test reject; reject", refused},
		"dkim aligned":      {"From: a@reject.test", "x.test", []session.Result{dkim("fail", "reject.test"), dkim("pass", "M.Reject.test")}, "pass reject.test none; none", ""},
		"dkim fails":        {"From: a@reject.test", "x.test", []session.Result{dkim("fail", "reject.test")}, "fail reject.test reject; reject", refused},
		"spf unknown":       {"From: a@reject.test", "reject.test", []session.Result{spf("temperror", "a@reject.test")}, "temperror reject.test none; none", ""},
		"dkim unknown":      {"From: a@reject.test", "x.test", []session.Result{dkim("temperror", "reject.test"), spf("fail", "a@x.test")}, "temperror reject.test none; none", ""},
		"unknown of others": {"From: a@reject.test", "x.test", []session.Result{dkim("temperror", "x.test"), spf("temperror", "a@x.test")}, "fail reject.test reject; reject", refused},
		"dkim strict":       {"From: a@strict.test", "x.test", []session.Result{dkim("pass", "m.strict.test")}, "fail strict.test reject; reject", refused},
		"quarantine":        {"From: a@quarantine.test", "x.test", nil, "fail quarantine.test quarantine; quarantine", ""},
		"none":              {"From: a@none.test", "x.test", nil, "fail none.test none; none", ""},
		"no record":         {"From: a@x.test", "x.test", nil, "none x.test; none", ""},
		"record is wrong":   {"From: a@wrong.test", "x.test", nil, "permerror wrong.test; none", ""},
		"dns":               {"From: a@fail.test", "x.test", nil, "temperror fail.test; none", ""},
		"testing":           {"From: a@testing.test", "x.test", nil, "fail testing.test quarantine; quarantine", ""},
		"pct":               {"From: a@nobody.test", "x.test", nil, "fail nobody.test quarantine; quarantine", ""},
		"U-label":           {"From: a@\u00fc.reject.test", "x.test", nil, "fail xn--tda.reject.test reject; reject", refused},
		"two From":          {"From: a@x.test\nFrom: a@reject.test", "x.test", []session.Result{dkim("pass", "x.test")}, "none x.test; fail reject.test reject; reject", refused},
		"two addresses":     {"From: a@reject.test, b@none.test", "x.test", []session.Result{dkim("pass", "none.test")}, "pass none.test none; fail reject.test reject; reject", refused},
		"worst is last":     {"From: a@reject.test, b@quarantine.test", "x.test", nil, "fail quarantine.test quarantine; fail reject.test reject; reject", refused},
		"all pass":          {"From: a@reject.test, b@none.test", "x.test", []session.Result{dkim("pass", "none.test"), dkim("pass", "reject.test")}, "pass none.test none; pass reject.test none; none", ""},
		"group":             {"From: us: a@reject.test;", "x.test", nil, "fail reject.test reject; reject", refused},
		"space":             {"From : a@reject.test", "x.test", nil, "fail reject.test reject; reject", refused},
		"no From":           {"Subject: x", "x.test", nil, "permerror; none", refused},
		"empty From":        {"From:", "x.test", nil, "permerror; none", refused},
		"authors unlimited": {"From: " + strings.Join(manyAuthors(11), ", "), "x.test", nil, "permerror; none", refused},
	} {
		h := provisioned(t, new(Handler))
		tx := transaction(tc.from, tc.results...)
		err := h.HandleMessage(t.Context(), tx, content(t, tc.header))
		got := words(tx)
		if tc.reply == "" {
			tc.reply = "<nil>"
		}
		if strings.Count(got, ";") > 1 && got != tc.want { // among equals, any order
			parts := strings.Split(got, "; ")
			parts[0], parts[1] = parts[1], parts[0]
			got = strings.Join(parts, "; ")
		}
		if got != tc.want || code(err) != tc.reply {
			t.Errorf("%s: got %q, %v\nwant %q, %s", name, got, err, tc.want, tc.reply)
		}
		// The same, only noted.
		h = provisioned(t, &Handler{Annotate: true})
		if err := h.HandleMessage(t.Context(), transaction(tc.from, tc.results...), content(t, tc.header)); err != nil || !h.OnlyAnnotates() {
			t.Errorf("%s, annotated: %v", name, err)
		}
	}
}

func manyAuthors(n int) (as []string) {
	for i := range n {
		as = append(as, fmt.Sprintf("a@a%d.test", i))
	}
	return as
}

func TestOptions(t *testing.T) {
	h := provisioned(t, &Handler{Quarantine: &Quarantine{Reject: true}})
	if err := h.HandleMessage(t.Context(), transaction("x.test"), content(t, "From: a@quarantine.test")); code(err) != refused {
		t.Errorf("quarantine reject: %v", err)
	}
	h = provisioned(t, &Handler{Quarantine: &Quarantine{Header: "X-Spam-Flag"}})
	m := content(t, "From: a@quarantine.test")
	if err := h.HandleMessage(t.Context(), transaction("x.test"), m); err != nil || m.Header.Get("X-Spam-Flag") != "quarantine" {
		t.Errorf("quarantine header: %v, %q", err, m.Header.Get("X-Spam-Flag"))
	}
	m = content(t, "From: a@none.test")
	if err := h.HandleMessage(t.Context(), transaction("x.test"), m); err != nil || m.Header.Count("X-Spam-Flag") != 0 {
		t.Errorf("nothing to quarantine: %v", err)
	}
	h = provisioned(t, &Handler{DeferTemperror: true})
	if err := h.HandleMessage(t.Context(), transaction("x.test"), content(t, "From: a@fail.test")); code(err) != "451 4.4.3" {
		t.Errorf("defer_temperror: %v", err)
	}
	tx := transaction("x.test")
	tx.Session.User = "alice"
	if err := h.HandleMessage(t.Context(), tx, content(t, "From: a@reject.test")); err != nil || len(tx.Results) != 0 {
		t.Errorf("our own user: %v, %v", err, tx.Results)
	}
}

func TestForwarders(t *testing.T) {
	for want, tc := range map[string]struct {
		forwarders []string
		results    []session.Result
	}{
		"fail reject.test none; none":     {[]string{"192.0.2.0/24"}, nil},
		"fail reject.test none; none ":    {[]string{"*.list.test"}, []session.Result{spf("pass", "a@mx.list.test")}},
		"fail reject.test none; none  ":   {[]string{"list.test"}, []session.Result{dkim("pass", "list.test")}},
		"fail reject.test reject; reject": {[]string{"198.51.100.1", "list.test"}, []session.Result{spf("fail", "a@list.test"), dkim("fail", "list.test")}},
	} {
		h := provisioned(t, &Handler{Forwarders: tc.forwarders})
		tx := transaction("mx.list.test", tc.results...)
		err := h.HandleMessage(t.Context(), tx, content(t, "From: a@reject.test"))
		if want = strings.TrimSpace(want); words(tx) != want || (err == nil) != strings.HasSuffix(want, "none") {
			t.Errorf("%v: got %q, %v, want %q", tc.forwarders, words(tx), err, want)
		}
	}
}

// TestForwardersSpelling: a forwarder is the same in every spelling of its domain.
func TestForwardersSpelling(t *testing.T) {
	spellings := []string{"bücher.test", "BÜCHER.test", "xn--bcher-kva.test", "XN--BCHER-KVA.test", "bu\u0308cher.test"}
	for _, written := range spellings {
		h := provisioned(t, &Handler{Forwarders: []string{"*." + written, written}})
		for _, said := range spellings {
			for _, r := range []session.Result{spf("pass", "a@mx."+said), dkim("pass", said)} {
				if err := h.HandleMessage(t.Context(), transaction("mx."+said, r), content(t, "From: a@reject.test")); err != nil {
					t.Errorf("%s in the configuration, %s said: %v", written, said, err)
				}
			}
		}
		tx := transaction("x.test", dkim("pass", "bucher.test"))
		if err := h.HandleMessage(t.Context(), tx, content(t, "From: a@reject.test")); err == nil {
			t.Error("another domain is the same")
		}
	}
}

// chain is the result of a chain that passes, each set as "domain results", a
// "+" before it for one that is trusted.
func chain(value string, sets ...string) session.Result {
	r := &arc.Result{Value: value}
	for i, s := range sets {
		name, results, _ := strings.Cut(s, " ")
		sealer, trusted := strings.CutPrefix(name, "+")
		r.Sets = append(r.Sets, &arc.Set{Instance: i + 1, Sealer: sealer, Selector: "s", Results: "mx." + sealer + "; " + results, Trusted: trusted})
	}
	return session.Result{Method: "arc", Value: value, Detail: r}
}

func TestTrustedChains(t *testing.T) {
	const pass = "dmarc=pass header.from=reject.test"
	for name, tc := range map[string]struct {
		arc  session.Result
		from string
		ok   bool
	}{
		"one":                        {chain("pass", "+a.test "+pass), "reject.test", true},
		"not trusted":                {chain("pass", "a.test "+pass), "reject.test", false},
		"chain fails":                {chain("fail", "+a.test "+pass), "reject.test", false},
		"two":                        {chain("pass", "+a.test "+pass, "+b.test dmarc=fail header.from=reject.test"), "reject.test", true},
		"a liar first":               {chain("pass", "evil.test "+pass, "+b.test dmarc=fail header.from=reject.test"), "reject.test", false},
		"a stranger in between":      {chain("pass", "+a.test "+pass, "evil.test dmarc=fail"), "reject.test", false},
		"another author":             {chain("pass", "+a.test dmarc=pass header.from=x.test"), "reject.test", false},
		"no author":                  {chain("pass", "+a.test dmarc=pass"), "reject.test", false},
		"failed there too":           {chain("pass", "+a.test dmarc=fail header.from=reject.test"), "reject.test", false},
		"dkim there":                 {chain("pass", "+a.test dkim=pass header.d=m.reject.test"), "reject.test", true},
		"dkim by i":                  {chain("pass", "+a.test dkim=pass header.i=@reject.test"), "reject.test", true},
		"spf there":                  {chain("pass", "+a.test spf=pass smtp.mailfrom=b@reject.test"), "reject.test", true},
		"spf of another":             {chain("pass", "+a.test spf=pass smtp.mailfrom=b@x.test"), "reject.test", false},
		"two authors, one vouched":   {chain("pass", "+a.test "+pass), "reject.test, b@strict.test", false},
		"two authors, both vouched ": {chain("pass", "+a.test "+pass+"; dkim=pass header.d=strict.test"), "reject.test, b@strict.test", true},
		"without detail":             {session.Result{Method: "arc", Value: "pass"}, "reject.test", false},
	} {
		h := provisioned(t, new(Handler))
		tx := transaction("x.test", tc.arc)
		m := content(t, "From: a@"+tc.from)
		v := h.check(t.Context(), tx, m)
		err := h.act(tx, m, v)
		if (err == nil) != tc.ok || (v.disposition == "none") != tc.ok {
			t.Errorf("%s: %v, %s", name, err, v.disposition)
		}
		if tc.ok && (len(v.overrides) != 1 || v.overrides[0].kind != localPolicy || !strings.HasPrefix(v.overrides[0].comment, "arc=pass as[")) {
			t.Errorf("%s: %+v", name, v.overrides)
		}
	}
	if got := chainComment(chain("pass", "a.test x", "b.test y").Detail.(*arc.Result)); got != "arc=pass as[2].d=b.test as[2].s=s as[1].d=a.test as[1].s=s" {
		t.Error(got)
	}
}

func TestOverrides(t *testing.T) {
	for from, want := range map[string]override{"testing.test": {testMode, ""}, "nobody.test": {otherReason, "pct=0"}} {
		v := provisioned(t, new(Handler)).check(t.Context(), transaction("x.test"), content(t, "From: a@"+from))
		if !slices.Equal(v.overrides, []override{want}) {
			t.Errorf("%s: %+v", from, v.overrides)
		}
	}
}

func TestCaddyfile(t *testing.T) {
	for in, ok := range map[string]bool{
		"dmarc": true,
		"dmarc {\nannotate\nmethod psl\nquarantine header X-Spam-Flag YES\nforwarders 192.0.2.0/24 *.list.test\ndefer_temperror\ntimeout 5s\n}": true,
		"dmarc {\nquarantine reject\n}":                         true,
		"dmarc x":                                               false,
		"dmarc {\nquarantine\n}":                                false,
		"dmarc {\nquarantine header\n}":                         false,
		"dmarc {\nquarantine header A b c\n}":                   false,
		"dmarc {\nquarantine reject\nquarantine reject\n}":      false,
		"dmarc {\nreject\n}":                                    false,
		"dmarc {\nmethod\n}":                                    false,
		"dmarc {\nquarantine header X-Spam-Flag YES {\nx\n}\n}": false,
	} {
		h := new(Handler)
		if err := h.UnmarshalCaddyfile(caddyfile.NewTestDispenser(in)); (err == nil) != ok {
			t.Errorf("%q: %v", in, err)
		}
		if h.DeferTemperror && (h.Quarantine.Header != "X-Spam-Flag" || h.Quarantine.Value != "YES" || h.Method != "psl" || len(h.Forwarders) != 2 || h.Timeout != caddy.Duration(5*time.Second)) {
			t.Errorf("%+v", h)
		}
	}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()
	for _, h := range []*Handler{
		{Method: "x"}, {Timeout: -1}, {Forwarders: []string{"a b"}}, {Quarantine: &Quarantine{Header: "a b"}}, {Quarantine: &Quarantine{Reject: true, Header: "A"}},
	} {
		if h.Provision(ctx) == nil {
			t.Errorf("%+v is taken", h)
		}
	}
}
