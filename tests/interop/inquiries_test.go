//go:build linux

package interop

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// inquiries is smtplib asking us, and Postfix, the same, and asking for what only
// we have.
const inquiries = `
import smtplib, sys
ours, postfix = sys.argv[1:]
s, p = smtplib.SMTP('127.0.0.1', ours), smtplib.SMTP('127.0.0.1', postfix)
for x in s, p:
    assert x.ehlo('client.test')[0] == 250
def both(ask, *codes):
    got = [ask(x)[0] for x in (s, p)]
    assert got == list(codes), (got, codes)
both(lambda x: x.vrfy('alice@example.test'), 250, 252)    # Postfix never says more
both(lambda x: x.vrfy('nobody@example.test'), 550, 550)
both(lambda x: x.vrfy(''), 501, 501)
both(lambda x: x.noop(), 250, 250)
both(lambda x: x.docmd('NOOP', 'and more'), 250, 250)
both(lambda x: x.docmd('ETRN', 'away.test'), 250, 250)
both(lambda x: x.docmd('ETRN', 'elsewhere.test'), 459, 459)
both(lambda x: x.docmd('ETRN'), 501, 500)
both(lambda x: x.docmd('ETRN', '[192.0.2.1]'), 501, 459)
code, text = s.expn('team@example.test')
assert code == 250 and text == b'2.1.5 <alice@example.test>\n2.1.5 <bob@example.test>', (code, text)
assert p.expn('team@example.test')[0] in (500, 502)
assert s.help() == b'2.0.0 ask alice', s.help()
assert 'expn' in s.esmtp_features and 'help' in s.esmtp_features

assert s.esmtp_features['mt-priority'] == 'MIXER'
code, text = s.mail('a@elsewhere.test', ['MT-PRIORITY=8'])
assert code == 250 and text.startswith(b'2.3.6 5 '), (code, text)
assert s.rcpt('bob@example.test', ['RRVS=2024-01-01T00:00:00Z'])[0] == 550
assert s.rcpt('alice@example.test', ['RRVS=2024-01-01T00:00:00Z'])[0] == 250
assert s.data('Subject: urgent\r\n\r\nhello\r\n')[0] == 250
for params, to in (['BY=3600;R'], 'x@postfix.test'), (['BY=3600;N'], 'y@postfix.test'):
    s.sendmail('alice@example.test', [to], 'Subject: %s\r\n\r\nhello\r\n' % params[0], mail_options=params)
s.quit(); p.quit()
`

// TestInquiries asks us and Postfix the same with a client of neither's, and sends
// what Postfix makes no promises about.
func TestInquiries(t *testing.T) {
	need(t, "python3")
	h := newHost(t)
	p := newPostfix(t, h.addr("postfix"), "fast_flush_domains = away.test", "relay_domains = away.test",
		"virtual_mailbox_domains = example.test, postfix.test", "virtual_mailbox_base = DIR/mail",
		"virtual_mailbox_maps = inline:{ alice@example.test=alice/, x@postfix.test=x/, y@postfix.test=y/ }",
		"virtual_uid_maps = static:65534", "virtual_gid_maps = static:65534", "virtual_minimum_uid = 1")
	p.start()
	h.serve(fmt.Sprintf(`
		server mx ADDR(mx) {
			tls off
			mt_priority MIXER {
				max 5
			}
			vrfy on
			expn on
			help "ask alice"
			etrn away.test
			rrvs inline {
				alice@example.test 2015-03-04
				bob@example.test 2024-04-04
			}
			aliases inline {
				team@example.test alice@example.test bob@example.test
			}
			@ours rcpt_domain example.test
			deliver @ours maildir DIR/mail/{smtp.rcpt.domain}/{smtp.rcpt.local} {
				users inline {
					alice@example.test
					bob@example.test
				}
			}
			relay %s {
				trust 127.0.0.1
				tls off
			}
		}`, h.addr("postfix")), "mx")
	run(t, inquiries, "python3", "-", h.port("mx"), h.port("postfix"))

	contains(t, got(t, h.inbox("alice"), "urgent").text, " PRIORITY 5;")
	got(t, p.box("y"), "BY=3600;N")
	failed := got(t, h.inbox("alice"), "Your message could not be delivered").text
	contains(t, failed, "x@postfix.test", "Status: 5.4.7", "does not support DELIVERBY")
	contains(t, got(t, h.inbox("alice"), "Your message was passed on").text, "y@postfix.test", "Action: relayed", "Deliver-By-Date: ")
	if n := len(maildir(t, p.box("x"))); n > 0 {
		t.Errorf("%d messages in %s went where nobody keeps the time", n, filepath.Base(p.box("x")))
	}
	if strings.Contains(h.proc.out.String(), `"level":"error"`) {
		t.Error("there were errors")
	}
}
