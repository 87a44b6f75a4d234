package tests

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/dkimsign"
	"github.com/caddymail/caddy-smtp/smtpapp/dns/dnstest"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

// signed returns a letter from a@domain with a signature of that domain, whose
// key is put into the zone.
func signed(t *testing.T, zone *dnstest.Zone, domain, more string) string {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	zone.Change(func(z *dnstest.Zone) {
		z.TXT["s._domainkey."+domain] = []string{"v=DKIM1; k=ed25519; p=" + base64.StdEncoding.EncodeToString(pub)}
	})
	text := more + "From: <a@" + domain + ">\r\nTo: <b@example.test>\r\nSubject: hello\r\nDate: Fri, 11 Jul 2003 21:00:37 -0700\r\nMessage-ID: <1@" + domain + ">\r\n\r\nHello.\r\n"
	m, err := message.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if err := dkimsign.Sign(m, []dkimsign.Key{{Domain: domain, Selector: "s", Signer: key}}, dkimsign.Options{}); err != nil {
		t.Fatal(err)
	}
	r, err := m.NewReader()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// submit sends a message from the sender, and returns the reply to its content.
func submit(k *talker, from, content string) string {
	k.t.Helper()
	k.say("250", "MAIL FROM:<%s>", from)
	k.say("250", "RCPT TO:<b@example.test>")
	k.say("354", "DATA")
	io.WriteString(k.conn, stuffed(content))
	r, err := k.reply()
	if err != nil {
		k.t.Fatal(err)
	}
	return r
}

// TestVerify: each check has its result in the one field that a message gets,
// DMARC's policy is applied, and routes and placeholders see all of it.
func TestVerify(t *testing.T) {
	h := newHost(t)
	h.dir = folder(t)
	zone := &dnstest.Zone{
		TXT: map[string][]string{
			"good.test": {"v=spf1 ip4:127.0.0.1 -all"}, "_dmarc.good.test": {"v=DMARC1; p=reject"},
			"bad.test": {"v=spf1 -all"}, "_dmarc.bad.test": {"v=DMARC1; p=reject"},
			"quarantine.test": {"v=spf1 -all"}, "_dmarc.quarantine.test": {"v=DMARC1; p=quarantine"},
		},
		PTR: map[string][]string{"127.0.0.1": {"client.good.test"}}, Host: map[string][]string{"client.good.test": {"127.0.0.1"}},
	}
	h.load(`
		resolver ` + dnstest.Serve(t, zone) + `
		server mx ADDR(mx) {
			authserv_id mail.example.test
			verify
			@suspicious dmarc fail
			@signed {
				dkim pass
				expression ` + "`result(\"iprev\") == \"pass\"`" + `
			}
			header @suspicious X-Suspicious "{smtp.result.spf} {smtp.result.dmarc}"
			header @signed X-Signed "{smtp.result.dkim}"
			deliver maildir ` + h.dir + `/mail {
				create
			}
		}`)
	k := greet(t, h.addr("mx"))
	mail := func() string {
		t.Helper()
		wait(t, "a message", func() bool { return len(mails(t, h.dir+"/mail")) == 1 })
		return take(t, h.dir+"/mail")
	}
	text := signed(t, zone, "good.test", "Authentication-Results: (x) Mail.Example.Test; dmarc=pass\r\nAuthentication-Results: other.test; spf=fail\r\n")
	if r := submit(k, "a@good.test", text); !strings.HasPrefix(r, "250") {
		t.Fatal(r)
	}
	got := unfolded(mail())
	contains(t, got, "\r\nAuthentication-Results: mail.example.test; iprev=pass (client.good.test) policy.iprev=127.0.0.1;"+
		" spf=none smtp.helo=client.test; spf=pass smtp.mailfrom=a@good.test; dkim=pass header.d=good.test header.i=@good.test header.s=s header.a=ed25519-sha256 header.b=",
		"; arc=none; dmarc=pass header.from=good.test", "\r\nX-Signed: pass\r\n", "Authentication-Results: other.test; spf=fail\r\n")
	if n := strings.Count(got, "Authentication-Results:"); n != 2 || strings.Contains(got, "X-Suspicious") {
		t.Errorf("%d fields:\n%s", n, got)
	}
	if r := submit(k, "a@bad.test", "From: <a@bad.test>\r\n\r\nHello.\r\n"); !strings.HasPrefix(r, "550 5.7.1 ") {
		t.Errorf("a forgery: %s", r)
	}
	// An altered message, and a signature of somebody else.
	if r := submit(k, "x@good.test", strings.Replace(signed(t, zone, "bad.test", ""), "Hello.", "Hallo.", 1)); !strings.HasPrefix(r, "550 5.7.1 ") {
		t.Errorf("an altered message: %s", r)
	}
	if r := submit(k, "x@good.test", strings.Replace(signed(t, zone, "good.test", ""), "From: <a@good.test>", "From: <a@quarantine.test>", 1)); !strings.HasPrefix(r, "250") {
		t.Errorf("quarantine: %s", r)
	}
	contains(t, unfolded(mail()), "dkim=fail", "dmarc=fail", "X-Suspicious: pass fail\r\n")
}

func unfolded(s string) string {
	return strings.NewReplacer("\r\n ", " ", "\r\n\t", "\t", "\n ", " ").Replace(strings.ReplaceAll(strings.ReplaceAll(s, "\r\n", "\n"), "\n", "\r\n"))
}

// TestVerifySlowDNS: a zone that never answers costs a message 20 s at most, and
// what is not known then is temporary.
func TestVerifySlowDNS(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 20 s")
	}
	h := newHost(t)
	h.dir = folder(t)
	silent := map[string]bool{}
	for _, n := range []string{"slow.test", "s._domainkey.slow.test", "127.0.0.1", "client.test", "_dmarc.slow.test", "_dmarc.test", "arc._domainkey.slow.test"} {
		silent[n] = true
	}
	zone := &dnstest.Zone{Silent: silent}
	h.load(`
		resolver ` + dnstest.Serve(t, zone) + `
		server mx ADDR(mx) {
			@any size {
				max 1GiB
			}
			discard
			verify
			reject @any 450 4.7.0 "iprev {smtp.result.iprev} spf {smtp.result.spf} dkim {smtp.result.dkim} arc {smtp.result.arc} dmarc {smtp.result.dmarc}."
		}`)
	k := greet(t, h.addr("mx"))
	k.conn.SetDeadline(time.Now().Add(time.Minute))
	sig := "DKIM-Signature: v=1; a=rsa-sha256; d=slow.test; s=s; h=from; bh=eA==; b=eA==\r\n"
	began := time.Now()
	chain := ""
	for i := 1; i <= 50; i++ {
		cv := "pass"
		if i == 1 {
			cv = "none"
		}
		chain = fmt.Sprintf("ARC-Seal: i=%d; a=rsa-sha256; cv=%s; d=slow.test; s=arc; b=eA==\r\n", i, cv) +
			fmt.Sprintf("ARC-Message-Signature: i=%d; a=rsa-sha256; d=slow.test; s=arc; h=from; bh=47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=; b=eA==\r\n", i) +
			fmt.Sprintf("ARC-Authentication-Results: i=%d; slow.test; dmarc=pass header.from=slow.test\r\n", i) + chain
	}
	r := submit(k, "a@slow.test", sig+sig+chain+"From: <a@slow.test>\r\n\r\nHello.\r\n")
	if d := time.Since(began); d > 30*time.Second {
		t.Errorf("it took %v", d)
	}
	contains(t, r, "iprev temperror spf temperror dkim temperror arc fail dmarc temperror.")
}

