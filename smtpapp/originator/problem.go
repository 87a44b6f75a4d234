package originator

// A Kind says what is wrong with, or remarkable about, originator fields. It is
// the word for it in configurations.
type Kind string

// The kinds that readers disagree over.
const (
	NoFrom           Kind = "no_from"            // there is no From field
	SeveralFrom      Kind = "several_from"       // there is more than one
	SeveralSender    Kind = "several_sender"     // there is more than one Sender field
	Duplicate        Kind = "duplicate"          // another field is there twice that may be there once
	Group            Kind = "group"              // group syntax (RFC 6854)
	EmptyGroup       Kind = "empty_group"        // a group without members, and so nobody
	Malformed        Kind = "malformed"          // not the syntax of RFC 5322, section 3.4
	SpaceBeforeColon Kind = "space_before_colon" // "From : x"
	BlankLine        Kind = "blank_line"         // a folded line of nothing but white space
	NUL              Kind = "nul"                // anywhere in the header
	Control          Kind = "control"            // other control characters, also encoded ones
	EncodedWord      Kind = "encoded_word"       // RFC 2047 in an address, where it means itself
	Comment          Kind = "comment"            // in or before an address
	Route            Kind = "route"              // <@a:b@c>
	QuotedLocal      Kind = "quoted_local"       // a local part like "a@b" or "<a>"
	NotUTF8          Kind = "not_utf8"           // octets that are neither ASCII nor UTF-8
	Misleading       Kind = "misleading"         // invisible or look-alike characters in an address
	TooMany          Kind = "too_many"           // more addresses or blocks than are read
)

// The kinds that are legal, and yet may be what somebody wants to know of.
const (
	SeveralAddresses Kind = "several_addresses" // of several authors
	NoSender         Kind = "no_sender"         // several authors and nobody who sent it
	EightBit         Kind = "eight_bit"         // legal with SMTPUTF8 only (RFC 6532)
	DomainLiteral    Kind = "domain_literal"    // a@[192.0.2.1]
	DisplayName      Kind = "display_name"      // shows an address other than the real one
)

// ambiguous says of each kind whether readers disagree over it.
var ambiguous = map[Kind]bool{
	NoFrom: true, SeveralFrom: true, SeveralSender: true, Duplicate: true, Group: true, EmptyGroup: true, Malformed: true,
	SpaceBeforeColon: true, BlankLine: true, NUL: true, Control: true, EncodedWord: true, Comment: true, Route: true,
	QuotedLocal: true, NotUTF8: true, Misleading: true, TooMany: true,
	SeveralAddresses: false, NoSender: false, EightBit: false, DomainLiteral: false, DisplayName: false,
}

// Ambiguous reports whether it is one that readers disagree over. The others
// are read alike by all.
func (k Kind) Ambiguous() bool { return ambiguous[k] }

// Kinds returns all kinds: first those that readers disagree over.
func Kinds() []Kind {
	return []Kind{
		NoFrom, SeveralFrom, SeveralSender, Duplicate, Group, EmptyGroup, Malformed, SpaceBeforeColon, BlankLine, NUL, Control,
		EncodedWord, Comment, Route, QuotedLocal, NotUTF8, Misleading, TooMany,
		SeveralAddresses, NoSender, EightBit, DomainLiteral, DisplayName,
	}
}

// A Problem is one that was found.
type Problem struct {
	Kind  Kind
	Field string // its name, "" if it is none in particular
	Text  string // for people; nothing of the message is in it
}

// String writes the problem for replies and the log.
func (p Problem) String() string {
	if p.Field == "" {
		return p.Text
	}
	return p.Field + ": " + p.Text
}
