package dkim

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/dns/dnstest"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

func crlf(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(s, "\r\n", "\n"), "\n", "\r\n")
}

func parse(t testing.TB, s string) *message.Message {
	t.Helper()
	m, err := message.Parse([]byte(s))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// verdicts verifies and returns the values.
func verdicts(t testing.TB, z *dnstest.Zone, s string) []Verdict {
	t.Helper()
	vs, err := Verify(t.Context(), z, parse(t, s), MaxSignatures)
	if err != nil {
		t.Fatal(err)
	}
	return vs
}

const dinner = `From: Joe SixPack <joe@football.example.com>
To: Suzie Q <suzie@shopping.example.net>
Subject: Is dinner ready?
Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)
Message-ID: <20030712040037.46341.5F8J@football.example.com>

Hi.

We lost the game.%s Are you hungry yet?

Joe.
`

// TestRFCs are the examples of RFC 6376, appendix A, and RFC 8463, appendix A.
func TestRFCs(t *testing.T) {
	z := &dnstest.Zone{TXT: map[string][]string{
		"brisbane._domainkey.example.com":          {"v=DKIM1; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDwIRP/UC3SBsEmGqZ9ZJW3/DkMoGeLnQg1fWn7/zYtIxN2SnFCjxOCKG9v3b4jYfcTNh5ijSsq631uBItLa7od+v/RtdC2UzJ1lWT947qR+Rcac2gbto/NMqJ0fzfVjH4OuKhitdY9tf6mcwGjaNBcWToIMmPSPDdQPNUYckcQ2QIDAQAB"},
		"brisbane._domainkey.football.example.com": {"v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="},
		"test._domainkey.football.example.com":     {"v=DKIM1; k=rsa; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDkHlOQoBTzWRiGs5V6NpP3idY6Wk08a5qhdR6wy5bdOKb2jLQiY/J16JYi0Qvx/byYzCNb3W91y3FutACDfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqMKrM3rG4hstT5QjvHO9PzoxZyVYLzBfO2EeC3Ip3G+2kryOTIKT+l/K4w3QIDAQAB"},
	}}
	rfc6376 := crlf(`DKIM-Signature: v=1; a=rsa-sha256; s=brisbane; d=example.com;
      c=simple/simple; q=dns/txt; i=joe@football.example.com;
      h=Received : From : To : Subject : Date : Message-ID;
      bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
      b=AuUoFEfDxTDkHlLXSZEpZj79LICEps6eda7W3deTVFOk4yAUoqOB
      4nujc7YopdG5dWLSdNg6xNAZpOPr+kHxt1IrE+NahM6L/LbvaHut
      KVdkLLkpVaVVQPzeRDI009SO2Il5Lu7rDNH6mZckBdrIx0orEtZV
      4bmp/YzhwvcubU4=;
Received: from client1.football.example.com  [192.0.2.1]
      by submitserver.example.com with SUBMISSION;
      Fri, 11 Jul 2003 21:01:54 -0700 (PDT)
` + fmt.Sprintf(dinner, ""))
	rfc8463 := crlf(`DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;
 d=football.example.com; i=@football.example.com;
 q=dns/txt; s=brisbane; t=1528637909; h=from : to :
 subject : date : message-id : from : subject : date;
 bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
 b=/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11Bus
 Fa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw==
DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed;
 d=football.example.com; i=@football.example.com;
 q=dns/txt; s=test; t=1528637909; h=from : to : subject :
 date : message-id : from : subject : date;
 bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
 b=F45dVWDfMbQDGHJFlXUNB2HKfbCeLRyhDXgFpEL8GwpsRe0IeIixNTe3
 DhCVlUrSjV4BwcVcOF6+FF3Zo9Rpo1tFOeS9mPYQTnGdaSGsgeefOsk2Jz
 dA+L10TeYt9BgDfQNZtKdN1WO//KgIqXP7OdEFE4LjFYNcUxZQ4FADY+8=
` + fmt.Sprintf(dinner, " "))
	for name, tc := range map[string]struct {
		message, altered string
		n                int
	}{
		"6376": {rfc6376, "We lost", 1},
		"8463": {rfc8463, "Is dinner", 2},
	} {
		altered := strings.Replace(tc.message, tc.altered, tc.altered+"x", 1)
		good, bad := verdicts(t, z, tc.message), verdicts(t, z, altered)
		if len(good) != tc.n || len(bad) != tc.n {
			t.Fatalf("%s: %d and %d verdicts", name, len(good), len(bad))
		}
		for i := range good {
			if good[i].Value != Pass {
				t.Errorf("%s: signature %d: %s (%v)", name, i, good[i].Value, good[i].Err)
			}
			if bad[i].Value != Fail {
				t.Errorf("%s: signature %d of an altered message: %s", name, i, bad[i].Value)
			}
		}
	}
}

// signer signs for tests, word by word as it is told.
type signer struct {
	key  crypto.Signer
	algo string
}

// sign puts a signature with the tags on top of a message; bh= and b= are
// appended.
func (s signer) sign(t testing.TB, tags, m string) string {
	t.Helper()
	head, body, _ := strings.Cut(m, "\r\n\r\n")
	list, err := ParseTags(tags)
	if err != nil {
		t.Fatal(err)
	}
	c, _ := ParseCanonicalizations(list.Get("c"))
	text := canonical(c.Body, body, 1000)
	var l int
	if n, _ := fmt.Sscan(list.Get("l"), &l); n == 1 && l >= 0 && l < len(text) {
		text = text[:l]
	}
	sum := sha256.Sum256([]byte(text))
	field := "DKIM-Signature: " + tags + "; bh=" + base64.StdEncoding.EncodeToString(sum[:]) + "; b="
	h := sha256.New()
	h.Write(fieldsFor(c.Header, head, List(list.Get("h"))))
	h.Write(c.Header.AppendField(nil, field))
	digest, hash := h.Sum(nil), crypto.SHA256
	if _, ed := s.key.(ed25519.PrivateKey); ed {
		hash = crypto.Hash(0)
	}
	sig, err := s.key.Sign(rand.Reader, digest, hash)
	if err != nil {
		t.Fatal(err)
	}
	return field + base64.StdEncoding.EncodeToString(sig) + "\r\n" + m
}

func fieldsFor(c Canonicalization, head string, names []string) (out []byte) {
	lines := strings.Split(head, "\r\n")
	used := make([]bool, len(lines))
	for _, n := range names {
		for i := len(lines) - 1; i >= 0; i-- {
			if name, _, _ := strings.Cut(lines[i], ":"); !used[i] && strings.EqualFold(name, n) {
				used[i] = true
				out = c.AppendField(out, lines[i]+"\r\n")
				break
			}
		}
	}
	return out
}

func (s signer) record(t testing.TB, more string) string {
	t.Helper()
	switch p := s.key.Public().(type) {
	case ed25519.PublicKey:
		return "v=DKIM1; k=ed25519; " + more + "p=" + base64.StdEncoding.EncodeToString(p)
	case *rsa.PublicKey:
		der, err := x509.MarshalPKIXPublicKey(p)
		if err != nil {
			t.Fatal(err)
		}
		return "v=DKIM1; " + more + "p=" + base64.StdEncoding.EncodeToString(der)
	}
	return ""
}

func newSigner(t testing.TB) signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return signer{key, "ed25519-sha256"}
}

