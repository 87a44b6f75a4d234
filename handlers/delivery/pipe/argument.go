package pipe

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/placeholder"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

// An argument is text and placeholders in turn, text first.
type argument []string

// keys are the placeholders of an argument.
var keys = []string{
	"smtp.rcpt", "smtp.rcpt.local", "smtp.rcpt.domain", "smtp.rcpt.tag", "smtp.rcpt.given",
	"smtp.mail.from", "smtp.mail.from.local", "smtp.mail.from.domain", "smtp.queue.id", "smtp.auth.user",
}

var inBraces = regexp.MustCompile(`\{(smtp\.[^{}]*)\}`)

// parseCommand reads a command. Braces without "smtp." in them may be the
// program's.
func parseCommand(words []string) ([]argument, error) {
	var argv []argument
	for _, w := range words {
		a, err := parseArgument(caddy.NewReplacer().ReplaceKnown(w, ""))
		if err != nil {
			return nil, err
		}
		argv = append(argv, a)
	}
	if len(argv) == 0 || len(argv[0]) > 1 || !filepath.IsAbs(argv[0].fixed()) {
		return nil, errors.New("the program is not an absolute path")
	}
	return argv, nil
}

func parseArgument(w string) (argument, error) {
	if strings.ContainsRune(w, 0) {
		return nil, errors.New("an argument has a null byte")
	}
	var a argument
	end := 0
	for _, m := range inBraces.FindAllStringSubmatchIndex(w, -1) {
		key := w[m[2]:m[3]]
		if !slices.Contains(keys, key) {
			return nil, fmt.Errorf("'%s': placeholders of a command are {%s}", w, strings.Join(keys, "}, {"))
		}
		a = append(a, w[end:m[0]], key)
		end = m[1]
	}
	return append(a, w[end:]), nil
}

// fixed is an argument without placeholders.
func (a argument) fixed() string { return a[0] }

var (
	errHyphen  = mail.Refuse(553, "5.1.3", "an address that begins with a hyphen cannot be handed to the program")
	errControl = mail.Refuse(553, "5.1.3", "address has a control character")
)

// expand is the command for a recipient.
func expand(argv []argument, d *queue.Delivery, r *mail.Recipient) ([]string, error) {
	if strings.ContainsFunc(r.Address.String()+d.Envelope.From.String(), unicode.IsControl) {
		return nil, errControl
	}
	repl := placeholder.ForDelivery(d.Envelope, r, d.ID)
	words := make([]string, 0, len(argv))
	for _, a := range argv {
		var b strings.Builder
		for i, part := range a {
			if i%2 == 1 {
				part, _ = repl.GetString(part)
				if b.Len() == 0 && strings.HasPrefix(part, "-") {
					return nil, errHyphen
				}
			}
			b.WriteString(part)
		}
		words = append(words, b.String())
	}
	return words, nil
}

// plain is text without characters that a terminal or a parser of lines stumbles
// over, and without a null byte, which no variable can have.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
}
