package dkim

import (
	"strings"
	"testing"

	"github.com/caddymail/caddy-smtp/smtpapp/dns/dnstest"
)

// BenchmarkVerify: the body is read once for each canonical form, whatever the
// number of signatures.
func BenchmarkVerify(b *testing.B) {
	s := newSigner(b)
	z := zoneOf(map[string]string{"s._domainkey.d.test": s.record(b, "")})
	for name, size := range map[string]int{"4KiB": 4 << 10, "25MB": 25 << 20} {
		for _, n := range []int{1, 4} {
			m := "From: a@d.test\r\n\r\n" + strings.Repeat("Some words of a line, and then some more.\r\n", size/43)
			for range n {
				m = s.sign(b, "v=1; a=ed25519-sha256; d=d.test; s=s; h=from; c=relaxed/relaxed", m)
			}
			msg := parse(b, m)
			b.Run(name+"/"+string(rune('0'+n)), func(b *testing.B) {
				b.SetBytes(int64(len(m)))
				b.ReportAllocs()
				for b.Loop() {
					vs, err := Verify(b.Context(), z, msg, MaxSignatures)
					if err != nil || vs[n-1].Value != Pass {
						b.Fatal(vs, err)
					}
				}
			})
		}
	}
}

func zoneOf(txt map[string]string) *dnstest.Zone {
	z := &dnstest.Zone{TXT: map[string][]string{}}
	for name, t := range txt {
		z.TXT[name] = []string{t}
	}
	return z
}
