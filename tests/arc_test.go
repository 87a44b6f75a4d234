package tests

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"github.com/caddymail/caddy-smtp/smtpapp/dns/dnstest"
)

// vectors returns the folder of published test vectors.
func vectors(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("CADDY_SMTP_VECTORS")
	if dir == "" {
		if os.Getenv("CADDY_SMTP_REQUIRE_ALL") == "1" {
			t.Fatal("CADDY_SMTP_VECTORS is not set")
		}
		t.Skip("CADDY_SMTP_VECTORS is not set")
	}
	return dir
}

// stuffed is content as DATA takes it.
func stuffed(s string) string {
	lines := strings.Split(strings.TrimSuffix(strings.ReplaceAll(s, "\r\n", "\n"), "\n"), "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") {
			lines[i] = "." + l
		}
	}
	return strings.Join(lines, "\r\n") + "\r\n.\r\n"
}

// TestARCSuite sends the messages of the ValiMail ARC suite to a server, which
// asks the suite's zones, and tells its result in the reply.
func TestARCSuite(t *testing.T) {
	f, err := os.Open(filepath.Join(vectors(t), "arc", "arc-draft-validation-tests.yml"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := newHost(t)
	zone := &dnstest.Zone{TXT: map[string][]string{}}
	h.load(`
		resolver ` + dnstest.Serve(t, zone) + `
		server mx ADDR(mx) {
			limits {
				messages 1000
			}
			@all size {
				max 1GiB
			}
			discard
			arc
			reject @all 550 5.7.29 "chain is {smtp.result.arc}."
		}`)
	k := greet(t, h.addr("mx"))
	ran := 0
	for d := yaml.NewDecoder(f); ; {
		var s struct {
			Tests yaml.Node
			TXT   map[string]string `yaml:"txt-records"`
		}
		if err := d.Decode(&s); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		zone.Change(func(z *dnstest.Zone) {
			for name, txt := range s.TXT {
				z.TXT[name] = []string{txt}
			}
		})
		for i := 0; i+1 < len(s.Tests.Content); i += 2 {
			var tc struct{ Message, CV string }
			if err := s.Tests.Content[i+1].Decode(&tc); err != nil {
				t.Fatal(err)
			}
			want := strings.ToLower(tc.CV)
			if want == "" { // it had failed before: RFC 8617, section 5.2, step 2
				want = "fail"
			}
			k.say("250", "MAIL FROM:<a@a.test>")
			k.say("250", "RCPT TO:<b@example.test>")
			k.say("354", "DATA")
			io.WriteString(k.conn, stuffed(tc.Message))
			if r := k.want("550"); !strings.Contains(r, "chain is "+want+".") {
				t.Errorf("%s: got %q, want %s", s.Tests.Content[i].Value, r, want)
			}
			ran++
			if ran%9 == 0 { // before the errors of a stranger are too many
				k = greet(t, h.addr("mx"))
			}
		}
	}
	if ran != 175 {
		t.Errorf("%d cases", ran)
	}
}
