//go:build linux

package interop

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/arc"
	"github.com/caddymail/caddy-smtp/smtpapp/dkim"
	"github.com/caddymail/caddy-smtp/smtpapp/dkimsign"
	"github.com/caddymail/caddy-smtp/smtpapp/dns/dnstest"
	mime "github.com/caddymail/caddy-smtp/smtpapp/message"
)

// letters are messages of all shapes that somebody may submit, by a name.
var letters = map[string]string{
	"plain":    "From: Alice <alice@example.test>\nTo: bob@elsewhere.test\nSubject: hello\nDate: Wed, 25 Nov 2026 18:00:00 +0000\nMessage-ID: <1@example.test>\n\nhello,\nyou\n",
	"lines":    "From: alice@example.test\nSubject: trailing lines\n\nhello\n\n\n\n",
	"no-body":  "From: alice@example.test\nSubject: no body\n\n",
	"blank":    "From: alice@example.test\nSubject: only lines\n\n\n\n\n",
	"space":    "From: alice@example.test \nTo: bob@elsewhere.test\t\nSubject: white\n \t space  here\n\n a\t\tb  c \n \n\t\nend \n",
	"8-bit":    "From: J\u00fcrgen <alice@example.test>\nSubject: \u00fcber\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n\u00e4\u00f6\u00fc\u00df \u20ac\n",
	"long":     "From: alice@example.test\nSubject: " + strings.Repeat("word ", 180) + "\n\n" + strings.Repeat("x", 990) + "\n" + strings.Repeat("y z ", 240) + "\n",
	"mime":     "From: alice@example.test\nMIME-Version: 1.0\nContent-Type: multipart/mixed;\n\tboundary=\"b\"\n\npreamble\n--b\nContent-Type: text/plain\n\nDKIM-Signature: not one\n\n--b--\n",
	"list":     "From: alice@example.test\nSender: list@example.test\nList-ID: <l.example.test>\nList-Unsubscribe: <mailto:u@example.test>\nResent-From: a@example.test\nResent-From: b@example.test\nReceived: one\nReceived: two\n\nx\n",
	"repeated": "List-Post: NO\nFrom: alice@example.test\nTo: a@b.test\nList-Post: <mailto:l@b.test>\nCc: e@f.test\n\nx\n",
	"dots":     "From: alice@example.test\nSubject: dots\n\n.\n..\n.x\nFrom here\n",
}

// A signedMail is the letters, signed with RSA and Ed25519, in files, and a DNS
// that has the keys.
type signedMail struct {
	files []string
	zone  *dnstest.Zone
	port  string // of its server
	keys  []dkimsign.Key
}

func sign(t *testing.T) *signedMail {
	t.Helper()
	priv, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s := &signedMail{keys: []dkimsign.Key{{Domain: "example.test", Selector: "r20261125", Signer: priv}, {Domain: "example.test", Selector: "e20261125", Signer: ed}}}
	s.zone = &dnstest.Zone{TXT: map[string][]string{}}
	for _, k := range s.keys {
		rec, err := k.Record()
		if err != nil {
			t.Fatal(err)
		}
		s.zone.TXT[k.Name()] = []string{rec}
	}
	_, s.port, _ = net.SplitHostPort(dnstest.Serve(t, s.zone))
	dir := openDir(t)
	for name, text := range letters {
		for _, c := range []string{"relaxed/relaxed", "simple/simple", "relaxed/simple", "simple/relaxed"} {
			file := filepath.Join(dir, name+"-"+strings.ReplaceAll(c, "/", "-"))
			if err := os.WriteFile(file, s.sign(t, text, c), 0o644); err != nil {
				t.Fatal(err)
			}
			s.files = append(s.files, file)
		}
	}
	return s
}

