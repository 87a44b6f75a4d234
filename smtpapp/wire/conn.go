package wire

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

// A Conn is the connection of one client. All of its methods but Drain belong
// to the one goroutine that serves the client.
type Conn struct {
	cfg     Config
	in      input
	out     output
	content content
	turn    turn
	tls     *tls.Config // STARTTLS was answered with 220
	secure  bool
	binary  bool  // content that comes by BDAT is
	broken  error // why nothing more can be read

	certificate *x509.Certificate // that TLS has shown

	mu    sync.Mutex
	nc    net.Conn // changed under mu by its goroutine
	leave leave
}

// turn is what go-smtp is at.
type turn struct {
	pending    string // rest of the line it is being given
	forwarded  bool   // it has a line that was not answered yet
	answer     *mail.Reply
	queued     string // a line it will be given next, and the answer
	queuedWith *mail.Reply
	responding bool // the next line answers a 334

	present   bool      // there is a dispatcher
	dismissed bool      // it can go: the client is idle
	since     time.Time // when the client fell silent, if it has
}

// New returns the Conn of a client.
func New(nc net.Conn, cfg Config) *Conn {
	c := &Conn{nc: nc, cfg: cfg.withDefaults()}
	c.content.c = c
	return c
}

var (
	errTimeout = &mail.Reply{Code: 421, Enh: "4.4.2", Text: "timeout, closing connection", Close: true}
	errLeaving = &mail.Reply{Code: 421, Enh: "4.3.2", Text: "server is going down or being reconfigured, try again", Close: true}
	errEarly   = &mail.Reply{Code: 554, Enh: "5.5.0", Text: "you spoke before it was your turn", Close: true}
	errFault   = &mail.Reply{Code: 421, Enh: "4.3.0", Text: "local error in processing", Close: true}
	errLarge   = &mail.Reply{Code: 552, Enh: "5.3.4", Text: "message too large"}
	errChunk   = &mail.Reply{Code: 501, Enh: "5.5.4", Text: "BDAT wants a number of octets, and LAST or nothing", Close: true}
)

// ErrAborted is what ends content that the client gave up, by RSET or QUIT
// between two chunks.
var ErrAborted = errors.New("content was given up by the client")

// Greet sends the greeting, unless the client has spoken already: who does not
// wait for it will not wait for any reply (RFC 5321, section 4.3.1).
func (c *Conn) Greet(r *mail.Reply) {
	if c.in.empty() && c.broken == nil {
		c.early()
	}
	if !c.in.empty() && !r.Close {
		c.in.drop()
		r = errEarly
	}
	c.reply(r)
}

func (c *Conn) early() {
	if c.arm(time.Now().Add(c.cfg.Timeouts.Greeting), false) != nil {
		return
	}
	n, err := c.nc.Read(c.in.room())
	c.in.w += n
	if ne, ok := errors.AsType[net.Error](err); n == 0 && err != nil && (!ok || !ne.Timeout()) {
		c.broken = io.EOF
	}
}

// Await speaks with the client until there is something for the dispatcher,
// which need not exist before: most clients are idle most of the time. It
// reports false when the session is over, or TLS is to begin.
func (c *Conn) Await() bool {
	c.turn.present, c.turn.dismissed = false, false
	c.caught(func() {
		if c.settle(); c.turn.queued != "" { // it left in the middle of things
			c.reply(errFault)
		}
		for !c.over() && c.turn.queued == "" {
			c.turn.queued = c.converse()
			c.turn.queuedWith, c.turn.answer = c.turn.answer, nil
		}
	})
	if c.over() {
		_ = c.flush()
		return false
	}
	return true
}

// Listener returns a listener that accepts the connection once, for a
// dispatcher that is new: it is told of a hello first. The dispatcher is shown
// the end of the connection when there is nothing more for it, and the
// listener fails when it has closed what it accepted.
func (c *Conn) Listener() net.Listener {
	c.turn.pending, c.turn.present, c.turn.dismissed = "EHLO x\r\n", true, false
	return &listener{port: &port{c: c, closed: make(chan struct{})}}
}

