package provider

import (
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/pattern"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

// rule returns the first one for a domain or one of its hosts, as the queue finds it.
func rule(domain, host string) *queue.Rule {
	for _, r := range Rules() {
		if pattern.HasDomain(r.Domains, domain) || pattern.HasDomain(r.Hosts, host) {
			return &r
		}
	}
	return nil
}

// TestHosts: whose mail hosts are of which provider.
func TestHosts(t *testing.T) {
	for host, want := range map[string]string{
		"gmail-smtp-in.l.google.com": "gmail", "alt1.aspmx.l.google.com": "gmail", "smtp.google.com": "gmail", "aspmx2.googlemail.com": "gmail",
		"hotmail-com.olc.protection.outlook.com": "outlook", "example-org.mail.protection.outlook.com": "microsoft365", "example-org.a-v1.mx.microsoft": "microsoft365",
		"mta5.am0.yahoodns.net": "yahoo", "mx01.mail.icloud.com": "icloud", "mx1a1.comcast.net": "comcast", "mx00.emig.gmx.net": "gmx", "mx-ha02.web.de": "gmx",
		"mx00.t-online.de": "t-online", "smtp-in.orange.fr": "orange", "mxa-00000001.gslb.pphosted.com": "proofpoint", "eu-smtp-inbound-1.mimecast.com": "mimecast",
		"mx.example.org": "", "google.com.example.org": "", "outlook.com": "",
	} {
		got := ""
		if r := rule("", host); r != nil {
			got = r.Name
		}
		if got != want {
			t.Errorf("%s: %q, want %q", host, got, want)
		}
	}
	for domain, want := range map[string]string{"gmail.com": "gmail", "hotmail.com": "outlook", "yahoo.co.uk": "yahoo", "me.com": "icloud", "web.de": "gmx"} {
		if r := rule(domain, ""); r == nil || r.Name != want {
			t.Errorf("%s: %+v, want %s", domain, r, want)
		}
	}
}

// TestReplies: what is made of replies such as providers give.
func TestReplies(t *testing.T) {
	for _, tc := range []struct{ name, reply, want string }{
		{"gmail", "421 4.7.28 Gmail has detected an unusual rate of mail originating from your IP address.", "slow"},
		{"gmail", "421 4.7.0 Try again later, closing connection.", "slow"},
		{"gmail", "450 4.2.1 The user you are trying to contact is receiving mail at a rate that prevents additional messages", "nothing"},
		{"gmail", "550 5.1.1 The email account that you tried to reach does not exist.", ""},
		{"outlook", "421 RP-001 The mail server IP connecting has exceeded the rate limit allowed.", "slow"},
		{"outlook", "550 5.7.1 Unfortunately, messages from [192.0.2.1] weren't sent. Part of their network is on our block list (S3140).", "pause retry"},
		{"outlook", "550 SC-001 Mail rejected for policy reasons.", "pause retry"},
		{"outlook", "550 5.5.0 Requested action not taken: mailbox unavailable (S2017062302).", ""},
		{"microsoft365", "451 4.7.500 Server busy. Please try again later from [192.0.2.1].", "slow"},
		{"microsoft365", "550 5.7.606 Access denied, banned sending IP [192.0.2.1].", "pause retry"},
		{"microsoft365", "550 5.4.1 Recipient address rejected: Access denied.", ""},
		{"yahoo", "421 4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred due to unexpected volume or user complaints", "slow"},
		{"yahoo", "421 4.7.1 [TS03] All messages from 192.0.2.1 will be permanently deferred", "pause retry"},
		{"yahoo", "553 5.7.1 [BL21] Connections will not be accepted from 192.0.2.1", "pause retry"},
		{"icloud", "421 4.7.0 Too many connections, try again later", "slow"},
		{"comcast", "421 4.1.0 192.0.2.1 Throttled - try again later. RL000003", "slow"},
		{"comcast", "554 5.7.1 192.0.2.1 Comcast block for spam. BL000001", "pause retry"},
		{"gmx", "450 Requested mail action not taken: mailbox unavailable; Mail send limit exceeded", "slow"},
		{"gmx", "554 Transaction failed; Reject due to policy restrictions.", "pause retry"},
		{"t-online", "554 IP=192.0.2.1 - A problem occurred. Contact tosa@rx.t-online.de", "pause retry"},
		{"orange", "421 Too many connections, slow down. OFR004_104 [104]", "slow"},
		{"orange", "550 5.2.0 Mail rejetee. OFR_506 [506]", "pause retry"},
		{"proofpoint", "550 5.7.0 Blocked - see https://ipcheck.proofpoint.com/?ip=192.0.2.1", "pause retry"},
		{"mimecast", "451 Internal resources are temporarily unavailable", "slow"},
		{"mimecast", "421 IP temporarily blacklisted", "pause"},
		{"mimecast", "550 5.1.1 User unknown", ""},
	} {
		i := slices.IndexFunc(Rules(), func(r queue.Rule) bool { return r.Name == tc.name })
		if i < 0 {
			t.Fatalf("there is no %s", tc.name)
		}
		if got := meaning(Rules()[i].Reading(parse(tc.reply))); got != tc.want {
			t.Errorf("%s: %s: %q, want %q", tc.name, tc.reply, got, tc.want)
		}
	}
}

func parse(s string) *mail.Reply {
	code, text, _ := strings.Cut(s, " ")
	n, _ := strconv.Atoi(code)
	enh, rest, _ := strings.Cut(text, " ")
	if strings.Count(enh, ".") != 2 {
		enh, rest = "", text
	}
	return &mail.Reply{Code: n, Enh: enh, Text: rest}
}

func meaning(r *queue.Reading) string {
	if r == nil {
		return ""
	}
	var words []string
	if r.Slow > 0 {
		words = append(words, "slow")
	}
	if r.Pause > 0 {
		words = append(words, "pause")
	}
	if r.Later {
		words = append(words, "retry")
	}
	if len(words) == 0 {
		return "nothing"
	}
	return strings.Join(words, " ")
}

// TestSound: every rule bounds something, and none is another's.
func TestSound(t *testing.T) {
	names := map[string]bool{}
	for _, r := range Rules() {
		if r.Concurrency < 1 || r.First > r.Concurrency || r.PerAddress < 1 || r.PerConnection < 1 || names[r.Name] {
			t.Errorf("%+v", r)
		}
		names[r.Name] = true
		for _, list := range [][]string{r.Domains, r.Hosts} {
			same := slices.Clone(list)
			if err := pattern.Domains(same); err != nil || !slices.Equal(same, list) {
				t.Errorf("%s: %v, %v", r.Name, list, err)
			}
		}
		for _, d := range r.Hosts {
			if o := rule("", strings.Replace(d, "*", "x", 1)); o.Name != r.Name {
				t.Errorf("%s is under %s", d, o.Name)
			}
		}
	}
	Rules()[0].Domains[0] = "changed"
	if Rules()[0].Domains[0] == "changed" {
		t.Error("callers share the table")
	}
}
