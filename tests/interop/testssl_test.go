//go:build linux

package interop

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestTestssl: testssl.sh finds no protocol that is broken, and none of the holes
// it looks for that a server of ours could have.
func TestTestssl(t *testing.T) {
	t.Parallel()
	need(t, "testssl", "openssl")
	h := newHost(t)
	h.serve(takes, "mx")
	h.root("mx")
	report := filepath.Join(t.TempDir(), "report.csv")
	r := try(t, "", "testssl", "--quiet", "--color", "0", "--warnings", "off", "--nodns", "none", "--protocols", "--renegotiation",
		"--ccs-injection", "--crime", "--poodle", "--tls-fallback", "--csvfile", report, "-t", "smtp", h.addr("mx"))
	b, err := os.ReadFile(report)
	if err != nil {
		t.Fatalf("%v, exit code %d:\n%s", err, r.code, r.out)
	}
	found := map[string]string{}
	for l := range strings.Lines(string(b)) {
		if f := strings.Split(l, `","`); len(f) > 4 {
			found[strings.Trim(f[0], `"`)] = f[3] + ": " + f[4]
		}
	}
	for id, f := range found {
		if strings.HasPrefix(f, "MEDIUM") || strings.HasPrefix(f, "HIGH") || strings.HasPrefix(f, "CRITICAL") {
			t.Errorf("%s: %s", id, f)
		}
	}
	for id, want := range map[string]string{
		"SSLv2": "OK: not offered", "SSLv3": "OK: not offered", "TLS1": "INFO: not offered", "TLS1_1": "INFO: not offered",
		"TLS1_2": "OK: offered", "TLS1_3": "OK: offered", "secure_client_renego": "OK: not vulnerable",
	} {
		if got := found[id]; !strings.HasPrefix(got, want) {
			t.Errorf("%s is %q, want %q\n%s", id, got, want, r.out)
		}
	}
}

// TestRenegotiation: a client that wants to negotiate again under TLS 1.2, which
// costs a server more than the client, is cut off.
func TestRenegotiation(t *testing.T) {
	t.Parallel()
	need(t, "openssl")
	h := newHost(t)
	h.serve(takes, "mx")
	h.root("mx")
	cmd := command("openssl", "s_client", "-connect", h.addr("mx"), "-starttls", "smtp", "-tls1_2", "-crlf", "-servername", "mx.example.test")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, "openssl", cmd)
	p.says(t, "Verify return code")
	fmt.Fprint(in, "R\n")
	wait(t, "the alert", func() bool {
		_, said, again := strings.Cut(p.out.String(), "RENEGOTIATING")
		return again && (strings.Contains(said, "alert") || strings.Contains(said, "no renegotiation"))
	})
	fmt.Fprint(in, "NOOP\n")
	time.Sleep(300 * time.Millisecond)
	if out := p.out.String(); strings.Contains(out, "250 2.0.0 nothing done") {
		t.Errorf("it goes on:\n%s", out)
	}
}
