package mail

import (
	"encoding/xml"
	"os"
	"path/filepath"
	"strings"
	"testing"
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

// TestIsEmail has the addresses of isemail's suite. Its categories tell what is an
// address in SMTP (RFC 5321) from what only a header may have (RFC 5322).
func TestIsEmail(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(vectors(t), "isemail", "tests.xml"))
	if err != nil {
		t.Fatal(err)
	}
	var suite struct {
		Tests []struct {
			ID        string `xml:"id,attr"`
			Address   string `xml:"address"`
			Category  string `xml:"category"`
			Diagnosis string `xml:"diagnosis"`
		} `xml:"test"`
	}
	if err := xml.Unmarshal(b, &suite); err != nil {
		t.Fatal(err)
	}
	if len(suite.Tests) < 160 {
		t.Fatalf("only %d tests", len(suite.Tests))
	}
	smtp := map[string]bool{"ISEMAIL_VALID_CATEGORY": true, "ISEMAIL_DNSWARN": true, "ISEMAIL_RFC5321": true}
	known := map[string]string{
		"43": `""@ is refused: an address without a local part is the null reverse-path`,
		"71": "that :: stands for one group is deprecated, and taken",
	}
	for _, tc := range suite.Tests {
		in := strings.Map(func(r rune) rune { // how the suite writes controls
			if r >= 0x2400 && r < 0x2421 {
				return r - 0x2400
			}
			return r
		}, tc.Address)
		a, err := ParseAddress(in)
		if (err == nil) != smtp[tc.Category] && known[tc.ID] == "" {
			t.Errorf("%s: %q is %s, %s: %v, %v", tc.ID, in, tc.Category, tc.Diagnosis, a, err)
		}
	}
}
