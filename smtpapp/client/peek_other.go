//go:build !unix

package client

import "net"

// readable can't tell.
func readable(net.Conn) (ready, ok bool) { return false, false }
