package pipe

import (
	"strings"
	"testing"
)

// TestNoPath: a sender hears what a program says, but of no file of this host.
func TestNoPath(t *testing.T) {
	for said, told := range map[string]bool{
		`Couldn't chdir to "/nonexistent"`:         false,
		"/etc/procmailrc: no":                      false,
		"cannot open=/var/mail/a":                  false,
		"see https://example.test/why for reasons": true,
		"read and/or write":                        true,
	} {
		r := new(Agent).judge(result{code: 77, stderr: []byte(said + "\n")})
		if got := strings.Contains(r.Text, said); got != told || r.Enh != "5.7.0" {
			t.Errorf("%q: %v", said, r)
		}
	}
}
