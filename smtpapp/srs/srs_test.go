package srs

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

func address(t testing.TB, s string) mail.Address {
	t.Helper()
	a, err := mail.ParseAddress(s)
	if err != nil {
		t.Fatal(s, err)
	}
	return a
}

var secret = []byte("secret")

// TestReference: hashes and time stamps are those of Mail::SRS 0.31, which was
// asked with the secret "secret".
func TestReference(t *testing.T) {
	if got := digest(secret, []string{"AB", "their.test", "user"})[:4]; got != "IQIJ" {
		t.Errorf("hash %s", got)
	}
	if got := stamp(time.Unix(86400*20000, 0)); got != "RA" {
		t.Errorf("time stamp %s", got)
	}
	at := time.Date(2026, 11, 25, 23, 0, 0, 0, time.UTC)
	for in, want := range map[string]string{ // made by that program, on that day
		"SRS0=sy2m=JP=their.test=user":                    "user@their.test",
		"SRS0=CjgQ=JP=their.test=Us\"er+x":                "\"Us\\\"er+x\"@their.test",
		"SRS1=CSfS=fwd.test==CjgQ=JP=their.test=Us\"er+x": "\"SRS0=CjgQ=JP=their.test=Us\\\"er+x\"@fwd.test",
		"srs0=SY2M=jp=THEIR.TEST=user":                    "user@their.test",
	} {
		got, err := Reverse(in, [][]byte{secret}, at, DefaultValidity)
		if err != nil || got.String() != want {
			t.Errorf("%s: %s, %v, want %s", in, got, err, want)
		}
	}
}

func TestForwardAndBack(t *testing.T) {
	now := time.Now()
	for _, from := range []string{"user@their.test", "a=b=c@x.test", "\"a b\"@x.test", "srs0@x.test", "SRS0@x.test", "SRS9=a@x.test", "SRS1=broken@x.test", "ü@xn--bcher-kva.test", strings.Repeat("l", 64) + "@" + strings.Repeat("d", 60) + ".test"} {
		a := address(t, from)
		f, err := Forward(a, "fwd.test", secret, now)
		if err != nil || f.Domain != "fwd.test" || !strings.HasPrefix(f.Local, "SRS0=") {
			t.Errorf("%s: %s, %v", from, f, err)
			continue
		}
		if again, err := Forward(f, "fwd.test", secret, now); err != nil || again != f {
			t.Errorf("%s: forwarded twice by us: %s, %v", from, again, err)
		}
		back, err := Reverse(f.Local, [][]byte{[]byte("other"), secret}, now, DefaultValidity)
		if err != nil || back != a {
			t.Errorf("%s comes back as %s, %v", from, back, err)
		}
		// The second forwarder's SRS1 leads to the first, and the third's as well.
		two, err := Forward(f, "two.test", secret, now)
		if err != nil || !strings.HasPrefix(two.Local, "SRS1=") {
			t.Errorf("%s: %s, %v", from, two, err)
		}
		three, err := Forward(two, "three.test", []byte("third"), now)
		if err != nil || len(three.Local) != len(two.Local) {
			t.Errorf("%s: %s, %v", from, three, err)
		}
		if back, err := Reverse(three.Local, [][]byte{[]byte("third")}, now, DefaultValidity); err != nil || back != f {
			t.Errorf("%s: the third leads to %s, %v", from, back, err)
		}
	}
	if null, err := Forward(mail.Address{}, "fwd.test", secret, now); err != nil || !null.IsNull() {
		t.Error("the null reverse-path:", null, err)
	}
	long := mail.Address{Local: strings.Repeat("l", 64), Domain: strings.Repeat("d.", 90) + "test"}
	if got, err := Forward(long, "forwarder.test", secret, now); err == nil {
		t.Error("an address that nobody can take:", got)
	}
}

func TestRefuses(t *testing.T) {
	now := time.Now()
	good, err := Forward(address(t, "user@their.test"), "fwd.test", secret, now)
	if err != nil {
		t.Fatal(err)
	}
	for local, want := range map[string]error{
		"user": ErrNotSRS, "": ErrNotSRS, "SRS0": ErrNotSRS, "SRS0=": ErrNotSRS, "SRS0=a=b=c": ErrNotSRS, "SRS1=a": ErrNotSRS, "SRS1=a=b=c": ErrNotSRS, "SRS1=a=b=": ErrNotSRS,
		"SRS0x" + good.Local[5:]:   ErrNotSRS,
		"SRS0==JP=their.test=user": ErrForged, "SRS0=AAAAAA=JP=their.test=user": ErrForged, "SRS0=sy2=JP=their.test=user": ErrForged,
		strings.Replace(good.Local, "user", "admin", 1):           ErrForged,
		strings.Replace(good.Local, "their", "other", 1):          ErrForged,
		"SRS1=AAAA=fwd.test==x=y=z=u":                             ErrForged,
		"SRS0=" + strings.Repeat("A", 99) + "=JP=their.test=user": ErrForged,
	} {
		if got, err := Reverse(local, [][]byte{secret}, now, DefaultValidity); !errors.Is(err, want) {
			t.Errorf("%q: %v, %v, want %v", local, got, err, want)
		}
	}
	if _, err := Reverse(good.Local, nil, now, DefaultValidity); !errors.Is(err, ErrForged) {
		t.Error("without a secret:", err)
	}
	for age, want := range map[time.Duration]error{0: nil, 21 * day: nil, 22 * day: ErrExpired, 500 * day: ErrExpired, 1022 * day: ErrExpired, -day: nil, -2 * day: ErrExpired} {
		if _, err := Reverse(good.Local, [][]byte{secret}, now.Add(age), DefaultValidity); !errors.Is(err, want) {
			t.Errorf("after %v: %v, want %v", age, err, want)
		}
	}
	for _, stamp := range []string{"", "A", "AAA", "1A", "A1", "==", "\xff\xff"} {
		if fresh(stamp, now, MaxValidity) {
			t.Errorf("%q is a time stamp", stamp)
		}
	}
}

func FuzzReverse(f *testing.F) {
	f.Add("SRS0=sy2m=JP=their.test=user")
	f.Add("SRS1=CSfS=fwd.test==CjgQ=JP=their.test=Us")
	f.Fuzz(func(t *testing.T, local string) {
		if a, err := Reverse(local, [][]byte{secret}, time.Now(), DefaultValidity); err == nil && a.IsNull() {
			t.Errorf("%q is the null reverse-path", local)
		}
		if a, err := Forward(mail.Address{Local: local, Domain: "x.test"}, "fwd.test", secret, time.Now()); err == nil && a.Local != local {
			if _, err := Reverse(a.Local, [][]byte{secret}, time.Now(), DefaultValidity); err != nil && kind(local) == 0 {
				if _, perr := mail.ParseAddress(mail.Address{Local: local, Domain: "x.test"}.String()); perr == nil {
					t.Errorf("%q does not come back from %q: %v", local, a.Local, err)
				}
			}
		}
	})
}
