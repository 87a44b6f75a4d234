package mda

import (
	"io/fs"
	"strings"
	"syscall"
	"testing"

	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

func TestReplyFor(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want string
		act  queue.Action
	}{
		{nil, "250 2.0.0", queue.Delivered},
		{ErrNoMailbox, "550 5.1.1", queue.Failed},
		{&fs.PathError{Op: "write", Path: "/secret", Err: syscall.ENOSPC}, "452 4.3.1", queue.Delayed},
		{&fs.PathError{Op: "write", Path: "/secret", Err: syscall.EDQUOT}, "452 4.2.2", queue.Delayed},
		{&fs.PathError{Op: "open", Path: "/secret", Err: syscall.EACCES}, "451 4.2.0", queue.Delayed},
		{syscall.EIO, "451 4.2.0", queue.Delayed},
		{syscall.EROFS, "451 4.2.0", queue.Delayed},
		{ContentError{syscall.EIO}, "451 4.3.0", queue.Delayed},
		{ContentError{syscall.ENOSPC}, "451 4.3.0", queue.Delayed},
	} {
		r := ReplyFor(tc.err)
		if !strings.HasPrefix(r.Error(), tc.want) || StatusFor(r).Action != tc.act || strings.Contains(r.Text, "secret") {
			t.Errorf("%v: %v, action %d", tc.err, r, StatusFor(r).Action)
		}
	}
}
