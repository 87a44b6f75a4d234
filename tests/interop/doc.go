// Package interop puts the server among programs that others wrote: clients
// that send to it, servers that it sends to, and an authority that gives it
// certificates. Caddy runs as a process of its own in each test, with a queue,
// a storage and ports of its own; nothing leaves the loopback interface.
//
// A test whose program is missing skips and names it, or fails where
// CADDY_SMTP_REQUIRE_ALL is set. .ci/install installs all of them.
package interop
