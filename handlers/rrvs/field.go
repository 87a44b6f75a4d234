package rrvs

import (
	netmail "net/mail"
	"strings"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

// field is the header field by which a demand comes through hosts that do not know
// the extension (RFC 7293, section 3.2).
const field = "Require-Recipient-Valid-Since"

// maxValue bounds what is looked at, in octets: an address and a date.
const maxValue = 500

// parse reads addr-spec ";" date-time, where the latter is RFC 5322's. What is
// malformed demands nothing (section 5).
func parse(value string) (a mail.Address, then time.Time, ok bool) {
	if len(value) > maxValue {
		return a, then, false
	}
	i := strings.LastIndexByte(value, ';')
	if i < 0 {
		return a, then, false
	}
	a, err := mail.ParseAddress(strings.TrimSpace(value[:i]))
	if err != nil {
		return a, then, false
	}
	then, err = netmail.ParseDate(strings.TrimSpace(value[i+1:]))
	return a, then, err == nil && !then.IsZero()
}
