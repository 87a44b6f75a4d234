module github.com/caddymail/caddy-smtp

go 1.26.0

require (
	golang.org/x/net v0.60.0 // indirect
	golang.org/x/text v0.42.0 // indirect
)
