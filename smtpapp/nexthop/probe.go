package nexthop

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/textproto"
	"strings"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/client"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

// Bounds of a probe. Somebody waits for the reply to RCPT.
const (
	probeTimeout = 10 * time.Second
	maxProbe     = 64 << 10 // octets that the peer says
)

var (
	errProbeTLS = errors.New("recipients are not asked for over TLS")
	errOddPath  = mail.Refuse(553, "5.1.3", "recipient address has a control character")
	errASCII    = mail.Refuse(550, "5.6.7", "next hop does not take non-ASCII addresses")
)

// Probe asks the hosts, best first, whether they take mail for an address:
// MAIL from the null reverse-path, RCPT, RSET. No mail is sent. It takes no
// longer than ten seconds, and connections are the pool's, without TLS.
//
// It returns nil if a host does, the host's Reply without its text if it says
// no, for now or for good, and otherwise a temporary Reply of ours: nobody
// could tell.
func (s *Sender) Probe(ctx context.Context, to mail.Address, hosts []Host) error {
	if strings.ContainsAny(to.Local, "\r\n\x00") {
		return errOddPath
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	t := s.ask(ctx, to, hosts)
	switch {
	case t == nil:
		return nil
	case t.scope == ofRecipient:
		return t.reply
	}
	return unsaid(t)
}

// ask asks the hosts, each address of each, until one has an answer.
func (s *Sender) ask(ctx context.Context, to mail.Address, hosts []Host) *trouble {
	var last *trouble
	n := 0
	for _, h := range hosts {
		addrs, err := addresses(ctx, s.Resolver, h)
		if err != nil {
			last = worse(last, s.unasked(h, judgeLookup(err)))
			continue
		}
		for _, addr := range addrs {
			if n++; n > maxAddresses || ctx.Err() != nil {
				break
			}
			t := s.askAt(ctx, to, h, addr)
			if t == nil || t.scope == ofRecipient {
				return t
			}
			last = worse(last, s.unasked(h, t))
		}
	}
	if last == nil { // called off before anybody was asked
		last = &trouble{reply: mail.Refuse(451, "4.3.2", "the attempt was called off")}
	}
	return last
}

// unasked logs that a host could not tell.
func (s *Sender) unasked(h Host, t *trouble) *trouble {
	level := slog.LevelDebug
	if s.Own {
		level = slog.LevelWarn
	}
	s.Log.Log(context.Background(), level, "cannot ask who exists", "host", h.String(), "error", t.cause)
	return t
}

// askAt asks at one address. RSET tells whether a connection that was kept is
// still good.
func (s *Sender) askAt(ctx context.Context, to mail.Address, h Host, addr string) *trouble {
	key := s.key(s.TLS, h, addr)
	if k := s.Pool.take(key); k != nil {
		if k.conn.Reset(ctx) == nil {
			return s.askOn(ctx, to, key, k)
		}
		s.Pool.quit(k.conn)
	}
	k, err := s.open(ctx, s.TLS, h, addr)
	if err != nil {
		return judgeError(err)
	}
	return s.askOn(ctx, to, key, k)
}

// askOn asks on a connection and gives it back.
func (s *Sender) askOn(ctx context.Context, to mail.Address, key string, k *kept) *trouble {
	r, err := k.rcpt(ctx, to)
	if err != nil {
		_ = k.conn.Close()
		return judgeError(err)
	}
	s.Log.Debug("asked who exists", "to", to.String(), "phase", r.Phase, "reply", r.Reply.Error())
	_, limited := k.conn.Extensions().Limit("MAILMAX") // which the client counts, without us
	_, domains := k.conn.Extensions().Limit("RCPTDOMAINMAX")
	if r.Reply.Code == 421 || limited || domains || k.conn.Reset(ctx) != nil || ctx.Err() != nil {
		_ = k.conn.Close()
	}
	s.Pool.give(key, k, nil)
	if r.Reply.Code/100 == 2 {
		return nil
	}
	return judgeProbe(r)
}

// rcpt begins a transaction and says RCPT. The client has no such thing: its
// transactions are whole. So this goes beneath it while it is idle, which is
// between two replies, and RSET must follow.
func (k *kept) rcpt(ctx context.Context, to mail.Address) (r client.Result, err error) {
	line := "MAIL FROM:<>"
	if _, on := k.conn.TLS(); on {
		return r, &client.Error{Phase: client.PhaseMail, Err: errProbeTLS}
	}
	if !to.IsASCII() {
		if !k.conn.Extensions().Has("SMTPUTF8") {
			return client.Result{Reply: errASCII, Phase: client.PhaseRcpt, Local: true}, nil
		}
		line += " SMTPUTF8"
	}
	if until, ok := ctx.Deadline(); ok {
		k.raw.SetDeadline(until)
	}
	defer context.AfterFunc(ctx, func() { k.raw.SetDeadline(time.Unix(1, 0)) })()
	in := bufio.NewReader(io.LimitReader(k.raw, maxProbe))
	if r, err = k.exchange(ctx, in, client.PhaseMail, line); err != nil || r.Reply.Code/100 != 2 {
		return r, err
	}
	return k.exchange(ctx, in, client.PhaseRcpt, "RCPT TO:"+to.Path())
}

// exchange says a line and hears the reply, of which the text is left out.
func (k *kept) exchange(ctx context.Context, in *bufio.Reader, p client.Phase, line string) (client.Result, error) {
	var code int
	var text string
	_, err := io.WriteString(k.raw, line+"\r\n")
	if err == nil {
		code, text, err = textproto.NewReader(in).ReadResponse(0)
	}
	if bad := textproto.ProtocolError(""); errors.As(err, &bad) || err == nil && in.Buffered() > 0 {
		err = client.ErrProtocol
	}
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	if err != nil {
		return client.Result{}, &client.Error{Phase: p, Err: err}
	}
	return client.Result{Reply: &mail.Reply{Code: code, Enh: enhanced(code, text)}, Phase: p}, nil
}

// enhanced returns the enhanced status code that a reply's text begins with, if
// it is of the same class as the code and of the usual subjects (RFC 3463).
func enhanced(code int, text string) string {
	word, _, _ := strings.Cut(strings.ReplaceAll(text, "\n", " "), " ")
	var class, subject, detail uint16
	n, _ := fmt.Sscanf(word, "%d.%d.%d", &class, &subject, &detail)
	if n != 3 || int(class) != code/100 || subject > 7 || detail > 999 {
		return ""
	}
	return fmt.Sprintf("%d.%d.%d", class, subject, detail)
}
