//go:build linux

package interop

import (
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/srs"
)

// TestMailSRS: Mail::SRS leads back what we have rewritten, and we what it has,
// over one, two and three forwarders.
func TestMailSRS(t *testing.T) {
	t.Parallel()
	need(t, "perl")
	if exec.Command("perl", "-MMail::SRS", "-e1").Run() != nil {
		missing(t, "Mail::SRS is not installed")
	}
	theirs := func(what string, args ...string) string {
		t.Helper()
		out, err := exec.Command("perl", append([]string{"-MMail::SRS", "-e", `
my $s = Mail::SRS->new(Secret => "the secret of this test", HashLength => 6, HashMin => 6);
my $do = shift;
print $do eq "forward" ? $s->forward(@ARGV) : $s->reverse(@ARGV);`, what}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("perl: %v %s", err, out)
		}
		return string(out)
	}
	secret := []byte("the secret of this test")
	parse := func(s string) mail.Address {
		i := strings.LastIndexByte(s, '@')
		return mail.Address{Local: s[:i], Domain: s[i+1:]}
	}
	plain := func(a mail.Address) string { return a.Local + "@" + a.Domain }
	for _, from := range []string{"bob@far.test", "Bob+tag@far.test", "a=b=c@far.test", "x-y_z@sub.far.test", "SRS0=abcd=AB=first.test=user@hop.test", "SRS0+abcd=AB=first.test=user@hop.test", "SRS1=abcd=hop.test==efgh=AB=first.test=user@second.test"} {
		ours, err := srs.Forward(parse(from), "fwd.test", secret, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if want := theirs("forward", from, "fwd.test"); plain(ours) != want {
			t.Errorf("%s: we make %s of it, Mail::SRS %s", from, plain(ours), want)
		}
		back, err := srs.Reverse(ours.Local, [][]byte{secret}, time.Now(), srs.DefaultValidity)
		if want := theirs("reverse", plain(ours)); err != nil || plain(back) != want {
			t.Errorf("%s: we lead back to %s (%v), Mail::SRS to %s", from, plain(back), err, want)
		}
		second := theirs("forward", plain(ours), "second.test")
		if back, err := srs.Reverse(parse(second).Local, [][]byte{secret}, time.Now(), srs.DefaultValidity); err != nil || plain(back) != theirs("reverse", second) {
			t.Errorf("%s: the second forwarder's %s leads back to %s, %v", from, second, plain(back), err)
		}
	}
}
