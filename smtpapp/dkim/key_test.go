package dkim

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/caddymail/caddy-smtp/smtpapp/dns/dnstest"
)

func TestParseTags(t *testing.T) {
	for _, tc := range []struct{ in, name, want string }{
		{"v=1; a=rsa-sha256; b=x", "a", "rsa-sha256"},
		{"v=1;a=x;", "a", "x"},
		{" v = 1 ;\r\n\ta =\r\n x y ; ", "a", "x y"},
		{"v=1; a=", "a", ""},
		{"v=1; b=ab=c==", "b", "ab=c=="},
		{"n=\u00fc", "n", "\u00fc"},
		{"a_1=x", "a_1", "x"},
	} {
		tags, err := ParseTags(tc.in)
		got, ok := tags.Lookup(tc.name)
		if err != nil || !ok || got != tc.want {
			t.Errorf("%q: %s is %q, %v; %v", tc.in, tc.name, got, ok, err)
		}
	}
	for _, in := range []string{
		"", ";", "v", "v=1;; a=x", "v=1; ; a=x", "v=1; a=x; a=y", "1=x", "_a=x", "=x", "a-b=x", "v=1; a=x\x00", "v=1; a b=x", "v=1; a",
		strings.Repeat("a=x;", 2), manyTags(maxTags + 1),
	} {
		if tags, err := ParseTags(in); err == nil {
			t.Errorf("%q is %v", in, tags)
		}
	}
	if _, err := ParseTags(manyTags(maxTags)); err != nil {
		t.Error(err)
	}
	if tags, err := ParseTags("A=1; a=2"); err != nil || tags.Get("a") != "2" || tags.First() != "A" || tags.Get("b") != "" {
		t.Errorf("%v, %v", tags, err)
	}
	if (Tags{}).First() != "" {
		t.Error("no tags have a first one")
	}
}

func manyTags(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString("t" + strings.Repeat("x", i) + "=1;")
	}
	return b.String()
}

func TestUnspaced(t *testing.T) {
	if got := Unspaced("a b\r\n\tc\u00fc"); got != "abc\u00fc" {
		t.Error(got)
	}
	if got := strings.Join(List(" from : To\r\n :"), "|"); got != "from|To|" {
		t.Error(got)
	}
}

func rsaRecord(t *testing.T, bits int) (*rsa.PrivateKey, string) {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&k.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return k, base64.StdEncoding.EncodeToString(der)
}

