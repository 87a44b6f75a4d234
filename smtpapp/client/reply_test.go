package client

import (
	"bufio"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"
)

func parse(s string) (string, error) {
	r, err := readReply(bufio.NewReaderSize(strings.NewReader(s), maxReplyLine))
	if err != nil {
		return "", err
	}
	return r.Error(), nil
}

func TestReadReply(t *testing.T) {
	long := strings.Repeat("x", 300)
	for _, tc := range []struct{ in, want string }{
		{"250 ok\r\n", "250 ok"},
		{"250\r\n", "250 "},
		{"250 \r\n", "250 "},
		{"250-a\r\n250-b\r\n250 c\r\n", "250 a\nb\nc"},
		{"250-\r\n250\r\n", "250 \n"},
		{"550 5.1.1 no\r\n", "550 5.1.1 no"},
		{"550-5.1.1 no\r\n550 5.1.1 such user\r\n", "550 5.1.1 no\nsuch user"},
		{"550-5.1.1 no\r\n550 5.1.2 such user\r\n", "550 5.1.1 no\n5.1.2 such user"},
		{"550-5.1.1 no\r\n550 such user\r\n", "550 5.1.1 no\nsuch user"},
		{"550 4.1.1 odd\r\n", "550 4.1.1 odd"}, // classes differ: it stays text
		{"550 5.1 x\r\n", "550 5.1 x"},
		{"550 5.1.1000 x\r\n", "550 5.1.1000 x"},
		{"250 a\tb\x00\x1b[31m\x7f\r\n", "250 a b??[31m?"},
		{"250 a\rb\r\n", "250 a?b"},
		{"250 \xff\u2028\u2029\u202e\u0085é\r\n", "250 ?????é"},
		{strings.Repeat("250-"+long+"\r\n", 200) + "250 end\r\n", "250 " + strings.Repeat(long+"\n", 26) + long},
	} {
		got, err := parse(tc.in)
		if want, _, _ := strings.Cut(tc.want, "\nend"); err != nil || !strings.HasPrefix(got, want) {
			t.Errorf("%.60q: got %.80q, %v; want %.80q", tc.in, got, err, tc.want)
		}
		if len(got) > keptOctets+20 {
			t.Errorf("%.60q: kept %d octets", tc.in, len(got))
		}
	}
}

func TestReadReplyErrors(t *testing.T) {
	for _, in := range []string{
		"\r\n", "25\r\n", "25x ok\r\n", "150 x\r\n", "650 x\r\n", "250_x\r\n", "2500\r\n", "hello\r\n",
		"250 ok\n", "550 no <a\n250 ok>\n",
		"250-a\r\n251 b\r\n",
		"250 " + strings.Repeat("x", maxReplyLine) + "\r\n",
		strings.Repeat("250-\r\n", 2000) + "250 ok\r\n",
		strings.Repeat("250-"+strings.Repeat("x", 1000)+"\r\n", 100) + "250 ok\r\n",
	} {
		if got, err := parse(in); !errors.Is(err, ErrProtocol) {
			t.Errorf("%.60q: got %.60q, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "250", "250 ok", "250-a\r\n"} {
		if got, err := parse(in); err == nil || errors.Is(err, ErrProtocol) {
			t.Errorf("%q: got %q, %v", in, got, err)
		}
	}
}

// FuzzReadReply checks that what comes out is bounded and fit to print.
func FuzzReadReply(f *testing.F) {
	for _, s := range []string{"250 ok\r\n", "550-5.1.1 a\r\n550 5.1.1 b\r\n", "250-SIZE 1\r\n250 AUTH=LOGIN\r\n", "250 \xff\x1b\u2028\r\n", "421\r\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := readReply(bufio.NewReaderSize(strings.NewReader(s), maxReplyLine))
		if err != nil {
			return
		}
		lines := strings.Split(r.Text, "\n")
		if r.Code < 200 || r.Code > 599 || len(lines) > keptLines || len(r.Text) > keptOctets+keptLines {
			t.Fatalf("out of bounds: %d, %d lines, %d octets", r.Code, len(lines), len(r.Text))
		}
		for _, l := range lines {
			if l != clean(l) || strings.ContainsAny(l, "\r\x00\x1b\u2028") || !utf8.ValidString(l) {
				t.Fatalf("unfit: %q", l)
			}
		}
		for k := range parseExtensions(r.Text) {
			if k != strings.ToUpper(k) || !isKeyword(k) {
				t.Fatalf("keyword %q", k)
			}
		}
	})
}

func TestParseExtensions(t *testing.T) {
	x := parseExtensions("mx.test hello\nPIPELINING\nsize 1000\nAUTH PLAIN\nAUTH=LOGIN plain\nLIMITS RCPTMAX=10 MAILMAX=x\n\n-x\n  \nX!\nSTARTTLS")
	for _, k := range []string{"PIPELINING", "SIZE", "AUTH", "STARTTLS"} {
		if !x.Has(k) {
			t.Errorf("no %s", k)
		}
	}
	if x.Has("MX.TEST") || x.Has("X!") || len(x) != 5 {
		t.Errorf("got %v", x)
	}
	if x.Size() != 1000 || !x.HasParam("AUTH", "LOGIN") || x.HasParam("AUTH", "CRAM-MD5") {
		t.Errorf("got %v", x)
	}
	if n, ok := x.Limit("RCPTMAX"); !ok || n != 10 {
		t.Errorf("RCPTMAX is %d", n)
	}
	if _, ok := x.Limit("MAILMAX"); ok {
		t.Error("MAILMAX=x is a number")
	}
	if (Extensions{"SIZE": {"-1"}}).Size() != 0 || (Extensions{"SIZE": nil}).Size() != 0 {
		t.Error("no size is a size")
	}
}

func TestORCPT(t *testing.T) {
	for _, tc := range []struct {
		in   string
		utf8 bool
		want string
	}{
		{"rfc822;a+b=c@d.test", false, "rfc822;a+2Bb+3Dc@d.test"},
		{"rfc822;a b@d.test", false, "rfc822;a+20b@d.test"},
		{"rfc822;ü@d.test", false, `utf-8;\x{FC}@d.test`},
		{"UTF-8;ü+\\@d.test", true, `utf-8;ü\x{2B}\x{5C}@d.test`},
		{"utf-8;😀@d.test", false, `utf-8;\x{1F600}@d.test`},
		{"no type", false, ""}, {"a b;c", false, ""}, {"rfc822;", false, ""},
		{"rfc822;a\r\nRCPT@d.test", false, "rfc822;a+0D+0ARCPT@d.test"},
	} {
		if got := orcpt(tc.in, tc.utf8); got != tc.want {
			t.Errorf("%q: got %q, want %q", tc.in, got, tc.want)
		}
	}
}
