package originator

import (
	"bytes"
	"fmt"
	netmail "net/mail"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

func read(t testing.TB, header string) *Originator {
	t.Helper()
	h, _, err := message.ParseHeader([]byte(strings.ReplaceAll(header, "\n", "\r\n") + "\r\n\r\n"))
	if err != nil {
		t.Fatalf("%q: %v", header, err)
	}
	return Read(h)
}

func addresses(ms []Mailbox) string {
	var as []string
	for _, m := range ms {
		as = append(as, m.Address.String())
	}
	return strings.Join(as, " ")
}

func kinds(o *Originator) string {
	var ks []string
	for _, p := range o.Problems {
		if p.Field == "" || p.Field == "From" {
			ks = append(ks, string(p.Kind))
		} else {
			ks = append(ks, p.Field+":"+string(p.Kind))
		}
	}
	slices.Sort(ks)
	return strings.Join(ks, " ")
}

// TestFrom has the value of a From field, the addresses in it and what is wrong.
func TestFrom(t *testing.T) {
	for _, tc := range []struct{ from, addrs, kinds string }{
		{"a@x.test", "a@x.test", ""},
		{" A@X.Test ", "A@x.test", ""},
		{"Alice <a@x.test>", "a@x.test", ""},
		{"Alice Q. Public <a@x.test>", "a@x.test", ""},
		{`"Public, Alice" <a@x.test>`, "a@x.test", ""},
		{`"say \"hi\"" <a@x.test>`, "a@x.test", ""},
		{"a@x.test (Alice)", "a@x.test", ""},
		{"Alice <a@x.test> (work (day))", "a@x.test", ""},
		{"< a@x.test >", "a@x.test", ""},
		{"Alice\n <a@x.test>", "a@x.test", ""},
		{"=?utf-8?q?Al=C3=ADce?= <a@x.test>", "a@x.test", ""},
		{`"alice"@x.test`, "alice@x.test", ""},

		{"a@x.test, b@y.test", "a@x.test b@y.test", "no_sender several_addresses"},
		{"Alice <a@x.test>, b@y.test (Bob)", "a@x.test b@y.test", "no_sender several_addresses"},
		{"Us: a@x.test, B <b@y.test>;", "a@x.test b@y.test", "group no_sender several_addresses"},
		{"Us: a@x.test;", "a@x.test", "group"},
		{"Us: a@x.test; (that is all)", "a@x.test", "group"},
		{"Us: a@x.test;, b@y.test", "a@x.test b@y.test", "group no_sender several_addresses"},
		{"Us: a@x.test; b@y.test", "a@x.test b@y.test", "group malformed no_sender several_addresses"},
		{"Us: a@x.test", "a@x.test", "group malformed"},
		{"nobody:;", "", "empty_group group"},
		{"nobody: ;", "", "empty_group group"},
		{"a: b: c@x.test;;", "c@x.test", "group malformed"},
		{":a@x.test;", "a@x.test", "group malformed"},
		{"a@x.test;", "a@x.test", "malformed"},

		{"", "", "malformed"},
		{"Alice", "", "malformed"},
		{"<>", "", "malformed"},
		{"Alice <>", "", "malformed"},
		{"a@x.test,", "a@x.test", "malformed"},
		{",a@x.test", "a@x.test", "malformed"},
		{"a@x.test,,b@y.test", "a@x.test b@y.test", "malformed no_sender several_addresses"},
		{"a@x.test b@y.test", "", "malformed"},
		{"a@x.test garbage", "", "malformed"},
		{"Alice <a@x.test> garbage", "a@x.test", "malformed"},
		{"Alice <a@x.test> <b@y.test>", "a@x.test b@y.test", "malformed no_sender several_addresses"},
		{"<a@x.test><b@y.test>", "a@x.test b@y.test", "malformed no_sender several_addresses"},
		{"<<a@x.test>>", "", "malformed"},
		{"Alice <a@x.test", "a@x.test", "malformed"},
		{"Alice a@x.test>", "", "malformed"},
		{"Doe, Alice <a@x.test>", "a@x.test", "malformed"},
		{"b@y.test <a@x.test>", "b@y.test a@x.test", "display_name malformed no_sender several_addresses"},
		{"[List] Alice <a@x.test>", "a@x.test", "malformed"},
		{`"Alice <a@x.test>`, "", "malformed"},
		{`Alice" <a@x.test>`, "", "malformed"},
		{`"a"b@x.test`, "", "malformed"},
		{`"a".b@x.test`, "", "malformed"},
		{"a@x.test (open", "a@x.test", "malformed"},
		{"a@x@y.test", "", "malformed"},
		{"a@", "", "malformed"},
		{"@x.test", "", "malformed"},
		{"a @x.test", "a@x.test", "malformed"},
		{"<a@ x.test>", "a@x.test", "malformed"},
		{"a. b@x.test", "a.b@x.test", "malformed"},
		{`a\@b@x.test`, "", "malformed"},
		{"a@-x.test", "", "malformed"},
		{"<a@x.test, b@y.test>", "", "malformed"},

		{"a(c)@x.test", "a@x.test", "comment"},
		{"<(c)a@x.test>", "a@x.test", "comment"},
		{"<a@x.test(c)>", "a@x.test", "comment"},
		{"<a@(c)x.test>", "a@x.test", "comment"},
		{"(c) a@x.test", "a@x.test", "comment"},
		{"Alice (c) <a@x.test>", "a@x.test", "comment"},
		{"(c) Alice <a@x.test>", "a@x.test", "comment"},
		{"<@y.test:a@x.test>", "a@x.test", "route"},
		{"<@y.test,@z.test:a@x.test>", "a@x.test", "route"},
		{"<@y.test>", "", "malformed route"},
		{`"a@b"@x.test`, `"a@b"@x.test`, "quoted_local"},
		{`"<b@y.test>"@x.test`, `"<b@y.test>"@x.test`, "quoted_local"},
		{`"a b"@x.test`, `"a b"@x.test`, "quoted_local"},
		{"a@[192.0.2.1]", "a@[192.0.2.1]", "domain_literal"},
		{"a@[IPv6:2001:db8::1]", "a@[IPv6:2001:db8::1]", "domain_literal"},
		{"a@[x.test]", "", "malformed"},

		{"=?utf-8?q?b=40y.test?=@x.test", "=?utf-8?q?b=40y.test?=@x.test", "encoded_word"},
		{"=?utf-8?b?YkB5LnRlc3Q=?=", "", "encoded_word malformed"},
		{"<=?utf-8?b?YkB5LnRlc3Q=?= a@x.test>", "", "malformed"},
		{`"=?utf-8?q?b=40y.test?="@x.test`, "=?utf-8?q?b=40y.test?=@x.test", "encoded_word"},
		{"=?utf-8?b?YkB5LnRlc3QAIA==?= <a@x.test>", "a@x.test", "control display_name"},
		{"=?utf-8?q?Alice=0Ax?= <a@x.test>", "a@x.test", "control"},

		{"a\x00@x.test", "", "malformed nul"},
		{"Alice\x00 <a@x.test>", "a@x.test", "control malformed nul"},
		{"Alice\x07 <a@x.test>", "a@x.test", "control malformed"},
		{"a@x.test\x01", "", "control malformed"},
		{"Alíce <a@x.test>", "a@x.test", "eight_bit"},
		{"Al\xedce <a@x.test>", "a@x.test", "eight_bit not_utf8"},
		{"\xff@x.test", "", "eight_bit not_utf8"},
		{"ü@bücher.test", "ü@xn--bcher-kva.test", "eight_bit"},
		{"a@xn--bcher-kva.test", "a@xn--bcher-kva.test", ""},
		{"a\u202eb@x.test", "", "eight_bit misleading"},
		{"a@pаypal.test", "", "eight_bit misleading"},
		{"Alice\n \n <a@x.test>", "a@x.test", "blank_line"},
		{"\n a@x.test\n\t", "a@x.test", "blank_line"},
	} {
		o := read(t, "From: "+tc.from)
		if addresses(o.From) != tc.addrs || kinds(o) != tc.kinds {
			t.Errorf("%q: got %q, %q; want %q, %q", tc.from, addresses(o.From), kinds(o), tc.addrs, tc.kinds)
		}
		_, sole := o.Author()
		_, bad := o.Ambiguous()
		if want := len(o.From) == 1 && !bad; sole != want {
			t.Errorf("%q: sole author %v", tc.from, sole)
		}
	}
}

// TestDisplayName has what is shown of a mailbox of a@x.test, and whether it
// shows another.
func TestDisplayName(t *testing.T) {
	for _, tc := range []struct {
		from, name string
		deceives   bool
	}{
		{"a@x.test", "", false},
		{"Alice   Public <a@x.test>", "Alice Public", false},
		{`"Public, \"A\"" <a@x.test>`, `Public, "A"`, false},
		{"a@x.test (Alice)", "Alice", false},
		{"<a@x.test> (Alice)", "Alice", false},
		{"Alice <a@x.test> (not me)", "Alice", false},
		{"=?utf-8?q?Al=C3=AD?= =?utf-8?b?Y2U=?= <a@x.test>", "Alíce", false},
		{"=?iso-8859-1?q?Al=EDce?= <a@x.test>", "Alíce", false},
		{"=?koi8-r?q?Al=EDce?= <a@x.test>", "Al\uFFFDce", false},
		{`"a@x.test" <a@x.test>`, "a@x.test", false},
		{`"A@X.TEST" <a@x.test>`, "A@X.TEST", false},
		{`"'a@x.test' via list" <a@x.test>`, "'a@x.test' via list", false},
		{`"Alice @ Work" <a@x.test>`, "Alice @ Work", false},
		{`"Alice (@alice)" <a@x.test>`, "Alice (@alice)", false},
		{`"ceo@bank.test" <a@x.test>`, "ceo@bank.test", true},
		{`"The CEO (ceo@bank.test)" <a@x.test>`, "The CEO (ceo@bank.test)", true},
		{`"a@x.test ceo@bank.test" <a@x.test>`, "a@x.test ceo@bank.test", true},
		{`"<ceo@bank.test>" <a@x.test>`, "<ceo@bank.test>", true},
		{"a@x.test (ceo@bank.test)", "ceo@bank.test", true},
		{"=?utf-8?q?ceo=40bank=2Etest?= <a@x.test>", "ceo@bank.test", true},
		{"=?koi8-r?q?=C1_ceo=40bank=2Etest?= <a@x.test>", "\uFFFD ceo@bank.test", true},
		{`"=?utf-8?q?ceo=40bank=2Etest?=" <a@x.test>`, "ceo@bank.test", true},
		{`"ceo＠bank.test" <a@x.test>`, "ceo＠bank.test", true},
		{`"ceo@bücher.test" <a@x.test>`, "ceo@bücher.test", true},
		{"\"A\u202etset.x@a\" <a@x.test>", "A\u202etset.x@a", true},
	} {
		o := read(t, "From: "+tc.from)
		if len(o.From) != 1 || o.From[0].Name != tc.name || o.Has(DisplayName) != tc.deceives {
			t.Errorf("%s: %+v", tc.from, o)
		}
		if p, bad := o.Ambiguous(); bad {
			t.Errorf("%s: %s", tc.from, p)
		}
	}
	if !read(t, "From: "+strings.Repeat("long ", 300)+"<a@x.test>").Has(DisplayName) {
		t.Error("a name as long as a page is taken")
	}
}

func TestHeader(t *testing.T) {
	const from = "From: a@x.test\n"
	for in, want := range map[string]string{
		"Subject: s":                                                   "no_from",
		from + "From: b@y.test":                                        "no_sender several_addresses several_from",
		from + "fROM: a@x.test":                                        "no_sender several_addresses several_from",
		from + "From : b@y.test":                                       "no_sender several_addresses several_from space_before_colon",
		"From : a@x.test":                                              "space_before_colon",
		"From\t:a@x.test":                                              "space_before_colon",
		from + "Subject : s":                                           "Subject:space_before_colon",
		from + "X-Other : s":                                           "",
		from + "Sender: b@y.test":                                      "",
		from + "Sender: b@y.test, c@y.test":                            "Sender:malformed",
		from + "Sender: g: b@y.test;":                                  "Sender:group",
		from + "Sender:":                                               "Sender:malformed",
		from + "Sender: b@y.test\nSender: c@y":                         "Sender:several_sender",
		from + "Reply-To: b@y.test, c@y.test":                          "",
		from + "Reply-To: nobody:;":                                    "Reply-To:empty_group Reply-To:group",
		from + "Subject: a\nSubject: b":                                "Subject:duplicate",
		from + "To: a\nTo: b\nTo: c":                                   "To:duplicate",
		from + "Message-id: a\nMessage-ID: b":                          "Message-ID:duplicate",
		from + "Received: a\nReceived: b":                              "",
		from + "X: a\x00":                                              "nul",
		"X: a\n \n" + from:                                             "blank_line",
		from + "Subject: a\n \n b":                                     "Subject:blank_line",
		"From: a@x.test, b@y.test\nSender: a@x.test":                   "several_addresses",
		from + "Resent-From: r@z.test, \nResent-Message-ID : a\x00":    "Resent-From:malformed Resent-Message-ID:nul Resent-Message-ID:space_before_colon",
		from + strings.Repeat("Resent-From: r@z.test\n", 21) + "X: y":  "Resent-From:too_many",
		"From: " + strings.Repeat("a@x.test,", 100) + "b@x.test\nX: y": "no_sender several_addresses too_many",
	} {
		if got := kinds(read(t, in)); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestReadAll(t *testing.T) {
	o := read(t, `Resent-Date: today
Resent-From: third@r.test
Resent-Sender: s3@r.test
Resent-Sender: s2@r.test
Resent-From: second@r.test
Received: x
Resent-From: first@r.test, too@r.test
From: a@x.test
Sender: S <s@x.test>
From: b@y.test, c@x.test
Reply-To: r@x.test`)
	if addresses(o.From) != "a@x.test b@y.test c@x.test" || addresses(o.ReplyTo) != "r@x.test" || *o.Sender != (Mailbox{"S", mail.Address{Local: "s", Domain: "x.test"}}) {
		t.Errorf("%+v", o)
	}
	if got := strings.Join(o.Domains(), " "); got != "x.test y.test" {
		t.Error(got)
	}
	var rs []string
	for _, r := range o.Resent {
		s := ""
		if r.Sender != nil {
			s = r.Sender.Address.Local
		}
		rs = append(rs, addresses(r.From)+"/"+s)
	}
	if got := strings.Join(rs, " "); got != "third@r.test/s3 second@r.test/s2 first@r.test too@r.test/" {
		t.Error(got)
	}
}

func TestKinds(t *testing.T) {
	ks := Kinds()
	if len(ks) != len(ambiguous) {
		t.Errorf("%d kinds, want %d", len(ks), len(ambiguous))
	}
	for _, k := range ks {
		if _, ok := ambiguous[k]; !ok {
			t.Error(k)
		}
	}
	if s := (Problem{Malformed, "From", "not an address"}).String(); s != "From: not an address" {
		t.Error(s)
	}
}

// TestWork reads fields that are as large as they may be, and as bad.
func TestWork(t *testing.T) {
	const size = 64 << 10
	start := time.Now()
	for _, unit := range []string{",", "<", ">", "(", ")", "\"", "\\", "@", ":", ";", "a:", "a@b.c,", "<@", "<a@b,", "=?a?q?", "a\x00", "@a ", "\"@@@\"", "[", "(\"", "a.", "\xff", "ü@", "<a@b.c>", "a<a@b.c>"} {
		for _, from := range []string{strings.Repeat(unit, size/len(unit)), strings.Repeat(unit, 900/len(unit)) + "<a@x.test>," + strings.Repeat(unit, 900/len(unit)) + " <a@x.test>"} {
			var h message.Header
			for range 4 {
				if err := h.PrependRaw("From: " + from + "\r\n"); err != nil {
					t.Fatal(err)
				}
			}
			if o := Read(&h); len(o.From) > 4*MaxMailboxes || len(o.Problems) > 2*len(Kinds()) {
				t.Errorf("%q: %d mailboxes, %d problems", unit, len(o.From), len(o.Problems))
			}
		}
	}
	if d := time.Since(start); d > 20*time.Second { // 12 MB; it takes a fraction of a second
		t.Error("takes", d)
	}
}

// TestManyInOneElement: addresses in brackets without commas between them are
// one element of the list, of which no more are kept than of others.
func TestManyInOneElement(t *testing.T) {
	p := &parser{lexer: lexer{s: strings.Repeat("<a@b.c>", 10_000)}, field: "From", o: new(Originator)}
	p.element()
	if len(p.out) > MaxMailboxes+1 {
		t.Errorf("%d mailboxes", len(p.out))
	}
	if o := read(t, "From: "+strings.Repeat("<a@b.c>", MaxMailboxes+1)); !o.Has(TooMany) || len(o.From) != MaxMailboxes {
		t.Errorf("%d mailboxes, %s", len(o.From), kinds(o))
	}
}

// FuzzRead checks that addresses are well formed and all is bounded, and that
// another reader, Go's, agrees where we say that readers do.
func FuzzRead(f *testing.F) {
	for _, s := range []string{"From: a@x.test", "From: A <a@x.test>, b@y.test (B)", "From: g: a@x.test;\r\nSender: <@r:b@y.test>",
		"From : \"a b\"@x.test", "From: =?utf-8?q?a?= <a(c)@x.test>", "Resent-From: a@x\r\n \r\nFrom: b@y", "From: \"a\" <a@[192.0.2.1]> x"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, _, err := message.ParseHeader(append(bytes.Clone(b), "\r\n\r\n"...))
		if err != nil {
			return
		}
		o := Read(h)
		if len(o.From) > MaxMailboxes || len(o.Problems) > 20*len(Kinds()) {
			t.Fatalf("%d mailboxes, %d problems", len(o.From), len(o.Problems))
		}
		for _, m := range slices.Concat(o.From, o.ReplyTo) {
			if a, err := mail.ParseAddress(m.Address.String()); err == nil && a != m.Address || strings.ContainsAny(m.Name, "\r\n\x00") {
				t.Fatalf("%+v: %v, %v", m, a, err)
			}
		}
		a, ok := o.Author()
		if !ok {
			return
		}
		theirs, err := netmail.ParseAddressList(h.Get("From"))
		if err != nil {
			return // it refuses, and does not misunderstand
		}
		if len(theirs) != 1 {
			t.Fatalf("%q: we read %v, net/mail %v", h.Get("From"), a, theirs)
		}
		at := strings.LastIndexByte(theirs[0].Address, '@')
		local, dom := theirs[0].Address[:at], theirs[0].Address[at+1:]
		if d, err := mail.ParseDomain(dom); err != nil || d != a.Domain || !mailEqual(local, a.Local) {
			t.Fatalf("%q: we read %v, net/mail %v", h.Get("From"), a, theirs[0])
		}
	})
}

// mailEqual compares local parts in NFC.
func mailEqual(theirs, ours string) bool {
	if theirs == ours {
		return true
	}
	a, err := mail.ParseAddress(fmt.Sprintf("%s@x.test", theirs))
	return err == nil && a.Local == ours
}

func BenchmarkRead(b *testing.B) {
	h, _, err := message.ParseHeader([]byte("Received: x\r\nFrom: Alice Public <alice@example.test>\r\nTo: bob@example.test\r\nSubject: s\r\nDate: d\r\nMessage-ID: <i@x>\r\n\r\n"))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		Read(h)
	}
}