// Answer sets the reply to the command that the dispatcher is at. The reply to
// content is sent when all of it has been read.
func (c *Conn) Answer(r *mail.Reply) { c.turn.answer = r }

// Flush sends the replies that wait for more input.
func (c *Conn) Flush() { _ = c.flush() }

// StartTLS returns the reply to STARTTLS. Whatever came along with the command
// was put there by someone who wants it to seem encrypted (CVE-2011-0411).
func (c *Conn) StartTLS(cfg *tls.Config) *mail.Reply {
	if !c.in.empty() {
		return errEarly
	}
	c.tls = cfg
	return &mail.Reply{Code: 220, Enh: "2.0.0", Text: "ready to start TLS"}
}

// Upgrade does the handshake that STARTTLS asked for, and returns nil if none
// did. If it fails, the connection is closed without another word.
func (c *Conn) Upgrade(ctx context.Context) (*tls.ConnectionState, error) {
	cfg := c.tls
	if c.tls = nil; cfg == nil || c.out.err != nil {
		return nil, nil
	}
	c.turn = turn{}
	return c.Handshake(ctx, cfg)
}

// Handshake begins TLS.
func (c *Conn) Handshake(ctx context.Context, cfg *tls.Config) (*tls.ConnectionState, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeouts.Handshake)
	defer cancel()
	if err := c.arm(time.Time{}, false); err != nil {
		return nil, err
	}
	under := &under{Conn: c.nc}
	tc := tls.Server(under, cfg)
	if err := tc.HandshakeContext(ctx); err != nil {
		c.broken = fmt.Errorf("TLS handshake: %w", err)
		c.out.final = true
		return nil, c.broken
	}
	c.mu.Lock()
	c.nc = tc
	c.mu.Unlock()
	c.secure = true
	c.certificate = under.leaf(cfg)
	st := tc.ConnectionState()
	return &st, nil
}

// Close sends what is left to send and closes the connection.
func (c *Conn) Close() error {
	if c.broken == nil && !c.out.final { // the dispatcher gave up
		c.reply(errFault)
	}
	err := c.flush()
	if err == nil && c.broken == nil && (c.out.permanent || !c.in.empty()) {
		c.linger()
	}
	c.in.drop()
	return errors.Join(err, c.nc.Close())
}

// linger reads what the client still sends, for a moment: to close before it
// has been read would take the last reply away from the client too.
func (c *Conn) linger() {
	cw, ok := c.nc.(interface{ CloseWrite() error })
	if !ok || cw.CloseWrite() != nil || c.arm(time.Now().Add(lingerTime), false) != nil {
		return
	}
	_, _ = io.CopyN(io.Discard, c.nc, lingerSize)
}

