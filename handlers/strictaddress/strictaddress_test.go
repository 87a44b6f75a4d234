package strictaddress

import (
	"encoding/json"
	"log/slog"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func TestDoubts(t *testing.T) {
	for local, want := range map[string]string{
		"alice": "", "jürgen": "", "jørgen.ærø": "", "иван": "", "иван+news": "", "иван.smith": "", "日本語": "", "田中taro": "", "ひらがなカタカナ": "", "한국어abc": "",
		"δοκιμή": "", "परीक्षा": "", "ทดสอบ": "", "ไทย1": "", "שלום": "", "שלום1": "", "مثال": "", "مثال.واحد": "",
		"pаypal": mixedScripts, "аррӏе1a": mixedScripts, "αβγabc": mixedScripts, "日本語иван": mixedScripts, "ひらがな한국": mixedScripts, "x.pаypal": mixedScripts,
		"שלוםabc": mixedScripts + " " + direction, "1שלום": direction, "abc.שלום": direction, "שלום-": direction,
		"1٢": mixedNumbers + " " + direction, "ü1२": mixedNumbers, "٢٣": direction, "२३": "",
		"ｐａｙｐａｌ": compatibility, "ﬁx": compatibility, "Ⅷ": compatibility + " " + symbols, "①": compatibility + " " + symbols,
		"☕": symbols, "x👍": symbols, "ü€": symbols, "ü\u0378": symbols, "xn--ls8ha": "",
	} {
		got := doubts(local)
		sameWords(t, local, strings.Join(got, " "), want)
	}
}

// sameWords compares kinds whatever their order.
func sameWords(t *testing.T, what, got, want string) {
	t.Helper()
	g, w := map[string]bool{}, map[string]bool{}
	for _, s := range strings.Fields(got) {
		g[s] = true
	}
	for _, s := range strings.Fields(want) {
		w[s] = true
	}
	if len(g) != len(w) {
		t.Errorf("%s: %q, want %q", what, got, want)
		return
	}
	for s := range w {
		if !g[s] {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
}

func FuzzDoubts(f *testing.F) {
	for _, s := range []string{"pаypal", "שלום1", "1٢", "☕", "\xff", "a\u0301", "٠"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := mail.ParseAddress(s + "@x.test")
		if err != nil {
			return
		}
		if got := doubts(a.Local); len(got) > 0 && a.IsASCII() {
			t.Errorf("%q: %v", s, got)
		}
	})
}

func TestHandler(t *testing.T) {
	for in, want := range map[string]string{
		"strict_address":                                               "553 5.6.7, 553 5.6.7, symbols",
		"strict_address {\nannotate\n}":                                "mixed_scripts, mixed_scripts bidi, symbols",
		"strict_address {\nignore bidi symbols\n}":                     "553 5.6.7, 553 5.6.7, ",
		"strict_address {\nflag mixed_scripts bidi\nrefuse symbols\n}": "mixed_scripts, mixed_scripts bidi, 553 5.6.7",
	} {
		h := &Handler{log: slog.New(slog.DiscardHandler)}
		if err := h.UnmarshalCaddyfile(caddyfile.NewTestDispenser(in)); err != nil {
			t.Fatal(err)
		}
		var got []string
		for i, local := range []string{"pаypal", "שלוםabc", "x☕"} {
			tx := &session.Transaction{Envelope: &mail.Envelope{From: mail.Address{Local: local, Domain: "x.test"}}}
			err := h.HandleMail(t.Context(), tx)
			if i == 1 { // the same at RCPT
				tx.Results = nil
				err = h.HandleRcpt(t.Context(), tx, mail.NewRecipient(tx.Envelope.From))
			}
			if err != nil {
				got = append(got, mail.ReplyFor(err).Error()[:9])
				continue
			}
			var kinds []string
			for _, r := range tx.Find("x-address") {
				kinds = append(kinds, r.Value)
			}
			got = append(got, strings.Join(kinds, " "))
		}
		if s := strings.Join(got, ", "); s != want {
			t.Errorf("%s: %s, want %s", in, s, want)
		}
		r := mail.NewRecipient(mail.Address{Local: "x", Domain: "x.test"})
		r.Rewrite(mail.Address{Local: "pаypal", Domain: "x.test"})
		if err := h.HandleRcpt(t.Context(), new(session.Transaction), r); err != nil {
			t.Errorf("what an alias made: %v", err)
		}
	}
}

func TestCaddyfile(t *testing.T) {
	for in, want := range map[string]string{
		"strict_address {\nrefuse symbols\nflag bidi\nignore compatibility\nannotate\n}": `{"refuse":["symbols"],"flag":["bidi"],"ignore":["compatibility"],"annotate":true}`,
		"strict_address x":                            "wrong argument count",
		"strict_address {\nrefuse emoji\n}":           "'emoji' is no kind of doubt about an address",
		"strict_address {\nrefuse bidi\nflag bidi\n}": "'bidi' is given twice",
		"strict_address {\nforgive bidi\n}":           "unrecognized option 'forgive', at Testfile:2",
	} {
		h := new(Handler)
		err := h.UnmarshalCaddyfile(caddyfile.NewTestDispenser(in))
		b, _ := json.Marshal(h)
		if err != nil && !strings.Contains(err.Error(), want) || err == nil && string(b) != want {
			t.Errorf("%q: %s, %v", in, b, err)
		}
	}
}
