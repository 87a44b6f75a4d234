package lookup

import (
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

func TestDomains(t *testing.T) {
	for in, want := range map[string]string{
		"a.b.example": "a.b.example .b.example .example", "example": "example", "": "", "[192.0.2.1]": "[192.0.2.1]",
	} {
		if got := strings.Join(domains(in), " "); got != want {
			t.Errorf("%s: %s", in, got)
		}
	}
	if n := len(domains(strings.Repeat("a.", 120) + "example")); n > 40 {
		t.Error(n, "keys")
	}
}

func TestProvision(t *testing.T) {
	for _, m := range []*Matcher{{}, {Subject: "weather"}, {Subject: "rcpt"}} {
		if m.Provision(caddy.Context{}) == nil {
			t.Errorf("%+v is taken", m)
		}
	}
}
