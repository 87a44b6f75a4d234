package login

import (
	"reflect"
	"strings"
	"testing"
)

// Keys of "pencil", with the salts and counts of RFC 5802, section 5, and of RFC
// 7677, section 3.
const (
	keys1   = "SCRAM-SHA-1$4096:QSXCR+Q6sek8bf92$6dlGYMOdZcOPutkcNY8U2g7vK9Y=:D+CSWLOshSulAsxiupA+qs2/fTE="
	keys256 = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
)

func TestKeys(t *testing.T) {
	for _, text := range []string{keys1, keys256} {
		k, err := ParseKeys(text)
		if err != nil {
			t.Fatal(err)
		}
		made, err := DeriveKeys(k.Hash, "pencil", k.Salt, k.Iterations)
		if err != nil || made.String() != text || k.String() != text {
			t.Errorf("%s: %s, %v", text, made.String(), err)
		}
		if !k.Match("pencil") || k.Match("Pencil") || k.Match("") {
			t.Errorf("%s: match", text)
		}
	}
	dovecot := "{SCRAM-SHA-1}4096,QSXCR+Q6sek8bf92,6dlGYMOdZcOPutkcNY8U2g7vK9Y=,D+CSWLOshSulAsxiupA+qs2/fTE="
	if k, err := ParseKeys(dovecot); err != nil || k.String() != keys1 {
		t.Error(k, err)
	}
	a, err := NewKeys(SHA256, "x", Iterations)
	b, err2 := NewKeys(SHA256, "x", Iterations)
	if err != nil || err2 != nil || string(a.Salt) == string(b.Salt) || !a.Match("x") {
		t.Error("new keys:", err, err2)
	}
}

// TestPrepare has the examples of RFC 4013, section 3.
func TestPrepare(t *testing.T) {
	for in, want := range map[string]string{
		"I\u00adX": "IX", "user": "user", "\u00aa": "a", "\u2168": "IX", "a\u00a0b": "a b",
		"\u0007": "\u0007", "\U0001F511": "\U0001F511", // refused, and so as they are
	} {
		if got := prepare(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestKeysRefuse(t *testing.T) {
	for _, s := range []string{
		"", "SCRAM-", "SCRAM-SHA-256", "SCRAM-SHA-512" + keys256[13:], "SCRAM-MD5" + keys1[11:], keys1 + ":", keys1[:len(keys1)-1],
		strings.Replace(keys1, "4096", "0", 1), strings.Replace(keys1, "4096", "-1", 1), strings.Replace(keys1, "4096", "99999999999999999999", 1),
		strings.Replace(keys1, "4096", "10000001", 1), strings.Replace(keys1, "QSXCR+Q6sek8bf92", "", 1), strings.Replace(keys1, "QSXC", "!!!!", 1),
		strings.Replace(keys1, "D+CSWLOshSulAsxiupA+qs2/fTE=", "AAAA", 1), strings.Replace(keys256, "SHA-256", "SHA-1", 1), "{SCRAM-SHA-1}4096,a,b", "{SCRAM-SHA-1",
	} {
		if k, err := ParseKeys(s); err == nil {
			t.Errorf("%s: %+v", s, k)
		}
	}
	for _, c := range []struct {
		hash, password string
		iterations     int
	}{{"SHA-512", "x", 4096}, {SHA1, "x", 0}, {SHA1, "x", maxIterations + 1}, {SHA1, "", 4096}, {SHA1, strings.Repeat("x", maxPassword+1), 4096}} {
		if _, err := NewKeys(c.hash, c.password, c.iterations); err == nil {
			t.Error(c)
		}
	}
}

func TestParseSecret(t *testing.T) {
	k1, _ := ParseKeys(keys1)
	k256, _ := ParseKeys(keys256)
	for in, want := range map[string]struct {
		s        Secret
		forms    Forms
		verifier string
	}{
		bc4:                                 {Secret{Hash: bc4}, Hashes, bc4},
		" {BLF-CRYPT}" + bc4:                {Secret{Hash: bc4}, Hashes, bc4},
		"{ARGON2ID}" + argon:                {Secret{Hash: argon}, Hashes, argon},
		keys256:                             {Secret{SCRAM: []Keys{k256}}, Hashes | SCRAMSHA256, keys256},
		keys256 + "  " + keys1:              {Secret{SCRAM: []Keys{k1, k256}}, Hashes | SCRAMSHA1 | SCRAMSHA256, keys256},
		argon + " " + keys1:                 {Secret{Hash: argon, SCRAM: []Keys{k1}}, Hashes | SCRAMSHA1, argon},
		"{PLAIN}pa,ss$w:ord":                {Secret{Plain: "pa,ss$w:ord"}, allForms, "{PLAIN}pa,ss$w:ord"},
		"{PLAIN.b64}YSBiIMO8 " + keys1:      {Secret{Plain: "a b ü", SCRAM: []Keys{k1}}, allForms, "{PLAIN}a b ü"},
		"{PLAIN}x " + bc4 + "\t" + keys1[:]: {Secret{Hash: bc4, Plain: "x", SCRAM: []Keys{k1}}, allForms, bc4},
	} {
		got, err := ParseSecret(in)
		if err != nil || !reflect.DeepEqual(got, want.s) || got.Forms() != want.forms || got.Verifier() != want.verifier {
			t.Errorf("%s: %+v %v %s, %v", in, got, got.Forms(), got.Verifier(), err)
		}
		if again, err := ParseSecret(got.Text()); err != nil || !reflect.DeepEqual(again, got) {
			t.Errorf("%s: text %s, %v", in, got.Text(), err)
		}
	}
	for _, in := range []string{
		"", " ", "canary", bc4 + " canary", "canary " + bc4, bc4 + " " + bc4, keys1 + " " + keys1, "{PLAIN}canary {PLAIN}canary", "{PLAIN}", "{PLAIN}canary\xff",
		"{PLAIN.b64}canary", "{PLAIN.b64}", "{MD5}canary", "{CRYPT}$6$canary", "SCRAM-SHA-256$canary", "{PLAIN}canary\x00",
	} {
		if got, err := ParseSecret(in); err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %+v %v", in, got, err)
		}
	}
}

func TestMatchPlain(t *testing.T) {
	h, err := ParseHash("{PLAIN}secret")
	if err != nil || !MatchPlain("{PLAIN}secret", "secret") || MatchPlain("{PLAIN}secret", "Secret") || MatchPlain(h.Fake, "secret") || MatchPlain(h.Fake, "") {
		t.Error(h, err)
	}
}

func FuzzParseSecret(f *testing.F) {
	for _, s := range []string{bc4, argon, keys1, keys256 + " " + keys1, "{PLAIN}x", "{PLAIN.b64}YSBi " + bc4, "{SCRAM-SHA-1}4096,QSXCR+Q6sek8bf92,6dlGYMOdZcOPutkcNY8U2g7vK9Y=,D+CSWLOshSulAsxiupA+qs2/fTE="} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseSecret(s)
		if err != nil {
			return
		}
		b, err := ParseSecret(a.Text())
		if err != nil || !reflect.DeepEqual(a, b) {
			t.Errorf("%+v is not %+v, %v", a, b, err)
		}
		if _, err := ParseHash(a.Verifier()); err != nil || a.Forms()&Hashes == 0 {
			t.Errorf("verifier of %+v: %v", a, err)
		}
	})
}
