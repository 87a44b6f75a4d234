package dkimsign

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	msgauth "github.com/emersion/go-msgauth/dkim"

	"github.com/caddymail/caddy-smtp/smtpapp/dkim"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

// Keys and message of RFC 8463, appendix A.
const (
	ed25519Seed = "nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A="
	rsaKey      = `-----BEGIN RSA PRIVATE KEY-----
MIICXQIBAAKBgQDkHlOQoBTzWRiGs5V6NpP3idY6Wk08a5qhdR6wy5bdOKb2jLQi
Y/J16JYi0Qvx/byYzCNb3W91y3FutACDfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqM
KrM3rG4hstT5QjvHO9PzoxZyVYLzBfO2EeC3Ip3G+2kryOTIKT+l/K4w3QIDAQAB
AoGAH0cxOhFZDgzXWhDhnAJDw5s4roOXN4OhjiXa8W7Y3rhX3FJqmJSPuC8N9vQm
6SVbaLAE4SG5mLMueHlh4KXffEpuLEiNp9Ss3O4YfLiQpbRqE7Tm5SxKjvvQoZZe
zHorimOaChRL2it47iuWxzxSiRMv4c+j70GiWdxXnxe4UoECQQDzJB/0U58W7RZy
6enGVj2kWF732CoWFZWzi1FicudrBFoy63QwcowpoCazKtvZGMNlPWnC7x/6o8Gc
uSe0ga2xAkEA8C7PipPm1/1fTRQvj1o/dDmZp243044ZNyxjg+/OPN0oWCbXIGxy
WvmZbXriOWoSALJTjExEgraHEgnXssuk7QJBALl5ICsYMu6hMxO73gnfNayNgPxd
WFV6Z7ULnKyV7HSVYF0hgYOHjeYe9gaMtiJYoo0zGN+L3AAtNP9huqkWlzECQE1a
licIeVlo1e+qJ6Mgqr0Q7Aa7falZ448ccbSFYEPD6oFxiOl9Y9se9iYHZKKfIcst
o7DUw1/hz2Ck4N5JrgUCQQCyKveNvjzkkd8HjYs0SwM0fPjK16//5qDZ2UiDGnOe
uEzxBDAr518Z8VFbR41in3W4Y3yCDgQlLlcETrS+zYcL
-----END RSA PRIVATE KEY-----`
	football = `From: Joe SixPack <joe@football.example.com>
To: Suzie Q <suzie@shopping.example.net>
Subject: Is dinner ready?
Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)
Message-ID: <20030712040037.46341.5F8J@football.example.com>

Hi.

We lost the game.  Are you hungry yet?

Joe.
`
	footballHash = "2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8="
)

func crlf(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }

