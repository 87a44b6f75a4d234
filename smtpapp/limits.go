package smtpapp

import (
	"time"

	"github.com/caddyserver/caddy/v2"

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

	// SoftErrors: each further error is answered a second late. Default: 5.
	SoftErrors int `json:"soft_errors,omitempty"`

	// HardErrors end the session. Default: 10.
	HardErrors int `json:"hard_errors,omitempty"`

	// NonMail are commands that do nothing for a message. Default: 100.
	NonMail int `json:"non_mail,omitempty"`

	// FailedAuth are failed logins that end the session. Default: 3.
	FailedAuth int `json:"failed_auth,omitempty"`

	// Chunks of one message sent by BDAT. Default: 10,000.
	Chunks int `json:"chunks,omitempty"`
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
		LineLength:   2048, AuthLineLength: 12_288,
	}
}

// limit is def for zero, and none (which session writes as zero) if negative.
func limit[T int | int64](v, def T) T {
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
}

func (t Timeouts) wire() wire.Timeouts {
	return wire.Timeouts{
		BeforeHello: time.Duration(t.BeforeHello), Command: time.Duration(t.Command),
		Block: time.Duration(t.Block), Content: time.Duration(t.Content),
		Handshake: time.Duration(t.Handshake), Write: time.Duration(t.Write),
	}
}
