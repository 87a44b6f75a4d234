package mail

import "time"

// Body is the value of MAIL's BODY parameter (RFC 1652, RFC 3030).
type Body string

// What a client may declare of its content. The zero Body is as 7BIT, undeclared.
const (
	Body7Bit   Body = "7BIT"
	Body8Bit   Body = "8BITMIME"
	BodyBinary Body = "BINARYMIME"
)

// Return is the value of MAIL's RET parameter (RFC 3461, section 4.3).
type Return string

// How much of a failed message its DSN gives back. The zero Return leaves it to us.
const (
	ReturnFull    Return = "FULL"
	ReturnHeaders Return = "HDRS"
)

// An Envelope is what MAIL and RCPT establish (RFC 5321, section 2.3.1). It is
// stored with each queue entry, so its fields are added to, never renamed.
type Envelope struct {
	From       Address      `json:"from"`
	Recipients []*Recipient `json:"-"` // stored one by one

	Size       int64  `json:"size,omitempty"` // as declared, octets
	Body       Body   `json:"body,omitempty"`
	UTF8       bool   `json:"utf8,omitempty"` // SMTPUTF8 (RFC 6531)
	RequireTLS bool   `json:"require_tls,omitempty"`
	Return     Return `json:"ret,omitempty"`
	ID         string `json:"envid,omitempty"` // ENVID, decoded (RFC 3461, section 4.4)
	Auth       string `json:"auth,omitempty"`  // AUTH=, decoded (RFC 4954, section 5)

	// Priority is MT-PRIORITY's (RFC 6710), -9 to 9. Prioritized says that the
	// client asked for one, which may be 0 too.
	Priority    int  `json:"priority,omitempty"`
	Prioritized bool `json:"prioritized,omitempty"`
	// DeliverBy is when RFC 2852's time is over; zero for never.
	DeliverBy time.Time `json:"deliver_by,omitzero"`
	// DeliverByReturn tells RFC 2852's mode R (return) from N (notify).
	DeliverByReturn bool `json:"deliver_by_return,omitempty"`
	// DeliverByTold says that the time was over when the message came: its sender
	// has heard of that from the host before us.
	DeliverByTold bool `json:"deliver_by_told,omitempty"`
	// DeliverByTrace is RFC 2852's T: each host that passes the message on says so.
	DeliverByTrace bool `json:"deliver_by_trace,omitempty"`
	// HoldUntil is when delivery may begin (RFC 4865); zero for at once.
	HoldUntil time.Time `json:"hold_until,omitzero"`

	// Final says that nobody is told if it fails, and it has no sender: it tells the
	// postmaster of a double failure itself, or is a report that may get lost.
	Final bool `json:"final,omitempty"`

	// Server is the name of the server that took the message.
	Server string `json:"server,omitempty"`

	// Client facts that agents and DSNs may want after the session's end.
	AuthUser string `json:"auth_user,omitempty"`
	ClientIP string `json:"client_ip,omitempty"`   // "" for our own mail
	Hello    string `json:"client_helo,omitempty"` // as given in EHLO or HELO
}

// Notify is a set of the conditions of RCPT's NOTIFY (RFC 3461, section 4.1).
type Notify uint8

// The conditions. The zero Notify is the parameter's absence: failure and delay.
const (
	NotifyNever Notify = 1 << iota
	NotifySuccess
	NotifyFailure
	NotifyDelay
)

// Has reports whether a sender who asked for n wants to hear of c.
func (n Notify) Has(c Notify) bool {
	if n == 0 {
		n = NotifyFailure | NotifyDelay
	}
	return n&c != 0
}

// A Recipient is one forward-path of a transaction.
type Recipient struct {
	// Address is where the message goes: the forward-path, until a handler
	// rewrites it.
	Address Address `json:"address"`

	// Given is the address that the client named in RCPT.
	Given Address `json:"given"`

	Notify Notify `json:"notify,omitempty"`
	// ORCPT as "type;address", its address decoded (RFC 3461, section 4.2).
	Original string `json:"orcpt,omitempty"`
	// RRVS is the moment since which the address must have had one owner
	// (RFC 7293); zero for no such demand.
	RRVS time.Time `json:"rrvs,omitzero"`
	// RRVSReject is its R: rather fail than go where nobody can tell. Without
	// it, the demand goes on as a header field.
	RRVSReject bool `json:"rrvs_reject,omitempty"`

	// Tag is what deliver has taken off the local part, such as "lists" of
	// alice+lists.
	Tag string `json:"tag,omitempty"`

	// Agent is the name of the delivery agent that claimed the recipient.
	Agent string `json:"agent,omitempty"`

	// Expanded says that the address came out of the configuration (an alias,
	// a rewrite) and not from the client.
	Expanded bool `json:"expanded,omitempty"`

	// Verified says that a handler knows the address to exist, so that the
	// agent need not be asked.
	Verified bool `json:"-"`

	// Discarded says that a handler took the recipient and threw it away.
	Discarded bool `json:"-"`

	// Refused is the reply of a message handler that refused this recipient
	// of our own user after others were taken; it becomes a DSN.
	Refused *Reply `json:"-"`
}

// NewRecipient returns the recipient of RCPT TO:<a>.
func NewRecipient(a Address) *Recipient { return &Recipient{Address: a, Given: a} }

// Claim names the agent that will deliver to r. The first claim holds: Claim
// reports whether it was this one.
func (r *Recipient) Claim(agent string) bool {
	if r.Claimed() {
		return false
	}
	r.Agent = agent
	return true
}

// Discard takes r and throws its mail away, unless it was claimed.
func (r *Recipient) Discard() bool {
	if r.Claimed() {
		return false
	}
	r.Discarded = true
	return true
}

// Claimed reports whether a handler took r.
func (r *Recipient) Claimed() bool { return r.Agent != "" || r.Discarded }

// Rewrite sends r elsewhere, by our own configuration.
func (r *Recipient) Rewrite(a Address) { r.Address, r.Expanded = a, true }

// Detail returns the tag of a recipient, whether it was taken off or is in the
// address still, behind a "+".
func (r *Recipient) Detail() string {
	if r.Tag != "" {
		return r.Tag
	}
	_, tag := r.Address.Tag("+")
	return tag
}

// Tag returns what follows the first sep in the local part, and the local
// part without it.
func (a Address) Tag(sep string) (base, tag string) {
	if sep == "" {
		return a.Local, ""
	}
	for i := 1; i+len(sep) <= len(a.Local); i++ {
		if a.Local[i:i+len(sep)] == sep {
			return a.Local[:i], a.Local[i+len(sep):]
		}
	}
	return a.Local, ""
}
