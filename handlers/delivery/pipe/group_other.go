//go:build !unix

package pipe

import (
	"os/exec"

	"github.com/caddymail/caddy-smtp/smtpapp/mda"
)

// alone changes nothing where there are no process groups.
func alone(*exec.Cmd, *mda.Owner) {}

func kill(cmd *exec.Cmd) error { return cmd.Process.Kill() }

func permitted(*mda.Owner) error { return nil }
