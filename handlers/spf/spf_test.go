package spf

import (
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/caddymail/caddy-smtp/smtpapp/dns/dnstest"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/refusal"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

var zone = &dnstest.Zone{
	TXT: map[string][]string{
		"good.test": {"v=spf1 ip4:192.0.2.1 -all"}, "bad.test": {"v=spf1 -all"}, "soft.test": {"v=spf1 ~all"}, "wrong.test": {"v=spf1 foo"}, "helo.test": {"v=spf1 +all"},
	},
	Fail: map[string]bool{"gone.test": true},
}

func transaction(hello, from string) *session.Transaction {
	s := &session.Session{Remote: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1}, Hello: hello}
	tx := &session.Transaction{Session: s, Envelope: new(mail.Envelope)}
	if from != "" {
		local, domain, _ := strings.Cut(from, "@")
		tx.Envelope.From = mail.Address{Local: local, Domain: domain}
	}
	return tx
}

func words(rs []session.Result) string {
	var out []string
	for _, r := range rs {
		out = append(out, r.Method+"="+r.Value+" "+r.Props[0].Type+"."+r.Props[0].Name+"="+r.Props[0].Value)
	}
	return strings.Join(out, "; ")
}

func TestHandler(t *testing.T) {
	strict := refusal.Options{Reject: []string{"fail", "softfail", "permerror"}, Defer: []string{"temperror"}}
	for _, tc := range []struct {
		hello, from   string
		h             Handler
		reply, result string
	}{
		{"helo.test", "a@good.test", Handler{Options: strict}, "", "spf=pass smtp.helo=helo.test; spf=pass smtp.mailfrom=a@good.test"},
		{"helo.test", "a@good.test", Handler{HELO: "off"}, "", "spf=pass smtp.mailfrom=a@good.test"},
		{"helo.test", "", Handler{HELO: "off"}, "", "spf=pass smtp.helo=helo.test"},
		{"[192.0.2.1]", "", Handler{Options: strict}, "", "spf=none smtp.helo=[192.0.2.1]"},
		{"helo.test", "a@bad.test", Handler{}, "", "spf=pass smtp.helo=helo.test; spf=fail smtp.mailfrom=a@bad.test"},
		{"helo.test", "a@bad.test", Handler{Options: strict}, "550 5.7.23 SPF: bad.test says that 192.0.2.1 may not send its mail", "spf=pass smtp.helo=helo.test; spf=fail smtp.mailfrom=a@bad.test"},
		{"helo.test", "a@bad.test", Handler{Options: refusal.Options{Defer: []string{"fail"}}}, "451 4.7.23", "spf=pass smtp.helo=helo.test; spf=fail smtp.mailfrom=a@bad.test"},
		{"bad.test", "a@good.test", Handler{Options: strict}, "550 5.7.23", "spf=fail smtp.helo=bad.test"},
		{"x.test", "a@soft.test", Handler{Options: strict}, "550 5.7.23", "spf=none smtp.helo=x.test; spf=softfail smtp.mailfrom=a@soft.test"},
		{"x.test", "a@wrong.test", Handler{Options: strict}, "550 5.7.24 SPF: permerror for wrong.test: syntax error in the policy", "spf=none smtp.helo=x.test; spf=permerror smtp.mailfrom=a@wrong.test"},
		{"x.test", "a@gone.test", Handler{Options: strict}, "451 4.7.24 SPF: temperror for gone.test: temporary failure of DNS", "spf=none smtp.helo=x.test; spf=temperror smtp.mailfrom=a@gone.test"},
		{"x.test", "a@gone.test", Handler{}, "", "spf=none smtp.helo=x.test; spf=temperror smtp.mailfrom=a@gone.test"},
	} {
		h, tx := tc.h, transaction(tc.hello, tc.from)
		h.resolver = zone
		err := h.HandleMail(t.Context(), tx)
		reply := ""
		if err != nil {
			reply = mail.ReplyFor(err).Error()
		}
		if got := words(tx.Results); got != tc.result || !strings.HasPrefix(reply, tc.reply) || (reply == "") != (tc.reply == "") {
			t.Errorf("%s, %s: got %q, %s\nwant %q, %s", tc.hello, tc.from, reply, got, tc.reply, tc.result)
		}
	}
}

// TestOwnUsers are not checked, nor is who has no address.
func TestOwnUsers(t *testing.T) {
	h := Handler{resolver: zone}
	own, unix := transaction("x.test", "a@bad.test"), transaction("x.test", "a@bad.test")
	own.Session.User, unix.Session.Remote = "alice", &net.UnixAddr{Name: "/x"}
	for _, tx := range []*session.Transaction{own, unix} {
		if err := h.HandleMail(t.Context(), tx); err != nil || len(tx.Results) > 0 {
			t.Errorf("%v, %v", err, tx.Results)
		}
	}
}

func TestReceivedSPF(t *testing.T) {
	h := Handler{resolver: zone, ReceivedSPF: true}
	for from, want := range map[string]string{
		"a;\" b@good.test": `pass client-ip=192.0.2.1; envelope-from="\"a;\\\" b\"@good.test"; helo=helo.test; identity=mailfrom; receiver=mx.test`,
		"":                 `pass client-ip=192.0.2.1; envelope-from=""; helo=helo.test; identity=helo; receiver=mx.test`,
		"a@wrong.test":     `permerror client-ip=192.0.2.1; envelope-from="a@wrong.test"; helo=helo.test; identity=mailfrom; receiver=mx.test; problem="syntax error in the policy"`,
	} {
		tx, m := transaction("helo.test", from), message.New(new(message.Header), message.NewBody(nil))
		if err := h.HandleMail(t.Context(), tx); err != nil {
			t.Error(err)
		}
		tx.Session = session.New(pipe(t), &session.Config{Hostname: "mx.test"}, false)
		tx.Session.Remote, tx.Session.Hello = &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1)}, "helo.test"
		if err := h.HandleMessage(t.Context(), tx, m); err != nil {
			t.Error(err)
		}
		if got := m.Header.Values("Received-SPF"); !slices.Equal(got, []string{want}) {
			t.Errorf("got  %q\nwant %q", got, want)
		}
	}
}

func pipe(t *testing.T) net.Conn {
	c, s := net.Pipe()
	t.Cleanup(func() { _, _ = c.Close(), s.Close() })
	return c
}
