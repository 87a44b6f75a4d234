package mail

import (
	"errors"
	"fmt"
	"strings"
)

// A Reply is a server's reply (RFC 5321, section 4.2). It is also the error by
// which a handler refuses; its code alone says whether the refusal is for good.
type Reply struct {
	Code int    // 200 to 599
	Enh  string // enhanced status code (RFC 3463), "" for none
	Text string // lines are parted by "\n"

	// Close ends the session once the reply is sent. 421 always does.
	Close bool

	// UTF8 says that the client has asked for a text that is not ASCII.
	UTF8 bool

	// Next, if not nil, is sent too: LMTP answers content for one recipient
	// after the other (RFC 2033, section 4.2).
	Next *Reply
}

// Refuse returns a reply that refuses, its text formatted.
func Refuse(code int, enh, format string, args ...any) *Reply {
	return &Reply{Code: code, Enh: enh, Text: fmt.Sprintf(format, args...)}
}

// Error makes a reply an error.
func (r *Reply) Error() string {
	return strings.TrimSpace(fmt.Sprintf("%d %s", r.Code, r.Enh)) + " " + r.Text
}

// Permanent reports whether the reply refuses for good.
func (r *Reply) Permanent() bool { return r.Code/100 == 5 }

// Temporary reports whether the reply asks to try again.
func (r *Reply) Temporary() bool { return r.Code/100 == 4 }

// Status returns the enhanced status code, or the general one of the reply's
// class where it has none: what a DSN's Status field says.
func (r *Reply) Status() string {
	if r.Enh != "" {
		return r.Enh
	}
	return fmt.Sprintf("%d.0.0", r.Code/100)
}

// ReplyFor returns the reply to send for err: the Reply that err is or wraps,
// and otherwise a temporary failure that tells the client nothing of the cause.
func ReplyFor(err error) *Reply {
	if r, ok := errors.AsType[*Reply](err); ok {
		return r
	}
	return &Reply{Code: 451, Enh: "4.3.0", Text: "local error in processing"}
}
