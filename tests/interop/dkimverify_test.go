//go:build linux

package interop

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddymail/caddy-smtp/smtpapp/dkim"
	"github.com/caddymail/caddy-smtp/smtpapp/dkimsign"
	"github.com/caddymail/caddy-smtp/smtpapp/dns/dnstest"
	mime "github.com/caddymail/caddy-smtp/smtpapp/message"
)

// A stranger signs the letters with a program of its own.
type stranger struct {
	t     *testing.T
	zone  *dnstest.Zone
	key   string // file
	files []string
}

func newStranger(t *testing.T, signer crypto.Signer) *stranger {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(signer)
	if err != nil {
		t.Fatal(err)
	}
	k := dkimsign.Key{Domain: "example.test", Selector: "s", Signer: signer}
	rec, err := k.Record()
	if err != nil {
		t.Fatal(err)
	}
	dir := openDir(t)
	s := &stranger{t: t, zone: &dnstest.Zone{TXT: map[string][]string{k.Name(): {rec}}}, key: filepath.Join(dir, "key.pem")}
	if err := os.WriteFile(s.key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, text := range letters {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(strings.ReplaceAll(text, "\n", "\r\n")), 0o644); err != nil {
			t.Fatal(err)
		}
		s.files = append(s.files, file)
	}
	return s
}

func rsaKey(t *testing.T) crypto.Signer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (s *stranger) run(env []string, name string, args ...string) {
	s.t.Helper()
	cmd := command(name, append(args, s.files...)...)
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

// verify wants what was signed to pass, and to fail with one line more: n
// messages.
func (s *stranger) verify(n int) {
	s.t.Helper()
	seen := 0
	for _, f := range s.files {
		signed, err := filepath.Glob(f + ".*")
		if err != nil {
			s.t.Fatal(err)
		}
		for _, file := range signed {
			seen++
			b, err := os.ReadFile(file)
			if err != nil {
				s.t.Fatal(err)
			}
			for value, text := range map[string][]byte{dkim.Pass: b, dkim.Fail: append(bytes.Clone(b), "x\r\n"...)} {
				m, err := mime.Parse(text)
				if err != nil {
					s.t.Fatalf("%s: %v", file, err)
				}
				vs, err := dkim.Verify(s.t.Context(), s.zone, m, 5)
				if err != nil || len(vs) != 1 || vs[0].Value != value {
					s.t.Errorf("%s: %+v, %v, want %s", filepath.Base(file), vs, err, value)
				}
			}
		}
	}
	if seen != n {
		s.t.Errorf("%d messages of %d letters were signed, not %d", seen, len(s.files), n)
	}
}

// TestSignedByMailDKIM: we accept what Mail::DKIM signs.
func TestSignedByMailDKIM(t *testing.T) {
	t.Parallel()
	needModule(t, "Mail::DKIM::Signer")
	s := newStranger(t, rsaKey(t))
	s.run(nil, "perl", "testdata/sign.pl", s.key, "example.test", "s")
	s.verify(4 * len(s.files))
}

// TestSignedByMailauth: we accept what mailauth signs, with RSA and Ed25519.
func TestSignedByMailauth(t *testing.T) {
	t.Parallel()
	env := mailauth(t)
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for algorithm, key := range map[string]crypto.Signer{"rsa-sha256": rsaKey(t), "ed25519-sha256": ed} {
		s := newStranger(t, key)
		s.run(env, "node", "testdata/sign.js", s.key, "example.test", "s", algorithm)
		s.verify(4 * len(s.files))
	}
}
