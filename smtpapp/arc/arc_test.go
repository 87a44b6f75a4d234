package arc

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/dkim"
	"github.com/caddymail/caddy-smtp/smtpapp/dkimsign"
	"github.com/caddymail/caddy-smtp/smtpapp/dns/dnstest"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

const mailText = `Received: from a.test by b.test; Wed, 25 Nov 2026 18:30:00 +0000
From: Alice <alice@author.test>
To: list@list.test
Subject: a chain
Date: Wed, 25 Nov 2026 18:30:00 +0000
Message-ID: <1@author.test>

Hello.
`

func parse(t testing.TB, s string) *message.Message {
	t.Helper()
	m, err := message.Parse([]byte(crlf(s)))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// text returns a message as it is sent.
func text(t testing.TB, m *message.Message) string {
	t.Helper()
	body, _ := m.Body().Bytes()
	return string(m.Header.Bytes()) + string(body)
}

// keys makes a key of each kind and publishes them.
func keys(t testing.TB) ([]dkimsign.Key, *dnstest.Zone) {
	t.Helper()
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	r, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	ks := []dkimsign.Key{{Domain: "ed.test", Selector: "e1", Signer: ed}, {Domain: "rsa.test", Selector: "r1", Signer: r}}
	zone := &dnstest.Zone{TXT: map[string][]string{}}
	for _, k := range ks {
		txt, err := k.Record()
		if err != nil {
			t.Fatal(err)
		}
		zone.TXT[k.Name()] = []string{txt}
	}
	return ks, zone
}

// extend seals a message n times, with the keys in turn.
func extend(t testing.TB, m *message.Message, ks []dkimsign.Key, zone *dnstest.Zone, n int) {
	t.Helper()
	for i := range n {
		if err := Seal(m, Verify(t.Context(), zone, m), ks[i%len(ks)], fmt.Sprintf("mx%d.test; dmarc=pass header.from=author.test", i+1), time.Unix(1700000000, 0)); err != nil {
			t.Fatalf("set %d: %v", i+1, err)
		}
	}
}

func TestSealAndVerify(t *testing.T) {
	ks, zone := keys(t)
	m := parse(t, mailText)
	if r := Verify(t.Context(), zone, m); r.Value != None || r.Err != nil || len(r.Sets) != 0 {
		t.Fatalf("no chain: %+v", r)
	}
	extend(t, m, ks, zone, 3)
	m = parse(t, text(t, m)) // as others get it
	r := Verify(t.Context(), zone, m)
	if r.Value != Pass || r.OldestPass != 0 || len(r.Sets) != 3 {
		t.Fatalf("%+v", r)
	}
	for i, want := range []string{"ed.test e1 none", "rsa.test r1 pass", "ed.test e1 pass"} {
		s := r.Sets[i]
		if got := s.Sealer + " " + s.Selector + " " + s.CV; got != want || s.Instance != i+1 {
			t.Errorf("set %d is %q, want %q", s.Instance, got, want)
		}
	}
	if got := r.Sets[1].Results; got != "mx2.test; dmarc=pass header.from=author.test" {
		t.Error(got)
	}
	for f := range m.Header.Fields() {
		for _, line := range strings.Split(f.Raw(), "\r\n") {
			if len(line) > 78 {
				t.Errorf("a line of %d octets: %s", len(line), line)
			}
		}
	}
}

// TestFiftySets is case 57 of a chain that grows without end.
func TestFiftySets(t *testing.T) {
	ks, zone := keys(t)
	m := parse(t, mailText)
	extend(t, m, ks[:1], zone, MaxSets)
	asked := len(zone.Asked())
	r := Verify(t.Context(), zone, m)
	if r.Value != Pass || len(r.Sets) != MaxSets {
		t.Fatalf("50 sets: %s, %v", r.Value, r.Err)
	}
	if n := len(zone.Asked()) - asked; n != 1 {
		t.Errorf("asked %d times for one key", n)
	}
	before := text(t, m)
	if err := Seal(m, r, ks[0], "mx.test; none", time.Now()); !errors.Is(err, ErrEnded) || text(t, m) != before {
		t.Errorf("a 51st set: %v", err)
	}
	for _, name := range []string{fieldResults, fieldSignature, fieldSeal} {
		m.Header.Prepend(name, strings.Replace(m.Header.Get(name), "i=50", "i=51", 1))
	}
	if r := Verify(t.Context(), zone, m); r.Value != Fail || !errors.Is(r.Err, errMany) {
		t.Errorf("51 sets: %s, %v", r.Value, r.Err)
	}
}

func TestBrokenChains(t *testing.T) {
	ks, zone := keys(t)
	whole := parse(t, mailText)
	extend(t, whole, ks, zone, 2)
	for name, tc := range map[string]struct {
		change func(m *message.Message, z *dnstest.Zone)
		want   error
		temp   bool
	}{
		"body": {change: func(m *message.Message, _ *dnstest.Zone) {
			*m = *message.New(m.Header, message.NewBody([]byte("Hello!\r\n")))
		}},
		"signed field":   {change: func(m *message.Message, _ *dnstest.Zone) { m.Header.Set("Subject", "another") }, want: dkim.ErrSignature},
		"second From":    {change: func(m *message.Message, _ *dnstest.Zone) { m.Header.Prepend("From", "b@b.test") }, want: dkim.ErrSignature},
		"first results":  {change: edit(fieldResults, "mx1.test", "mx9.test"), want: dkim.ErrSignature},
		"second results": {change: edit(fieldResults, "mx2.test", "mx9.test"), want: dkim.ErrSignature},
		"cut off": {change: func(m *message.Message, _ *dnstest.Zone) {
			for _, n := range []string{fieldResults, fieldSignature, fieldSeal} {
				m.Header.RemoveFunc(n, func(v string) bool { return strings.HasPrefix(v, "i=1;") })
			}
		}, want: errIncomplete},
		"no key":    {change: func(_ *message.Message, z *dnstest.Zone) { delete(z.TXT, "e1._domainkey.ed.test") }, want: dkim.ErrNoKey},
		"dns fails": {change: func(_ *message.Message, z *dnstest.Zone) { z.Fail = map[string]bool{"r1._domainkey.rsa.test": true} }, temp: true},
		"twice":     {change: func(m *message.Message, _ *dnstest.Zone) { m.Header.Prepend(fieldSeal, m.Header.Get(fieldSeal)) }, want: errTwice},
		"instance":  {change: edit(fieldSeal, "i=2", "i=02"), want: errInstance},
		"cv":        {change: edit(fieldSeal, "cv=none", "cv=pass"), want: errValidation},
		"cv failed": {change: edit(fieldSeal, "cv=pass", "cv=fail"), want: errFailedBefore},
	} {
		m := whole.Fork()
		z := &dnstest.Zone{TXT: map[string][]string{}}
		for n, txt := range zone.TXT {
			z.TXT[n] = txt
		}
		tc.change(m, z)
		r := Verify(t.Context(), z, m)
		if r.Value != Fail || tc.want != nil && !errors.Is(r.Err, tc.want) || r.Temporary() != tc.temp {
			t.Errorf("%s: %s, %v", name, r.Value, r.Err)
		}
	}
}

func edit(name, from, to string) func(*message.Message, *dnstest.Zone) {
	return func(m *message.Message, _ *dnstest.Zone) {
		b := strings.Builder{}
		for f := range m.Header.Fields() {
			raw := f.Raw()
			if f.Is(name) {
				raw = strings.Replace(raw, from, to, 1)
			}
			b.WriteString(raw)
		}
		h, _, err := message.ParseHeader([]byte(b.String() + "\r\n"))
		if err != nil {
			panic(err)
		}
		m.Header = h
	}
}

// TestAuthorNotSigned: a chain is known to be one whose message signature leaves
// From out, and so would vouch for whatever author is put there.
func TestAuthorNotSigned(t *testing.T) {
	ks, zone := keys(t)
	m := parse(t, mailText)
	i := "i=1"
	m.Header.Prepend(fieldResults, i+"; mx.test; dmarc=pass header.from=author.test")
	aar := topmost(m.Header)
	sum, err := dkimsign.BodyHash(m.Body(), dkim.Relaxed)
	if err != nil {
		t.Fatal(err)
	}
	var signed []byte
	for f := range m.Header.Fields() {
		if f.Is("Subject") {
			signed = dkim.Relaxed.AppendField(signed, f.Raw())
		}
	}
	ams, err := complete(ks[0], signed, fmt.Sprintf("%s: %s; a=%s; c=relaxed/relaxed; d=%s; s=%s; h=Subject; bh=%s; b=",
		fieldSignature, i, ks[0].Algorithm(), ks[0].Domain, ks[0].Selector, base64.StdEncoding.EncodeToString(sum[:])))
	if err != nil {
		t.Fatal(err)
	}
	before := dkim.Relaxed.AppendField(dkim.Relaxed.AppendField(nil, aar), ams)
	as, err := complete(ks[0], before, fmt.Sprintf("%s: %s; a=%s; cv=none; d=%s; s=%s; b=", fieldSeal, i, ks[0].Algorithm(), ks[0].Domain, ks[0].Selector))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{ams, as} {
		if err := m.Header.PrependRaw(f); err != nil {
			t.Fatal(err)
		}
	}
	if r := Verify(t.Context(), zone, m); r.Value != Pass || r.Sets[0].SignsAuthor() {
		t.Errorf("%s, %v", r.Value, r.Err)
	}
	m = parse(t, mailText)
	extend(t, m, ks, zone, 1)
	if r := Verify(t.Context(), zone, m); r.Value != Pass || !r.Sets[0].SignsAuthor() {
		t.Errorf("%s, %v", r.Value, r.Err)
	}
	if new(Set).SignsAuthor() {
		t.Error("a set that could not be read")
	}
}

// TestModifiedOnTheWay: a list changes the subject and seals what it made of
// it. The chain passes, and the first signature does not.
func TestModifiedOnTheWay(t *testing.T) {
	ks, zone := keys(t)
	m := parse(t, mailText)
	extend(t, m, ks, zone, 1)
	came := Verify(t.Context(), zone, m)
	m.Header.Set("Subject", "[list] a chain")
	if err := Seal(m, came, ks[1], "list.test; arc=pass", time.Now()); err != nil {
		t.Fatal(err)
	}
	extend(t, m, ks, zone, 1)
	if r := Verify(t.Context(), zone, m); r.Value != Pass || r.OldestPass != 2 {
		t.Errorf("%s, oldest pass %d, %v", r.Value, r.OldestPass, r.Err)
	}
}

// TestSealsFailure: who finds a broken chain says so over his own set alone,
// and the chain ends there.
func TestSealsFailure(t *testing.T) {
	ks, zone := keys(t)
	m := parse(t, mailText)
	extend(t, m, ks, zone, 1)
	m.Header.Set("Subject", "forged")
	r := Verify(t.Context(), zone, m)
	if r.Value != Fail {
		t.Fatal(r.Value)
	}
	if err := Seal(m, r, ks[1], "mx.test; arc=fail", time.Now()); err != nil {
		t.Fatal(err)
	}
	sets, err := read(m.Header)
	if !errors.Is(err, errFailedBefore) || sets[1].CV != Fail {
		t.Fatalf("%v", err)
	}
	v := verifier{ctx: t.Context(), resolver: zone, m: m, keys: map[string]key{}, bodies: map[dkim.Canonicalization][]byte{}}
	if err := v.verify(sets[1].as, sealed(sets[1:])[0]); err != nil {
		t.Errorf("the seal: %v", err)
	}
	if err := v.message(sets[1]); err != nil {
		t.Errorf("the signature: %v", err)
	}
	if err := Seal(m, Verify(t.Context(), zone, m), ks[0], "mx.test; none", time.Now()); !errors.Is(err, ErrEnded) {
		t.Errorf("a chain that has failed goes on: %v", err)
	}
}

func TestSealFails(t *testing.T) {
	ks, zone := keys(t)
	m := parse(t, "Subject: from nobody\n\nx\n")
	before := text(t, m)
	if err := Seal(m, Verify(t.Context(), zone, m), ks[0], "mx.test; none", time.Now()); !errors.Is(err, dkimsign.ErrNoFrom) || text(t, m) != before {
		t.Errorf("no From: %v", err)
	}
	m = parse(t, mailText)
	before = text(t, m)
	if err := Seal(m, Verify(t.Context(), zone, m), dkimsign.Key{Domain: "a.test", Selector: "s"}, "mx.test; none", time.Now()); !errors.Is(err, dkimsign.ErrKey) || text(t, m) != before {
		t.Errorf("no key: %v", err)
	}
}

// TestMailauth verifies the chains of mailauth's messages, whose keys stand
// above them.
func TestMailauth(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(vectors(t), "mailauth", "resources", "arc", "*.txt"))
	if err != nil || len(files) < 2 {
		t.Fatal(err, len(files))
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		zone := &dnstest.Zone{TXT: map[string][]string{}}
		head, content, _ := strings.Cut(strings.ReplaceAll(string(b), "\r\n", "\n"), "\n\n")
		for _, line := range strings.Split(head, "\n") {
			name, txt, _ := strings.Cut(line, " ")
			zone.TXT[strings.TrimSuffix(name, ".")] = []string{txt}
		}
		m := parse(t, content)
		r := Verify(t.Context(), zone, m)
		if r.Value != Pass || len(r.Sets) == 0 {
			t.Errorf("%s: %s, %v", filepath.Base(f), r.Value, r.Err)
		}
	}
}

