// Package placeholder fills in the placeholders that handlers and delivery
// agents may use. It is in the hands of the configuration's author what they
// stand in; what they stand for comes from the client:
//
//	{smtp.server}              name of the server in the configuration
//	{smtp.hostname}            what the server calls itself
//	{smtp.session.id}          the session, as in the log
//	{smtp.remote.ip}           the client's address
//	{smtp.remote.port}
//	{smtp.local.ip}            the address that the client connected to
//	{smtp.local.port}
//	{smtp.helo}                the name given in EHLO or HELO
//	{smtp.auth.user}           who has logged in
//	{smtp.auth.method}         and by which mechanism
//	{smtp.auth.secret}         and with which of his passwords, by its name
//	{smtp.auth.attr.<name>}    what the credential source says about him
//	{smtp.tls.version}         such as "TLS 1.3", empty without TLS
//	{smtp.tls.cipher}
//	{smtp.tls.server_name}     the name that the client asked for
//	{smtp.tls.client.subject}  of its certificate, if that was verified
//	{smtp.mail.from}           the reverse-path, empty for the null one
//	{smtp.mail.from.local}     its local part
//	{smtp.mail.from.domain}    and its domain
//	{smtp.rcpt}                where the message goes, by now
//	{smtp.rcpt.local}
//	{smtp.rcpt.domain}
//	{smtp.rcpt.tag}            what follows the first "+" in the local part, or was taken off by deliver
//	{smtp.rcpt.given}          the forward-path as the client named it
//	{smtp.queue.id}            the transaction, as in the log and the reply
//	{smtp.result.<method>}     the last result of a check: {smtp.result.spf}
//	{smtp.result.<method>.reason}
//
// What isn't known yet is empty, and so is {smtp.rcpt} where a message has several
// recipients. Values are put in once: a brace in them means
// itself. Control characters in them become spaces. There is no {file.*} and no
// {env.*} here; those are for options that are read when the configuration is
// loaded.
package placeholder