const letter = "From: a@d.test\r\nTo: b@e.test\r\nSubject: hello\r\n\r\nOne.\r\n\r\nTwo  \r\n"

// TestFacts: what go-msgauth does not look at.
func TestFacts(t *testing.T) {
	s := newSigner(t)
	z := &dnstest.Zone{TXT: map[string][]string{
		"s._domainkey.d.test":         {s.record(t, "")},
		"strict._domainkey.d.test":    {s.record(t, "t=s; ")},
		"testing._domainkey.d.test":   {s.record(t, "t=y; ")},
		"revoked._domainkey.d.test":   {"v=DKIM1; p="},
		"sha1._domainkey.d.test":      {s.record(t, "h=sha1; ")},
		"web._domainkey.d.test":       {s.record(t, "s=web; ")},
		"rubbish._domainkey.d.test":   {"v=DKIM1; p=!!!"},
		"rsa._domainkey.d.test":       {rsaOf(t, 1024)},
		"rsa512._domainkey.d.test":    {rsaOf(t, 512)},
		"rsa8192._domainkey.d.test":   {rsaOf(t, 8192)},
		"two._domainkey.d.test":       {"v=spf1 -all", s.record(t, "")},
		"s._domainkey.xn--d-xga.test": {s.record(t, "")},
	}, Fail: map[string]bool{"gone._domainkey.d.test": true}}
	now := time.Now().Unix()
	for _, tc := range []struct{ tags, value, err string }{
		{"v=1; a=ed25519-sha256; d=d.test; s=s; h=from:to", Pass, ""},
		{"v=1; a=ed25519-sha256; d=d.test; s=s; h=from; c=relaxed/relaxed", Pass, ""},
		{"v=1; a=ed25519-sha256; d=d.test; s=s; h=from:from:cc; c=relaxed", Pass, ""},
		{"v=1; a=ed25519-sha256; d=D.Test; s=S; h=FROM; i=Joe@News.D.TEST", Pass, ""}, // names in any case
		{"v=1; a=ed25519-sha256; d=d.test; s=two; h=from", Pass, ""},
		{"v=1; a=ed25519-sha256; d=d.test.; s=s; h=from", Pass, ""},
		{"v=1; a=ed25519-sha256; d=d.test; s=s; h=from; z=From:b=x|To:y", Pass, ""}, // b= within z=
		{"v=1; a=ed25519-sha256; d=d.test; s=s; h=from; q=dns/foo:dns/txt; unknown=x", Pass, ""},
		{"v=1; a=ed25519-sha256; d=d.test; s=strict; h=from; i=@d.test", Pass, ""},
		{"v=1; a=ed25519-sha256; d=d.test; s=strict; h=from; i=@news.d.test", PermError, "i="},
		{"v=1; a=ed25519-sha256; d=d.test; s=s; h=from; i=a@e.test", PermError, "i="},
		{"v=1; a=ed25519-sha256; d=d.test; s=s; h=from; i=a@baddd.test", PermError, "i="},
		{"v=1; a=ed25519-sha256; d=d.test; s=testing; h=from", Pass, ""},
		{"v=1; a=ed25519-sha256; d=d.test; s=revoked; h=from", PermError, "revoked"},
		{"v=1; a=ed25519-sha256; d=d.test; s=sha1; h=from", PermError, "use"},
		{"v=1; a=ed25519-sha256; d=d.test; s=web; h=from", PermError, "use"},
		{"v=1; a=ed25519-sha256; d=d.test; s=rubbish; h=from", PermError, "valid"},
		{"v=1; a=ed25519-sha256; d=d.test; s=nobody; h=from", PermError, "no key"},
		{"v=1; a=ed25519-sha256; d=d.test; s=gone; h=from", TempError, "temporary"},
		{"v=1; a=ed25519-sha256; d=d.test; s=rsa; h=from", PermError, "use"},
		{"v=1; a=rsa-sha256; d=d.test; s=rsa; h=from", Fail, "header"},
		{"v=1; a=rsa-sha256; d=d.test; s=rsa512; h=from", Policy, "too short"},
		{"v=1; a=rsa-sha256; d=d.test; s=rsa8192; h=from", Policy, "too long"},
		{"v=1; a=rsa-sha1; d=d.test; s=s; h=from", PermError, "algorithm"},
		{"v=1; a=ed25519-sha256; d=d.test; s=s; h=to", PermError, "From"},
		{"v=1; a=ed25519-sha256; d=d.test; s=s; h=from; q=dns/foo", Neutral, "way"},
		{"v=2; a=ed25519-sha256; d=d.test; s=s; h=from", Neutral, "version"},
		{"v=1; a=ed25519-sha256; d=d.test; h=from", Neutral, "missing"},
		{"v=1; a=ed25519-sha256; d=[192.0.2.1]; s=s; h=from", Neutral, "value"},
		{"v=1; a=ed25519-sha256; d=d_!; s=s; h=from", Neutral, "value"},
		{"v=1; a=ed25519-sha256; d=d.test; s=s; h=from; t=x", Neutral, "value"},
		{"v=1; a=ed25519-sha256; d=d.test; s=s; h=from; l=-1", Neutral, "value"},
		{fmt.Sprintf("v=1; a=ed25519-sha256; d=d.test; s=s; h=from; t=%d; x=%d", now-10, now+1000), Pass, ""},
		{fmt.Sprintf("v=1; a=ed25519-sha256; d=d.test; s=s; h=from; t=%d; x=%d", now-100, now-50), Policy, "expired"},
		{fmt.Sprintf("v=1; a=ed25519-sha256; d=d.test; s=s; h=from; t=%d", now+100000), Policy, "future"},
		{fmt.Sprintf("v=1; a=ed25519-sha256; d=d.test; s=s; h=from; t=%d; x=%d", now, now-1), PermError, "before"},
		{"v=1; a=ed25519-sha256; d=d.test; s=s; h=from; x=" + strings.Repeat("9", 70), Pass, ""},
		{"v=1; a=ed25519-sha256; d=d.test; s=s; h=from; l=5", Policy, "l="},
		{"v=1; a=ed25519-sha256; d=d.test; s=s; h=from; l=0", Policy, "l="},
		{"v=1; a=ed25519-sha256; d=d.test; s=s; h=from; l=15", Pass, ""}, // all there is
		{"v=1; a=ed25519-sha256; d=d.test; s=s; h=from; l=16", Fail, "body"},
	} {
		v := verdicts(t, z, s.sign(t, tc.tags, letter))
		if len(v) != 1 || v[0].Value != tc.value || (v[0].Err == nil) != (tc.err == "") || v[0].Err != nil && !strings.Contains(v[0].Err.Error(), tc.err) {
			t.Errorf("%s: got %s (%v), want %s (%s)", tc.tags, v[0].Value, v[0].Err, tc.value, tc.err)
		}
	}
	forged := strings.Replace(s.sign(t, "v=1; a=ed25519-sha256; d=d.test; s=testing; h=from", letter), "From: a@", "From: x@", 1)
	if v := verdicts(t, z, forged)[0]; v.Value != Neutral || !errors.Is(v.Err, errHeader) || !v.Key.Testing {
		t.Errorf("of a signer who tries it out: %s (%v)", v.Value, v.Err)
	}
	more := strings.Replace(s.sign(t, "v=1; a=ed25519-sha256; d=d.test; s=s; h=from:from", letter), "To: ", "From: evil@d.test\r\nTo: ", 1)
	if v := verdicts(t, z, more)[0]; v.Value != Fail {
		t.Errorf("a second From under a signature over both: %s", v.Value)
	}
}

