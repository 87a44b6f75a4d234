package mail

import (
	"strings"
	"unicode"
)

// scripts are those whose letters are mistaken for one another most.
var scripts = []*unicode.RangeTable{
	unicode.Latin, unicode.Cyrillic, unicode.Greek, unicode.Armenian, unicode.Hebrew, unicode.Arabic,
}

// mixesScripts reports whether a label of a domain has letters of more than
// one script that can be told apart only by a machine ("pаypal" with a
// Cyrillic а). Scripts that are written together (Han, Hiragana, Katakana,
// Hangul, and Latin beside them) are not its business.
func mixesScripts(domain string) bool {
	for label := range strings.SplitSeq(domain, ".") {
		var seen *unicode.RangeTable
		for _, r := range label {
			for _, s := range scripts {
				if !unicode.Is(s, r) {
					continue
				}
				if seen != nil && seen != s {
					return true
				}
				seen = s
			}
		}
	}
	return false
}
