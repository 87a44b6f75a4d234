package tests

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddymail/caddy-smtp/smtpapp/arc"
	"github.com/caddymail/caddy-smtp/smtpapp/dmarcreport"
	"github.com/caddymail/caddy-smtp/smtpapp/dns/dnstest"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/report"
)

const checked = `
	resolver %RESOLVER%
	agent local maildir DIR/mail/{smtp.rcpt.domain}/{smtp.rcpt.local}
	server mx ADDR(mx) {
		tls internal
		@local rcpt_domain example.test
		@reports rcpt dmarc@example.test
		sign example.test
		aliases inline {
			list@example.test carol@example.test
		}
		deliver @local local {
			users regexp .*@example[.]test yes
		}
		verify {
			iprev off
			dmarc {
				reports {
					from noreply@example.test
					org_name "The Example"
					path DIR/dmarc
					jitter 0s
				}
			}
		}
		route @reports {
			reports
		}
		arc_seal example.test
		@quarantined expression ` + "`result(\"dmarc_disposition\") == \"quarantine\"`" + `
		header @quarantined X-Quarantine yes
	}
`

// content returns the content of a message in a Maildir as it was sent.
func content(t testing.TB, stored string) *message.Message {
	t.Helper()
	_, text, _ := strings.Cut(stored, "\nReceived:") // a Maildir has lines of its own above, and LF
	m, err := message.Parse([]byte(strings.ReplaceAll(strings.ReplaceAll("Received:"+text, "\r\n", "\n"), "\n", "\r\n")))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// letter sends a message and returns the reply to its content.
func (k *talker) letter(code, mailFrom, to, header string) string {
	k.t.Helper()
	k.say("250", "MAIL FROM:<%s>", mailFrom)
	k.say("250", "RCPT TO:<%s>", to)
	k.say("354", "DATA")
	return k.say(code, "%s\r\n\r\nhello\r\n.", header)
}

// TestDMARC: a message is refused as its author's domain asks, or passes; what
// was found is in the message; and yesterday's report is sent by our own routes,
// signed, and read by whoever gets it.
func TestDMARC(t *testing.T) {
	zone := &dnstest.Zone{TTL: time.Second, TXT: map[string][]string{
		"_dmarc.reject.test":                      {"v=DMARC1; p=reject; rua=mailto:dmarc@example.test"},
		"_dmarc.quarantine.test":                  {"v=DMARC1; p=quarantine"},
		"good.test":                               {"v=spf1 ip4:127.0.0.1 -all"},
		"_dmarc.good.test":                        {"v=DMARC1; p=reject; aspf=s"},
		"reject.test._report._dmarc.example.test": {"v=DMARC1"},
	}}
	h := newHost(t)
	yesterday(t, filepath.Join(h.dir, "dmarc"))
	h.load(strings.ReplaceAll(checked, "%RESOLVER%", dnstest.Serve(t, zone)))

	k := greet(t, h.addr("mx"))
	contains(t, k.letter("550", "a@evil.test", "alice@example.test", "From: a@reject.test"), "5.7.1")
	contains(t, k.letter("550", "a@evil.test", "alice@example.test", "From: b@evil.test, a@reject.test"), "5.7.1")
	contains(t, k.letter("550", "a@evil.test", "alice@example.test", "Subject: no author"), "5.7.1")
	k.letter("250", "a@good.test", "alice@example.test", "From: a@good.test")
	got := content(t, h.inbox("alice", 1)[0]).Header.Get("Authentication-Results")
	contains(t, got, "dmarc=pass header.from=good.test policy.dmarc=none")
	contains(t, got, "spf=pass smtp.mailfrom=a@good.test")
	contains(t, got, "arc=none")
	k.letter("250", "a@evil.test", "bob@example.test", "From: a@quarantine.test")
	m := content(t, h.inbox("bob", 1)[0])
	contains(t, m.Header.Get("Authentication-Results"), "dmarc=fail header.from=quarantine.test policy.dmarc=quarantine")
	if m.Header.Get("X-Quarantine") != "yes" || strings.Contains(string(m.Header.Bytes()), "dmarc_disposition") {
		t.Errorf("%s", m.Header.Bytes())
	}

	// The report of yesterday, which was there before Caddy was.
	stored := h.inbox("dmarc", 1)[0]
	m = content(t, stored)
	contains(t, m.Header.Get("Subject"), "Report Domain: reject.test Submitter: mx.example.test Report-ID: <")
	if m.Header.Count("DKIM-Signature") == 0 {
		t.Error("the report is not signed")
	}
	publish(zone, h.keys("example.test", false))
	signatures(t, zone, stored)
	rs, err := report.Find(m)
	if err != nil || len(rs.Aggregates) != 1 || rs.Aggregates[0].Metadata.OrgName != "The Example" || rs.Aggregates[0].Records[0].Row.Count != 1 {
		t.Fatalf("%+v, %v", rs, err)
	}

	// Today's survives a reload, and the end.
	h.load(strings.ReplaceAll(checked, "%RESOLVER%", dnstest.Serve(t, zone)))
	greet(t, h.addr("mx")).letter("550", "a@evil.test", "alice@example.test", "From: a@reject.test")
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	wait(t, "the ledger is closed", func() bool { return today(t, filepath.Join(h.dir, "dmarc")) == 3 })
}

// yesterday counts a message in a ledger.
func yesterday(t *testing.T, dir string) {
	t.Helper()
	l, err := dmarcreport.Open(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	p := dmarcreport.Policy{
		Published: report.PolicyPublished{Domain: "reject.test", Policy: "reject"},
		Targets:   []dmarcreport.Target{{Address: "dmarc@example.test"}},
	}
	if err := l.Add(time.Now().Add(-dmarcreport.Day), p, report.Record{Identifiers: report.Identifiers{HeaderFrom: "reject.test"}}); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// today returns how many messages are counted for reject.test.
func today(t *testing.T, dir string) (n int64) {
	t.Helper()
	l, err := dmarcreport.Open(dir, slog.New(slog.DiscardHandler))
	if errors.Is(err, dmarcreport.ErrInUse) { // still
		return 0
	}
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	due, err := l.Due(context.Background(), time.Now().Add(dmarcreport.Day))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range due {
		rs, err := l.Records(context.Background(), d)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rs {
			n += r.Row.Count
		}
	}
	return n
}

// TestARCSeal: what an alias sends on is sealed over what was found when it
// came, and whoever gets it can verify the chain; what stays is not.
func TestARCSeal(t *testing.T) {
	zone := &dnstest.Zone{TTL: time.Second, TXT: map[string][]string{"good.test": {"v=spf1 ip4:127.0.0.1 -all"}}}
	h := newHost(t)
	cfg := strings.ReplaceAll(checked, "%RESOLVER%", dnstest.Serve(t, zone))
	h.load(cfg)
	k := greet(t, h.addr("mx"))
	k.letter("250", "a@good.test", "list@example.test", "From: a@good.test\r\nSubject: to a list")
	k.letter("250", "a@good.test", "bob@example.test", "From: a@good.test")
	m := content(t, h.inbox("carol", 1)[0])
	publish(zone, h.keys("example.test", false))
	m.Header.Remove("Delivered-To")
	r := arc.Verify(t.Context(), zone, m)
	if r.Value != arc.Pass || len(r.Sets) != 1 || r.Sets[0].Sealer != "example.test" {
		t.Fatalf("%s, %v in\n%s", r.Value, r.Err, m.Header.Bytes())
	}
	contains(t, r.Sets[0].Results, "spf=pass smtp.mailfrom=a@good.test")
	if n := content(t, h.inbox("bob", 1)[0]).Header.Count("ARC-Seal"); n != 0 {
		t.Errorf("what is not forwarded has %d seals", n)
	}
	// Whoever gets it, here ourselves, finds the chain.
	var b strings.Builder
	for f := range m.Header.Fields() {
		b.WriteString(f.Raw())
	}
	k.letter("250", "a@good.test", "dave@example.test", strings.TrimSuffix(b.String(), "\r\n"))
	contains(t, content(t, h.inbox("dave", 1)[0]).Header.Get("Authentication-Results"), "arc=pass")

	if err := h.try(strings.Replace(cfg, "arc_seal example.test", "arc_seal other.test", 1), ""); err == nil || !strings.Contains(err.Error(), "no 'sign' handler has keys of other.test") {
		t.Errorf("a seal without keys: %v", err)
	}
}
