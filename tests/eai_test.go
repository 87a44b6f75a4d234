package tests

import (
	"encoding/xml"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// spellings are the same domain, and nfd is the local part "ü" in two characters.
var spellings = []string{"bücher.test", "BÜCHER.test", "xn--bcher-kva.test", "XN--BCHER-KVA.test", "bu\u0308cher.test"}

const nfd = "u\u0308"

// TestDomainsAreEqual: wherever a configuration names a domain or an address, and
// however it spells it, every spelling that a client uses is meant.
func TestDomainsAreEqual(t *testing.T) {
	const (
		ours  = "\n@ours rcpt_domain ours.test\ndiscard @ours"
		login = "plaintext_auth\nauth {\ninline {\nalice@example.test $2a$04$0JlfMz3Z819idSiDbcUqguRDVxSeueOrPfGB8HIF0dntX1m7yecAO\n}\n}\n"
	)
	places := map[string]struct {
		config string // § is the domain, L the local part
		dialog string // what a client says; "" is MAIL and RCPT TO:<L@§>
		ascii  bool   // clients have to say A-labels
	}{
		"rcpt_domain":          {config: "@m rcpt_domain §\ndiscard @m"},
		"rcpt_domain below":    {config: "@m rcpt_domain *.§\ndiscard @m", dialog: "MAIL FROM:<> SMTPUTF8\nRCPT TO:<L@sub.§>"},
		"rcpt":                 {config: "@m rcpt L@§\ndiscard @m"},
		"rcpt by pattern":      {config: "@m rcpt L*@§\ndiscard @m"},
		"mail_from":            {config: "@m mail_from L@§\ndiscard @m", dialog: "MAIL FROM:<L@§> SMTPUTF8\nRCPT TO:<x@ours.test>"},
		"mail_from_domain":     {config: "@m mail_from_domain §\ndiscard @m", dialog: "MAIL FROM:<L@§> SMTPUTF8\nRCPT TO:<x@ours.test>"},
		"helo":                 {config: "@m helo *.§\ndiscard @m", dialog: "EHLO mx.§\nMAIL FROM:<>\nRCPT TO:<x@ours.test>", ascii: true},
		"lookup inline":        {config: "@m lookup rcpt inline {\nL@§\n}\ndiscard @m"},
		"lookup domain":        {config: "@m lookup rcpt_domain inline {\n§\n}\ndiscard @m"},
		"lookup parent":        {config: "@m lookup rcpt_domain inline {\n.§\n}\ndiscard @m", dialog: "MAIL FROM:<> SMTPUTF8\nRCPT TO:<L@sub.§>"},
		"lookup mail_from":     {config: "@m lookup mail_from_domain inline {\n§\n}\ndiscard @m", dialog: "MAIL FROM:<L@§> SMTPUTF8\nRCPT TO:<x@ours.test>"},
		"lookup, heeding case": {config: "@m lookup rcpt inline case_sensitive {\nL@§\n}\ndiscard @m"},
		"expression":           {config: "@m expression `rcpt_domain == idn(\"§\")`\ndiscard @m"},
		"aliases":              {config: "aliases inline {\nL@§ x@ours.test\n}" + ours},
		"aliases of a domain":  {config: "aliases inline {\n@§ x@ours.test\n}" + ours},
		"alias to":             {config: "aliases inline {\nx@ours.test L@§\n}\n@m rcpt L@§\ndiscard @m", dialog: "MAIL FROM:<>\nRCPT TO:<x@ours.test>"},
		"rewrite":              {config: "rewrite rcpt *@§ x@ours.test" + ours},
		"rewrite to":           {config: "rewrite rcpt x@ours.test L@§\n@m rcpt L@§\ndiscard @m", dialog: "MAIL FROM:<>\nRCPT TO:<x@ours.test>"},
		"rewrite by table":     {config: "rewrite rcpt inline {\nL@§ x@ours.test\n}" + ours},
		"users":                {config: "deliver discard {\nusers inline {\nL@§\n}\n}"},
		"sender_login":         {config: login + "sender_login L@§\ndiscard", dialog: "AUTH\nMAIL FROM:<L@§> SMTPUTF8\nRCPT TO:<x@ours.test>\nFrom: <L@§>"},
		"sender_login, table":  {config: login + "sender_login {\ntable inline {\nalice@example.test L@§\n}\n}\ndiscard", dialog: "AUTH\nMAIL FROM:<L@§> SMTPUTF8\nRCPT TO:<x@ours.test>\nFrom: <L@§>"},
		"delegates":            {config: login + "sender_login {\nown alice@example.test\ndelegates inline {\nalice@example.test L@§\n}\n}\ndiscard", dialog: "AUTH\nMAIL FROM:<L@§> SMTPUTF8\nRCPT TO:<x@ours.test>\nFrom: <L@§>\nSender: <alice@example.test>"},
		"etrn":                 {config: "etrn §\ndiscard", dialog: "ETRN §", ascii: true},
		"postmaster":           {config: "@m rcpt L@§\ndiscard @m", dialog: "MAIL FROM:<>\nRCPT TO:<postmaster>"},
	}
	fill := func(s, domain, local string) string {
		return strings.NewReplacer("L@", local+"@", "L*@", local+"*@", "§", domain).Replace(s)
	}
	h := newHost(t)
	for i, written := range spellings {
		local := "ü"
		if i == 2 {
			local = nfd
		}
		config := fill("postmaster L@§\n", written, local)
		for name, p := range places {
			config += fmt.Sprintf("server %[1]q ADDR(%[1]s) {\ntls off\nlimits {\nhard_errors none\nsoft_errors none\n}\n%[2]s\n}\n", slug(name), fill(p.config, written, local))
		}
		h.load(config)
		for name, p := range places {
			dialog := p.dialog
			if dialog == "" {
				dialog = "MAIL FROM:<> SMTPUTF8\nRCPT TO:<L@§>"
			}
			for j, said := range spellings {
				local := "ü"
				if j == 0 {
					local = nfd
				}
				if p.ascii && !strings.HasPrefix(strings.ToLower(said), "xn--") {
					continue
				}
				if got := h.plays(slug(name), fill(dialog, said, local)); got != "250" {
					t.Errorf("%s: %s in the configuration, %s said: %s", name, written, said, got)
				}
			}
			if strings.Contains(dialog, "§") {
				if got := h.plays(slug(name), fill(dialog, "other.test", "ü")); got == "250" {
					t.Errorf("%s: another domain is the same", name)
				}
			}
		}
	}
}

func slug(name string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' {
			return r
		}
		return '-'
	}, name)
}

