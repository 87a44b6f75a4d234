// Package caddysmtp is a mail transfer agent for Caddy. Importing it compiles
// in the smtp app with its handlers, matchers, tables and delivery agents, and
// the Caddyfile option `smtp`.
package caddysmtp

import (
	_ "github.com/caddymail/caddy-smtp/caddyfile"
	_ "github.com/caddymail/caddy-smtp/smtpapp"
)
