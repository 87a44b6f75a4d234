package tests

import (
	"bytes"
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/arc"
	"github.com/caddymail/caddy-smtp/smtpapp/authres"
	"github.com/caddymail/caddy-smtp/smtpapp/dkim"
	"github.com/caddymail/caddy-smtp/smtpapp/dmarc"
	"github.com/caddymail/caddy-smtp/smtpapp/dns/dnstest"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/originator"
	"github.com/caddymail/caddy-smtp/smtpapp/report"
	"github.com/caddymail/caddy-smtp/smtpapp/spf"
)

// spent is the processor's time that f takes in its thread, the least of a few
// times.
func spent(f func()) time.Duration {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	used := func() time.Duration {
		const thread = 1 // RUSAGE_THREAD
		var u syscall.Rusage
		if err := syscall.Getrusage(thread, &u); err != nil {
			panic(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	least := time.Hour
	for range 4 {
		before := used()
		f()
		least = min(least, used()-before)
	}
	return least
}

// TestParsersAreLinear: twice the input costs whoever reads what strangers wrote
// about twice the time. What is quadratic costs four times as much.
func TestParsersAreLinear(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some seconds")
	}
	content := func(header string) *message.Message {
		h, body, err := message.ParseHeader([]byte(header + "\r\n"))
		if err != nil {
			t.Fatal(err)
		}
		return message.New(h, message.NewBody(body))
	}
	zone := func(txt string) *dnstest.Zone {
		return &dnstest.Zone{TXT: map[string][]string{"a.test": {txt}}}
	}
	client := spf.Client{IP: netip.MustParseAddr("192.0.2.1"), Hello: "client.test"}
	type reader struct {
		read  func(s string)
		begin string
		units []string
	}
	for name, r := range map[string]reader{
		"header":     {func(s string) { _, _, _ = message.ParseHeader([]byte(s)) }, "", []string{"A: b\r\n", "A:\r\n b\r\n", " ", "\r\n "}},
		"From":       {func(s string) { originator.Read(content(s + "\r\n").Header) }, "From: ", []string{"a@b,", "(", "<a@b.c>", "\"", "a.", "=?a?q?"}},
		"tags":       {func(s string) { _, _ = dkim.ParseTags(s) }, "", []string{"a=b;", " ", "a", "a=\r\n "}},
		"key":        {func(s string) { _, _ = dkim.ParsePublicKey(s) }, "v=DKIM1; p=", []string{"A", "A ", "; ", "=:"}},
		"signature":  {func(s string) { _, _ = dkim.ParseSignature(s + "\r\n") }, "DKIM-Signature: v=1; a=rsa-sha256; d=a; s=b; bh=eA==; b=eA==; h=", []string{"a:", " ", "; b=", "A"}},
		"SPF":        {func(s string) { spf.Check(t.Context(), zone(s), client, "user", "a.test") }, "v=spf1", []string{" ip4:192.0.2.9", " ", " x=%{l}", " a:", "%{s}", "/"}},
		"DMARC":      {func(s string) { _, _ = dmarc.Parse(s) }, "v=DMARC1; p=none; rua=", []string{"mailto:a@b.test,", ",", "; a=b", " ", "!1k"}},
		"results":    {func(s string) { _, _ = authres.Parse(s); authres.Claims(s, "a.test") }, "a.test; ", []string{"spf=pass a.b=c; ", "(", "\"", "\\", "a(b) ", "a."}},
		"ARC":        {func(s string) { arc.Verify(t.Context(), zone(""), content(s+"\r\n")) }, "From: a@a.test\r\n", []string{"ARC-Seal: i=1; cv=none\r\n", "ARC-Message-Signature: i=9;\r\n b=\r\n", "ARC-Authentication-Results: i=1; a\r\n"}},
		"XML report": {func(s string) { _, _ = report.ReadAggregate(strings.NewReader(s)) }, "<feedback>", []string{"<record></record>", "<a>", "<!-- -->", "x", "&lt;", "<a b=''/>"}},
		"JSON":       {func(s string) { _, _ = report.ReadTLS(strings.NewReader(s)) }, `{"policies":[{}`, []string{",{}", ",[]", "[", "{\"a\":", " ", "\"\\u0041"}},
		"MIME":       {func(s string) { _, _ = report.Find(mimeOf(s)) }, "", []string{"--b\r\n\r\nx\r\n", "--b\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n", "--b\r\nContent-Type: application/zip\r\n\r\nPK", "--b", "\r\n"}},
	} {
		for _, unit := range r.units {
			const size = 1 << 20
			once := r.begin + strings.Repeat(unit, size/len(unit))
			twice := r.begin + strings.Repeat(unit, 2*size/len(unit))
			ratio, took := 0.0, time.Duration(0)
			for range 3 { // others disturb
				a, b := spent(func() { r.read(once) }), spent(func() { r.read(twice) })
				ratio, took = float64(b)/float64(max(a, 20*time.Millisecond)), b
				if ratio < 3.2 {
					break
				}
			}
			if ratio >= 3.2 || took > 5*time.Second {
				t.Errorf("%s of %q: twice the input takes %.1f times as long, %v", name, unit, ratio, took)
			}
		}
	}
}

func mimeOf(body string) *message.Message {
	h, _, err := message.ParseHeader([]byte("Content-Type: multipart/mixed; boundary=b\r\n\r\n"))
	if err != nil {
		panic(err)
	}
	return message.New(h, message.NewBody(bytes.Clone([]byte(fmt.Sprint(body, "\r\n--b--\r\n")))))
}