func rsaOf(t testing.TB, bits int) string {
	t.Helper()
	// Nobody signs with it: any odd number of that size will do.
	n := make([]byte, bits/8)
	for i := range n {
		n[i] = 0xc5
	}
	k := &rsa.PublicKey{E: 65537}
	k.N = newInt(n)
	return signer{key: publicOnly{k}}.record(t, "")
}

// TestLimit: of a hundred signatures a few are looked at, and their keys once.
func TestLimit(t *testing.T) {
	s := newSigner(t)
	z := &dnstest.Zone{TXT: map[string][]string{"s._domainkey.d.test": {s.record(t, "")}}}
	m := letter
	for range 100 {
		m = s.sign(t, "v=1; a=ed25519-sha256; d=d.test; s=s; h=from", m)
	}
	for limit, want := range map[int]int{5: 5, 8: 8, 1000: MaxSignatures} {
		vs, err := Verify(t.Context(), z, parse(t, m), limit)
		if err != nil || len(vs) != want {
			t.Errorf("%d verdicts, %v", len(vs), err)
		}
	}
	if n := len(z.Asked()); n != 3 {
		t.Errorf("%d questions", n)
	}
}

func TestPrefixes(t *testing.T) {
	var vs []Verdict
	for _, b := range []string{"abcdefghijk", "abcdefghiXk", "zz", "abcdefghijk", ""} {
		vs = append(vs, Verdict{Signature: &Signature{B: b}})
	}
	if got := strings.Join(Prefixes(vs), " "); got != "abcdefghij abcdefghiX zz abcdefghij " {
		t.Errorf("got %q", got)
	}
}

