// Package client is one SMTP or LMTP connection as its client (RFC 5321, RFC
// 2033): it says the greeting's half, TLS, authentication and any number of
// mail transactions, and hands back what the peer said of each recipient. It
// trusts the peer with nothing. It knows nothing of queues, of MX records or
// of what a failure means: those are its callers'.
package client

import (
	"bufio"
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"slices"
	"time"
)

// Options are what a connection needs to know. The zero Options are an SMTP
// client that introduces itself as localhost, which strict peers refuse.
type Options struct {
	// Hello is the name for EHLO: a domain or an address literal.
	Hello string

	// LMTP speaks LMTP: LHLO, and a reply for each recipient after the content.
	LMTP bool

	// TLS, if set, has Dial begin with a TLS handshake (RFC 8314, section 3).
	TLS *tls.Config

	// InsecureAuth lets Auth send a password over a connection without TLS.
	InsecureAuth bool

	// Ignore names EHLO keywords, in upper case, that are treated as if the
	// peer had not announced them.
	Ignore []string

	// Dial makes connections; the default is that of net.Dialer.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	// Timeouts are those of each step.
	Timeouts Timeouts

	// Logger gets the dialogue at debug level, without secrets and content.
	// The default is to log nothing.
	Logger *slog.Logger
}

// Timeouts say how long each step may take. Zero is the default, which is
// RFC 5321's, section 4.5.3.2, where it has one.
type Timeouts struct {
	Connect  time.Duration // 30 s, for the connection itself
	TLS      time.Duration // 1 min, for a handshake
	Greeting time.Duration // 5 min
	Command  time.Duration // 5 min, for EHLO, AUTH, MAIL and RCPT each
	Data     time.Duration // 2 min, for the reply to DATA
	Block    time.Duration // 3 min, for each write and each BDAT but the last
	Dot      time.Duration // 10 min, for the reply to the content
	Reset    time.Duration // 20 s
	Quit     time.Duration // 5 s
}

func (t *Timeouts) fill() {
	for _, f := range []struct {
		d *time.Duration
		v time.Duration
	}{
		{&t.Connect, 30 * time.Second}, {&t.TLS, time.Minute},
		{&t.Greeting, 5 * time.Minute}, {&t.Command, 5 * time.Minute},
		{&t.Data, 2 * time.Minute}, {&t.Block, 3 * time.Minute}, {&t.Dot, 10 * time.Minute},
		{&t.Reset, 20 * time.Second}, {&t.Quit, 5 * time.Second},
	} {
		if *f.d == 0 {
			*f.d = f.v
		}
	}
}

// A Conn is a connection to a peer. One goroutine at a time uses it. The end
// of the context that a method is given breaks off what it reads or writes at
// once, and the connection with it.
type Conn struct {
	opts Options
	raw  net.Conn // as dialled
	conn net.Conn // raw, or TLS above it
	r    *bufio.Reader
	w    *bufio.Writer
	out  *output // under w

	ext     Extensions
	peer    string   // what it calls itself
	secrets []string // that the peer was told
	progress
}

// progress is how far a connection has come.
type progress struct {
	greeted  bool // the greeting was read
	ready    bool // EHLO was answered
	loggedIn bool // AUTH was
	dirty    bool // a transaction was begun and not ended
	broken   bool // no use for anything but Close
	sent     int  // transactions
}