func TestPublicKey(t *testing.T) {
	k, p := rsaRecord(t, 1024)
	pkcs1 := base64.StdEncoding.EncodeToString(x509.MarshalPKCS1PublicKey(&k.PublicKey))
	ed, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	edp := base64.StdEncoding.EncodeToString(ed)
	sum := sha256.Sum256([]byte("x"))
	rsaSig, err := k.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	edSig := ed25519.Sign(edKey, sum[:])
	for _, tc := range []struct {
		txt  string
		a    Algorithm
		sig  []byte
		want error // of parsing or verifying
	}{
		{"v=DKIM1; p=" + p, RSASHA256, rsaSig, nil},
		{"p=" + p[:50] + " " + p[50:] + ";", RSASHA256, rsaSig, nil},
		{"k=rsa; p=" + pkcs1, RSASHA256, rsaSig, nil},
		{"k=rsa; h=sha1:sha256; s=tlsrpt:email; p=" + p, RSASHA256, rsaSig, nil},
		{"k=ed25519; p=" + edp, Ed25519SHA256, edSig, nil},
		{"p=" + p, RSASHA256, edSig, ErrSignature},
		{"k=ed25519; p=" + edp, Ed25519SHA256, rsaSig, ErrSignature},
		{"k=ed25519; p=" + edp, RSASHA256, edSig, ErrKeyUse},
		{"p=" + p, Ed25519SHA256, rsaSig, ErrKeyUse},
		{"p=" + p, "rsa-sha1", rsaSig, ErrKeyUse},
		{"h=sha1; p=" + p, RSASHA256, rsaSig, ErrKeyUse},
		{"s=tlsrpt; p=" + p, RSASHA256, rsaSig, ErrKeyUse},
		{"k=dsa; p=" + p, RSASHA256, rsaSig, ErrKeyUse},
		{"v=DKIM1; p=", RSASHA256, rsaSig, ErrRevoked},
		{"v=DKIM2; p=" + p, RSASHA256, rsaSig, ErrKeySyntax},
		{"p=" + p + "; v=DKIM1", RSASHA256, rsaSig, ErrKeySyntax},
		{"v=DKIM1; k=rsa", RSASHA256, rsaSig, ErrKeySyntax},
		{"v=spf1 -all", RSASHA256, rsaSig, ErrKeySyntax},
		{"p=AAAA", RSASHA256, rsaSig, ErrKeySyntax},
		{"p=!", RSASHA256, rsaSig, ErrKeySyntax},
		{"k=ed25519; p=" + p, Ed25519SHA256, edSig, ErrKeySyntax},
		{"p=" + edp, RSASHA256, rsaSig, ErrKeySyntax},
		{"p=" + strings.Repeat("A", maxKey+1), RSASHA256, rsaSig, ErrKeySize},
	} {
		key, err := ParsePublicKey(tc.txt)
		if err == nil {
			err = key.Verify(tc.a, sum, tc.sig)
		}
		if !errors.Is(err, tc.want) {
			t.Errorf("%.60s with %s: %v, want %v", tc.txt, tc.a, err, tc.want)
		}
	}
}

func TestPublicKeySizeAndFlags(t *testing.T) {
	// The 512 bits of the ARC test suite, which Go makes no keys of.
	const short = "p=MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBAIWmlgix/84GJ+dfgjm7LTc9EPdfkftlgiPpCq4/kbDAZmU0VvYKDljjleJ1dfvS+CGy9U/kk1tG3EeEvb82xAcCAwEAAQ=="
	if _, err := ParsePublicKey(short); !errors.Is(err, ErrKeySize) && !errors.Is(err, ErrKeySyntax) {
		t.Errorf("512 bits: %v", err)
	}
	_, p := rsaRecord(t, 1024)
	k, err := ParsePublicKey("t=y:s; p=" + p)
	if err != nil || !k.Testing || !k.Strict {
		t.Errorf("%+v, %v", k, err)
	}
}

func TestLookupPublicKey(t *testing.T) {
	_, p := rsaRecord(t, 1024)
	zone := &dnstest.Zone{
		TXT: map[string][]string{
			"one._domainkey.example.test":   {"p=" + p},
			"two._domainkey.example.test":   {"v=spf1 -all", "p=" + p},
			"wrong._domainkey.example.test": {"p=", "x"},
		},
		Fail: map[string]bool{"fail._domainkey.example.test": true},
	}
	for selector, want := range map[string]error{"one": nil, "two": nil, "wrong": ErrRevoked, "none": ErrNoKey} {
		if _, err := LookupPublicKey(t.Context(), zone, selector, "example.test"); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", selector, err, want)
		}
	}
	_, err := LookupPublicKey(t.Context(), zone, "fail", "example.test")
	if e, ok := errors.AsType[*net.DNSError](err); !ok || !e.IsTemporary {
		t.Errorf("a failure of DNS is %v", err)
	}
}

func FuzzParsePublicKey(f *testing.F) {
	f.Add("v=DKIM1; k=rsa; h=sha256; s=email; t=y:s; p=MFww")
	f.Add("k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=")
	f.Fuzz(func(t *testing.T, txt string) {
		if k, err := ParsePublicKey(txt); err == nil {
			_ = k.Verify(RSASHA256, [32]byte{}, nil)
			_ = k.Verify(Ed25519SHA256, [32]byte{}, nil)
		}
	})
}