// TestLinearVerify: what takes others minutes (LIBRARIES of the design measured
// 23 s for a folded megabyte, 28 s for 8 MB of line breaks) is linear.
func TestLinearVerify(t *testing.T) {
	s := newSigner(t)
	z := &dnstest.Zone{TXT: map[string][]string{"s._domainkey.d.test": {s.record(t, "")}}}
	for name, m := range map[string]string{
		"a folded field":    "From: a@d.test\r\nX:" + strings.Repeat(" y\r\n", 250_000) + "\r\nbody",
		"empty lines":       "From: a@d.test\r\n\r\n" + strings.Repeat("\r\n", 4_000_000) + "x",
		"spaces":            "From: a@d.test\r\n\r\n" + strings.Repeat(" ", 8_000_000) + "x",
		"h= times fields":   "From: a@d.test\r\n" + strings.Repeat("X: y\r\n", 10_000) + "\r\nbody",
		"fields of signers": strings.Repeat("DKIM-Signature: b=;\r\n", 10_000) + "From: a@d.test\r\n\r\nbody",
	} {
		tags := "v=1; a=ed25519-sha256; d=d.test; s=s; c=relaxed/relaxed; h=from"
		if strings.HasPrefix(name, "h=") {
			tags += strings.Repeat(":x", 10_000)
		} else {
			tags += ":x"
		}
		signed := tags + "; bh=eA==; b=eA=="
		all := strings.Repeat("DKIM-Signature: "+signed+"\r\nDKIM-Signature: "+strings.Replace(signed, "relaxed/relaxed", "simple/simple", 1)+"\r\n", 4) + m
		began := time.Now()
		msg := parse(t, all)
		if _, err := Verify(t.Context(), z, msg, MaxSignatures); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if d := time.Since(began); d > 10*time.Second {
			t.Errorf("%s: %v", name, d)
		}
	}
}

