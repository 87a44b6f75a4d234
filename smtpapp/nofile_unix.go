//go:build unix

package smtpapp

import "syscall"

// descriptors is how many files this process may have open, 0 if it is not known.
// Go has raised the soft limit to the hard one before main.
func descriptors() int {
	var l syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l) != nil || uint64(l.Cur) > 1<<30 { //nolint:unconvert // int64 on BSDs
		return 0
	}
	return int(l.Cur)
}
