package pipe

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

// known are exit codes that a program chooses, and what each means (RFC 3463).
// Those of sysexits.h that blame the program or this host, and not the message,
// are not among them: the mail waits until somebody has put that right.
var known = map[int]struct{ enh, text string }{
	0:   {"2.0.0", "delivered"},
	65:  {"5.6.0", "the program does not take such a message"}, // EX_DATAERR
	67:  {"5.1.1", "no such user"},                             // EX_NOUSER
	68:  {"5.1.2", "no such host"},                             // EX_NOHOST
	69:  {"5.3.0", "the program takes no such mail"},           // EX_UNAVAILABLE
	75:  {"4.3.0", "the program cannot deliver now"},           // EX_TEMPFAIL
	76:  {"5.5.0", "the program reports a protocol error"},     // EX_PROTOCOL
	77:  {"5.7.0", "the program refuses the message"},          // EX_NOPERM
	100: {"5.3.0", "the program refuses the message"},          // qmail-command(8): hard
	111: {"4.3.0", "the program cannot deliver now"},           // and soft
}

// errProgram is what senders are told of a program that fails otherwise.
var errProgram = mail.Refuse(451, "4.3.0", "local error in processing")

var enhanced = regexp.MustCompile(`^([245])\.\d{1,3}\.\d{1,3}$`)

// path finds the path of a file, which is nothing for a sender to know.
var path = regexp.MustCompile(`(^|[^\w/:])/\w`)

// parseExits reads exit codes and their meaning.
func parseExits(given map[string]string) (map[int]string, error) {
	exits := map[int]string{}
	for code, enh := range given {
		n, err := strconv.Atoi(code)
		switch {
		case err != nil || n < 0 || n > 255:
			return nil, fmt.Errorf("'%s' is not an exit code", code)
		case !enhanced.MatchString(enh):
			return nil, fmt.Errorf("'%s' is not an enhanced status code of class 2, 4 or 5", enh)
		}
		exits[n] = enh
	}
	return exits, nil
}

// deliberate reports that an exit code was chosen by the program's author.
func deliberate(exits map[int]string, code int) bool {
	_, isOurs := exits[code]
	_, isKnown := known[code]
	return isOurs || isKnown
}

// judge is the reply that a run comes to.
func (a *Agent) judge(r result) *mail.Reply {
	switch {
	case r.late:
		return mail.Refuse(451, "4.3.0", "the program takes too long")
	case r.err != nil, !deliberate(a.exits, r.code):
		return errProgram
	}
	enh, text := known[r.code].enh, known[r.code].text
	if e, ok := a.exits[r.code]; ok {
		enh, text = e, known[0].text
		if e[0] != '2' {
			text = fmt.Sprintf("the program ends with %d", r.code)
		}
	}
	said := firstLine(r.stderr, r.stdout)
	if first, rest, _ := strings.Cut(said, " "); enhanced.MatchString(first) && first[0] == enh[0] {
		enh, said = first, strings.TrimSpace(rest)
	}
	if said != "" && enh[0] != '2' && !path.MatchString(said) {
		text = said
	}
	return &mail.Reply{Code: codeOf(enh), Enh: enh, Text: text}
}

// codeOf is the reply code that goes with an enhanced status code.
func codeOf(enh string) int {
	switch {
	case enh[0] == '2':
		return 250
	case enh[0] == '4':
		return 451
	case strings.HasPrefix(enh, "5.1."), strings.HasPrefix(enh, "5.2."), strings.HasPrefix(enh, "5.7."):
		return 550
	}
	return 554
}

// maxText is how much of a program's words is told, in octets.
const maxText = 200

// firstLine is the first line of what was written that has something in it, as a
// reply can have it.
func firstLine(outputs ...[]byte) string {
	for _, out := range outputs {
		for line := range strings.Lines(string(out)) {
			line = strings.Map(func(r rune) rune {
				if r < ' ' || r > '~' {
					return ' '
				}
				return r
			}, line)
			if line = strings.Join(strings.Fields(line), " "); line != "" {
				return line[:min(len(line), maxText)]
			}
		}
	}
	return ""
}