// read gives the dispatcher its next line, or a part of it.
func (c *Conn) read(p []byte) (n int, err error) {
	c.caught(func() {
		if c.turn.pending == "" {
			c.turn.pending = c.next()
		}
		n = copy(p, c.turn.pending)
		c.turn.pending = c.turn.pending[n:]
	})
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// caught runs f, which ends the session if it panics. The dispatcher catches
// panics only while it has a command.
func (c *Conn) caught(f func()) {
	defer func() {
		if v := recover(); v != nil {
			c.cfg.Log.Error("panic in a connection", "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
			c.reply(errFault)
		}
	}()
	f()
}

// next ends the command before and returns the next line that the dispatcher
// has to see, "" if it is not needed any more.
func (c *Conn) next() string {
	if c.settle() {
		return ".\r\n"
	}
	for !c.over() && !c.turn.dismissed {
		line := c.turn.queued
		if line != "" {
			c.turn.queued, c.turn.answer = "", c.turn.queuedWith
		} else {
			line = c.converse()
		}
		if line != "" {
			c.turn.forwarded = true
			return line + "\r\n"
		}
	}
	return ""
}

func (c *Conn) over() bool { return c.broken != nil || c.out.final || c.out.err != nil || c.tls != nil }

// settle ends the command that the dispatcher was given. It reports whether
// that was content, for which the dispatcher still wants its final dot.
func (c *Conn) settle() (dot bool) {
	if !c.turn.forwarded {
		return false
	}
	r := c.turn.answer
	c.turn.forwarded, c.turn.answer = false, nil
	if c.content.kind != noContent {
		dot = true
		r = c.content.end(r)
	} else if r == nil {
		r = errFault
	}
	if r != nil {
		if r == errFault {
			c.cfg.Log.Error("the dispatcher did not answer a command")
		}
		c.reply(r)
	}
	return dot
}

// converse reads a line and does what the handler says about it. It returns a
// line that the dispatcher has to see.
func (c *Conn) converse() (forward string) {
	line, bad := c.readLine()
	if bad != nil {
		if !bad.Close {
			bad = c.cfg.Handler.Malformed(bad)
		}
		if c.turn.responding { // the dispatcher still waits for a response
			c.turn.responding, c.turn.answer = false, bad
			return "*"
		}
		c.reply(bad)
		return ""
	}
	if c.broken != nil || c.turn.dismissed {
		return ""
	}
	var r *mail.Reply
	if c.turn.responding {
		c.turn.responding = false
		c.debug("C", "(response)")
		forward, r = c.cfg.Handler.Response(line)
	} else {
		forward, r = c.command(line)
	}
	if forward == "" && r != nil {
		c.reply(r)
	} else {
		c.turn.answer = r
	}
	return forward
}

func (c *Conn) command(line string) (forward string, r *mail.Reply) {
	verb, arg := splitLine(line)
	c.debugLine(verb, line)
	switch verb {
	case "BDAT":
		return c.bdat(arg)
	case "DATA":
		if !c.in.empty() { // RFC 2920, section 3.1: DATA is the last of a group
			return "", errEarly
		}
		forward, r = c.cfg.Handler.Command(verb, arg)
		if forward != "" && c.content.kind == noContent {
			c.content.start(byData)
		}
		return forward, r
	}
	return c.cfg.Handler.Command(verb, arg)
}

// reply takes a reply for sending.
func (c *Conn) reply(r *mail.Reply) {
	c.debugReply(r)
	c.turn.responding = r.Code == 334
	c.out.add(r)
	if len(c.out.buf) > gather {
		_ = c.flush()
	}
}

// flush sends what was gathered.
func (c *Conn) flush() error {
	if c.out.err != nil || len(c.out.buf) == 0 {
		return c.out.err
	}
	c.mu.Lock()
	d := c.cfg.Timeouts.Write
	if c.leave.cut {
		d = cutGrace
	}
	err := c.nc.SetWriteDeadline(time.Now().Add(d))
	c.mu.Unlock()
	if err == nil {
		_, err = c.nc.Write(c.out.buf)
	}
	if c.out.buf = c.out.buf[:0]; cap(c.out.buf) > smallBuffer {
		c.out.buf = nil
	}
	c.out.err = err
	return err
}

// debug logs a line of the dialogue.
func (c *Conn) debug(who, line string) { c.cfg.Log.Debug("dialogue", "from", who, "line", line) }

// debugLine logs a command, unless it has, or may be, a password: there are
// clients that send one although the AUTH before it was refused.
func (c *Conn) debugLine(verb, line string) {
	switch {
	case strings.HasPrefix(verb, "AUTH"):
		line = "AUTH (secret)"
	case len(verb) > len("STARTTLS") || strings.Trim(verb, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "":
		line = "(no command)"
	}
	c.debug("C", line)
}

func (c *Conn) debugReply(r *mail.Reply) {
	switch {
	case !c.cfg.Log.Enabled(context.Background(), slog.LevelDebug):
	case r.Code == 334:
		c.debug("S", "334 (challenge)")
	default:
		c.debug("S", r.Error())
	}
}
