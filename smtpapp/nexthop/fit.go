package nexthop

import (
	"errors"
	"io"

	"github.com/caddymail/caddy-smtp/smtpapp/client"
	"github.com/caddymail/caddy-smtp/smtpapp/convert"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

// maxLine is how many octets of a line all hosts take (RFC 5321, section
// 4.5.3.1.6), without CRLF.
const maxLine = 998

// A fitting is a message as it was converted for some hosts, or why it was not.
type fitting struct {
	content *convert.Content // nil for as it is
	err     error
}

// lacks says in what a peer cannot take a message as it is.
type lacks struct {
	octets bool // its body has octets that the peer does not take
	names  bool // its header does
	lines  bool // its lines are too long for hosts in general
}

// lacks finds out what the peer lacks for m, and what m can be converted to.
func (a *attempt) lacks(ext client.Extensions, m *message.Message) (l lacks, t convert.Target) {
	env, store := a.d.Envelope, a.s.Client.LMTP
	body := m.Body().Stats()
	t = convert.Target{EightBit: ext.Has("8BITMIME"), LongLines: store}
	t.UTF8 = t.EightBit && (ext.Has("SMTPUTF8") || store && !env.UTF8) // a store keeps what nobody declared
	if env.Body == mail.BodyBinary {
		l.octets = !ext.Has("BINARYMIME") || !ext.Has("CHUNKING")
	} else {
		l.octets = body.EightBit && !t.EightBit
		l.lines = !store && max(body.LongestLine, m.Header.LongestLine()) > maxLine
	}
	l.names = !t.UTF8 && (env.UTF8 || m.Header.EightBit())
	return l, t
}

// declare returns what m is, whatever its client declared (RFC 6152, section 3).
func declare(was mail.Body, m *message.Message) mail.Body {
	switch {
	case m.Header.EightBit() || m.Body().EightBit():
		return mail.Body8Bit
	case was == mail.BodyBinary:
		return mail.Body7Bit
	}
	return was
}

// fit returns the envelope, and m, which is the message for a transaction, as the
// peer can take them. It fails with a *mail.Reply if that is not possible, and
// with a *client.Error if the message cannot be read.
func (a *attempt) fit(ext client.Extensions, m *message.Message) (*mail.Envelope, client.Content, error) {
	env := *a.d.Envelope
	binary := env.Body == mail.BodyBinary
	if !binary {
		env.Body = declare(env.Body, m)
	}
	l, t := a.lacks(ext, m)
	if a.s.NoConvert || l == (lacks{}) || l.names && !env.From.IsASCII() {
		return &env, m, nil // if it is not to be had, the client says so
	}
	content, err := a.converted(m, t, binary)
	reply, refused := errors.AsType[*mail.Reply](err)
	if refused {
		if damage := read(m); damage != nil { // what cannot be converted is not what was sent
			err, refused = damage, false
		}
	}
	if refused {
		if !l.octets && !l.names { // to send long lines is better than not to
			return &env, m, nil
		}
		return nil, nil, reply
	}
	if err != nil {
		return nil, nil, &client.Error{Phase: client.PhaseContent, Err: err}
	}
	a.d.Log.Debug("content converted for a mail host", "octets", l.octets, "header", l.names, "lines", l.lines, "done", content != nil)
	env.UTF8 = env.UTF8 && !l.names
	if content != nil {
		env.Body = content.Body()
		return &env, content, nil
	}
	if l.octets { // it is not binary, for all that was said
		env.Body = declare(env.Body, m)
	}
	return &env, m, nil
}

// read reads a message to its end, where it is found out if that is not what was
// stored.
func read(m *message.Message) error {
	r, err := m.Body().NewReader()
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.Copy(io.Discard, r)
	return err
}

// converted converts the message once for all hosts that are alike.
func (a *attempt) converted(m *message.Message, t convert.Target, binary bool) (*convert.Content, error) {
	if m != a.d.Content { // it has fields for some only
		return convert.New(m, binary, t)
	}
	f, ok := a.fittings[t]
	if !ok {
		f.content, f.err = convert.New(m, binary, t)
		if a.fittings == nil {
			a.fittings = map[convert.Target]fitting{}
		}
		a.fittings[t] = f
	}
	return f.content, f.err
}