func TestVerifyEndsWithContext(t *testing.T) {
	s := newSigner(t)
	z := &dnstest.Zone{Silent: map[string]bool{"s._domainkey.d.test": true}}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	vs, err := Verify(ctx, z, parse(t, s.sign(t, "v=1; a=ed25519-sha256; d=d.test; s=s; h=from", letter)), 5)
	if err != nil || len(vs) != 1 || vs[0].Value != TempError {
		t.Errorf("got %+v, %v", vs, err)
	}
}

func vectors(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("CADDY_SMTP_VECTORS")
	if dir == "" && os.Getenv("CADDY_SMTP_REQUIRE_ALL") == "1" {
		t.Fatal("CADDY_SMTP_VECTORS is not set")
	}
	if dir == "" {
		t.Skip("CADDY_SMTP_VECTORS is not set")
	}
	return dir
}

// TestMailDKIM is the corpus of Mail::DKIM. It is of a time of drafts, rsa-sha1,
// short keys and DomainKeys, none of which counts any more (RFC 6376, RFC 8301):
// what it lets pass for one of these reasons alone does not.
func TestMailDKIM(t *testing.T) {
	dir := filepath.Join(vectors(t), "dkim", "t")
	z := mailDKIMZone(t, filepath.Join(dir, "FAKE_DNS.dat"))
	list, err := os.ReadFile(filepath.Join(dir, "expected.tsv"))
	if err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	for line := range strings.Lines(string(list)) {
		name, want, _ := strings.Cut(strings.TrimSpace(line), "\t")
		b, err := os.ReadFile(filepath.Join(dir, "corpus", name))
		if err != nil {
			t.Fatal(err)
		}
		b = bytes.TrimPrefix(b, []byte("\n")) // an empty line before the header is none
		best, why, outdated := None, error(nil), false
		for _, v := range verdicts(t, z, crlf(string(b))) {
			if best != Pass {
				best, why = v.Value, v.Err
			}
			draft := !strings.Contains(v.Signature.raw, "v=1;")
			outdated = outdated || draft || errors.Is(v.Err, errAlgorithm) || errors.Is(v.Err, ErrKeySize)
		}
		outdated = outdated || best == None && bytes.Contains(b, []byte("DomainKey-Signature"))
		switch {
		case want == "pass" && best == Pass, want != "pass" && best != Pass:
			count["agreed"]++
		case want == "pass" && outdated:
			count["outdated"]++
		default:
			t.Errorf("%s: got %s (%v), want %s", name, best, why, want)
		}
	}
	t.Log(count)
	if count["agreed"] < 39 {
		t.Errorf("agreed on %d only", count["agreed"])
	}
}