// TestVerifyHostileDNS: whatever a zone answers, in whatever size, a message gets
// its results soon.
func TestVerifyHostileDNS(t *testing.T) {
	const large = 60_000
	zone := &dnstest.Zone{
		TXT: map[string][]string{
			"large.test":               {"v=spf1" + strings.Repeat(" ip4:192.0.2.99", large/15) + " -all"},
			"s._domainkey.large.test":  {"v=DKIM1; n=" + strings.Repeat("x", large) + "; p=eA=="},
			"_dmarc.large.test":        {"v=DMARC1; p=none; rua=" + strings.Repeat("mailto:a@large.test,", large/20)},
			"many.test":                strings.Split(strings.Repeat("v=spf1 -all\n", 900)+"x", "\n"),
			"s._domainkey.many.test":   strings.Split(strings.Repeat("v=DKIM1; p=eA==\n", 900)+"x", "\n"),
			"_dmarc.many.test":         strings.Split(strings.Repeat("v=DMARC1; p=reject\n", 900)+"x", "\n"),
			"end.chain.test":           {"v=spf1 -all"},
			"_dmarc.end.chain.test":    {"v=DMARC1; p=none"},
			"s._domainkey.end.chain.x": {"v=DKIM1; p="},
		},
		CNAME: map[string]string{
			"loop.test": "loop2.test", "loop2.test": "loop.test",
			"s._domainkey.loop.test": "s._domainkey.loop.test",
			"_dmarc.loop.test":       "_dmarc.loop2.test", "_dmarc.loop2.test": "_dmarc.loop.test",
			"chain.test": "c0.chain.test", "c99.chain.test": "end.chain.test",
			"s._domainkey.chain.test": "c0.chain.test", "_dmarc.chain.test": "c0.chain.test",
		},
	}
	for i := range 99 {
		zone.CNAME[fmt.Sprintf("c%d.chain.test", i)] = fmt.Sprintf("c%d.chain.test", i+1)
	}
	h := newHost(t)
	h.dir = folder(t)
	h.load(`
		resolver ` + dnstest.Serve(t, zone) + `
		server mx ADDR(mx) {
			@any size {
				max 1GiB
			}
			discard
			verify
			reject @any 450 4.7.0 "spf {smtp.result.spf} dkim {smtp.result.dkim} dmarc {smtp.result.dmarc}."
		}`)
	for domain, want := range map[string]string{
		"large.test": "spf permerror dkim permerror dmarc fail.",
		"many.test":  "spf permerror dkim permerror dmarc none.",
		"loop.test":  "spf temperror dkim temperror dmarc temperror.",
		"chain.test": "spf temperror dkim temperror dmarc temperror.",
	} {
		began, asked := time.Now(), len(zone.Asked())
		r := submit(greet(t, h.addr("mx")), "a@"+domain, "DKIM-Signature: v=1; a=rsa-sha256; d="+domain+"; s=s; h=from; bh=eA==; b=eA==\r\nFrom: <a@"+domain+">\r\n\r\nHello.\r\n")
		if !strings.Contains(r, want) {
			t.Errorf("%s: got %s, want %s", domain, r, want)
		}
		if d, n := time.Since(began), len(zone.Asked())-asked; d > 10*time.Second || n > 100 {
			t.Errorf("%s: %d questions in %v", domain, n, d)
		}
	}
}

