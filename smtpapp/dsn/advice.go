package dsn

import (
	"mime"
	"strings"
	"unicode/utf8"
)

// hints say what a sender can do about a failure, by subject and detail of its
// status code (RFC 3463, section 3). The first prefix that fits counts.
func hints() [][2]string {
	return [][2]string{
		{"1.2.", "The domain does not exist or takes no mail. Check the part after the @ for a typing error."},
		{"1.8.", "The recipient's mail system does not accept your own address. Ask your postmaster."},
		{"1.7.", "The recipient's mail system does not accept your own address. Ask your postmaster."},
		{"1.10.", "The domain takes no mail. Ask the recipient for another address."},
		{"1.", "The address does not exist. Check it for a typing error, or ask the recipient for the right one."},
		{"2.2.", "The mailbox is full. Tell the recipient in another way, and send the message again later."},
		{"2.3.", "The message is too big for this mailbox. Send it in parts, or put the files where they can be fetched."},
		{"2.", "The mailbox does not take the message. Try to reach the recipient in another way."},
		{"3.4.", "The message is too big. Send it in parts, or put the files where they can be fetched."},
		{"4.7.", "We tried for as long as we may. Check the address, try again later, or reach the recipient in another way."},
		{"4.6.", "The message went round in circles. Tell the recipient's postmaster."},
		{"4.", "The recipient's mail system cannot be reached. Check the part after the @, or try again later."},
		{"6.", "The recipient's mail system cannot handle a message of this form. Try to send it as plain text."},
		{"7.", "The message was refused by a rule of the recipient's mail system. Sending the same again will not help; changing it may."},
	}
}

// advice is what the sender can do.
func (r *Recipient) advice() string {
	switch r.Action {
	case Delayed:
		return "You need not do anything, and need not send the message again."
	case Delivered:
		return "The message is in the mailbox."
	case Relayed:
		return "The message was passed on to a mail system that does not report what becomes of it."
	case Expanded:
		return "The address is a list. The message was passed on to its members."
	}
	_, detail, _ := strings.Cut(r.status(), ".")
	for _, h := range hints() {
		if strings.HasPrefix(detail+".", h[0]) {
			return h[1]
		}
	}
	return "Check the address, or try to reach the recipient in another way."
}

// decoded is a field's value with its encoded words read (RFC 2047).
func decoded(s string) string {
	var d mime.WordDecoder
	if t, err := d.DecodeHeader(s); err == nil {
		s = t
	}
	return wide.plain(s)
}

// wrapColumns is how wide lines are that people read.
const wrapColumns = 70

// wrap breaks a line at spaces for people to read.
func wrap(s string) []string { return wrapTo(wrapColumns, s) }

func wrapTo(columns int, s string) []string {
	var lines []string
	col := columns
	for _, word := range strings.Fields(s) {
		n := utf8.RuneCountInString(word)
		if col+1+n > columns {
			lines, col = append(lines, word), n
			continue
		}
		lines[len(lines)-1] += " " + word
		col += 1 + n
	}
	return lines
}