// plays says the lines of a dialogue, header fields last, and returns the code of
// the first reply that is not 250, or "250".
func (h *host) plays(server, dialog string) string {
	h.t.Helper()
	k := greet(h.t, h.addr(server))
	defer k.conn.Close()
	content := ""
	for line := range strings.SplitSeq(dialog, "\n") {
		if line == "AUTH" {
			k.say("235", "AUTH PLAIN %s", plain("alice@example.test", "quickstart"))
			continue
		}
		if strings.HasPrefix(line, "From:") || strings.HasPrefix(line, "Sender:") {
			content += line + "\r\n"
			continue
		}
		fmt.Fprintf(k.conn, "%s\r\n", line)
		r, err := k.reply()
		if err != nil || !strings.HasPrefix(r, "250") {
			return strings.TrimSpace(r)
		}
	}
	if content == "" {
		return "250"
	}
	k.say("354", "DATA")
	fmt.Fprintf(k.conn, "%s\r\n.\r\n", content)
	r, _ := k.reply()
	return strings.TrimSpace(r[:3])
}

// TestIsEmailOverTheWire names the addresses of isemail's suite in RCPT.
func TestIsEmailOverTheWire(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(vectors(t), "isemail", "tests.xml"))
	if err != nil {
		t.Fatal(err)
	}
	var suite struct {
		Tests []struct {
			ID       string `xml:"id,attr"`
			Address  string `xml:"address"`
			Category string `xml:"category"`
		} `xml:"test"`
	}
	if err := xml.Unmarshal(b, &suite); err != nil {
		t.Fatal(err)
	}
	h := newHost(t)
	h.load("server mx ADDR(mx) {\ntls off\nlimits {\nhard_errors none\nsoft_errors none\n}\ndiscard\n}")
	k := greet(t, h.addr("mx"))
	k.say("250", "MAIL FROM:<>")
	for _, tc := range suite.Tests {
		address := strings.Map(func(r rune) rune { // how the suite writes controls
			if r >= 0x2400 && r < 0x2421 {
				return r - 0x2400
			}
			return r
		}, tc.Address)
		if strings.ContainsAny(address, "\r\n\x00") || tc.ID == "43" || tc.ID == "71" { // lines of their own; see the table test
			continue
		}
		want := "5"
		switch tc.Category {
		case "ISEMAIL_VALID_CATEGORY", "ISEMAIL_DNSWARN", "ISEMAIL_RFC5321":
			want = "250"
		}
		fmt.Fprintf(k.conn, "RCPT TO:<%s>\r\n", address)
		if r, err := k.reply(); err != nil || !strings.HasPrefix(r, want) {
			t.Errorf("%s: %q is %s: %s, %v", tc.ID, address, tc.Category, r, err)
		}
	}
}