func (s *signedMail) sign(t *testing.T, text, canonicalization string) []byte {
	t.Helper()
	m, err := mime.Parse([]byte(strings.ReplaceAll(text, "\n", "\r\n")))
	if err != nil {
		t.Fatal(err)
	}
	c, err := dkim.ParseCanonicalizations(canonicalization)
	if err != nil {
		t.Fatal(err)
	}
	if err := dkimsign.Sign(m, s.keys, dkimsign.Options{Canonicalizations: c, Identity: "@example.test"}); err != nil {
		t.Fatal(err)
	}
	r, err := m.NewReader()
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// passes compares lines "file algorithm selector result" with what is due: of
// each file both signatures pass, but for an algorithm that the verifier does
// not know.
func (s *signedMail) passes(t *testing.T, out, unknown string) {
	t.Helper()
	for _, f := range s.files {
		for _, k := range s.keys {
			if k.Algorithm() == unknown {
				continue
			}
			want := fmt.Sprintf("%s %s %s pass", f, k.Algorithm(), k.Selector)
			if !strings.Contains(out, want) {
				t.Errorf("lacks %q", want)
			}
		}
	}
	if n := strings.Count(out, "\n"); n != 2*len(s.files) {
		t.Errorf("%d signatures of %d files", n, len(s.files))
	}
	if t.Failed() {
		t.Log(last(out, 60))
	}
}

// broken are the same files with another body: whoever accepts them verifies
// nothing.
func (s *signedMail) broken(t *testing.T) *signedMail {
	t.Helper()
	b, err := os.ReadFile(s.files[0])
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(filepath.Dir(s.files[0]), "broken")
	if err := os.WriteFile(file, append(b, "one more\r\n"...), 0o644); err != nil {
		t.Fatal(err)
	}
	return &signedMail{files: []string{file}, zone: s.zone, port: s.port, keys: s.keys}
}

func (s *signedMail) run(t *testing.T, env []string, name string, args ...string) string {
	t.Helper()
	cmd := command(name, append(args, s.files...)...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return string(out)
}

func needModule(t *testing.T, name string) {
	t.Helper()
	need(t, "perl")
	if exec.Command("perl", "-M"+name, "-e1").Run() != nil {
		missing(t, name+" is not installed")
	}
}

// TestMailDKIM: Mail::DKIM accepts what we sign. It knows Ed25519 from version
// 1.20230630 on.
func TestMailDKIM(t *testing.T) {
	t.Parallel()
	needModule(t, "Mail::DKIM::Verifier")
	s, unknown := sign(t), ""
	if exec.Command("perl", "-e", "use Mail::DKIM 1.20230630; use Crypt::PK::Ed25519").Run() != nil {
		unknown = "ed25519-sha256"
	}
	s.passes(t, s.run(t, nil, "perl", "testdata/dkim.pl", s.port, "dkim"), unknown)
	if out := s.broken(t).run(t, nil, "perl", "testdata/dkim.pl", s.port, "dkim"); strings.Contains(out, "pass") {
		t.Errorf("it verifies nothing: %s", out)
	}
}

// mailauth is the environment that has the npm package.
func mailauth(t *testing.T) (env []string) {
	t.Helper()
	return []string{"NODE_PATH=" + nodeModules(t, "mailauth")}
}

// TestMailauth: the npm package mailauth accepts what we sign.
func TestMailauth(t *testing.T) {
	t.Parallel()
	env, s := mailauth(t), sign(t)
	s.passes(t, s.run(t, env, "node", "testdata/dkim.js", s.port, "dkim"), "")
	if out := s.broken(t).run(t, env, "node", "testdata/dkim.js", s.port, "dkim"); strings.Contains(out, "pass") {
		t.Errorf("it verifies nothing: %s", out)
	}
}

// TestOpenDKIM: OpenDKIM accepts what we sign.
func TestOpenDKIM(t *testing.T) {
	t.Parallel()
	need(t, "opendkim")
	s := sign(t)
	dir := openDir(t)
	conf, unbound := filepath.Join(dir, "opendkim.conf"), filepath.Join(dir, "unbound.conf")
	for file, text := range map[string]string{
		conf: "Mode v\nResolverConfiguration " + unbound + "\n",
		unbound: "server:\n  module-config: \"iterator\"\n  do-not-query-localhost: no\n  local-zone: \"test.\" nodefault\n" +
			"forward-zone:\n  name: \".\"\n  forward-addr: 127.0.0.1@" + s.port + "\n",
	} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	look := func(s *signedMail) (out string) {
		for _, f := range s.files {
			b, err := command("opendkim", "-x", conf, "-vvv", "-t", f).CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, b)
			}
			for _, m := range opendkimResult.FindAllStringSubmatch(string(b), -1) {
				out += fmt.Sprintf("%s %s %s %s\n", f, m[2], m[3], m[1])
			}
		}
		return out
	}
	s.passes(t, look(s), "")
	if out := look(s.broken(t)); strings.Contains(out, "pass") || out == "" {
		t.Errorf("it verifies nothing: %s", out)
	}
}

// opendkimResult is one of an Authentication-Results field.
var opendkimResult = regexp.MustCompile(`dkim=(\w+)[^\n]*? header\.a=(\S+) header\.s=(\S+)`)

