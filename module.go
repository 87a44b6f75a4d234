// Package caddysmtp is a mail transfer agent for Caddy: it registers the smtp
// app, its handlers, matchers, tables and delivery agents.
package caddysmtp