// TestReloadWithinMessage: a message that began under one configuration is
// checked and signed by it, whatever is loaded meanwhile; the next one by the new.
func TestReloadWithinMessage(t *testing.T) {
	h := newHost(t)
	h.dir = folder(t)
	zone := &dnstest.Zone{TXT: map[string][]string{"a.test": {"v=spf1 ip4:127.0.0.1 -all"}, "_dmarc.a.test": {"v=DMARC1; p=reject"}}}
	letter := signed(t, zone, "a.test", "")
	resolver := dnstest.Serve(t, zone)
	config := func(checks string) string {
		return `
		resolver ` + resolver + `
		server mx ADDR(mx) {
			` + checks + `
			deliver maildir ` + h.dir + `/mail {
				create
			}
		}`
	}
	h.load(config(`
			verify
			sign example.test {
				any_client
				default example.test
				algorithms ed25519
			}
			arc_seal example.test {
				all
			}`))
	k := greet(t, h.addr("mx"))
	k.say("250", "MAIL FROM:<a@a.test>")
	k.say("250", "RCPT TO:<b@example.test>")
	k.say("354", "DATA")
	half := len(letter) / 2
	io.WriteString(k.conn, letter[:half])
	h.load(config(""))
	io.WriteString(k.conn, letter[half:]+".\r\n")
	k.want("250")
	wait(t, "a message", func() bool { return len(mails(t, h.dir+"/mail")) == 1 })
	contains(t, unfolded(take(t, h.dir+"/mail")), "spf=pass", "dkim=pass", "dmarc=pass", "d=example.test", "ARC-Seal: i=1;")
	if r := submit(greet(t, h.addr("mx")), "a@a.test", letter); !strings.HasPrefix(r, "250") {
		t.Error(r)
	}
	wait(t, "another message", func() bool { return len(mails(t, h.dir+"/mail")) == 1 })
	if m := take(t, h.dir+"/mail"); strings.Contains(m, "spf=") || strings.Contains(m, "example.test; s=") {
		t.Errorf("checked by what is no longer in force: %s", m)
	}
}

// TestManySignatures is case 56 of the attacks on us: a hundred signatures, five
// of which are looked at.
func TestManySignatures(t *testing.T) {
	h := newHost(t)
	h.dir = folder(t)
	zone := &dnstest.Zone{TXT: map[string][]string{}}
	h.load(`
		resolver ` + dnstest.Serve(t, zone) + `
		server mx ADDR(mx) {
			dkim
			deliver maildir ` + h.dir + `/mail {
				create
			}
		}`)
	var sigs strings.Builder
	for i := range 100 {
		fmt.Fprintf(&sigs, "DKIM-Signature: v=1; a=rsa-sha256; d=a%d.test; s=s; h=from; bh=eA==; b=eA==\r\n", i)
	}
	if r := submit(greet(t, h.addr("mx")), "a@a.test", sigs.String()+"From: <a@a.test>\r\n\r\nHello.\r\n"); !strings.HasPrefix(r, "250") {
		t.Error(r)
	}
	wait(t, "a message", func() bool { return len(mails(t, h.dir+"/mail")) == 1 })
	if n := strings.Count(take(t, h.dir+"/mail"), "dkim=permerror"); n != 5 || len(zone.Asked()) > 5 {
		t.Errorf("%d results, %d questions", n, len(zone.Asked()))
	}
}

// take returns the only message in a Maildir, and removes it.
func take(t *testing.T, dir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "new", "*"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	b, err := os.ReadFile(files[0])
	if err == nil {
		err = os.Remove(files[0])
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
