package mail

import "testing"

func TestKey(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "Alice": "Alice", "a@B.test": "a@B.test", "bücher.test": "xn--bcher-kva.test", "BÜCHER.test": "xn--bcher-kva.test",
		"bu\u0308cher.test": "xn--bcher-kva.test", "XN--BCHER-KVA.test": "xn--bcher-kva.test", "*.bücher.test": "*.xn--bcher-kva.test",
		"@bücher.test": "@xn--bcher-kva.test", ".bücher.test": ".xn--bcher-kva.test", "u\u0308@bücher.test": "ü@xn--bcher-kva.test",
		"Ü@x.test": "Ü@x.test", "*@*.bücher.test": "*@*.xn--bcher-kva.test", "müller": "müller", `"a@b"@bücher.test`: `"a@b"@xn--bcher-kva.test`,
		"x@-ü-.test": "x@-ü-.test", "a@bücher": "a@xn--bcher-kva", "faß.test": "xn--fa-hia.test", "fass.test": "fass.test", "xn--0.test": "xn--0.test",
	} {
		if got := Key(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
		if got := Key(Key(in)); got != want {
			t.Errorf("%q again: %q", in, got)
		}
	}
	for in, want := range map[string]string{"a@XN--BCHER-KVA.test": "a@bücher.test", "u\u0308@b.test": "ü@b.test", "xn--bcher-kva.test": "bücher.test", "Alice": "Alice", "xn--0.test": "xn--0.test"} {
		if got := UnicodeKey(in); got != want {
			t.Errorf("UnicodeKey(%q): %q, want %q", in, got, want)
		}
	}
}
