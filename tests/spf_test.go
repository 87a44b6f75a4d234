package tests

import (
	"cmp"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/caddymail/caddy-smtp/smtpapp/dns/dnstest"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/spf/spftest"
)

// notOverTheWire are cases that a server on the Internet does not come to.
var notOverTheWire = map[string]string{
	"nolocalpart":                   "no MAIL has an address without a local part",
	"invalid-hello-macro":           "no EHLO has spaces",
	"invalid-domain-long-via-macro": "no EHLO has percents",
	"mx-colon-domain":               "the resolver leaves out MX records whose host is no host name",
	"mx-colon-domain-ip4mapped":     "the same",
}

// TestSPFSuites goes through the published suites over the wire: the client's
// address comes by the PROXY protocol, the zones by a DNS server, and the
// server tells its result in the reply to RCPT. What no MAIL or EHLO can say
// (RFC 5321, section 4.1.2) is refused there, which is an answer too.
func TestSPFSuites(t *testing.T) {
	h := newHost(t)
	h.dir = folder(t)
	cases := spftest.Cases(t)
	var last *dnstest.Zone
	unsayable, ran := 0, 0
	for _, tc := range cases {
		if tc.Zone != last { // each suite has zones of its own, and a resolver that knows of no other
			last = tc.Zone
			h.load(`
				resolver ` + dnstest.Serve(t, tc.Zone) + `
				server mx ADDR(mx) {
					listener_wrappers {
						proxy_protocol {
							allow 127.0.0.0/8
						}
					}
					spf
					reject 550 5.7.1 "spf is {smtp.result.spf}."
				}`)
		}
		if _, ok := notOverTheWire[path.Base(tc.Name)]; ok {
			continue
		}
		ran++
		k := dial(t, h.addr("mx"))
		family, dst := "TCP4", "192.0.2.99"
		if tc.Host.Is6() {
			family, dst = "TCP6", "2001:db8::99"
		}
		fmt.Fprintf(k.conn, "PROXY %s %s %s 1234 25\r\n", family, tc.Host, dst)
		k.want("220")
		from := ""
		if i := strings.LastIndexByte(tc.MailFrom, '@'); i > 0 {
			from = mail.Address{Local: tc.MailFrom[:i], Domain: tc.MailFrom[i+1:]}.String()
		}
		got, said := spfResult(k, cmp.Or(tc.Helo, "mail.test"), from)
		switch {
		case !said:
			unsayable++
			if !slices.Contains(tc.Want, "none") {
				t.Errorf("%s: %q is refused, want %v", tc.Name, got, tc.Want)
			}
		case !slices.ContainsFunc(tc.Want, func(w string) bool { return strings.Contains(got, "spf is "+w+".") }):
			t.Errorf("%s: got %q, want %v", tc.Name, got, tc.Want)
		}
		k.conn.Close()
	}
	t.Logf("%d cases, %d of which cannot be said", ran, unsayable)
	if ran < 190 || unsayable > 5 {
		t.Errorf("%d cases, %d of which cannot be said", ran, unsayable)
	}
}

// spfResult returns the reply to RCPT, or said is false and it is that to what
// was refused before.
func spfResult(k *talker, helo, from string) (reply string, said bool) {
	for _, line := range []string{"EHLO " + helo, "MAIL FROM:<" + from + ">"} {
		io.WriteString(k.conn, line+"\r\n")
		if r, err := k.reply(); err != nil || !strings.HasPrefix(r, "250") {
			return line + ": " + r, false
		}
	}
	io.WriteString(k.conn, "RCPT TO:<x@example.test>\r\n")
	reply, err := k.reply()
	return reply, err == nil
}