func parse(t testing.TB, s string) *message.Message {
	t.Helper()
	m, err := message.Parse([]byte(s))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func edKey(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	seed, err := base64.StdEncoding.DecodeString(ed25519Seed)
	if err != nil {
		t.Fatal(err)
	}
	return ed25519.NewKeyFromSeed(seed)
}

func rsa1024(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	b, _ := pem.Decode([]byte(rsaKey))
	k, err := x509.ParsePKCS1PrivateKey(b.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

var rsa2048 = sync.OnceValue(func() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
})

func both(t testing.TB) []Key {
	return []Key{{"football.example.com", "test", rsa2048()}, {"football.example.com", "brisbane", edKey(t)}}
}

// TestRFC8463 makes the signatures of its appendix A.3.
func TestRFC8463(t *testing.T) {
	names := []string{"from", "to", "subject", "date", "message-id"}
	m := parse(t, crlf(football))
	sum, err := BodyHash(m.Body(), dkim.Relaxed)
	if err != nil || base64.StdEncoding.EncodeToString(sum[:]) != footballHash {
		t.Fatalf("body hash %x, %v", sum, err)
	}
	p := new(picked)
	NewFields(names, nil, nil).pick(m.Header, p)
	var signed []byte
	for _, raw := range p.raws {
		signed = dkim.Relaxed.AppendField(signed, raw)
	}
	for _, tc := range []struct {
		key         Key
		field, want string
	}{
		{
			Key{"football.example.com", "brisbane", edKey(t)},
			`DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;
 d=football.example.com; i=@football.example.com;
 q=dns/txt; s=brisbane; t=1528637909; h=from : to :
 subject : date : message-id : from : subject : date;
 bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
 b=`,
			"/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11BusFa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw==",
		},
		{
			Key{"football.example.com", "test", rsa1024(t)},
			`DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed;
 d=football.example.com; i=@football.example.com;
 q=dns/txt; s=test; t=1528637909; h=from : to : subject :
 date : message-id : from : subject : date;
 bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
 b=`,
			"F45dVWDfMbQDGHJFlXUNB2HKfbCeLRyhDXgFpEL8GwpsRe0IeIixNTe3DhCVlUrSjV4BwcVcOF6+FF3Zo9Rpo1tFOeS9mPYQTnGdaSGsgeefOsk2Jz" +
				"dA+L10TeYt9BgDfQNZtKdN1WO//KgIqXP7OdEFE4LjFYNcUxZQ4FADY+8=",
		},
	} {
		got, err := tc.key.Complete(dkim.Relaxed.AppendField(signed, crlf(tc.field)), []byte(crlf(tc.field)))
		if err != nil {
			t.Fatal(err)
		}
		value := strings.Join(strings.Fields(strings.TrimPrefix(got, crlf(tc.field))), "")
		if value != tc.want {
			t.Errorf("%s: got %s", tc.key.Selector, value)
		}
	}
}

// TestRFC6376BodyHash is that of appendix A.2, simple; those of section 3.4.5
// are in package dkim.
func TestRFC6376BodyHash(t *testing.T) {
	for c, want := range map[dkim.Canonicalization][2]string{
		// There the second line has one space, here it has two.
		dkim.Simple:  {footballHash, "frcCV1k9oG9oKj3dpUqdJg1PxRT2RSN/XKdLCPjaYaY="}, // section 3.4.3: an empty body
		dkim.Relaxed: {footballHash, "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="}, // section 3.4.4
	} {
		_, body, _ := strings.Cut(strings.Replace(crlf(football), ".  A", ". A", 1), "\r\n\r\n")
		for i, b := range []string{body, ""} {
			sum, err := BodyHash(message.NewBody([]byte(b)), c)
			if got := base64.StdEncoding.EncodeToString(sum[:]); err != nil || got != want[i] {
				t.Errorf("%s %q: got %s, %v", c, b, got, err)
			}
		}
	}
}

// verify has go-msgauth check the signatures of a message and returns how many
// there are.
func verify(t *testing.T, m *message.Message, keys []Key) int {
	t.Helper()
	r, err := m.NewReader()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	vs, err := msgauth.VerifyWithOptions(r, &msgauth.VerifyOptions{LookupTXT: func(name string) ([]string, error) {
		for _, k := range keys {
			if k.Name() == name {
				rec, err := k.Record()
				return []string{rec}, err
			}
		}
		return nil, fmt.Errorf("no record %s", name)
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range vs {
		if v.Err != nil {
			t.Errorf("%s: %v", v.Domain, v.Err)
		}
	}
	return len(vs)
}

var messages = map[string]string{
	"plain":             football,
	"no body":           "From: a@b.test\n\n",
	"no empty line":     "From: a@b.test\n",
	"empty lines":       "From: a@b.test\n\n\n\n\n",
	"trailing lines":    "From: a@b.test\n\nhello\n\n\n\n",
	"no end":            "From: a@b.test\n\nhello",
	"white space":       "From: \t a@b.test \nSubject:\n \n\tfolded  \n  twice\n\n a\tb  c \n \n",
	"8-bit":             "From: J\u00fcrgen <j@b.test>\nSubject: \u00fcber\n\n\u00e4\u00f6\xff\xfe\n",
	"several":           "From: a@b.test\nReceived: 1\nReceived: 2\nList-ID: <l>\nResent-To: c@d.test\nResent-To: e@f.test\n\nx\n",
	"two From":          "From: a@b.test\nFrom: c@d.test\nTo: x@y.test\n\nx\n",
	"obsolete syntax":   "From : a@b.test\nSUBJECT\t: x\n\nx\n",
	"signed before":     "DKIM-Signature: v=1; nonsense\nFrom: a@b.test\n\nx\n",
	"long lines":        "From: a@b.test\nSubject: " + strings.Repeat("long ", 190) + "\n\n" + strings.Repeat("x", 5000) + " \n" + strings.Repeat(" y", 5000) + "\n",
	"many fields":       strings.Repeat("X-Field: x\nTo: a@b.test\n", 400) + "From: a@b.test\n\nx\n",
	"an odd From":       "From:\n\nx\n",
	"bare white space":  "From: a@b.test\n\n \n\t\n",
	"looks like header": "From: a@b.test\n\nDKIM-Signature: b=x\nFrom: b@c.test\n",
}

// TestVerifies: an independent verifier accepts what we sign, and refuses it
// when it was changed.
func TestVerifies(t *testing.T) {
	for name, text := range messages {
		for _, c := range []string{"relaxed/relaxed", "simple/simple", "simple/relaxed", "relaxed/simple"} {
			t.Run(name+" "+c, func(t *testing.T) {
				cs, err := dkim.ParseCanonicalizations(c)
				if err != nil {
					t.Fatal(err)
				}
				before := 0
				if name == "signed before" {
					t.Skip("go-msgauth reports the other signature too")
				}
				m, keys := parse(t, crlf(text)), both(t)
				if err := Sign(m, keys, Options{Canonicalizations: cs, Expire: time.Hour, Identity: "@football.example.com"}); err != nil {
					t.Fatal(err)
				}
				if n := verify(t, m, keys); n != before+2 {
					t.Errorf("%d signatures", n)
				}
			})
		}
	}
}

// TestOverSigned: one more field of a name that matters breaks the signature,
// one of another name does not.
func TestOverSigned(t *testing.T) {
	keys := both(t)
	for field, want := range map[string]bool{
		"From: x@y.test": false, "Subject: x": false, "Reply-To: x@y.test": false, "Cc: x@y.test": false,
		"Content-Type: text/html": false, "MIME-Version: 1.0": false, "References: <x>": false, "Date: x": false,
		"List-Unsubscribe: <x>": true, "Sender: x@y.test": true, "X-Other: x": true, "Received: x": true, "Resent-From: x@y.test": true,
	} {
		m := parse(t, crlf(football))
		if err := Sign(m, keys, Options{}); err != nil {
			t.Fatal(err)
		}
		if err := m.Header.PrependRaw(field + "\r\n"); err != nil {
			t.Fatal(err)
		}
		r, err := m.NewReader()
		if err != nil {
			t.Fatal(err)
		}
		vs, err := msgauth.VerifyWithOptions(r, &msgauth.VerifyOptions{LookupTXT: func(name string) ([]string, error) {
			rec, err := keys[btoi(strings.HasPrefix(name, "brisbane"))].Record()
			return []string{rec}, err
		}})
		if err != nil || len(vs) != 2 {
			t.Fatalf("%d, %v", len(vs), err)
		}
		for _, v := range vs {
			if (v.Err == nil) != want {
				t.Errorf("%s: %v", field, v.Err)
			}
		}
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// TestFields: which of them are in h=, and that they are taken from the bottom.
func TestFields(t *testing.T) {
	f := NewFields([]string{"Subject", "Cc"}, []string{"List-ID", "Sender"}, []string{"Resent-To"}).With("X-Own", "subject")
	m := parse(t, crlf("Resent-To: 2\nresent-to : 1\nX-Own: 1\nFROM: 1\nList-Id: 1\nSubject: 1\nX-No: 1\n\n"))
	p := new(picked)
	f.pick(m.Header, p)
	if got, want := strings.Join(p.names, ""), "from:from:subject:subject:cc:list-id:list-id:resent-to:resent-to:x-own:x-own:"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := strings.Join(p.raws, ""), crlf("FROM: 1\nSubject: 1\nList-Id: 1\nresent-to : 1\nResent-To: 2\nX-Own: 1\n"); got != want {
		t.Errorf("got %q", got)
	}
	if len(p.names) > 0 && f.find(strings.Repeat("x", 70)) >= 0 {
		t.Error("a long name is known")
	}
	for _, name := range []string{"", "x-OWN", "X-Own ", "fro\u017f"} {
		if got, want := f.find(name) >= 0, name == "x-OWN"; got != want {
			t.Errorf("%q is found: %v", name, got)
		}
	}
}

// TestForm: how the field looks, with all its tags.
func TestForm(t *testing.T) {
	m := parse(t, crlf(football))
	o := Options{Time: time.Unix(1528637909, 0), Expire: 24 * time.Hour, Identity: "jo;e=\u00fc@football.example.com"}
	if err := Sign(m, both(t), o); err != nil {
		t.Fatal(err)
	}
	fields := m.Header.Values("DKIM-Signature")
	if len(fields) != 2 || !strings.Contains(fields[0], "a=rsa-sha256") || !strings.Contains(fields[1], "a=ed25519-sha256") {
		t.Fatalf("got %q", fields)
	}
	raw, _, _ := strings.Cut(string(m.Header.Bytes()), "From:")
	for _, l := range strings.Split(strings.TrimSuffix(raw, "\r\n"), "\r\n") {
		if len(l) > foldAt || strings.TrimSpace(l) == "" {
			t.Errorf("line %q", l)
		}
	}
	want := `DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;
	d=football.example.com; s=brisbane; t=1528637909; x=1528724309;
	i=jo=3Be=3D=C3=BC@football.example.com; h=from:from:reply-to:subject:subject:
	 date:date:to:to:cc:message-id:message-id:in-reply-to:references:
	 mime-version:content-type:content-transfer-encoding;
	bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
	b=`
	if _, ed, _ := strings.Cut(raw, "DKIM-Signature: v=1; a=ed"); !strings.HasPrefix("DKIM-Signature: v=1; a=ed"+ed, crlf(want)) {
		t.Errorf("got %s", ed)
	}
	if regexp.MustCompile(`\bb=\S+`).FindString(raw) == "" {
		t.Errorf("no signature in %s", raw)
	}
}

// TestOtherField: ARC-Message-Signature is of the same making (RFC 8617,
// section 4.1.2).
func TestOtherField(t *testing.T) {
	got, err := Signatures(parse(t, crlf(football)), both(t)[1:], Options{Name: "ARC-Message-Signature", First: "i=3"})
	if err != nil || len(got) != 1 || !strings.HasPrefix(got[0], "ARC-Message-Signature: i=3; a=ed25519-sha256; c=relaxed/relaxed;") {
		t.Errorf("got %q, %v", got, err)
	}
}

// broken is a key that does not sign.
type broken struct {
	crypto.Signer
	sig []byte
	err error
}

func (b broken) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) { return b.sig, b.err }

func TestErrors(t *testing.T) {
	away := errors.New("away")
	good := both(t)[0]
	for name, tc := range map[string]struct {
		text string
		key  Key
		want error
	}{
		"no From":     {"Subject: x\n\nx\n", good, ErrNoFrom},
		"no header":   {"\nx\n", good, ErrNoFrom},
		"nothing":     {"", good, ErrNoFrom},
		"bare":        {"just words", good, ErrNoFrom},
		"no key":      {football, Key{"a.test", "s", nil}, ErrKey},
		"key is away": {football, Key{"a.test", "s", broken{edKey(t), nil, away}}, away},
		"no result":   {football, Key{"a.test", "s", broken{edKey(t), nil, nil}}, nil},
	} {
		m := parse(t, crlf(tc.text))
		n := m.Header.Len()
		err := Sign(m, []Key{good, tc.key}, Options{})
		if err == nil || tc.want != nil && !errors.Is(err, tc.want) {
			t.Errorf("%s: got %v", name, err)
		}
		if m.Header.Len() != n {
			t.Errorf("%s: the header is changed", name)
		}
		if _, err := tc.key.Record(); name == "no key" && err == nil {
			t.Errorf("%s: there is a record", name)
		}
	}
	if _, err := BodyHash(message.OpenBody(filepath.Join(t.TempDir(), "gone"), 1, "none"), dkim.Relaxed); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("body that is gone: %v", err)
	}
}

// spool makes files in a folder.
type spool string

func (s spool) Create() (*os.File, error) { return os.CreateTemp(string(s), "") }

// TestStreams: a message of 25 MB is never in memory.
func TestStreams(t *testing.T) {
	text := io.MultiReader(
		strings.NewReader(crlf("From: a@b.test\nSubject: big\n\n")),
		io.LimitReader(&repeater{unit: []byte("a line of  words, and white space \r\n")}, 25<<20),
	)
	m, err := message.Receive(text, message.Limits{}, spool(t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Body().Discard()
	keys := both(t)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := Signatures(m, keys, Options{}); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if size := after.TotalAlloc - before.TotalAlloc; size > 512<<10 {
		t.Errorf("%d octets are allocated for a message of 25 MB", size)
	}
	if err := Sign(m, keys, Options{}); err != nil {
		t.Fatal(err)
	}
	if n := verify(t, m, keys); n != 2 {
		t.Errorf("%d signatures", n)
	}
}

// repeater reads the same for ever.
type repeater struct {
	unit []byte
	at   int
}

func (r *repeater) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = r.unit[r.at]
		r.at = (r.at + 1) % len(r.unit)
	}
	return len(p), nil
}

func FuzzSign(f *testing.F) {
	for _, text := range messages {
		f.Add([]byte(crlf(text)))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := message.Parse(b)
		if err != nil || bytes.Contains(bytes.ToLower(b), []byte("dkim-signature")) {
			t.Skip()
		}
		keys := []Key{{"football.example.com", "brisbane", edKey(t)}}
		if err := Sign(m, keys, Options{}); err != nil {
			if !errors.Is(err, ErrNoFrom) {
				t.Error(err)
			}
			return
		}
		out, err := m.NewReader()
		if err != nil {
			t.Fatal(err)
		}
		all, err := io.ReadAll(out)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := message.Parse(all); err != nil || again.Header.Len() != m.Header.Len() {
			t.Errorf("it does not parse any more: %v", err)
		}
	})
}
