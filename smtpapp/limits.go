package smtpapp

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddymail/caddy-smtp/smtpapp/admission"
	"github.com/caddymail/caddy-smtp/smtpapp/pattern"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
	"github.com/caddymail/caddy-smtp/smtpapp/wire"
)

// Limits bound what one session may ask for. Zero is the default; a negative
// value lifts the limit, as for load tests.
type Limits struct {
	// MessageSize is the largest content in octets, announced by SIZE.
	// Default: 35 MiB.
	MessageSize int64 `json:"message_size,omitempty"`

	// Recipients of one message. Default: 1000; RFC 5321 asks for 100 at least.
	Recipients int `json:"recipients,omitempty"`

	// Messages of one session. Default: 100.
	Messages int `json:"messages,omitempty"`

	// Hops are the Received fields from which on a message is taken to be
	// looping. Default: 50.
	Hops int `json:"hops,omitempty"`

	// HeaderSize is the largest header block in octets. Default: 256 KiB.
	HeaderSize int `json:"header_size,omitempty"`

	// HeaderFields of one message. Default: 1000.
	HeaderFields int `json:"header_fields,omitempty"`

	// FieldSize is the largest header field in octets. Default: 64 KiB.
	FieldSize int `json:"field_size,omitempty"`

	// TextLine is the longest line of content in octets, with its CRLF: 1000
	// (RFC 5321, section 4.5.3.1.6) or more. Content that is sent as binary has
	// no lines. Default: 1 MiB.
	TextLine int `json:"text_line,omitempty"`

	// LineLength is the longest command line in octets, with its CRLF: 512 (RFC
	// 5321, section 4.5.3.1.4) to 16384. Default: 2048.
	LineLength int `json:"line_length,omitempty"`

	// AuthLineLength is the same for AUTH and what follows it. Default: 12288
	// (RFC 4954, section 4).
	AuthLineLength int `json:"auth_line_length,omitempty"`

	// SoftErrors: each further error is answered late. Default: 5.
	SoftErrors int `json:"soft_errors,omitempty"`

	// ErrorDelay is how late; logins that failed are always answered so late.
	// Default: 1s; at most 1m.
	ErrorDelay caddy.Duration `json:"error_delay,omitempty"`

	// HardErrors end the session. Default: 10.
	HardErrors int `json:"hard_errors,omitempty"`

	// NonMail are commands that do nothing for a message. Default: 100.
	NonMail int `json:"non_mail,omitempty"`

	// FailedAuth are failed logins that end the session. Default: 3.
	FailedAuth int `json:"failed_auth,omitempty"`

	// Chunks of one message sent by BDAT. Default: 10,000.
	Chunks int `json:"chunks,omitempty"`

	// Connections of the server at a time. Default: none but the app's.
	Connections int `json:"connections,omitempty"`

	// ConnectionsPerAddress at a time; an IPv6 address stands for its /64.
	// Default: 30.
	ConnectionsPerAddress int `json:"connections_per_address,omitempty"`

	// ConnectionsPerNetwork at a time, of an IPv4 /24 or an IPv6 /48. Default: 90.
	ConnectionsPerNetwork int `json:"connections_per_network,omitempty"`

	// ConnectionRate is how many connections an address may make in a minute.
	// Default: 300.
	ConnectionRate int `json:"connection_rate,omitempty"`

	// MessageRate is how many messages an address may send in a minute. Default:
	// 500.
	MessageRate int `json:"message_rate,omitempty"`

	// Exempt are addresses and networks to which the limits of addresses and
	// networks do not apply. Those that relay trusts, and proxies that may say
	// XCLIENT, are exempt too, and clients on unix sockets have no address.
	// Default: the loopback addresses; "none": only these others.
	Exempt []string `json:"exempt,omitempty"`
}

// valid says what would not work, and why.
func (l Limits) valid() error {
	for name, n := range map[string]int{"line_length": l.LineLength, "auth_line_length": l.AuthLineLength} {
		if n != 0 && (n < 512 || n > 16<<10) {
			return fmt.Errorf("%s: %d is not 512 to 16384 octets: clients may send lines of 512, and longer ones are kept in memory", name, n)
		}
	}
	if l.TextLine > 0 && l.TextLine < 1000 {
		return fmt.Errorf("text_line: %d is less than the 1000 octets that any line may have", l.TextLine)
	}
	if d := time.Duration(l.ErrorDelay); d > time.Minute {
		return fmt.Errorf("error_delay: clients do not wait for %v", d)
	}
	return nil
}

