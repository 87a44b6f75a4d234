package nexthop

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"syscall"

	"github.com/caddymail/caddy-smtp/smtpapp/client"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

// What a failure means is decided here and nowhere else. It has a scope, which
// says whom it is about and so who is asked next:
//
//	connection   nobody spoke, or the line went dead   next address, then later
//	host         it doesn't want us, or not now        next address; then later,
//	             (greeting, EHLO, STARTTLS, AUTH,      or a DSN if every host that
//	             MAIL with 4yz, 421 at any time)       was asked refused for good
//	host         it lacks what the message needs       next host; then later if one was
//	             of a next hop (SMTPUTF8, SIZE …)      not reached, or a DSN
//	message      MAIL with 5yz, DATA, the final dot    later, or a DSN, by the reply
//	recipient    RCPT                                  later, or a DSN, by the reply
//
// What a recipient or a message was refused for is the host's where a rule says
// that another one may do better: see elsewhere.
//
// Two failures are never cured by another host: content of ours that cannot be
// read, and silence after the final dot. There the mail may have been
// taken, and whoever asks the next host would know of a second copy.
type scope uint8

const (
	ofConnection scope = iota
	ofHost
	ofMessage
	ofRecipient
)

// A trouble is a failure that was judged.
type trouble struct {
	scope scope
	reply *mail.Reply // for the DSN: the peer's words, or ours
	cause error       // for the log
	host  string      // that spoke, "" if none did

	unspoken    bool // nobody was asked
	unreachable bool // the host could not even be talked to
	full        bool // the host has no room for us now, and said so before a transaction
	busy        bool // we have as many connections to it as we may
	elsewhere   bool // a rule has it so
	untouched   bool // of the transaction nothing was answered
	usedUp      bool // the connection was good for no more
	inDoubt     bool // the peer may have taken the mail
	ours        bool // the operator can put it right
	lacking     bool // the peer lacks what the message needs, and was not asked
	self        bool // the host is this one
}

// nextHost says that another host may do better.
func (t *trouble) nextHost() bool { return t.scope <= ofHost }

// Why a connection was not good enough.
var (
	errSelf      = errors.New("the mail host is this one")
	errNoTLS     = errors.New("TLS is required and not offered")
	errHandshake = errors.New("TLS is required and fails")
	errNoWord    = &client.Error{Phase: client.PhaseData, Err: errors.New("nothing was said of a recipient")}
)

// judgeLookup judges a host whose addresses are not to be had.
func judgeLookup(err error) *trouble {
	return &trouble{scope: ofHost, reply: mail.ReplyFor(err), cause: err, unspoken: true}
}

// of says which host a trouble is about. Where it did not speak, DSNs must not
// say that it did, and so its name is in the text.
func (t *trouble) of(h Host) *trouble {
	if !t.unspoken && !t.unreachable {
		t.host = h.Name
		return t
	}
	r := *t.reply
	r.Text = h.Name + ": " + r.Text
	t.reply = &r
	return t
}

// status is what a trouble comes to.
func (t *trouble) status() queue.Status {
	s := queue.Status{Action: queue.Delayed, Reply: t.reply, RemoteMTA: t.host, Unreachable: t.unreachable || t.full, InDoubt: t.inDoubt, Busy: t.busy}
	if t.reply.Permanent() {
		s.Action = queue.Failed
	}
	return s
}

// temporary is the same where the operator can put it right.
func (t *trouble) temporary() queue.Status {
	o := *t
	o.reply = temporary(t.reply)
	return o.status()
}

// judgeResult judges what the peer said of a recipient that it didn't take.
func judgeResult(r client.Result) *trouble {
	t := &trouble{scope: ofMessage, reply: r.Reply, cause: r.Reply}
	switch {
	case r.Local:
		t.scope, t.lacking, t.unspoken = ofHost, true, true
	case r.Reply.Code == 421: // RFC 5321, section 3.8: it closes the connection
		t.scope = ofHost
	case r.Phase == client.PhaseRcpt:
		t.scope = ofRecipient
	case r.Phase == client.PhaseMail && r.Reply.Temporary():
		t.scope = ofHost
	}
	if r.Reply.Code < 400 { // said at a moment when it means nothing
		t.reply = mail.Refuse(451, "4.5.0", "mail host breaks the protocol")
	}
	return t
}

// judgeProbe judges what the peer said to a probe. Only what it says of the
// recipient is an answer; that it wants no RCPT of us is not.
func judgeProbe(r client.Result) *trouble {
	t := judgeResult(r)
	if r.Local { // there is no message that another host could be asked for
		t.scope = ofRecipient
	}
	switch r.Reply.Code {
	case 500, 502, 503, 521, 530: // RFC 5321, section 4.2.2; RFC 7504; RFC 4954, section 6
		t.scope = ofHost
	}
	if tooMany(r) {
		t.scope = ofHost
	}
	return t
}

// unsaid is the reply of a probe that found nobody who could tell.
func unsaid(t *trouble) *mail.Reply {
	enh := t.reply.Enh
	if !strings.HasPrefix(enh, "4.4.") {
		enh = "4.4.0"
	}
	return mail.Refuse(451, enh, "recipient cannot be verified now")
}

