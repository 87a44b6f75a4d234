package strictaddress

import (
	"strings"
	"unicode"

	"golang.org/x/text/secure/bidirule"
	"golang.org/x/text/secure/precis"
	"golang.org/x/text/unicode/bidi"
	"golang.org/x/text/unicode/norm"
)

// Kinds of doubt about a local part, worst first.
const (
	mixedScripts  = "mixed_scripts"
	direction     = "bidi"
	mixedNumbers  = "mixed_numbers"
	compatibility = "compatibility"
	symbols       = "symbols"
)

var kinds = []string{mixedScripts, direction, mixedNumbers, compatibility, symbols}

// doubts returns the kinds of doubt about a local part in form NFC. ASCII has
// none.
func doubts(local string) []string {
	if strings.IndexFunc(local, func(r rune) bool { return r >= 0x80 }) < 0 {
		return nil
	}
	is := map[string]bool{
		direction:     !followsBidiRule(local),
		mixedNumbers:  mixesNumbers(local),
		compatibility: norm.NFKC.String(local) != local,
	}
	for word := range strings.FieldsFuncSeq(local, parts) {
		is[mixedScripts] = is[mixedScripts] || mixesScripts(word)
		is[symbols] = is[symbols] || hasSymbols(word)
	}
	var out []string
	for _, k := range kinds {
		if is[k] {
			out = append(out, k)
		}
	}
	return out
}

// parts tells what parts the words of a local part: иван+news is no mixture.
func parts(r rune) bool { return r < 0x80 && !unicode.IsLetter(r) && !unicode.IsDigit(r) }

// followsBidiRule applies the rule for labels of domains (RFC 5893, section 2) to
// what is written from right to left, or has something in it that is.
func followsBidiRule(s string) bool {
	return bidirule.DirectionString(s) == bidi.LeftToRight || bidirule.ValidString(s)
}

// together are scripts that are written beside one another, in which a name is
// not misleading (UTS 39, section 5.2, "highly restrictive").
var together = [][]string{
	{"Latin", "Han", "Hiragana", "Katakana"}, {"Latin", "Han", "Bopomofo"}, {"Latin", "Han", "Hangul"},
}

// mixesScripts reports letters of scripts that are not written together.
func mixesScripts(word string) bool {
	seen := map[string]bool{}
	for _, r := range word {
		if s := script(r); s != "" {
			seen[s] = true
		}
	}
	if len(seen) < 2 {
		return false
	}
	for _, set := range together {
		n := 0
		for _, s := range set {
			if seen[s] {
				n++
			}
		}
		if n == len(seen) {
			return false
		}
	}
	return true
}

// script returns the script of a letter, "" for what is none or is of all.
func script(r rune) string {
	if r < 0x80 {
		if unicode.IsLetter(r) {
			return "Latin"
		}
		return ""
	}
	if !unicode.IsLetter(r) || unicode.In(r, unicode.Common, unicode.Inherited) {
		return ""
	}
	for name, table := range unicode.Scripts {
		if unicode.Is(table, r) {
			return name
		}
	}
	return ""
}

// mixesNumbers reports digits of several systems, some of which look like others
// of another value.
func mixesNumbers(s string) bool {
	zero := rune(-1)
	for _, r := range s {
		if !unicode.Is(unicode.Nd, r) {
			continue
		}
		z := r
		for unicode.Is(unicode.Nd, z-1) && r-z < 9 {
			z--
		}
		if r < 0x80 {
			z = '0'
		}
		if zero >= 0 && z != zero {
			return true
		}
		zero = z
	}
	return false
}

// hasSymbols reports what no identifier has (RFC 8264, section 4.2): emoji, signs,
// and characters that were never assigned.
func hasSymbols(word string) bool {
	for _, r := range word {
		if r < 0x80 || unicode.IsMark(r) || unicode.IsLetter(r) || unicode.IsDigit(r) {
			continue
		}
		if _, err := identifier.String(string(r)); err != nil {
			return true
		}
	}
	return false
}

var identifier = precis.NewIdentifier()