// TestEAIMessages sends published internationalised messages to a mailbox, which
// gets them as they are, and to a next hop without SMTPUTF8 and 8BITMIME.
func TestEAIMessages(t *testing.T) {
	hop := newSink(t)
	h := newHost(t)
	h.load(fmt.Sprintf(`
	agent local maildir DIR/mail/{smtp.rcpt.domain}/{smtp.rcpt.local} {
		create
	}
	server mx ADDR(mx) {
		tls off
		@box rcpt_domain example.test
		deliver @box local
		relay %s {
			tls off
			trust 127.0.0.0/8
		}
	}`, hop.addr))
	k := greet(t, h.addr("mx"))
	for name, want := range map[string]string{
		"addresses": "", "from": "", "punycode": "", // addresses that only SMTPUTF8 can have
		"attachment": "filename*=utf-8''bl%C3%A5b%C3%A6rsyltet%C3%B8y",
		"mimefield":  "filename*=utf-8''bl%C3%A5b%C3%A6rsyltet%C3%B8y",
		"not-emoji":  "From: xn--ls8ha@outlook.com\r\n",
	} {
		b, err := os.ReadFile(filepath.Join(vectors(t), "eai", name))
		if err != nil {
			t.Fatal(err)
		}
		text := strings.ReplaceAll(strings.ReplaceAll(string(b), "\r\n", "\n"), "\n", "\r\n")
		k.say("250", "MAIL FROM:<bärbel%s@example.test> BODY=8BITMIME SMTPUTF8", name)
		k.say("250", "RCPT TO:<%s@example.test>", name)
		k.say("354", "DATA")
		k.say("250", "%s\r\n.", strings.ReplaceAll(text, "\r\n.", "\r\n.."))
		if got := h.inbox(name, 1)[0]; !strings.Contains(got, strings.TrimRight(strings.ReplaceAll(text, "\r\n", "\n"), "\n")) {
			t.Errorf("%s: it is not as it was:\n%s", name, got)
		}
		k.say("250", "MAIL FROM:<sender-%s@example.test> BODY=8BITMIME SMTPUTF8", name)
		k.say("250", "RCPT TO:<far@far.test>")
		k.say("354", "DATA")
		k.say("250", "%s\r\n.", strings.ReplaceAll(text, "\r\n.", "\r\n.."))
		if want == "" {
			contains(t, h.inbox("sender-"+name, 1)[0], "Status: 5.6.7")
			continue
		}
		got := hop.next(t)
		contains(t, got, want)
		if strings.ContainsFunc(got, func(r rune) bool { return r > '~' }) {
			t.Errorf("%s: not 7-bit:\n%s", name, got)
		}
	}
	if len(hop.mail) > 0 {
		t.Errorf("unexpected: %s", <-hop.mail)
	}
}
