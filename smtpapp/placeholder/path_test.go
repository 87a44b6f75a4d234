package placeholder

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

func FuzzExpand(f *testing.F) {
	for _, s := range []string{"a", "..", "a/b", ".", "a+b", "\x00", "a b"} {
		f.Add(s, "b.test")
	}
	paths := []*Path{}
	for _, p := range []string{"/m/{smtp.rcpt.domain}/{smtp.rcpt.local}", "/m/{smtp.rcpt.local}/.x", "/m/.{smtp.rcpt.tag}"} {
		tp, err := parsePath(p, true)
		if err != nil {
			f.Fatal(err)
		}
		paths = append(paths, tp)
	}
	f.Fuzz(func(t *testing.T, local, domain string) {
		for _, tp := range paths {
			rel, err := tp.Expand(mail.NewRecipient(mail.Address{Local: local, Domain: domain}))
			if err == nil && (!filepath.IsLocal(rel) || filepath.Clean(rel) != rel || strings.Count(rel, "/") != len(tp.parts)-1) {
				t.Errorf("%q@%q: %q", local, domain, rel)
			}
		}
	})
}