func FuzzVerify(f *testing.F) {
	ks, zone := keys(f)
	m := parse(f, mailText)
	extend(f, m, ks, zone, 2)
	f.Add(text(f, m))
	f.Add("ARC-Seal: i=1; cv=none\r\nARC-Message-Signature: i=1\r\nARC-Authentication-Results: i=1; a; dmarc=pass\r\n\r\n")
	f.Fuzz(func(t *testing.T, content string) {
		m, err := message.Parse([]byte(content))
		if err != nil {
			return
		}
		r := Verify(t.Context(), zone, m)
		if r.Value == Pass && len(r.Sets) == 0 || r.Value == Fail && r.Err == nil {
			t.Errorf("%+v", r)
		}
		if err := Seal(m, r, ks[0], "mx.test; none", time.Unix(0, 0)); err == nil && r.Value != Fail {
			if again := Verify(t.Context(), zone, m); again.Value != Pass {
				t.Errorf("%s becomes %s: %v", r.Value, again.Value, again.Err)
			}
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	ks, zone := keys(b)
	m := parse(b, mailText)
	extend(b, m, ks[1:], zone, 3)
	for b.Loop() {
		if Verify(b.Context(), zone, m).Value != Pass {
			b.Fatal("fails")
		}
	}
}

func complete(k dkimsign.Key, before []byte, field string) (string, error) {
	return k.Complete(dkim.Relaxed.AppendField(before, field), []byte(field))
}
