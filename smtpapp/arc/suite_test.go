package arc

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"github.com/caddymail/caddy-smtp/smtpapp/dns/dnstest"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
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

type scenario struct {
	Description string
	Tests       yaml.Node         // a mapping, in which some names stand twice
	TXT         map[string]string `yaml:"txt-records"`
}

type suiteCase struct{ Spec, Description, Message, CV string }

func crlf(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(s, "\r\n", "\n"), "\n", "\r\n")
}

// TestSuite is the ValiMail ARC test suite, 171 cases and 4 whose names it has
// twice. It wants an empty status where the
// last seal says that the chain had failed, which RFC 8617 calls failed
// (section 5.2, step 2).
func TestSuite(t *testing.T) {
	f, err := os.Open(filepath.Join(vectors(t), "arc", "arc-draft-validation-tests.yml"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ran, passed := 0, 0
	for d := yaml.NewDecoder(f); ; {
		var s scenario
		if err := d.Decode(&s); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		zone := &dnstest.Zone{TXT: map[string][]string{}}
		for name, txt := range s.TXT {
			zone.TXT[name] = []string{txt}
		}
		for i := 0; i+1 < len(s.Tests.Content); i += 2 {
			ran++
			name := s.Tests.Content[i].Value
			var tc suiteCase
			if err := s.Tests.Content[i+1].Decode(&tc); err != nil {
				t.Fatal(err)
			}
			want := strings.ToLower(tc.CV)
			if want == "" {
				want = Fail
			}
			m, err := message.Parse([]byte(crlf(tc.Message)))
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if r := Verify(t.Context(), zone, m); r.Value != want {
				t.Errorf("%s (%s): got %s, %v, want %s", name, tc.Description, r.Value, r.Err, want)
			} else {
				passed++
			}
		}
	}
	t.Logf("%d of %d", passed, ran)
	if ran != 175 {
		t.Errorf("%d cases ran", ran)
	}
}
