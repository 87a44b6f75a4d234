// Package wire is the connection under go-smtp. It reads command lines and
// content from the client, above TLS, with deadlines and limits of its own,
// and writes every reply. go-smtp, which dispatches commands, is shown only
// short canonical lines, one at a time, and content never passes through it;
// what it answers is thrown away. So nothing that a client sends can make the
// two disagree on where a command or a message ends.
//
// The package knows SMTP's framing and nothing of its meaning: that is its
// Handler's, a session.
package wire

import (
	"log/slog"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

// A Handler gives the lines of a client their meaning. It is called in the
// goroutine of the dispatcher.
type Handler interface {
	// Command is asked about each command, its verb in upper case. A reply
	// alone ends the matter. A line to forward goes to the dispatcher, which
	// calls the session back, and the session then answers with Conn.Answer,
	// unless there is a reply already. BDAT is forwarded as DATA.
	Command(verb, arg string) (forward string, reply *mail.Reply)

	// Response is asked about each line that follows a 334 (RFC 4954).
	Response(line string) (forward string, reply *mail.Reply)

	// Malformed hears of a line that is no command at all, and returns the
	// reply, which may be another one when there were too many of them.
	Malformed(r *mail.Reply) *mail.Reply

	// Phase says where the session stands.
	Phase() Phase
}

// A Phase is what decides how long a client may be silent, and whether it can
// be sent away.
type Phase uint8

// The phases.
const (
	BeforeHello   Phase = iota // has not said EHLO or HELO
	Fresh                      // has, but no transaction yet
	InTransaction              // is at one
	Served                     // is between two, or done
)

// A Config is what a Conn is told once. Zero limits are none.
type Config struct {
	Handler  Handler
	Timeouts Timeouts
	Log      *slog.Logger

	LineLength     int   // octets of a command line with its CRLF
	AuthLineLength int   // octets of AUTH and of the lines that follow a 334
	MessageSize    int64 // octets of content
	TextLine       int   // octets of a line of content with its end; 0 for any number
	Strict         bool  // refuse content with any bare LF
	BareLF         bool  // take commands that end in one

	// Hurry, if not nil, says whether there is little room left for others. A
	// client may then be silent for 10 s only, where Timeouts give it longer.
	Hurry func() bool
}

// Timeouts bound how long a client may take. Zero is the default. The library
// is left without deadlines: its one deadline for a whole DATA, and its return
// to commands when that is over, is how content becomes commands.
type Timeouts struct {
	// BeforeHello is for the first command. Default: 30 s.
	BeforeHello time.Duration
	// Command is for each command line. Default: 5 min (RFC 5321, 4.5.3.2.7).
	Command time.Duration
	// Block is for each read of content. Default: 3 min.
	Block time.Duration
	// Content is for all of a message. Default: 60 min.
	Content time.Duration
	// MinRate is what content must come with, in octets a second, once it has
	// kept us waiting for a minute. Default: 500.
	MinRate int
	// Handshake is for TLS. Default: 10 s.
	Handshake time.Duration
	// Write is for each write of replies. Default: 5 min.
	Write time.Duration
	// Greeting is how long the greeting is held back, to catch clients that
	// do not wait for it. Default: 1 ms.
	Greeting time.Duration
}

const (
	rateGrace  = time.Minute // before MinRate counts
	cutGrace   = time.Second // for a last reply when the time is up
	lingerTime = time.Second // for the client to read it
	lingerSize = 256 << 10

	hurried    = 10 * time.Second // that a client may take in a hurry
	hurryCheck = 10 * time.Second // how often one that is silent is looked at

	// idleAfter is when the dispatcher is sent away: its buffers and its
	// goroutine are most of what an idle client would cost, and much of what a
	// transaction would if it had to make them anew.
	idleAfter = 2 * time.Second

	// drainDefault is how much refused content is read where messages have no
	// limit of their own.
	drainDefault = 64 << 20
)

func (t Timeouts) withDefaults() Timeouts {
	for _, d := range []struct {
		v   *time.Duration
		def time.Duration
	}{
		{&t.BeforeHello, 30 * time.Second},
		{&t.Command, 5 * time.Minute},
		{&t.Block, 3 * time.Minute},
		{&t.Content, time.Hour},
		{&t.Handshake, 10 * time.Second},
		{&t.Write, 5 * time.Minute},
		{&t.Greeting, time.Millisecond},
	} {
		if *d.v <= 0 {
			*d.v = d.def
		}
	}
	if t.MinRate <= 0 {
		t.MinRate = 500
	}
	return t
}

func (c Config) withDefaults() Config {
	c.Timeouts = c.Timeouts.withDefaults()
	if c.LineLength <= 0 || c.LineLength > maxLine {
		c.LineLength = maxLine
	}
	if c.AuthLineLength <= 0 || c.AuthLineLength > maxLine {
		c.AuthLineLength = maxLine
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// drainLimit is how many octets of refused content are read before the
// connection is closed instead.
func (c *Config) drainLimit() int64 {
	if c.MessageSize > 0 {
		return c.MessageSize
	}
	return drainDefault
}