// mailDKIMZone reads FAKE_DNS.dat.
func mailDKIMZone(t *testing.T, file string) *dnstest.Zone {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	z := &dnstest.Zone{TXT: map[string][]string{}, Fail: map[string]bool{}}
	for sc := bufio.NewScanner(bytes.NewReader(b)); sc.Scan(); {
		name, txt, ok := strings.Cut(sc.Text(), " ")
		switch txt = strings.TrimSpace(txt); {
		case !ok || name == "#" || txt == "NXDOMAIN":
		case strings.HasPrefix(txt, "~~"):
			z.Fail[name] = true
		default:
			z.TXT[strings.ToLower(name)] = []string{strings.Trim(txt, `"`)}
		}
	}
	return z
}

// TestMailauth are messages of today, each with its keys, as the mail-auth
// library has them.
func TestMailauth(t *testing.T) {
	dir := filepath.Join(vectors(t), "mailauth", "resources", "dkim")
	want := map[string]string{
		"001.txt": "pass pass", "002.txt": "pass", "003.txt": "pass pass", "004.txt": "pass", "005.txt": "policy expired", "006.txt": "pass",
	}
	for name, want := range want {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		records, text, _ := strings.Cut(strings.ReplaceAll(string(b), "\r\n", "\n"), "\n\n")
		z := &dnstest.Zone{TXT: map[string][]string{}}
		for line := range strings.Lines(records) {
			host, txt, _ := strings.Cut(strings.TrimSpace(line), " ")
			z.TXT[strings.ToLower(host)] = append(z.TXT[strings.ToLower(host)], txt)
		}
		var got []string
		for _, v := range verdicts(t, z, crlf(text)) {
			if got = append(got, v.Value); v.Err != nil {
				got = append(got, v.Err.Error())
			}
		}
		if g := strings.Join(got, " "); g != want {
			t.Errorf("%s: got %s, want %s", name, g, want)
		}
	}
}

// FuzzVerify: whatever a signature and a key say, there is a verdict.
func FuzzVerify(f *testing.F) {
	f.Add("v=1; a=rsa-sha256; d=d.test; s=s; h=from:to; bh=AA==; b=AA==; c=relaxed/simple; l=3; t=1; x=2; i=a@d.test", "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=", "body \r\n")
	f.Fuzz(func(t *testing.T, field, record, body string) {
		m, err := message.Parse([]byte("DKIM-Signature: " + field + "\r\nFrom: a@d.test\r\n\r\n" + body))
		if err != nil {
			return
		}
		z := &dnstest.Zone{TXT: map[string][]string{"s._domainkey.d.test": {record}}}
		vs, err := Verify(context.Background(), z, m, 5)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range vs {
			if v.Value == "" || v.Value == Pass || v.Err == nil {
				t.Errorf("%q: %+v", field, v)
			}
		}
		_ = Prefixes(vs)
	})
}

func newInt(b []byte) *big.Int { return new(big.Int).SetBytes(b) }

// publicOnly is a key that only its public part is wanted of.
type publicOnly struct{ k *rsa.PublicKey }

func (p publicOnly) Public() crypto.PublicKey { return p.k }

func (publicOnly) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("no private key")
}