// judgeError judges what befell a connection, and all who got no reply on it.
func judgeError(err error) *trouble {
	t := &trouble{scope: ofConnection, cause: err}
	refused, isRefused := errors.AsType[*client.RefusedError](err)
	broken, isBroken := errors.AsType[*client.Error](err)
	switch {
	case isBroken && broken.InDoubt:
		t.scope, t.inDoubt = ofMessage, true
		t.reply = mail.Refuse(451, "4.4.2", "no reply to the message, which may have been taken")
	case isBroken && broken.Phase == client.PhaseContent:
		t.scope, t.ours = ofMessage, true
		t.reply = mail.Refuse(451, "4.3.0", "local error in processing")
	case errors.Is(err, errSelf):
		t.scope, t.self, t.reply = ofHost, true, errLoop
		t.unspoken = true
	case errors.Is(err, errNoTLS):
		t.scope, t.reply = ofHost, mail.Refuse(451, "4.7.4", "mail host does not offer TLS, which is required")
	case errors.Is(err, errHandshake):
		t.scope, t.reply = ofHost, mail.Refuse(451, "4.7.5", "mail host has no TLS that can be trusted")
	case isRefused && refused.Phase == client.PhaseAuth:
		t.scope, t.ours, t.reply = ofHost, true, temporary(refused.Reply)
	case isBroken && broken.Phase == client.PhaseAuth:
		t.scope, t.ours = ofHost, true
		t.reply = mail.Refuse(451, "4.7.0", "cannot log in at the mail host")
	case isRefused:
		t.scope, t.reply = ofHost, refused.Reply
		t.untouched = unbegun(refused.Phase)
		t.full = refused.Reply.Temporary() && (refused.Phase == client.PhaseGreeting || refused.Phase == client.PhaseHello)
	case errors.Is(err, errBusy):
		t.busy, t.unspoken = true, true
		t.reply = mail.Refuse(451, "4.4.5", "there are as many connections to the mail host as there may be")
	case errors.Is(err, errNoSource), errors.Is(err, syscall.EADDRNOTAVAIL):
		t.ours, t.unspoken = true, true
		t.reply = mail.Refuse(451, "4.3.5", "no usable address of ours to send from")
	case errors.Is(err, errProxy):
		t.ours, t.unspoken = true, true
		t.reply = mail.Refuse(451, "4.3.5", "no way out to mail hosts")
	default:
		t.untouched = isBroken && unbegun(broken.Phase)
		t.unreachable = !isBroken || early(broken.Phase)
		t.reply = network(err, t.unreachable)
	}
	return t
}

// early says that not a word of the peer was understood.
func early(p client.Phase) bool { return p == client.PhaseConnect || p == client.PhaseGreeting }

// unbegun says that a transaction was not begun, as on a connection that the
// peer has closed since the last one.
func unbegun(p client.Phase) bool { return p == client.PhaseMail || p == client.PhaseReset }

// network puts an error of the network into words that have no address of ours.
func network(err error, unreachable bool) *mail.Reply {
	enh, text := "4.4.2", "connection to the mail host was lost"
	if unreachable {
		enh, text = "4.4.1", "no answer from the mail host"
	}
	ne, isNet := errors.AsType[net.Error](err)
	switch {
	case errors.Is(err, context.Canceled):
		return mail.Refuse(451, "4.3.2", "the attempt was called off")
	case errors.Is(err, client.ErrProtocol):
		return mail.Refuse(451, "4.5.0", "mail host breaks the protocol")
	case errors.Is(err, syscall.ECONNREFUSED):
		text = "mail host refuses connections"
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), isNet && ne.Timeout():
		text = "mail host takes too long"
	}
	return mail.Refuse(451, enh, "%s", text)
}

// temporary makes a refusal one that can be put right.
func temporary(r *mail.Reply) *mail.Reply {
	if !r.Permanent() {
		return r
	}
	out := *r
	out.Code -= 100
	if len(r.Enh) > 1 {
		out.Enh = "4" + r.Enh[1:]
	}
	return &out
}

// worse returns the trouble that speaks for an attempt in which all hosts
// failed: one that may pass before one that won't, since that is when to try
// again; then words of a host before silence; then the later one.
func worse(a, b *trouble) *trouble {
	switch {
	case a == nil:
		return b
	case a.busy && (b.unreachable || b.unspoken):
		return a
	case b.busy && (a.unreachable || a.unspoken):
		return b
	case a.busy != b.busy: // a host has spoken, and is not to be asked again at once
		if a.busy {
			return b
		}
		return a
	case a.reply.Permanent() != b.reply.Permanent():
		if a.reply.Permanent() {
			return b
		}
		return a
	case a.unreachable != b.unreachable:
		if a.unreachable {
			return b
		}
		return a
	}
	return b
}

// tooMany reports that the peer takes the recipient in another transaction
// (RFC 5321, section 4.5.3.1.10, where 552 is what old servers say).
func tooMany(r client.Result) bool {
	return r.Phase == client.PhaseRcpt && r.Reply != nil && (r.Reply.Code == 452 && (r.Reply.Enh == "" || r.Reply.Enh == "4.5.3") || r.Reply.Code == 552 && r.Reply.Enh == "5.5.3")
}
