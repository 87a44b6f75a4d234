//go:build linux

package interop

import (
	"strings"
	"testing"
)

// TestSslscan: a scanner that reads the reply to EHLO in one read finds STARTTLS,
// and nothing weak behind it, nor where TLS comes first.
func TestSslscan(t *testing.T) {
	t.Parallel()
	need(t, "sslscan")
	h := newHost(t)
	h.serve(takes, "mx", "submission", "submissions")
	h.root("mx")
	for name, args := range map[string][]string{
		"STARTTLS":     {"--starttls-smtp", h.addr("mx")},
		"implicit TLS": {h.addr("submissions")},
	} {
		t.Run(name, func(t *testing.T) {
			r := try(t, "", "sslscan", append([]string{"--no-colour", "--no-heartbleed", "--sni-name=mx.example.test"}, args...)...)
			if r.code != 0 {
				t.Fatalf("sslscan ended with %d:\n%s", r.code, r.out)
			}
			out := strings.Join(strings.Fields(r.out), " ")
			contains(t, out, "SSLv2 disabled", "SSLv3 disabled", "TLSv1.0 disabled", "TLSv1.1 disabled", "TLSv1.2 enabled", "TLSv1.3 enabled",
				"Session renegotiation not supported", "mx.example.test")
			for _, weak := range []string{"RC4", "DES", "NULL", "EXP", "Insecure session renegotiation", "MD5"} {
				if strings.Contains(out, weak) {
					t.Errorf("it has %s:\n%s", weak, r.out)
				}
			}
		})
	}
}