// Dial connects to addr, reads the greeting and says hello. The network is
// "tcp", or "unix" for LMTP. What the peer refuses is a *RefusedError, all
// else an *Error.
func Dial(ctx context.Context, network, addr string, opts Options) (*Conn, error) {
	opts.Timeouts.fill()
	dial := opts.Dial
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	cctx, cancel := context.WithTimeout(ctx, opts.Timeouts.Connect)
	defer cancel()
	nc, err := dial(cctx, network, addr)
	if err != nil {
		return nil, &Error{Phase: PhaseConnect, Err: err}
	}
	c := New(nc, opts)
	if opts.TLS != nil {
		if err := c.handshake(ctx, opts.TLS); err != nil {
			return nil, err
		}
	}
	if err := c.Hello(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// New returns a client on nc, which it owns from now on. Hello comes first.
func New(nc net.Conn, opts Options) *Conn {
	opts.Timeouts.fill()
	if opts.Hello == "" {
		opts.Hello = "localhost"
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	c := &Conn{opts: opts, raw: nc}
	c.layer(nc)
	return c
}

// layer puts reader and writer on nc, with empty buffers.
func (c *Conn) layer(nc net.Conn) {
	c.conn = nc
	c.out = &output{c: c}
	c.r = bufio.NewReaderSize(nc, maxReplyLine)
	c.w = bufio.NewWriterSize(c.out, blockSize)
}

// Usable reports whether another transaction can be tried: the peer said
// hello, has not said goodbye (421), nothing went wrong, and the number of
// transactions that it announced (MAILMAX of RFC 9422) is not used up.
func (c *Conn) Usable() bool {
	if n, ok := c.ext.Limit("MAILMAX"); ok && c.sent >= n {
		return false
	}
	return c.ready && !c.broken
}

// Extensions are what the peer announced in its last reply to EHLO or LHLO.
func (c *Conn) Extensions() Extensions { return c.ext }

// RemoteAddr is the peer's address.
func (c *Conn) RemoteAddr() net.Addr { return c.raw.RemoteAddr() }

// TLS returns the state of the connection's TLS; ok says that there is any.
func (c *Conn) TLS() (state tls.ConnectionState, ok bool) {
	t, ok := c.conn.(*tls.Conn)
	if !ok {
		return state, false
	}
	return t.ConnectionState(), true
}

// Close ends the connection without a word.
func (c *Conn) Close() error {
	c.broken = true
	return c.raw.Close()
}

// Reset ends the transaction under way, if any (RSET). It also tells whether
// an idle connection is still good.
func (c *Conn) Reset(ctx context.Context) error {
	defer c.watch(ctx)()
	if err := c.quiet(ctx, PhaseReset); err != nil {
		return err
	}
	r, err := c.exchange(ctx, PhaseReset, c.opts.Timeouts.Reset, "RSET")
	if err != nil {
		return err
	}
	if r.Code/100 != 2 {
		c.Close() // whatever state the peer is in, it is not the one we want
		return &RefusedError{PhaseReset, r}
	}
	c.dirty = false
	return nil
}

// Quit says QUIT, waits a little for the answer and closes the connection. No
// caller need care for its error: mail that was taken stays taken.
func (c *Conn) Quit(ctx context.Context) error {
	defer c.Close()
	if c.broken {
		return nil
	}
	defer c.watch(ctx)()
	_, err := c.exchange(ctx, PhaseQuit, c.opts.Timeouts.Quit, "QUIT")
	return err
}

// watch makes the end of ctx break off what c reads and writes, until the
// function that it returns is called.
func (c *Conn) watch(ctx context.Context) (done func() bool) {
	return context.AfterFunc(ctx, func() { c.raw.SetDeadline(past()) })
}

// arm sets the time until which the next reads and writes must be done. That
// ctx may end at the same moment is why it looks again: watch may have been
// first.
func (c *Conn) arm(ctx context.Context, d time.Duration) {
	c.raw.SetDeadline(time.Now().Add(d))
	if ctx.Err() != nil {
		c.raw.SetDeadline(past())
	}
}

func past() time.Time { return time.Unix(1, 0) }

// output is the writing side of a connection, each write with a deadline.
type output struct {
	c       *Conn
	ctx     context.Context // of the method under way
	timeout time.Duration
}

func (o *output) Write(p []byte) (int, error) {
	o.c.arm(o.ctx, o.timeout)
	return o.c.conn.Write(p)
}

// say queues a command line; flush sends what is queued.
func (c *Conn) say(ctx context.Context, timeout time.Duration, line string) {
	c.out.ctx, c.out.timeout = ctx, timeout
	c.log(ctx, "C", line)
	c.w.WriteString(line)
	c.w.WriteString("\r\n")
}

func (c *Conn) flush(ctx context.Context, p Phase) error {
	if err := c.w.Flush(); err != nil {
		return c.fail(ctx, p, err)
	}
	return nil
}

func (c *Conn) log(ctx context.Context, who, text string) {
	if c.opts.Logger.Enabled(ctx, slog.LevelDebug) {
		c.opts.Logger.DebugContext(ctx, "smtp client", "remote", c.raw.RemoteAddr(), "who", who, "text", text)
	}
}

// ignored reports whether the options have us overlook an extension.
func (c *Conn) ignored(keyword string) bool { return slices.Contains(c.opts.Ignore, keyword) }