const rspamdConf = `
options {
	filters = "dkim";
	dns { nameserver = "127.0.0.1:%[1]s"; timeout = 5s; retransmits = 3; }
	url_tld = "%[2]s/tld";
	tempdir = "%[2]s"; dbdir = "%[2]s"; hs_cache_dir = "%[2]s";
	control_socket = "%[2]s/control mode=0600";
	local_addrs = ["192.0.2.0/24"];
}
logging { type = "console"; level = "warning"; }
dkim { check_local = true; check_authed = true; }
worker "normal" { bind_socket = "%[3]s"; count = 1; }
`

// TestRspamd: rspamd accepts what we sign.
func TestRspamd(t *testing.T) {
	t.Parallel()
	need(t, "rspamd")
	s, dir := sign(t), openDir(t)
	addr := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	conf := filepath.Join(dir, "rspamd.conf")
	for file, text := range map[string]string{conf: fmt.Sprintf(rspamdConf, s.port, dir, addr), filepath.Join(dir, "tld"): "test\n"} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	start(t, "rspamd", command("rspamd", "-f", "-i", "-c", conf)).serves(t, "tcp", addr)
	look := func(s *signedMail) (out string) {
		for _, f := range s.files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := http.Post("http://"+addr+"/checkv2", "text/plain", bytes.NewReader(b))
			if err != nil {
				t.Fatal(err)
			}
			var v struct {
				Symbols map[string]struct{ Options []string }
			}
			err = json.NewDecoder(resp.Body).Decode(&v)
			resp.Body.Close()
			if err != nil {
				t.Fatal(err)
			}
			for _, k := range s.keys {
				result := "none"
				for name, sym := range v.Symbols {
					for _, o := range sym.Options {
						if strings.Contains(o, "s="+k.Selector) {
							result = name
						}
					}
				}
				out += fmt.Sprintf("%s %s %s %s\n", f, k.Algorithm(), k.Selector, strings.Replace(result, "R_DKIM_ALLOW", "pass", 1))
			}
		}
		return out
	}
	s.passes(t, look(s), "")
	if out := look(s.broken(t)); strings.Contains(out, "pass") || !strings.Contains(out, "R_DKIM_REJECT") {
		t.Errorf("it verifies nothing: %s", out)
	}
}

// sealed are the same files with two ARC sets on top, and a trace field between
// them.
func (s *signedMail) sealed(t *testing.T) *signedMail {
	t.Helper()
	dir := openDir(t)
	o := &signedMail{zone: s.zone, port: s.port, keys: s.keys}
	for _, f := range s.files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		m, err := mime.Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 2 {
			m.Header.Prepend("Received", fmt.Sprintf("from x by hop%d.test; Wed, 25 Nov 2026 18:00:00 +0000", i))
			prior := arc.Verify(t.Context(), s.zone, m)
			results := fmt.Sprintf("hop%d.test; dkim=pass header.d=example.test; arc=%s", i, prior.Value)
			if err := arc.Seal(m, prior, s.keys[0], results, time.Now()); err != nil {
				t.Fatal(err)
			}
		}
		r, err := m.NewReader()
		if err != nil {
			t.Fatal(err)
		}
		if b, err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, filepath.Base(f))
		if err := os.WriteFile(file, b, 0o644); err != nil {
			t.Fatal(err)
		}
		o.files = append(o.files, file)
	}
	return o
}

// TestARCSeals: Mail::DKIM and mailauth accept the chains that we make.
func TestARCSeals(t *testing.T) {
	t.Parallel()
	s := sign(t).sealed(t)
	for name, look := range map[string]func(*testing.T, *signedMail) string{
		"Mail::DKIM": func(t *testing.T, s *signedMail) string {
			needModule(t, "Mail::DKIM::ARC::Verifier")
			return s.run(t, nil, "perl", "testdata/dkim.pl", s.port, "arc")
		},
		"mailauth": func(t *testing.T, s *signedMail) string {
			return s.run(t, mailauth(t), "node", "testdata/dkim.js", s.port, "arc")
		},
	} {
		t.Run(name, func(t *testing.T) {
			out := look(t, s)
			for _, f := range s.files {
				if !strings.Contains(out, f+" pass") {
					t.Errorf("%s does not pass", filepath.Base(f))
				}
			}
			if out := look(t, s.broken(t)); !strings.Contains(out, "broken fail") {
				t.Errorf("it verifies nothing: %s", out)
			}
			if t.Failed() {
				t.Log(last(out, 60))
			}
		})
	}
}