// valid says what would not work, and why.
func (t Timeouts) valid() error {
	switch d := time.Duration(t.Greeting); {
	case d > time.Minute:
		return fmt.Errorf("greeting: clients do not wait for %v", d)
	case t.MinRate < 0:
		return errors.New("min_rate: is negative")
	}
	for name, d := range map[string]caddy.Duration{
		"before_hello": t.BeforeHello, "command": t.Command, "block": t.Block, "content": t.Content,
		"handshake": t.Handshake, "write": t.Write, "greeting": t.Greeting,
	} {
		if d < 0 {
			return fmt.Errorf("%s: %v is negative", name, time.Duration(d))
		}
	}
	return nil
}

func (l Limits) session() session.Limits {
	return session.Limits{
		MessageSize:  limit(l.MessageSize, 35<<20),
		Recipients:   limit(l.Recipients, 1000),
		Messages:     limit(l.Messages, 100),
		Hops:         limit(l.Hops, 50),
		HeaderSize:   limit(l.HeaderSize, 256<<10),
		HeaderFields: limit(l.HeaderFields, 1000),
		SoftErrors:   limit(l.SoftErrors, 5),
		HardErrors:   limit(l.HardErrors, 10),
		NonMail:      limit(l.NonMail, 100),
		FailedAuth:   limit(l.FailedAuth, 3),
		Chunks:       limit(l.Chunks, 10_000),
		FieldSize:    limit(l.FieldSize, 64<<10),
		TextLine:     limit(l.TextLine, 1<<20),
		ErrorDelay:   time.Duration(limit(l.ErrorDelay, caddy.Duration(time.Second))),
		LineLength:   cmp.Or(l.LineLength, 2048), AuthLineLength: cmp.Or(l.AuthLineLength, 12_288),
	}
}

func (l Limits) admission() admission.Limits {
	return admission.Limits{
		Connections: limit(l.Connections, 0),
		PerAddress:  limit(l.ConnectionsPerAddress, 30),
		PerNetwork:  limit(l.ConnectionsPerNetwork, 90),
		Rate:        limit(l.ConnectionRate, 300),
		Messages:    limit(l.MessageRate, 500),
	}
}

// exempt is whom the limits of addresses do not concern, by Exempt.
func (l Limits) exempt() (pattern.Networks, error) {
	return exemptions(l.Exempt)
}

// limit is def for zero, and none (which session writes as zero) if negative.
func limit[T int | int64 | caddy.Duration](v, def T) T {
	switch {
	case v == 0:
		return def
	case v < 0:
		return 0
	}
	return v
}

// Timeouts bound how long a client may take. Zero is the default.
type Timeouts struct {
	// BeforeHello is for the first command. Default: 30s.
	BeforeHello caddy.Duration `json:"before_hello,omitempty"`

	// Command is for each further command. Default: 5m (RFC 5321, 4.5.3.2.7).
	Command caddy.Duration `json:"command,omitempty"`

	// Block is for each read of content. Default: 3m.
	Block caddy.Duration `json:"block,omitempty"`

	// Content is for all of a message. Default: 60m.
	Content caddy.Duration `json:"content,omitempty"`

	// Handshake is for TLS. Default: 10s.
	Handshake caddy.Duration `json:"handshake,omitempty"`

	// Write is for each write of replies. Default: 5m.
	Write caddy.Duration `json:"write,omitempty"`

	// Greeting is how long the greeting is held back: who speaks before it is
	// refused (RFC 5321, section 4.3.1). Default: 1ms; at most 1m.
	Greeting caddy.Duration `json:"greeting,omitempty"`

	// MinRate is what content must come with, in octets a second, once a client
	// has kept us waiting for a minute. Default: 500.
	MinRate int `json:"min_rate,omitempty"`
}

func (t Timeouts) wire() wire.Timeouts {
	return wire.Timeouts{
		BeforeHello: time.Duration(t.BeforeHello), Command: time.Duration(t.Command),
		Block: time.Duration(t.Block), Content: time.Duration(t.Content),
		Handshake: time.Duration(t.Handshake), Write: time.Duration(t.Write),
		Greeting: time.Duration(t.Greeting), MinRate: t.MinRate,
	}
}