import (
	"crypto/tls"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddymail/caddy-smtp/smtpapp/login"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

// New returns a replacer for a point of a session. The transaction and the
// recipient may be nil where there is none, and are looked at when a
// placeholder is.
func New(s *session.Session, tx *session.Transaction, r *mail.Recipient) *caddy.Replacer {
	return replacer(func(key string) (string, bool) {
		if tx != nil {
			if v, ok := inTransaction(tx, key); ok {
				return v, true
			}
			if v, ok := inEnvelope(tx.Envelope, key); ok {
				return v, true
			}
		} else if v, ok := inEnvelope(&mail.Envelope{}, key); ok {
			return v, true
		}
		if v, ok := inRecipient(oneOf(tx, r), key); ok {
			return v, true
		}
		return inSession(s, key)
	})
}

// ForDelivery returns a replacer for a delivery agent: of smtp.queue.id,
// smtp.mail.*, smtp.rcpt.* and smtp.auth.user.
func ForDelivery(env *mail.Envelope, r *mail.Recipient, id string) *caddy.Replacer {
	return replacer(func(key string) (string, bool) {
		switch key {
		case "queue.id":
			return id, true
		case "auth.user":
			return env.AuthUser, true
		}
		if v, ok := inEnvelope(env, key); ok {
			return v, true
		}
		return inRecipient(r, key)
	})
}

// replacer makes a replacer of a function that is given keys without "smtp.".
func replacer(get func(key string) (string, bool)) *caddy.Replacer {
	repl := caddy.NewEmptyReplacer() // knows nothing of files and the environment
	repl.Map(func(key string) (any, bool) {
		key, ok := strings.CutPrefix(key, "smtp.")
		if !ok {
			return nil, false
		}
		v, ok := get(key)
		return strings.Map(printable, v), ok
	})
	return repl
}

func printable(r rune) rune {
	if r < ' ' || r >= 0x7f && r < 0xa0 {
		return ' '
	}
	return r
}

func inTransaction(tx *session.Transaction, key string) (string, bool) {
	if key == "queue.id" {
		return tx.ID, true
	}
	method, ok := strings.CutPrefix(key, "result.")
	if !ok {
		return "", false
	}
	method, reason := strings.CutSuffix(method, ".reason")
	found := tx.Find(method)
	if len(found) == 0 {
		return "", true
	}
	last := found[len(found)-1]
	if reason {
		return last.Reason, true
	}
	return last.Value, true
}

func inEnvelope(env *mail.Envelope, key string) (string, bool) {
	switch key {
	case "mail.from":
		return env.From.String(), true
	case "mail.from.local":
		return env.From.Local, true
	case "mail.from.domain":
		return env.From.Domain, true
	}
	return "", false
}

// oneOf returns r, or the only recipient of tx.
func oneOf(tx *session.Transaction, r *mail.Recipient) *mail.Recipient {
	if r == nil && tx != nil && len(tx.Envelope.Recipients) == 1 {
		return tx.Envelope.Recipients[0]
	}
	return r
}

func inRecipient(r *mail.Recipient, key string) (string, bool) {
	if r == nil {
		r = &mail.Recipient{}
	}
	switch key {
	case "rcpt":
		return r.Address.String(), true
	case "rcpt.local":
		return r.Address.Local, true
	case "rcpt.domain":
		return r.Address.Domain, true
	case "rcpt.tag":
		return r.Detail(), true
	case "rcpt.given":
		return r.Given.String(), true
	}
	return "", false
}

// identity is that of the client, an empty one if it has none.
func identity(s *session.Session) *login.Identity {
	if s.Identity == nil {
		return new(login.Identity)
	}
	return s.Identity
}

func inSession(s *session.Session, key string) (string, bool) {
	switch key {
	case "server":
		return s.Server(), true
	case "hostname":
		return s.Hostname(), true
	case "session.id":
		return s.ID, true
	case "helo":
		return s.Hello, true
	case "auth.user":
		return s.User, true
	case "auth.method":
		return s.Method, true
	case "auth.secret":
		return identity(s).Secret, true
	case "queue.id":
		return "", true
	}
	if k, ok := strings.CutPrefix(key, "auth.attr."); ok {
		return identity(s).Attributes[k], true
	}
	if strings.HasPrefix(key, "result.") {
		return inTransaction(&session.Transaction{Results: s.Results}, key)
	}
	if k, ok := strings.CutPrefix(key, "remote."); ok {
		return inAddr(s.Remote, k)
	}
	if k, ok := strings.CutPrefix(key, "local."); ok {
		return inAddr(s.Local, k)
	}
	if k, ok := strings.CutPrefix(key, "tls."); ok {
		return inTLS(s.TLS, k)
	}
	return "", false
}

// inAddr knows nothing of what is not TCP.
func inAddr(a net.Addr, key string) (string, bool) {
	var ap netip.AddrPort
	if t, ok := a.(*net.TCPAddr); ok {
		ap = t.AddrPort()
	}
	switch {
	case key != "ip" && key != "port":
		return "", false
	case !ap.IsValid():
		return "", true
	case key == "ip":
		return ap.Addr().Unmap().String(), true
	}
	return strconv.Itoa(int(ap.Port())), true
}

func inTLS(st *tls.ConnectionState, key string) (string, bool) {
	if st == nil {
		st = &tls.ConnectionState{}
	}
	switch key {
	case "version":
		if st.Version == 0 {
			return "", true
		}
		return tls.VersionName(st.Version), true
	case "cipher":
		if st.CipherSuite == 0 {
			return "", true
		}
		return tls.CipherSuiteName(st.CipherSuite), true
	case "server_name":
		return st.ServerName, true
	case "client.subject":
		if len(st.VerifiedChains) == 0 || len(st.PeerCertificates) == 0 {
			return "", true
		}
		return st.PeerCertificates[0].Subject.String(), true
	}
	return "", false
}
