//go:build unix

package client

import (
	"net"
	"syscall"
)

// readable reports whether a read of nc would return at once, with data or
// with the connection's end; ok is false if that can't be told.
func readable(nc net.Conn) (ready, ok bool) {
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return false, false
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return false, false
	}
	err = rc.Control(func(fd uintptr) {
		var b [1]byte
		_, _, e := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK) // never blocks: the runtime's sockets don't
		ready = e != syscall.EAGAIN && e != syscall.EINTR
	})
	return ready, err == nil
}
